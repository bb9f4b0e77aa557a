"""Verdicts that are kept, shared, and never made up."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raypref.errors import ConfigError
from raypref.oracles.base import Question
from raypref.oracles.support.cache import VerdictCache
from raypref.preferences import Matrix, unknown
from tests.test_preferences import ORDERED

QUESTION = Question("p0", "Why?", ("b", "c", "a"), ((0, 1), (0, 2), (1, 2)))
FOUND = {(i, j): ORDERED[i, j] for i, j in QUESTION.pairs}


def opened(directory: Path, identity: str = "mine") -> VerdictCache:
    """A cache that looks for what others have appended as often as it may."""
    return VerdictCache(directory, identity, refresh_s=0.0)


def finds_in_time(cache: VerdictCache, question: Question, expected: dict[tuple[int, int], float]) -> bool:
    """Whether it comes to find this, within ten seconds."""
    deadline = time.monotonic() + 10.0
    while cache.find(question) != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.jsonl"))


def pair(prompt: str, a: str, b: str, **also: Any) -> Question:
    return Question("p", prompt, (a, b), ((0, 1),), **also)


def verdict(chance: float) -> Matrix:
    return np.array([[0.5, chance], [1.0 - chance, 0.5]])


def three_lines(directory: Path) -> tuple[Path, list[bytes]]:
    """The segment with ``QUESTION``'s verdicts, and its lines."""
    opened(directory).keep(QUESTION, ORDERED)
    (segment,) = segments(directory)
    return segment, segment.read_bytes().splitlines(keepends=True)


def test_what_was_kept_is_found_by_the_next_run(tmp_path: Path) -> None:
    opened(tmp_path).keep(QUESTION, ORDERED)
    assert opened(tmp_path).find(QUESTION) == FOUND


def test_what_another_replica_keeps_is_found_without_a_new_start(tmp_path: Path) -> None:
    """The second batch goes to the segment that the reader knows already."""
    reader, writer = opened(tmp_path), opened(tmp_path)
    for prompt in ("Why?", "How?"):
        writer.keep(pair(prompt, "a", "b"), verdict(0.25))
        assert finds_in_time(reader, pair(prompt, "a", "b"), {(0, 1): 0.25})
    assert len(segments(tmp_path)) == 1


def test_others_are_looked_at_no_more_often_than_allowed(tmp_path: Path) -> None:
    reader, writer = VerdictCache(tmp_path, "mine", refresh_s=3600.0), opened(tmp_path)
    writer.keep(QUESTION, ORDERED)
    assert reader.find(QUESTION) == {}


def test_looking_at_others_takes_at_most_a_tenth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look, from 0 to 2 s, took 2 s: the next one comes at 20 s."""
    writer = opened(tmp_path)
    clock = iter([0.0, 2.0, 19.9, 20.0, 20.0, 20.0])
    monkeypatch.setattr("raypref.oracles.support.cache.time", SimpleNamespace(monotonic=lambda: next(clock)))
    reader = opened(tmp_path)
    asked = pair("How?", "a", "b")
    writer.keep(asked, verdict(0.75))
    assert reader.find(asked) == {}
    assert reader.find(asked) == {(0, 1): 0.75}


@given(order=st.permutations(range(3)), chances=st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(deadline=None, max_examples=40)
def test_a_verdict_does_not_depend_on_the_places_in_the_group(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], chances: list[float]
) -> None:
    """The same three responses in another order: the matrix is permuted, bit for bit, whichever half of it was asked."""
    values = unknown(3)
    for (i, j), chance in zip(QUESTION.pairs, chances, strict=True):
        values[i, j], values[j, i] = chance, 1.0 - chance
    directory = tmp_path_factory.mktemp("verdicts")
    opened(directory).keep(QUESTION, values)
    moved = Question("other", "Why?", tuple(QUESTION.responses[k] for k in order), QUESTION.pairs)
    assert opened(directory).find(moved) == {(i, j): values[order[i], order[j]] for i, j in QUESTION.pairs}


def test_only_the_same_question_to_the_same_oracle_finds_it(tmp_path: Path) -> None:
    """The pieces of a key are told apart by their lengths: moving a letter from one to the next makes another key."""
    asked = pair("xy", "ab", "c")
    opened(tmp_path).keep(asked, verdict(0.9))
    assert opened(tmp_path).find(asked) == {(0, 1): 0.9}
    assert opened(tmp_path, "other").find(asked) == {}
    for other in [
        pair("xy", "a", "bc"),
        pair("xya", "b", "c"),
        pair("x", "yab", "c"),
        pair("xy", "ab", "c", chat=(("user", "xy"),)),
        pair("xy", "ab", "c", chat=(("user", "x"), ("assistant", "y"))),
    ]:
        assert opened(tmp_path).find(other) == {}


def test_abstentions_and_what_was_not_asked_are_not_kept(tmp_path: Path) -> None:
    values = ORDERED.copy()
    values[0, 1] = values[1, 0] = np.nan
    opened(tmp_path).keep(Question("p0", "Why?", QUESTION.responses, ((0, 1), (1, 2))), values)
    assert opened(tmp_path).find(QUESTION) == {(1, 2): ORDERED[1, 2]}


def test_what_is_no_probability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt 'p': P\[0, 1\] = -1\.0 is no probability"):
        opened(tmp_path).keep(pair("Why?", "a", "b"), verdict(-1.0))
    assert segments(tmp_path) == []


def test_a_verdict_is_one_line_of_json_and_written_once(tmp_path: Path) -> None:
    """Responses (b, c, a) in sorted order: (b, c) is, (b, a) and (c, a) are not. The checksum is of what follows it."""
    cache = opened(tmp_path)
    cache.keep(QUESTION, ORDERED)
    cache.keep(QUESTION, ORDERED)
    (segment,) = segments(tmp_path)
    lines = segment.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(record["p"], record["in_order"]) for record in records] == [
        (ORDERED[0, 1], True),
        (ORDERED[0, 2], False),
        (ORDERED[1, 2], False),
    ]
    assert [record["crc"] for record in records] == [f"{zlib.crc32(line[17:].encode()):08x}" for line in lines]
    assert {len(bytes.fromhex(record["key"])) for record in records} == {16}


def test_verdicts_of_version_1_are_refused_and_named(tmp_path: Path) -> None:
    """Their folder was named by the same hash over (version, identity), each with its length in 8 bytes in front."""
    framed = b"".join(len(text).to_bytes(8, "little") + text for text in (b"1", b"mine"))
    folder = tmp_path / hashlib.sha256(framed).hexdigest()[:16]
    folder.mkdir()
    with pytest.raises(ConfigError, match=rf"judging\.cache: .*{folder.name} holds this oracle's verdicts in the binary format"):
        opened(tmp_path)
    assert len(opened(tmp_path, "other")) == 0, "another oracle's are nobody's loss"


def test_an_unpaired_surrogate_is_a_text_like_any_other(tmp_path: Path) -> None:
    asked = pair("Why\ud800?", "a\udfff", "b")
    opened(tmp_path).keep(asked, verdict(0.75))
    assert opened(tmp_path).find(asked) == {(0, 1): 0.75}


@given(share=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
@example(share=1.0)
def test_a_half_written_line_waits_until_it_is_whole(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    """Cut anywhere, the lines whose end is there are read at first, and all three once the rest has arrived."""
    segment, lines = three_lines(tmp_path_factory.mktemp("verdicts"))
    data = b"".join(lines)
    kept = data[: round(share * len(data))]
    segment.write_bytes(kept)
    reader = opened(segment.parent.parent)
    found = reader.find(QUESTION)
    assert len(found) == kept.count(b"\n")
    assert found.items() <= FOUND.items()
    segment.write_bytes(data)
    assert finds_in_time(reader, QUESTION, FOUND)


@pytest.mark.parametrize("place", range(92))
def test_a_damaged_line_is_named_and_left_out_and_its_neighbours_are_read(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Any byte of the second line may be the wrong one, its end too: without that it joins the third, which is read all the same."""
    segment, lines = three_lines(tmp_path)
    assert len(lines[1]) == 92
    lines[1] = lines[1][:place] + bytes([lines[1][place] ^ 0x40]) + lines[1][place + 1 :]
    segment.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path).find(QUESTION) == {(0, 1): FOUND[0, 1], (1, 2): FOUND[1, 2]}
    count = 2 if place == 91 else 3
    assert f"{segment}: 1 of {count} lines are damaged and left out: 2" in caplog.text


def test_lines_are_numbered_from_the_segments_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three lines are read; of two that are appended later, the second is damaged: line 5."""
    segment, lines = three_lines(tmp_path)
    reader = opened(tmp_path)
    assert reader.find(QUESTION) == FOUND
    opened(tmp_path).keep(pair("How?", "a", "b"), verdict(0.25))
    segment.write_bytes(b"".join([*lines, lines[0], b"{}\n"]))
    with caplog.at_level(logging.WARNING):
        assert finds_in_time(reader, pair("How?", "a", "b"), {(0, 1): 0.25})
    assert f"{segment}: 1 of 2 lines are damaged and left out: 5" in caplog.text


def test_zeros_of_a_crashed_node_are_no_verdicts(tmp_path: Path) -> None:
    """A file may have its new length on disk and not yet its bytes. They are read when they have come and something follows them."""
    segment, lines = three_lines(tmp_path)
    data = b"".join(lines)
    segment.write_bytes(bytes(len(data)))
    reader = opened(tmp_path)
    assert len(reader) == 0
    segment.write_bytes(data + lines[0])
    assert finds_in_time(reader, QUESTION, FOUND)


def test_after_a_failed_write_a_new_segment_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes the first 40 bytes: the lines are whole in the next segment, and nothing is lost of what follows."""
    cache = opened(tmp_path)
    real = Path.open

    class Full:
        def __init__(self, path: Path) -> None:
            self._file = real(path, "ab")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            self._file.write(data[:40])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: Full(path))
        with pytest.raises(OSError, match="No space left"):
            cache.keep(QUESTION, ORDERED)
    cache.keep(QUESTION, ORDERED)
    assert opened(tmp_path).find(QUESTION) == FOUND
    assert sorted(path.read_bytes().count(b"\n") for path in segments(tmp_path)) == [0, 3]
    assert min(path.stat().st_size for path in segments(tmp_path)) == 40


def test_of_two_verdicts_on_a_pair_every_reader_takes_the_same(tmp_path: Path) -> None:
    asked = pair("Why?", "a", "b")
    writers = [opened(tmp_path) for _ in range(4)]
    for number, writer in enumerate(writers):
        writer.keep(asked, verdict(number / 4))
    assert len(segments(tmp_path)) == 4
    first = json.loads(segments(tmp_path)[0].read_text())["p"]
    assert {opened(tmp_path).find(asked)[0, 1] for _ in range(3)} == {first}


def test_the_folder_tells_whose_verdicts_it_holds(tmp_path: Path) -> None:
    opened(tmp_path, '{"type":"pairrm"}')
    assert [path.read_text() for path in tmp_path.glob("*/oracle.txt")] == ['{"type":"pairrm"}']


def test_a_directory_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"judging\.cache: .*file cannot be written"):
        opened(tmp_path / "file")


PROMPTS = 60
WRITERS = 3


def chance_of(number: int) -> float:
    return (number % 97) / 97


def write_all(directory: Path, start: int) -> None:
    """Keep a verdict on every prompt, from ``start`` on and round, one batch each; find what others have kept meanwhile."""
    cache = opened(directory)
    for number in itertools.islice(itertools.cycle(range(PROMPTS)), start, start + PROMPTS):
        asked = pair(f"prompt {number}", "a", "b")
        found = cache.find(asked)
        assert found in ({}, {(0, 1): chance_of(number)})
        if not found:
            cache.keep(asked, verdict(chance_of(number)))


def test_processes_write_and_read_at_the_same_time(tmp_path: Path) -> None:
    """Three writers, each begins at another third: no record is torn, lost or mixed up, and a reader beside them sees only true ones."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_all, args=(tmp_path, number * PROMPTS // WRITERS)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    reader = opened(tmp_path)
    while any(writer.is_alive() for writer in writers):
        for number in range(PROMPTS):
            assert reader.find(pair(f"prompt {number}", "a", "b")) in ({}, {(0, 1): chance_of(number)})
        time.sleep(0.01)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert len(opened(tmp_path)) == PROMPTS
    for segment in segments(tmp_path):
        text = segment.read_text()
        assert text.endswith("\n")
        assert all(json.loads(line)["crc"] == f"{zlib.crc32(line[17:].encode()):08x}" for line in text.splitlines())
