"""A language model that is shown two responses and answers "A" or "B": generative preference models in RLHFlow's format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr

from raypref.errors import ConfigError
from raypref.oracles.base import Answer, Chat, NextToken, Oracle, Question, Services, oracles
from raypref.oracles.support.orders import Orders, Pair, combine, shown
from raypref.oracles.support.token_batches import Device, device_of
from raypref.preferences import sigmoid
from raypref.registry import UserPath

MARKERS = ("[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]", "<turn> user", "<turn> assistant")
"""The texts that separate the parts of an input."""


@oracles.register("pairwise_lm")
class PairwiseLM(Oracle):
    """P[i, j] = (p("A" | y_i, y_j) + p("B" | y_j, y_i)) / 2, where p is the softmax of (logits / temperature) over the two answers alone.

    Source: the model card of RLHFlow/pair-preference-model-LLaMA3-8B; Dong et al., "RLHF Workflow" (arXiv 2405.07863). The model reads
    the card's input, token by token, unless text is cut or neutralised (``PairFormat``). The verdict is read where the assistant's turn
    begins. The card does not ask the chat template for that turn, because its model's template opens it in any case; here every template
    is asked for it.

    ``oracle/truncated_inputs``: share of the inputs from which text was cut.
    """

    directories: ClassVar[tuple[str, ...]] = ("path",)

    type: str = "pairwise_lm"
    path: UserPath = "RLHFlow/pair-preference-model-LLaMA3-8B"
    """A Hugging Face model directory or a hub name, with a tokenizer that has a chat template."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """transformers: a model in the oracle's process; vllm: an engine in that process, with a prefix cache."""
    orders: Orders = "both"
    """both: each pair is shown in both orders, which cancels the model's preference for a position; one: in one order, in half the time."""
    answers: tuple[str, str] = ("A", "B")
    """The answers "the first response is better" and "the second is better"; one token each."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of the answers."""
    max_tokens: PositiveInt = 4096
    """Longest input. In a longer one, responses are cut at their end and the context at its beginning: the context gets half of the room,
    or what the responses leave; each response gets half of the rest, or what the other leaves."""
    batch_tokens: PositiveInt | None = None
    """Largest number of tokens of one forward pass, padding and cached tokens included; default: one input per pass on a CPU, 16,384
    tokens on a GPU. transformers only."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU, float32 elsewhere."""
    device: Device = "auto"
    """auto: cuda where there is a GPU. transformers only; an engine runs on ``placement.device``."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Share of the GPU that the engine takes. vllm only."""

    _format: PairFormat | None = PrivateAttr(default=None)
    _model: NextToken | None = PrivateAttr(default=None)
    _answers: list[int] = PrivateAttr(default_factory=list)

    @property
    def engine_share(self) -> float | None:
        return self.gpu_memory_utilization if self.engine == "vllm" else None

    def load(self, services: Services) -> None:
        """Load the tokenizer and the model.

        Raises:
            ConfigError: they cannot be loaded, an answer is not one token, or ``max_tokens`` does not fit the model.
        """
        tokenizer, context = _load_tokenizer(self.path)
        if context is not None and self.max_tokens > context:
            raise ConfigError(
                f"oracle.max_tokens: {self.max_tokens} is above the {context} positions of {self.path!r}; set at most {context}"
            )
        self._format = PairFormat(tokenizer, self.max_tokens)
        self._answers = [_single_token(tokenizer, answer) for answer in self.answers]
        if len(set(self._answers)) == 1:
            raise ConfigError(f"oracle.answers: {self.answers} are the same token")
        device, dtype = device_of(self.device), self._dtype()
        if self.engine == "vllm":
            self._model = services.engine(
                self.path, dtype=dtype, max_tokens=self.max_tokens, gpu_memory_utilization=self.gpu_memory_utilization
            )
            return
        from raypref.oracles.support.next_token import load_next_token

        self._model = load_next_token(self.path, dtype=dtype, device=device, batch_tokens=self.batch_tokens)

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._format is not None, "load() comes before the first question"
        assert self._model is not None
        asked = [shown(question, self.orders) for question in questions]
        inputs = [self._format.inputs(question, pairs) for question, pairs in zip(questions, asked, strict=True)]
        logps = self._model.logprobs([ids for group in inputs for ids, _ in group], self._answers)
        first_wins = iter(sigmoid((logps[:, 0] - logps[:, 1]) / self.temperature).tolist())
        answers = []
        for question, pairs, group in zip(questions, asked, inputs, strict=True):
            answer = combine(question, {pair: next(first_wins) for pair in pairs})
            cut = [float(was_cut) for _, was_cut in group]
            answers.append(Answer(answer.values, {**answer.observed, "oracle/truncated_inputs": cut}))
        return answers

    def identity(self) -> str:
        return self.model_copy(update={"dtype": self._dtype()}).model_dump_json(
            exclude={"batch_tokens", "device", "gpu_memory_utilization"}
        )

    def _dtype(self) -> Literal["float32", "bfloat16"]:
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if device_of(self.device) == "cuda" else "float32"


class PairFormat:
    """Turns questions into the token ids that the model reads: one user message in the tokenizer's chat template.

        [CONTEXT] {turns} [RESPONSE A] {a} [RESPONSE B] {b}

    Where a text holds a special token of the tokenizer, or one of ``MARKERS``, a space is inserted after its first character. The text
    still says the same and is read as plain text.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        """
        Args:
            tokenizer: a fast tokenizer with a chat template.
            max_tokens: longest input.

        Raises:
            ConfigError: there is no chat template, or ``max_tokens`` leaves no room for texts.
        """
        if tokenizer.chat_template is None:
            raise ConfigError("oracle.path: the tokenizer has no chat template; give a model that was trained on chats")
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
        self._reserved = [*sorted(special, key=len, reverse=True), *MARKERS]
        self._special_ids = set(tokenizer.convert_tokens_to_ids(sorted(special))) - {tokenizer.unk_token_id}
        frames: list[Chat] = [(), (("user", ""),), (("assistant", ""),)]
        bare, *framed = (len(ids) for ids in self._encode([self._text(turns, "", "") for turns in frames]))
        self._room = max_tokens - bare
        if max(framed) + 3 > max_tokens:
            raise ConfigError(f"oracle.max_tokens: {max_tokens}, but the input without any text takes {max(framed)}; set more")

    def inputs(self, question: Question, pairs: Sequence[Pair]) -> list[tuple[list[int], bool]]:
        """Token ids for each (shown first, shown second), at most ``max_tokens``, and whether text was cut."""
        turns = tuple((role, self._plain(content)) for role, content in question.turns)
        texts = {k: self._plain(question.responses[k]) for k in sorted({k for pair in pairs for k in pair})}
        whole = self._encode([self._text(turns, texts[i], texts[j]) for i, j in pairs])
        return [
            (ids, False) if len(ids) <= self._max_tokens else (self._cut(turns, texts[i], texts[j]), True)
            for ids, (i, j) in zip(whole, pairs, strict=True)
        ]

    def _text(self, turns: Chat, a: str, b: str) -> str:
        context = "".join(_turn(role, content) for role, content in turns)
        asked = [{"role": "user", "content": f"[CONTEXT] \n{context}\n [RESPONSE A] {a} [RESPONSE B] {b} \n"}]
        text: str = self._tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return text.replace(self._tokenizer.bos_token, "") if self._tokenizer.bos_token else text  # the card's model reads none

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _plain(self, text: str) -> str:
        for token in self._reserved:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        (ids,) = self._encode([text])
        if self._special_ids.intersection(ids):  # the tokenizer's normalisation made one out of look-alikes
            text = self._tokenizer.decode([k for k in ids if k not in self._special_ids])
        return text

    def _cut(self, turns: Chat, a: str, b: str) -> list[int]:
        """The input with texts cut as ``PairwiseLM.max_tokens`` says."""
        sizes = [len(ids) for ids in self._encode([a, b])]
        room = self._room
        while True:
            kept, used = self._cut_turns(turns, max(room // 2, room - sum(sizes)))
            limit = max((room - used) // 2, room - used - min(sizes), 0)
            (ids,) = self._encode([self._text(kept, self._part(a, limit), self._part(b, limit))])
            if len(ids) <= self._max_tokens:
                return ids
            room -= len(ids) - self._max_tokens  # text may make more tokens beside other text than alone

    def _cut_turns(self, turns: Chat, limit: int) -> tuple[Chat, int]:
        """The end of a chat, and its size: the oldest turns are left out first, then the beginning of the last turn."""
        sizes = [len(ids) for ids in self._encode([_turn(role, content) for role, content in turns])]
        first = 0
        while first < len(turns) - 1 and sum(sizes[first:]) > limit:
            first += 1
        excess = max(0, sum(sizes[first:]) - limit)
        if not excess:
            return turns[first:], sum(sizes[first:])
        role, content = turns[-1]
        (ids,) = self._encode([content])
        excess = min(excess, len(ids))
        return ((role, self._part(content, len(ids) - excess, end=True)),), sizes[-1] - excess

    def _part(self, text: str, limit: int, *, end: bool = False) -> str:
        """The first, or last, ``limit`` tokens of a text."""
        if limit <= 0:
            return ""
        places = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(places) <= limit:
            return text
        return text[places[-limit][0] :] if end else text[: places[limit - 1][1]]


def _turn(role: str, content: str) -> str:
    """One turn of the context. The card's template alternates the roles; here the role is read, which differs for a system turn."""
    return f"\n<turn> {'assistant' if role == 'assistant' else 'user'}\n {content}"


def _load_tokenizer(path: str) -> tuple[Any, int | None]:
    """The tokenizer, and the number of positions of its model, if the config states it."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        positions = getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", None)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"oracle.path: cannot load {path!r}: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"oracle.path: {path!r} has no fast tokenizer (tokenizer.json), which is needed to cut texts")
    return tokenizer, positions


def _single_token(tokenizer: Any, answer: str) -> int:
    ids = tokenizer.encode(answer, add_special_tokens=False)
    if len(ids) != 1:
        raise ConfigError(f"oracle.answers: {answer!r} is {len(ids)} tokens for this tokenizer; it must be one")
    return int(ids[0])
