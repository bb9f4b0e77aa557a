"""Reading prompts: every source, every mistake with its place."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from raypref.config import DataConfig
from raypref.data.benchmark_questions import as_prompt
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import PromptData, load_apart, load_prompts
from raypref.data.record_prompts import prompt_of
from raypref.data.records import Record, name_record
from raypref.errors import ConfigError, DataError

PLAIN = {"chat_template": False, "shuffle": False}


def load(
    tokenizer: Any, *, context: int = 20, response: int = 4, seed: int = 0, prompts: Any = None, held_out: Any = None, **config: Any
) -> PromptData:
    return load_prompts(DataConfig(**config), PolicyFacts(tokenizer, context, ()), response, seed, prompts=prompts, held_out=held_out)


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_plain_text_from_jsonl(tokenizer: Any, tmp_path: Path) -> None:
    """``<bos> why not`` is 1 5 9; records without an id are numbered."""
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "why not"}, {"prompt": "how", "id": "second"}])
    data = load(tokenizer, path=path, **PLAIN)
    assert [(p.index, p.id, p.text, p.token_ids.tolist()) for p in data.train] == [
        (0, "0", "why not", [1, 5, 9]),
        (1, "second", "how", [1, 6]),
    ]
    assert (data.held_out, data.dropped) == ([], 0)


def test_the_chat_template_is_applied_and_the_oracle_sees_the_bare_question(tokenizer: Any) -> None:
    """``<bos> [USER] why [ANSWER]`` is 1 3 5 4, with one <bos>: the template's own."""
    data = load(tokenizer, prompts=["why", [{"role": "user", "content": "why"}]], shuffle=False)
    assert [(p.text, p.token_ids.tolist()) for p in data.train] == [("why", [1, 3, 5, 4])] * 2


def test_a_longer_chat_keeps_its_turns(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "how"}]
    (prompt,) = load(tokenizer, prompts=[chat], shuffle=False).train
    assert prompt.text == "user: why\n\nassistant: so\n\nuser: how"
    assert prompt.token_ids.tolist() == [1, 3, 5, 4, 7, 3, 6, 4]


def test_parquet_directories_and_field_names(tokenizer: Any, tmp_path: Path) -> None:
    """Files in the order of their names; other files are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["how"], "name": [7]}), tmp_path / "b.parquet")
    write_jsonl(tmp_path / "a.jsonl", [{"question": "why", "name": "x"}])
    (tmp_path / "readme.txt").write_text("not data")
    data = load(tokenizer, path=str(tmp_path), prompt_field="question", id_field="name", **PLAIN)
    assert [(p.id, p.text) for p in data.train] == [("x", "why"), ("7", "how")]


def test_objects_of_every_kind(tokenizer: Any) -> None:
    import datasets

    rows = [{"prompt": "why", "id": "a"}, {"prompt": "how", "id": "b"}]
    for prompts in (rows, datasets.Dataset.from_list(rows)):
        assert [(p.id, p.text) for p in load(tokenizer, prompts=prompts, **PLAIN).train] == [("a", "why"), ("b", "how")]


def test_shuffled_once_by_the_seed(tokenizer: Any) -> None:
    words = [f"why {k}" for k in range(20)]
    first, again, other = (load(tokenizer, prompts=words, chat_template=False, seed=seed).train for seed in (1, 1, 2))
    assert [p.text for p in first] == [p.text for p in again]
    assert [p.text for p in first] != [p.text for p in other]
    assert sorted(p.text for p in first) == sorted(words)
    assert [p.index for p in first] == list(range(20))


def test_held_out_prompts_are_the_last_of_the_data(tokenizer: Any) -> None:
    """Set apart before the shuffle, so that the seed does not move them."""
    data = load(tokenizer, prompts=["why", "how", "so", "not"], held_out_prompts=2, chat_template=False)
    assert sorted(p.text for p in data.train) == ["how", "why"]
    assert [(p.index, p.text) for p in data.held_out] == [(0, "so"), (1, "not")]


@pytest.mark.parametrize(("most", "expected"), [(0, ["so", "not"]), (1, ["so"])])
def test_held_out_prompts_of_their_own(tokenizer: Any, tmp_path: Path, most: int, expected: list[str]) -> None:
    path = write_jsonl(tmp_path / "h.jsonl", [{"prompt": "so"}, {"prompt": "not"}])
    for source in ({"held_out": path}, {}):
        objects = None if source else ["so", "not"]
        section = DataConfig(**PLAIN, **source, held_out_prompts=most)
        data = load_prompts(section, PolicyFacts(tokenizer, 20, ()), 4, 0, prompts=["why"], held_out=objects)
        assert [p.text for p in data.held_out] == expected
        assert [p.text for p in data.train] == ["why"]


def test_prompts_that_leave_no_room_are_dropped_and_counted(tokenizer: Any) -> None:
    """Context 6, response 4: at most 2 tokens with <bos>. ``why not`` has 3."""
    data = load(tokenizer, context=6, prompts=["why not", "how"], held_out=["so", "so not"], **PLAIN)
    assert [(p.index, p.id, p.text) for p in data.train] == [(0, "1", "how")]
    assert [p.text for p in data.held_out] == ["so"]
    assert data.dropped == 2


def test_prompts_that_leave_no_room_are_refused_by_config(tokenizer: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "how"}, {"prompt": "why not", "id": "long"}])
    message = r"p\.jsonl:2: prompt 'long' has 3 tokens; the context leaves 2 beside rollout\.max_tokens; .*data\.overlong=drop"
    with pytest.raises(DataError, match=message):
        load(tokenizer, context=6, path=path, overlong="refuse", **PLAIN)


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (6, "the context's 6 tokens less rollout.max_tokens = 4 leave 2 for a prompt"),
        (4, "rollout.max_tokens = 4 leaves no room for a prompt in the context's 4 tokens"),
        (3, "rollout.max_tokens = 4 leaves no room for a prompt in the context's 3 tokens"),
    ],
)
def test_no_length_that_is_named_is_negative(tokenizer: Any, context: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also of prompts that ``raypref generate`` is given; all of them are too long."""
    for key in ("data.held_out", "prompts"):
        with pytest.raises(DataError) as refused:
            load_apart(DataConfig(**PLAIN), PolicyFacts(tokenizer, context, ()), context - 4, ["why not so"], key)
        assert f"{key}: no prompt left; 1 were dropped: {said}" in str(refused.value)
        assert f"{key}: prompts dropped: 1 (the first: record 0 of those passed to run(), 4 tokens); {said}" in caplog.text
    assert not any(" -" in message for message in caplog.messages)


def test_nothing_left_is_an_error(tokenizer: Any) -> None:
    """Context 4, response 4: no room for any; the held-out prompt is not counted among those of data.path."""
    message = r"no prompt left to train on; 2 were dropped, since rollout\.max_tokens = 4 leaves 0 of the context's 4 tokens; lower it"
    with pytest.raises(DataError, match=message):
        load(tokenizer, context=4, prompts=["why", "how"], held_out=["so"], **PLAIN)
    message = (
        r"data\.held_out: no prompt left; 1 were dropped: the context's 6 tokens less rollout\.max_tokens = 4 leave 2 for a prompt; lower"
    )
    with pytest.raises(DataError, match=message):
        load(tokenizer, context=6, prompts=["why"], held_out=["so why not"], **PLAIN)
    with pytest.raises(DataError, match=r"data\.held_out_prompts: 2 are to be set apart from 2 prompts"):
        load(tokenizer, prompts=["why", "how"], held_out_prompts=2, **PLAIN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "why"', r"p\.jsonl:3: broken JSON: .* one object per line"),
        ('["why"]', r"p\.jsonl:3: expected an object such as .*, got list"),
        ('{"text": "why"}', r"p\.jsonl:3: no field 'prompt'; fields here: text; see data\.prompt_field"),
        ('{"prompt": null}', r"p\.jsonl:3: the field 'prompt' has no value"),
        ('{"prompt": "  "}', r"p\.jsonl:3: the prompt in field 'prompt' is empty"),
        ('{"prompt": 3}', r"p\.jsonl:3: field 'prompt' must be a text or a list of chat messages, got 3"),
        ('{"prompt": []}', r"p\.jsonl:3: field 'prompt' must be"),
        ('{"prompt": [{"role": "user"}]}', r"p\.jsonl:3: message 0 must have a text 'role' and 'content'"),
        ('{"prompt": [{"role": "user", "content": ""}]}', r"p\.jsonl:3: the last message is empty"),
        ('{"prompt": [{"role": "assistant", "content": "so"}]}', r"p\.jsonl:3: the chat ends with the assistant's turn"),
        ('{"prompt": "how", "id": "first"}', r"p\.jsonl:3: id 'first' is also that of .*p\.jsonl:1; ids must differ"),
    ],
)
def test_a_bad_record_is_named_with_its_file_and_line(tokenizer: Any, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "why", "id": "first"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        load(tokenizer, path=str(path))


def test_chat_messages_need_the_template(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"record 0 .*: chat messages need a chat template; set data\.chat_template=true"):
        load(tokenizer, prompts=[[{"role": "user", "content": "why"}]], **PLAIN)


def test_a_tokenizer_without_template_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ConfigError, match=r"data\.chat_template: the tokenizer has none; set data\.chat_template=false"):
        load(tokenizer, prompts=["why"])


def test_sources_that_are_not_there(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"data\.path: required, unless prompts are passed to run\(\)"):
        load(tokenizer)
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file or directory"):
        load(tokenizer, path="nothing.jsonl")
    with pytest.raises(DataError, match=r"no \.jsonl or .* file in this directory"):
        load(tokenizer, path=str(tmp_path))
    (tmp_path / "p.txt").write_text("prompt\nwhy\n")
    with pytest.raises(DataError, match=r"p\.txt: expected a \.jsonl, .* file"):
        load(tokenizer, path=str(tmp_path / "p.txt"))
    (tmp_path / "p.parquet").write_text("no")
    with pytest.raises(DataError, match=r"p\.parquet: not a readable Parquet file"):
        load(tokenizer, path=str(tmp_path / "p.parquet"))
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:1: not UTF-8 text"):
        load(tokenizer, path=str(tmp_path / "p.jsonl"))
    with pytest.raises(DataError, match=r"data\.path: 'no-owner/no-data' is not a file or directory here .* split 'train'"):
        load(tokenizer, path="no-owner/no-data")


def test_bad_prompts_are_skipped_and_counted(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "why"}\n{"prompt": ""}\n{"pro\n{"prompt": "why how so"}\n{"prompt": "how"}\n')
    data = load(tokenizer, path=str(path), context=7, on_bad_record="skip", **PLAIN)
    assert [prompt.text for prompt in data.train] == ["why", "how"]
    assert (data.skipped, data.dropped) == (2, 1)
    assert "data.path: 2 records skipped" in caplog.text
    assert f"prompts dropped: 1 (the first: {path}:4, 4 tokens)" in caplog.text


def test_an_empty_file_is_called_so(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").touch()
    with pytest.raises(DataError, match=r"p\.jsonl: the file is empty"):
        load(tokenizer, path=str(tmp_path / "p.jsonl"))


def test_tokens_that_the_model_does_not_have_are_refused(tokenizer: Any) -> None:
    """``so`` is 7, ``not`` 9; the model has 9 rows."""
    facts = PolicyFacts(tokenizer, 20, (), 9)
    section = DataConfig(**PLAIN)
    assert len(load_prompts(section, facts, 4, 0, prompts=["so"]).train) == 1
    message = r"record 1 .*: the prompt has the token 'not' \(id 9\), but the model has 9 tokens; policy\.tokenizer does not fit"
    with pytest.raises(DataError, match=message):
        load_prompts(section, facts, 4, 0, prompts=["so", "why not"])


def test_a_prompt_of_which_the_tokenizer_makes_nothing(tokenizer: Any) -> None:
    from tokenizers import normalizers

    silent = copy.deepcopy(tokenizer)
    silent.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(DataError, match=r"record 1 .*: the tokenizer makes no token from the prompt '\\u200b'"):
        load(silent, prompts=["so", "\u200b"], **PLAIN)


def test_prompts_take_little_memory(tokenizer: Any, tmp_path: Path) -> None:
    """5,000 prompts of 61 tokens: at most 1.5 KB each stay in memory, and at most 10 MB more are needed on the way."""
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": "why not " * 30}) + "\n" for _ in range(5_000)))
    load(tokenizer, path=str(path), context=100, **PLAIN)  # what is allocated once
    tracemalloc.start()
    data = load(tokenizer, path=str(path), context=100, **PLAIN)
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train) == 5_000
    assert current < 5_000 * 1500
    assert peak < current + 10e6


def test_reading_needs_no_torch() -> None:
    import subprocess
    import sys

    modules = "raypref.data.prompts, raypref.data.demonstrations, raypref.judging.judge, raypref.output.journal"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_hundred_thousand_prompts_take_a_tenth_of_a_minute_and_of_2_gib(tokenizer: Any, tmp_path: Path) -> None:
    """A million prompts load within 60 s and 2 GiB.

    The bounds leave out the time of the tokenizer itself, which depends on the model, and the memory that was in use before. Loading
    100,000 prompts takes about 2 s beside it.
    """
    texts = [f"once upon a time there was a little dog number {k} who liked to play in the park with a ball " * 2 for k in range(100_000)]
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": text} for text in texts])
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    backend = tokenizer.backend_tokenizer
    start = time.process_time()
    for k in range(0, len(texts), 1000):
        backend.encode_batch_fast(texts[k : k + 1000], add_special_tokens=False)
    tokenizer_s = time.process_time() - start
    del texts
    gc.collect()
    memory, start = resident(), time.process_time()
    data = load(tokenizer, path=path, context=512, response=64, chat_template=False)
    loading_s, used = time.process_time() - start - tokenizer_s, resident() - memory
    assert len(data.train) == 100_000
    assert loading_s < 6.0, f"{loading_s:.1f} s of CPU for 100,000 prompts, {tokenizer_s:.1f} s of the tokenizer left out"
    assert used < 0.1 * 2 * 2**30, f"{used / 2**20:.0f} MiB for 100,000 prompts"


def test_a_long_prompt_is_counted_without_the_tokenizers_warning(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers warns of indexing errors, which cannot happen to a prompt that is left out."""
    monkeypatch.setattr(tokenizer, "model_max_length", 8)
    warned: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda entry: warned.append(entry.getMessage()))
    logging.getLogger("transformers").addHandler(handler)
    try:
        data = load(tokenizer, prompts=["why " * 30, "how"], **PLAIN)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert ([prompt.text for prompt in data.train], data.dropped, warned) == (["how"], 1, [])


def test_a_tokenizer_for_which_a_letter_is_nothing(tmp_path: Path) -> None:
    """As transformers reads a word tokenizer beside a Qwen2 model: bytes that are no words are left out. What stands around a text is
    looked for around the letter a."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"why": 0}, merges=[])))
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "why not"}])
    with pytest.raises(ConfigError, match=r"policy\.tokenizer: it reads the text 'a' as the ids \[\], and as \[\] without special tokens"):
        load(tokenizer, path=path, **PLAIN)


@pytest.mark.parametrize(
    ("record", "name", "text"),
    [
        ({"question_id": 7, "category": "a", "turns": [{"content": "Why?"}]}, "7", "Why?"),
        ({"question_id": "q", "turns": ["Why?"]}, "q", "Why?"),
        ({"uid": "u", "prompt": "Why?"}, "u", "Why?"),
        ({"instruction": "Why?", "output": "So.", "generator": "m", "dataset": "d"}, "0", "Why?"),
        ({"instruction": "Add.", "input": "1 2", "dataset": "d"}, "0", "Add.\n\n1 2"),
    ],
)
def test_questions_of_benchmarks_are_prompts_with_their_ids(record: dict[str, Any], name: str, text: str) -> None:
    made = as_prompt(Record(record, "q.jsonl:1"), DataConfig())
    assert prompt_of(made, DataConfig()) == text
    assert name_record(made, 0, DataConfig(), {}) == name


def test_a_second_turn_follows_an_answer() -> None:
    with pytest.raises(DataError, match="the question has 2 turns, and each but the first follows the policy's own answer"):
        as_prompt(Record({"question_id": 1, "turns": ["a", "b"]}, "q.jsonl:1"), DataConfig())


def test_texts_from_nothing_begin_with_the_tokenizer_s_first_token(tokenizer: Any) -> None:
    """``<bos>`` alone; such prompts are trained on and held out at the same time. A chat template needs a question."""
    empty = PLAIN | {"empty_prompts": True}
    data = load(tokenizer, prompts=[{"prompt": "", "id": "a"}, {"prompt": "", "id": "b"}], held_out=[{"prompt": ""}], **empty)
    assert [(p.id, p.text, p.token_ids.tolist()) for p in (*data.train, *data.held_out)] == [("a", "", [1]), ("b", "", [1]), ("0", "", [1])]
    with pytest.raises(DataError, match=r"is empty; for texts from nothing set data\.empty_prompts=true"):
        load(tokenizer, prompts=[""], **PLAIN)
    with pytest.raises(DataError, match="is empty"):
        load(tokenizer, prompts=["  "], **empty)
    with pytest.raises(ConfigError, match=r"data\.empty_prompts: true, but a chat template needs a question"):
        DataConfig(empty_prompts=True)
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(DataError, match="the prompt is empty, and the tokenizer puts no token before a text"):
        load(bare, prompts=[""], **empty)


def test_a_frame_is_for_the_policy_alone(tokenizer: Any) -> None:
    """``<bos> how not`` is 1 6 9; with the chat template the frame stands within the turn: ``<bos> [USER] how not [ANSWER]``."""
    for chat_template, ids in ((False, [1, 6, 9]), (True, [1, 3, 6, 9, 4])):
        (prompt,) = load(tokenizer, prompts=["not"], frame="how {prompt}", chat_template=chat_template).train
        assert (prompt.text, prompt.token_ids.tolist()) == ("not", ids)
    with pytest.raises(DataError, match=r"data\.frame stands around a text"):
        load(tokenizer, prompts=[[{"role": "user", "content": "why"}]], frame="how {prompt}")
    for config in ({"frame": "how"}, {"frame": "how {prompt}", "template": "tldr"}):
        with pytest.raises(ConfigError, match=r"data\.frame: "):
            DataConfig.parse(config)
