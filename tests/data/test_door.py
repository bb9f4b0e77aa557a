"""Whatever a record holds, a loader gives a prompt or an example of it, or a DataError or ConfigError that says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypref.data.config import DataConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import load_preferences
from raypref.data.layouts import read_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import load_prompts
from raypref.data.records import Record, read_records
from raypref.errors import ConfigError, DataError
from raypref.losses.dpo import DPO
from raypref.losses.kto import KTO

TEXTS = st.one_of(
    st.sampled_from(["why", "how not", "", " ", "\0", "\ud800", "\u200b", "5", "nan", "\n\nHuman: q\n\nAssistant: a", "[ANSWER]", "<eos>"]),
    st.text(st.characters(codec=None), max_size=8),  # lone surrogates included
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(0, 3), st.floats(), st.just(10**400), st.binary(max_size=3), TEXTS)
PARTS = st.lists(st.dictionaries(st.sampled_from(["type", "text"]), st.one_of(st.just("text"), SCALARS)), max_size=2)
MESSAGES = st.fixed_dictionaries(
    {"role": st.one_of(st.sampled_from(["user", "assistant", "system", "tool"]), SCALARS), "content": st.one_of(SCALARS, PARTS)},
    optional={"tool_calls": SCALARS, "name": SCALARS},
)
JUNK = st.recursive(
    st.one_of(SCALARS, MESSAGES, st.lists(MESSAGES, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(TEXTS, st.sampled_from(["role", "content", "text"])), inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
FIELDS = (
    *("prompt", "response", "chosen", "rejected", "responses", "ranking", "scores", "best", "completion", "label", "id", "tools"),
    *("instruction", "input", "output_1", "output_2", "preference", "summaries", "choice", "score_chosen", "score_rejected", "info"),
)
LAYOUTS = (
    ("prompt", "chosen", "rejected"),
    ("chosen", "rejected"),
    ("prompt", "responses", "ranking"),
    ("prompt", "responses", "scores"),
    ("prompt", "responses", "best"),
    ("prompt", "summaries", "choice"),
    ("instruction", "output_1", "output_2", "preference"),
    ("prompt", "completion", "label"),
    ("prompt", "response"),
    (),
)
RECORDS = st.sampled_from(LAYOUTS).flatmap(
    lambda fields: st.fixed_dictionaries(dict.fromkeys(fields, JUNK), optional={name: JUNK for name in FIELDS if name not in fields})
)
PLENTY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def refusal(work: Callable[[], Any]) -> str:
    """The message with which a DataError or ConfigError refuses the data, which can be printed; empty if nothing is refused."""
    try:
        work()
    except (ConfigError, DataError) as error:
        str(error).encode()
        return str(error)
    return ""


@PLENTY
@given(values=RECORDS, verdicts=st.sampled_from(["hard", "soft"]), template=st.sampled_from([None, "tldr", "xsum", "chat"]))
def test_every_layout(values: dict[str, Any], verdicts: Any, template: str | None) -> None:
    def check(config: DataConfig) -> None:
        found = read_preferences(Record(values, "data.jsonl:7"), config)
        assert all(isinstance(answer, str) and answer.strip() for answer in found.responses)
        assert found.values.shape == (len(found.responses),) * 2
        assert not np.isnan(np.diag(found.values)).any()

    for layout in ("auto", "pair", "conversations", "transcripts", "numbered_pair", "choice", "best", "ranking", "scores", "unpaired"):
        config = DataConfig(type="preferences", verdicts=verdicts, template=template, layout=layout)
        message = refusal(partial(check, config))
        assert not message or message.startswith("data.jsonl:7: ")


@PLENTY
@given(values=st.one_of(RECORDS, JUNK), chat_template=st.booleans(), special=st.sampled_from(["text", "allow", "refuse"]))
def test_every_loader(tokenizer: Any, values: Any, chat_template: bool, special: Any) -> None:
    """A refusal says where: the place of the record, or the key to change."""
    facts = PolicyFacts(tokenizer, 64, (2,), 10)
    good = {"prompt": "how", "response": "so", "chosen": "so", "rejected": "not", "id": "good"}
    labelled = {"prompt": "how", "completion": "so", "label": True, "id": "good"}
    for on_bad_record in ("refuse", "skip"):
        given: dict[str, Any] = {"chat_template": chat_template, "special_tokens": special, "on_bad_record": on_bad_record}
        loads: list[Callable[[], Any]] = [
            partial(load_prompts, DataConfig(**given), facts, 8, 0, prompts=[good, values]),
            partial(load_demonstrations, DataConfig(**given), facts, 0, records=[good, values]),
        ]
        for loss, first in ((DPO(), good), (KTO(), labelled)):
            makers: dict[str, Any] = {"loss": loss, "selection": None, "builder": ExampleBuilder(loss, None, 64)}
            section = DataConfig(type="preferences", **given)
            loads.append(partial(load_preferences, section, facts, 0, **makers, records=[first, values]))
        for load in loads:
            message = refusal(load)
            assert not message or "record 1 of those" in message or message.startswith(("data.", "loss.", "prompt 'good'"))


@PLENTY
@given(objects=st.one_of(JUNK, st.dictionaries(st.sampled_from(FIELDS), st.lists(JUNK, max_size=3), max_size=3)))
def test_everything_that_can_be_passed(tokenizer: Any, objects: Any) -> None:
    facts = PolicyFacts(tokenizer, 64, (2,), 10)
    message = refusal(lambda: load_prompts(DataConfig(chat_template=False), facts, 8, 0, prompts=objects))
    assert not message or "passed to run()" in message or message.startswith("the data passed: ")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.xz", ".json.bz2"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(st.binary(max_size=64), st.lists(st.one_of(RECORDS, JUNK), max_size=3).map(lambda rows: dumped(rows))))
def test_every_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"p{suffix}"
    file.write_bytes(content)
    message = refusal(lambda: list(read_records(str(file), "train")))
    assert not message or message.startswith(str(file))


def dumped(rows: list[Any]) -> bytes:
    """Rows as JSON lines, some of them broken."""
    return b"\n".join(repr(row).encode(errors="replace") if len(str(row)) % 3 else json.dumps(str(row)).encode() for row in rows)
