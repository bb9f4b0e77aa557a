"""A word tokenizer: [UNK] 0, <bos> 1, <eos> 2, [USER] 3, [ANSWER] 4, then words; plain text gets <bos> in front."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["[UNK]", "<bos>", "<eos>", "[USER]", "[ANSWER]", "why", "how", "so", "because", "not"]
TEMPLATE = "<bos>{% for m in messages %}{{ '[USER] ' if m['role'] == 'user' else '[ANSWER] ' }}{{ m['content'] }} {% endfor %}[ANSWER]"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    backend.add_special_tokens(["<bos>", "<eos>", "[USER]", "[ANSWER]"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer
