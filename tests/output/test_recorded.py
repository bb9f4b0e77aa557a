"""What an interrupted run has sampled and judged is read back, whole or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.oracle.actor import OracleActor
from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.judging.transcript import Recording, Replayed, Round, Transcript
from raypref.losses.inpo import INPO
from raypref.oracles.base import Answer, Oracle, Question
from raypref.output.journal import Journal, row_of, schema
from raypref.output.record_stream import RecordReader, RecordWriter
from raypref.output.recorded import RecordedGroups, gather
from raypref.selection.tournament import Tournament
from raypref.types import Rollout, SampleRequest, Total
from tests.groups import rollout


class Counting(Oracle):
    """The longer response wins with a chance that no short decimal has; counts its questions."""

    type: str = "counting"
    asked: list[Question] = []  # noqa: RUF012

    def compare(self, questions: Any) -> list[Answer]:
        self.asked.extend(questions)
        answers = []
        for question in questions:
            lengths = np.array([len(text) for text in question.responses], dtype=float)
            chances = 1 / (1 + np.exp(-(lengths[:, None] - lengths[None, :]) / 3))
            observed = {"oracle/requests_total": [Total(1.0)], "oracle/confidence": [0.1, 1 / 3]}
            answers.append(Answer(chances, observed))
        return answers


def group(index: int, version: int = 1, origin: str | None = None) -> Rollout:
    texts = ["a" * (1 + (index + k) % 5) for k in range(4)]
    made = rollout(*texts, cut_off=[3], prompt_id=f"p{index}", index=index, policy_version=version)
    return replace(made, origin=f"{version}-{index}" if origin is None else origin)


_STARTED: list[OracleActor] = []


def actor(directory: Path, name: str = "oracle-0") -> OracleActor:
    """One that is never closed before the test ends: it is as if it had been killed."""
    started = OracleActor(oracle=Counting(asked=[]), selection=Tournament(), loss=INPO(), journal_dir=directory, name=name)
    _STARTED.append(started)
    return started


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    for started in _STARTED:
        started._journal.close()
    _STARTED.clear()


def judged(where: OracleActor, *groups: Rollout) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return [await where.judge(item) for item in groups]

    return asyncio.run(all_of_them())


def questions(where: OracleActor) -> int:
    return len(where._oracle._oracle.asked)


def same(first: Any, second: Any) -> bool:
    (verdict, examples), (other_verdict, other_examples) = first, second
    return repr(replace(verdict, recorded=other_verdict.recorded)) == repr(other_verdict) and all(
        np.array_equal(a.targets, b.targets)
        and all(np.array_equal(x, y) for x, y in zip(a.response_ids, b.response_ids, strict=True))
        and np.array_equal(a.sampled_logps, b.sampled_logps)
        for a, b in zip(examples, other_examples, strict=True)
    )


def request(item: Rollout) -> SampleRequest:
    assert item.policy_version is not None
    return SampleRequest(item.prompt, len(item.responses), 0, 1.0, 1.0, 8, item.policy_version, item.origin)


def test_a_group_that_was_judged_is_judged_again_from_its_transcript_to_the_bit(tmp_path: Path) -> None:
    """The tournament asks in rounds. Nothing is asked the second time, and metrics, targets and tokens are the very same."""
    groups = [group(k) for k in range(6)]
    first = actor(tmp_path)
    before = judged(first, *groups)
    assert questions(first) > len(groups)
    assert gather(tmp_path, 1) == 6
    second = actor(tmp_path)
    assert all(item.origin in second._recorded for item in groups)
    recalled = [asyncio.run(second.recall(request(item)))[1] for item in groups]
    for item, again in zip(groups, recalled, strict=True):
        assert (again.prompt, again.policy_version, again.origin) == (item.prompt, item.policy_version, item.origin)
        for response, other in zip(item.responses, again.responses, strict=True):
            assert (response.text, response.finish_reason) == (other.text, other.finish_reason)
            np.testing.assert_array_equal(response.token_ids, other.token_ids)
            np.testing.assert_array_equal(response.logprobs, other.logprobs)
            assert (response.token_ids.dtype, response.logprobs.dtype) == (other.token_ids.dtype, other.logprobs.dtype)
    after = judged(second, *recalled)
    assert questions(second) == 0
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    assert [verdict.recorded for verdict, _ in before + after] == [False] * 6 + [True] * 6
    total = after[0][0].metrics["oracle/requests_total"]
    assert isinstance(total, Total)


def test_a_group_of_other_settings_or_weights_is_judged_anew(tmp_path: Path) -> None:
    judged(actor(tmp_path), group(0))
    gather(tmp_path, 1)
    second = actor(tmp_path)
    judged(second, group(0, origin="other"))
    assert questions(second) > 0


def test_the_part_of_a_repeated_iteration_has_every_group_once(tmp_path: Path) -> None:
    """Two replicas judge 3 and 2 groups and are killed; one replica repeats the iteration and seals it."""
    judged(actor(tmp_path), *(group(k) for k in range(3)))
    judged(actor(tmp_path, "oracle-1"), *(group(k) for k in range(2, 5)))  # group 2 was given to another replica again
    assert gather(tmp_path, 1) == 5
    again = actor(tmp_path)
    judged(again, *(group(k) for k in range(7)))
    path = asyncio.run(again.seal(2))
    assert sorted(pq.read_table(path).column("prompt_id").to_pylist()) == [f"p{k}" for k in range(7)]
    assert not (tmp_path / ".open" / "recorded.arrow").exists()
    assert list(tmp_path.glob("*.parquet")) == [Path(str(path))]


def test_a_sealed_part_after_the_checkpoint_is_read_back_and_one_before_it_stays(tmp_path: Path) -> None:
    """Killed after iteration 2 was sealed and before its checkpoint was complete. Iteration 1 is finished."""
    where = actor(tmp_path)
    judged(where, group(0, version=0))
    asyncio.run(where.seal(1))
    judged(where, group(1), group(2))
    asyncio.run(where.seal(2))
    judged(where, group(3, version=2))
    assert gather(tmp_path, 1) == 3
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["iteration_0001-oracle-0-00.parquet"]
    assert RecordedGroups(tmp_path).origins == {"1-1", "1-2", "2-3"}


def part(path: Path) -> list[str]:
    return sorted(pq.read_table(path).column("origin").to_pylist())


def test_finished_iterations_that_were_not_sealed_get_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed after iteration 1; the run failed in iteration 4, and was saved after iteration 3. Two oracles wrote, one was killed as it
    sealed. Then it goes on from iteration 1 after all."""
    first, second = actor(tmp_path), actor(tmp_path, "oracle-1")
    judged(first, group(0, version=0))
    asyncio.run(first.seal(1))
    judged(first, group(1), group(2, version=2), group(3, version=3))
    judged(second, group(4), group(5, version=2), group(6, version=3))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gather(tmp_path, 3)
    (tmp_path / ".open" / "oracle-1.arrows").unlink()  # the crash came a little later
    assert gather(tmp_path, 3) == gather(tmp_path, 3) == 2
    assert RecordedGroups(tmp_path).origins == {"3-3", "3-6"}
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [
        "iteration_0001-oracle-0-00.parquet",
        "iteration_0003-recovered-00.parquet",
    ]
    assert part(tmp_path / "iteration_0003-recovered-00.parquet") == ["1-1", "1-4", "2-2", "2-5"]
    again = actor(tmp_path)
    judged(again, group(3, version=3), group(6, version=3), group(7, version=3))
    assert questions(again) > 0
    assert part(Path(str(asyncio.run(again.seal(4))))) == ["3-3", "3-6", "3-7"]
    assert gather(tmp_path, 1) == 7
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["iteration_0001-oracle-0-00.parquet"]


def test_gathering_is_repeated_after_a_crash_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(actor(tmp_path), group(0), group(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gather(tmp_path, 1)
    assert gather(tmp_path, 1) == 2
    assert gather(tmp_path, 1) == 2
    assert RecordedGroups(tmp_path).origins == {"1-0", "1-1"}


def test_nothing_is_recorded_in_a_new_run(tmp_path: Path) -> None:
    assert RecordedGroups(tmp_path / "rollouts").origins == frozenset()
    with pytest.raises(KeyError):
        RecordedGroups(tmp_path).rollout(request(group(0)))


def test_a_question_that_is_not_in_the_transcript_is_an_error() -> None:
    """Settings that differ have another origin; if one is missed there, the wrong answers are not taken silently."""
    replayed = Replayed(Transcript([Round(((0, 1),), (0.7,), {})]), "counting")
    with pytest.raises(RuntimeError, match=r"prompt 'p': the journal has no answer about the responses \[\(0, 2\)\]"):
        asyncio.run(replayed.ask(Question("p", "Why?", ("a", "b", "c"), ((0, 2),))))


def test_a_transcript_keeps_every_number_and_abstentions() -> None:
    rounds = [Round(((0, 1), (2, 0)), (1 / 3, float("nan")), {"a": [0.1, float("inf")], "b": [Total(2.0)]})]
    text = Transcript(rounds).to_json()
    (read,) = Transcript.from_json(text).rounds
    np.testing.assert_array_equal(read.chances, rounds[0].chances)
    assert (read.pairs, read.observed) == (rounds[0].pairs, rounds[0].observed)
    assert isinstance(read.observed["b"][0], Total)
    assert np.isnan(read.answer(3).values[2, 0])
    assert read.answer(3).values[1, 0] == 1.0 - 1 / 3


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Any]]:
    """The bytes of a stream of 12 groups, and its records."""
    path = tmp_path_factory.mktemp("stream") / "w.arrows"
    judge, writer = Judge(OracleQueue(Counting(asked=[]), JudgingConfig()), Tournament(), INPO()), RecordWriter(path, schema())
    for k in range(12):
        recording = Recording(OracleQueue(Counting(asked=[]), JudgingConfig()))
        writer.append(row_of(group(k), asyncio.run(judge.judge(group(k), oracle=recording)), Transcript(recording.rounds)))
    content = path.read_bytes()
    writer.close()
    problems: list[str] = []
    records = [batch.to_pylist()[0] for batch in RecordReader(path, schema(), problems)]
    assert (len(records), problems) == (12, [])
    return content, records


def test_no_flipped_bit_is_taken_for_data(tmp_path: Path, stream: tuple[bytes, list[Any]]) -> None:
    content, records = stream
    draw = random.Random(0)
    for _ in range(150):
        place = draw.randrange(8 * len(content))
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        (tmp_path / "w.arrows").write_bytes(damaged)
        problems: list[str] = []
        found = [batch.to_pylist()[0] for batch in RecordReader(tmp_path / "w.arrows", schema(), problems)]
        assert all(record in records for record in found), place
        assert len(found) == 12 or problems, "what is missing is named"


@pytest.mark.parametrize("kind", ["gathered", "sealed"])
def test_no_flipped_bit_of_a_later_file_is_taken_for_data(tmp_path: Path, stream: tuple[bytes, list[Any]], kind: str) -> None:
    """The file that ``gather`` makes, and a sealed part, are read by the next resumption."""
    content, records = stream
    name = "oracle-0.arrows" if kind == "gathered" else "iteration_0002-oracle-0-00.sealing"
    (tmp_path / ".open").mkdir()
    (tmp_path / ".open" / name).write_bytes(content)
    if kind == "gathered":
        assert gather(tmp_path, 1) == 12
        path = tmp_path / ".open" / "recorded.arrow"
    else:
        Journal(tmp_path, "oracle-0").close()
        path = tmp_path / "iteration_0002-oracle-0-00.parquet"
    whole = path.read_bytes()
    draw = random.Random(0)
    counts = []
    for _ in range(60):
        place = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        counts.append(gather(tmp_path, 1))
        found = RecordedGroups(tmp_path)
        assert all(found._row(origin) in records for origin in found.origins), place
        (tmp_path / ".open" / "recorded.arrow").unlink(missing_ok=True)
    assert min(counts) < 12


def test_a_torn_tail_is_cut_and_said(tmp_path: Path, stream: tuple[bytes, list[Any]]) -> None:
    content, records = stream
    counts = []
    for end in range(2000, len(content), 1511):
        (tmp_path / "w.arrows").write_bytes(content[:end])
        problems: list[str] = []
        found = [batch.to_pylist()[0] for batch in RecordReader(tmp_path / "w.arrows", schema(), problems)]
        assert found == records[: len(found)]
        assert len(problems) <= 1
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-1] >= 10


def test_a_seal_that_cannot_read_back_what_was_written_fails(tmp_path: Path) -> None:
    """A part with fewer groups than were judged is never made in silence."""
    where = actor(tmp_path)
    judged(where, *(group(k) for k in range(3)))
    path = tmp_path / ".open" / "oracle-0.arrows"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"of 3 groups could be read back"):
        asyncio.run(where.seal(2))
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_journal_of_an_earlier_version_is_sampled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"iteration": [2], "prompt_id": ["p"]}), tmp_path / "iteration_0002-oracle-0-00.parquet")
    assert gather(tmp_path, 1) == 0
    assert "written by another version" in caplog.text


def test_what_a_lost_oracle_has_written_is_not_judged_again_by_another_one(tmp_path: Path) -> None:
    """Oracle 0 wrote two groups, was killed before it answered, and has a replacement that continues its stream: the other replica gives
    the same answer to the bit, asks nothing and writes nothing. A group that was not written is judged and written."""
    first, other = actor(tmp_path, "oracle-0"), actor(tmp_path, "oracle-1")
    before = judged(first, group(0), group(1))
    actor(tmp_path, "oracle-0")
    again = [asyncio.run(other.judge(group(k), None, "oracle-0")) for k in range(2)]
    assert all(map(same, before, again))
    assert questions(other) == 0
    asyncio.run(other.judge(group(2), None, "oracle-0"))
    assert questions(other) > 0
    assert gather(tmp_path, 1) == 3
