"""The journal on disk."""

import asyncio
import os
from dataclasses import replace

import pytest

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.record_prompts import prompt_of
from raypref.data.records import read_records
from raypref.evaluation.response_files import read_responses
from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.judging.transcript import Recording, Transcript
from raypref.losses.sppo import SPPO
from raypref.output.journal import Journal, schema
from raypref.output.record_stream import RecordReader
from raypref.output.recorded import gather
from raypref.selection.best_worst import BestWorst
from tests.groups import TableOracle, rollout


def entry(index: int):
    group = rollout("a", "bb", "ccc", cut_off=[2], prompt_id=f"p{index}", index=index)
    oracle = TableOracle(table={"a>bb": 0.8}, asked=[])
    queue = OracleQueue(oracle, JudgingConfig())
    judge = Judge(queue, BestWorst(), SPPO(), judging=JudgingConfig(truncated="drop"))
    recording = Recording(queue)
    judged = asyncio.run(judge.judge(group, oracle=recording))
    return group, judged, Transcript(recording.rounds)


def test_parts_are_read_by_datasets(tmp_path):
    """Two writers, one iteration: two parts, four groups. An open stream beside them does not disturb."""
    import datasets

    writers = [Journal(tmp_path, "oracle-0"), Journal(tmp_path, "oracle-1")]
    for index in range(4):
        writers[index % 2].append(*entry(index))
    assert [writer.seal(1).name for writer in writers] == ["iteration_0001-oracle-0-00.parquet", "iteration_0001-oracle-1-00.parquet"]
    writers[0].append(*entry(9))
    rows = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(rows["prompt_id"]) == ["p0", "p1", "p2", "p3"]
    row = rows[0]
    assert (row["prompt"], row["prompt_token_ids"], row["policy_version"], row["oracle"]) == ("Why?", [1, 2, 3], 2, "table")
    assert row["iteration"] == 3, "the policy of version 2 samples in the third iteration"
    assert (row["responses"], row["finish_reasons"]) == (["a", "bb", "ccc"], ["stop", "stop", "length"])
    assert (row["response_token_ids"], row["logprobs"][1], row["picked"]) == ([[97], [98, 98], [99, 99, 99]], [-0.5, -0.5], [[0, 1]])
    assert row["preference"] == [[0.5, pytest.approx(0.8), None], [pytest.approx(0.2), 0.5, None], [None, None, 0.5]]
    assert row["asked"] == [[False, True, False], [True, False, False], [False] * 3], "the third was cut off and left out"
    for writer in writers:
        writer.close()


def test_a_group_is_on_disk_when_append_returns(tmp_path):
    journal = Journal(tmp_path, "w")
    journal.append(*entry(0))
    (batch,) = RecordReader(tmp_path / ".open" / "w.arrows", schema(), [])
    assert batch.to_pylist()[0]["prompt_id"] == "p0"
    journal.close()


def test_no_file_replaces_another_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """After a power cut a file that was renamed, and not flushed before, may be empty: the part for which a stream is removed, the stream
    that continues an earlier one, and the part of what an interrupted run had not sealed."""
    flushed, fsync = {}, os.fsync

    def noted(descriptor):
        fsync(descriptor)
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def whole(path):
        return flushed.get(path.stat().st_ino) == path.stat().st_size

    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(tmp_path, "w")
    journal.append(*entry(0))
    journal.close()
    flushed.clear()
    continued = Journal(tmp_path, "w")
    assert whole(tmp_path / ".open" / "w.arrows")
    assert whole(continued.seal(3))
    continued.append(*entry(1))
    continued.close()
    assert gather(tmp_path, 3) == 0
    assert whole(tmp_path / "iteration_0003-recovered-00.parquet")


@pytest.mark.parametrize("lost_bytes", [0, 7, 300])
def test_a_killed_writers_stream_is_continued(tmp_path, lost_bytes):
    """The stream has no end mark, and its last record may be cut off: what is whole is kept."""
    first = Journal(tmp_path, "w")
    for index in range(3):
        first.append(*entry(index))
    path = tmp_path / ".open" / "w.arrows"
    left = path.read_bytes()
    first.close()
    path.write_bytes(left[: len(left) - lost_bytes])
    second = Journal(tmp_path, "w")
    second.append(*entry(7))
    import pyarrow.parquet as pq

    kept = pq.read_table(second.seal(1)).column("prompt_id").to_pylist()
    assert kept == (["p0", "p1", "p2", "p7"] if lost_bytes == 0 else ["p0", "p1", "p7"])
    second.close()


def test_sealing_again_adds_a_part_and_an_empty_stream_gives_none(tmp_path):
    journal = Journal(tmp_path, "w")
    assert journal.seal(1) is None
    for expected in ("iteration_0001-w-00.parquet", "iteration_0001-w-01.parquet"):
        journal.append(*entry(0))
        assert journal.seal(1).name == expected
    journal.close()


def test_a_writer_that_dies_while_it_seals_neither_loses_nor_doubles_a_group(tmp_path, monkeypatch):
    """The stream is renamed to its part's name first; whoever opens the journal again finishes the part."""
    import pyarrow.parquet as pq

    journal = Journal(tmp_path, "w")
    journal.append(*entry(0))
    monkeypatch.setattr(pq, "ParquetWriter", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        journal.seal(1)
    journal.close()
    monkeypatch.undo()
    again = Journal(tmp_path, "w")
    assert pq.read_table(tmp_path / "iteration_0001-w-00.parquet").column("prompt_id").to_pylist() == ["p0"]
    assert again.seal(1) is None
    again.close()


def test_a_writers_name_cannot_leave_the_directory(tmp_path):
    with pytest.raises(ValueError, match="journal writer"):
        Journal(tmp_path, "../w")


def test_nothing_is_created_before_the_first_group(tmp_path):
    """An oracle that only compares given responses leaves no empty directory behind."""
    journal = Journal(tmp_path / "rollouts", "w")
    assert journal.seal(1) is None
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_parts_are_counted_at_any_number(tmp_path, monkeypatch):
    """More than a hundred parts of iteration 10,000, one of them interrupted; another writer's parts do not count."""
    import pyarrow.parquet as pq

    (tmp_path / "iteration_10000-w-99.parquet").touch()
    (tmp_path / "iteration_10000-w-0-200.parquet").touch()
    (tmp_path / "iteration_1000-w-300.parquet").touch()
    journal = Journal(tmp_path, "w")
    journal.append(*entry(0))
    monkeypatch.setattr(pq, "ParquetWriter", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        journal.seal(10000)
    monkeypatch.undo()
    journal.close()
    again = Journal(tmp_path, "w")
    assert pq.read_table(tmp_path / "iteration_10000-w-100.parquet").num_rows == 1
    again.append(*entry(1))
    assert again.seal(10000).name == "iteration_10000-w-101.parquet"
    again.close()


def test_a_chat_keeps_its_turns_where_rollouts_are_response_files(tmp_path):
    """An oracle is shown what it was shown in the run: the turns of a chat, and a plain text as a text."""
    turns = (("system", "Be brief."), ("user", "Why?"))
    group, judged, transcript = entry(0)
    chat = replace(group, prompt=replace(group.prompt, text="system: Be brief.\n\nuser: Why?", chat=turns))
    journal = Journal(tmp_path, "w")
    journal.append(chat, judged, transcript)
    journal.append(group, judged, transcript)
    journal.seal(1)
    first, second = read_responses(tmp_path).answers
    assert (first.chat, first.prompt) == (turns, chat.prompt.text)
    assert (second.chat, second.prompt) == ((), "Why?")
    assert (first.responses, first.tokens, first.finish_reasons) == (("a", "bb", "ccc"), (1, 2, 3), ("stop", "stop", "length"))
    journal.close()


def test_a_chat_keeps_its_turns_where_rollouts_are_prompts(tmp_path):
    """The policy is asked again what it was asked, not the text that the turns make together."""
    turns = (("system", "Be brief."), ("user", "Why?"))
    group, judged, transcript = entry(0)
    journal = Journal(tmp_path, "w")
    journal.append(replace(group, prompt=replace(group.prompt, text="system: Be brief.\n\nuser: Why?", chat=turns)), judged, transcript)
    journal.append(group, judged, transcript)
    journal.seal(1)
    journal.close()
    chat, text = (prompt_of(record, DataConfig()) for record in read_records(str(tmp_path), "train"))
    assert (chat, text) == (Chat.of(turns), "Why?")
