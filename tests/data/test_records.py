"""Files, folders and Python objects as records: what is accepted, and that everything else is refused with its place."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypref.data.config import DataConfig
from raypref.data.records import BadRecords, Record, listed, name_record, read_records, read_source, wrap_objects
from raypref.errors import ConfigError, DataError

LINES = b'{"prompt": "a"}\n{"prompt": "b"}\n'


def prompts_of(path: Path, split: str = "train", **settings: Any) -> list[Any]:
    return [record.values["prompt"] for record in read_records(str(path), split, **settings)]


def given(objects: Any, **config: Any) -> list[Any]:
    settings = DataConfig(**config)
    return [record.values.get("prompt") for record in read_source(None, objects, settings, BadRecords(settings.on_bad_record == "skip"))]


def write_parquet(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", LINES),
        ("p.ndjson", LINES),
        ("p.json", LINES),
        ("p.json", b' [{"prompt": "a"},\n {"prompt": "b"}]'),
        ("p.jsonl", b"\xef\xbb\xbf" + LINES),
        ("p.json", b'\xef\xbb\xbf[{"prompt": "a"}, {"prompt": "b"}]'),
        ("p.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("p.jsonl", b'\n{"prompt": "a"}\n  \n{"prompt": "b"}'),
        ("p.csv", b"prompt,id\na,1\nb,2\n"),
        ("p.csv", b'\xef\xbb\xbfprompt\r\n"a"\r\n\r\nb\r\n'),
        ("p.tsv", b"prompt\tid\na\t1\nb\t2\n"),
        ("p.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("p.json.bz2", bz2.compress(LINES)),
        ("p.JSONL.xz", lzma.compress(LINES)),
        ("p.csv.gz", gzip.compress(b"prompt\na\nb\n", mtime=0)),
    ],
)
def test_text_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert prompts_of(tmp_path / name) == ["a", "b"]


def test_a_cell_keeps_its_text_and_an_empty_one_is_absent(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt,chosen\n5,"two\nlines, ""quoted"""\n007,\n')
    rows = [record.values for record in read_records(str(tmp_path / "p.csv"), "train")]
    assert rows == [{"prompt": "5", "chosen": 'two\nlines, "quoted"'}, {"prompt": "007", "chosen": None}]


def damaged_parquet(path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"{'x' * 50}{k}" for k in range(5000)]}), path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[2000:2400] = bytes(byte ^ 0xFF for byte in data[2000:2400])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', r"p\.jsonl:2: broken JSON: .* at column 15; expected one object per line"),
        ("p.jsonl", b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}\n", r"p\.jsonl:1: broken JSON: .*5000 digits"),
        ("p.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"\n", r"p\.jsonl:1: broken JSON: .*nested too deeply"),
        ("p.jsonl", b'{"prompt": "a", "prompt": "b"}', r"p\.jsonl:1: broken JSON: key 'prompt' occurs twice"),
        ("p.jsonl", b'{"prompt": "\xff"}\n', r"p\.jsonl:1: not UTF-8 text"),
        ("p.jsonl", b'"a"\n', r"p\.jsonl:1: expected an object such as .*, got str"),
        ("p.jsonl", LINES.decode().encode("utf-16"), r"p\.jsonl: UTF-16, but UTF-8 text is expected; save it as UTF-8"),
        ("p.csv", "prompt\na\n".encode("utf-16-le"), r"p\.csv: UTF-16 text without a mark, .*save it as UTF-8"),
        ("p.json", "[]".encode("utf-32"), r"p\.json: UTF-32"),
        ("p.json", b'[{"prompt": "a"},\n {"prompt" "b"}]', r"p\.json:2: broken JSON: .* at column 12; expected a list of objects"),
        ("p.json", b'[{"prompt": "a"}, "b"]', r"p\.json, item 1: expected an object"),
        ("p.json", b'{\n "prompt": "a"\n}', r"p\.json:1: broken JSON: .*one object per line"),
        ("p.csv", b"prompt,id\na,1\nb\n", r"p\.csv:3: 1 cells, but 2 columns"),
        ("p.csv", b"prompt,prompt\na,b\n", r"p\.csv:1: the first line must name each column, once"),
        ("p.csv", b'prompt\n"a\n', r"p\.csv:2: broken CSV"),
        ("p.csv", b"prompt\na\n\xff\n", r"p\.csv:3: not UTF-8 text"),
        ("p.jsonl.gz", gzip.compress(LINES * 1000, mtime=0)[:-20], r"p\.jsonl\.gz: not readable, perhaps damaged or cut off"),
        ("p.jsonl.gz", LINES, r"p\.jsonl\.gz: not readable"),
        ("p.csv.xz", lzma.compress(b"prompt\na\n")[:-10], r"p\.csv\.xz: not readable"),
        ("p.jsonl.bz2", b"no", r"p\.jsonl\.bz2: not readable"),
        ("p.parquet", b"no", r"p\.parquet: not a readable Parquet file"),
        ("p.parquet", b"", r"p\.parquet: not a readable Parquet file"),
        ("p.parquet.gz", b"", r"p\.parquet\.gz: expected a \.jsonl, .* file"),
        ("p.jsonl.zst", b"", r"p\.jsonl\.zst: expected a \.jsonl, .* file"),
        ("p", b"", r"p: expected a \.jsonl, .* file"),
    ],
)
def test_damaged_files_are_refused_with_their_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prompts_of(tmp_path / name)


def test_a_damaged_parquet_page_is_refused_by_name(tmp_path: Path) -> None:
    damaged_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: not a readable Parquet file, after row 0: .*snappy"):
        prompts_of(tmp_path / "p.parquet")


def test_invalid_texts_in_a_parquet_column(tmp_path: Path) -> None:
    column = pa.array([b"a", b"\xff"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": column}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: not a readable Parquet file"):
        prompts_of(tmp_path / "p.parquet")


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    for name, content, message in (("p.jsonl", b"", "the file is empty"), ("q.csv", b"prompt\n", "no usable record in it")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: {message}"):
            list(read_source(str(tmp_path / name), None, DataConfig(), BadRecords(False)))


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.jsonl").write_bytes(LINES)
    assert prompts_of(Path("~/p.jsonl")) == ["a", "b"]
    assert DataConfig(path="~/p.jsonl", held_out="~/h").path == str(tmp_path / "p.jsonl")


# ---------------------------------------------------------------------------------------------- bad records


def test_bad_rows_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines 2 and 3 are broken, line 4 is no object; the file goes on."""
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "a"}\n{"prom\n{"prompt": "\xff"}\n7\n{"prompt": "b"}\n')
    bad = BadRecords(skip=True)
    records = read_source(str(tmp_path / "p.jsonl"), None, DataConfig(), bad)
    assert [record.values["prompt"] for record in records] == ["a", "b"]
    bad.report("data.path")
    assert bad.count == 3
    assert "data.path: 3 records skipped (data.on_bad_record=skip); the first: " in caplog.text
    assert all(f"p.jsonl:{line}" in caplog.text for line in (2, 3, 4))


# ---------------------------------------------------------------------------------------------- folders


def test_a_split_as_datasets_reads_it(tmp_path: Path) -> None:
    """A repository as ``git clone`` leaves it: the files of one split, nothing of hidden folders."""
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", prompt=["train 1", "train 2"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", prompt=["test 1"])
    for hidden in (".cache", ".ipynb_checkpoints"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "train.jsonl").write_text('{"prompt": "hidden"}\n')
    (tmp_path / ".train.jsonl").write_text('{"prompt": "hidden"}\n')
    assert prompts_of(tmp_path) == ["train 1", "train 2"]
    assert prompts_of(tmp_path, "test") == ["test 1"]
    with pytest.raises(DataError, match=r"no split 'validation' here; set data\.split to one of: train, test"):
        prompts_of(tmp_path, "validation")
    with pytest.raises(DataError, match=r"there are several splits; set data\.split to one of: train, test"):
        prompts_of(tmp_path, "")


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (("train/a.jsonl", "test/a.jsonl"), "test", ["test/a.jsonl"]),
        (("validation.csv", "train.csv"), "train", ["train.csv"]),
        (("a.jsonl", "b/c.jsonl", "notes.txt"), "train", ["a.jsonl", "b/c.jsonl"]),
        (("dev.jsonl", "my-train_1.jsonl", "my-train_2.jsonl"), "train", ["my-train_1.jsonl", "my-train_2.jsonl"]),
        (("dev.jsonl", "train.jsonl"), "validation", ["dev.jsonl"]),
        (("only.jsonl",), "", ["only.jsonl"]),
    ],
)
def test_names_of_splits(tmp_path: Path, files: tuple[str, ...], split: str, expected: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"prompt\n{name}\n" if name.endswith("csv") else json.dumps({"prompt": name}) + "\n")
    assert prompts_of(tmp_path, split) == expected


def test_splits_that_the_readme_names(tmp_path: Path) -> None:
    files = "data_files:\n  - split: train\n    path: first.jsonl\n  - split: other\n    path: second.jsonl\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {files}---\ntext\n".replace("\n  - ", "\n  - "))
    for name in ("first", "second"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name}) + "\n")
    assert prompts_of(tmp_path, "other") == ["second"]
    with pytest.raises(DataError, match=r"no split 'test' here; set data\.split to one of: train, other"):
        prompts_of(tmp_path, "test")


def test_the_same_data_in_two_formats_is_not_read_twice(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", prompt=["a"])
    (tmp_path / "train.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match=r"train\.parquet: train\.jsonl beside it looks like the same data in another format"):
        prompts_of(tmp_path)


def test_data_sets_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_list([{"prompt": "a"}])
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=train, test=datasets.Dataset.from_list([{"prompt": "t"}])).save_to_disk(str(tmp_path / "both"))
    assert prompts_of(tmp_path / "one") == ["a"]
    assert prompts_of(tmp_path / "both", "test") == ["t"]
    with pytest.raises(DataError, match=r"both: no split 'dev' here; set data\.split to one of: train, test"):
        prompts_of(tmp_path / "both", "dev")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"no")
    with pytest.raises(DataError, match=r"one: not a data set that save_to_disk wrote, or a damaged one"):
        prompts_of(tmp_path / "one")


# ---------------------------------------------------------------------------------------------- objects


def data_frame() -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"prompt": ["a", "b"], "score": [1.0, float("nan")]})


def dataset() -> Any:
    import datasets

    return datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]).with_format("numpy")


def both_splits() -> Any:
    import datasets

    return datasets.DatasetDict(test=datasets.Dataset.from_list([{"prompt": "t"}]), train=dataset())


def generated() -> Iterator[str]:
    yield from ("a", "b")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ["a", "b"],
        lambda: ("a", "b"),
        lambda: [{"prompt": "a"}, {"prompt": "b"}],
        lambda: {"prompt": ["a", "b"], "id": (1, 2)},
        lambda: np.array(["a", "b"]),
        lambda: pa.table({"prompt": ["a", "b"]}),
        lambda: data_frame()["prompt"],
        lambda: {"prompt": data_frame()["prompt"]},
        data_frame,
        dataset,
        both_splits,
        lambda: {"test": data_frame()[:1], "train": data_frame()},
        lambda: {"test": pa.table({"prompt": ["t"]}), "train": pa.table({"prompt": ["a", "b"]})},
        lambda: {"a": 1, "b": 2}.keys(),
        generated,
    ],
)
def test_objects_whose_meaning_is_plain(make: Callable[[], Any]) -> None:
    assert given(make()) == ["a", "b"]


def test_a_path_in_place_of_objects(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(LINES)
    assert given(str(tmp_path / "p.jsonl")) == given(tmp_path / "p.jsonl") == ["a", "b"]
    with pytest.raises(DataError, match=r"q\.jsonl: no such file or directory"):
        given(tmp_path / "q.jsonl")


def test_an_empty_cell_of_a_data_frame_is_absent() -> None:
    assert [record.values for record in wrap_objects(data_frame(), "prompt")][1] == {"prompt": "b", "score": None}


def test_columns_of_chats_and_one_record() -> None:
    """A list of messages is one chat; a column holds lists of messages."""
    chat = [{"role": "user", "content": "a"}]
    assert given({"prompt": [chat, chat]}) == [chat, chat]
    with pytest.raises(DataError, match=r"a single record is passed in a list"):
        given({"prompt": chat})


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("Why?", r"got str 'Why\?'; pass a list of texts"),
        ("x" * 10_000, r"got str"),
        ("a\0b", r"got str"),
        (b"a", r"got bytes"),
        (7, r"got int 7"),
        (io.StringIO('{"prompt": "a"}\n'), r"got an open file, .*; pass its path"),
        ({"train": [{"prompt": "a"}], "test": 5}, r"neither columns of one length nor splits"),
        ({"a", "b"}, r"got set .*order is not the same"),
        ({"prompt": "a"}, r"a single record is passed in a list"),
        ({"prompt": ["a", "b"], "id": ["1"]}, r"neither columns of one length"),
        ({}, r"neither columns of one length"),
        ("", r"got str"),
        ([], r"it holds no record"),
        (object(), r"got object"),
    ],
)
def test_objects_that_are_no_records(objects: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"the data passed: .*{message}"):
        given(objects)
    with pytest.raises(ConfigError, match=r"data\.path: required"):
        given(None)


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"the data passed: no split 'dev' here; set data\.split to one of: test, train"):
        given(both_splits(), split="dev")


def test_a_value_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(DataError, match=r"record 1 of those passed to run\(\): a value is nested"):
        given(["a", {"prompt": loop}])


def test_ids_that_are_numbers() -> None:
    """7.0 is the id 7, as a column with gaps has it. A row's number gives way to an id; a number beyond 4,300 digits is refused."""
    names: dict[str, str] = {}
    ids = [1.0, 2.0, None, 0.5]
    named = [name_record(Record({"id": given}, f"d:{k}"), k, DataConfig(), names) for k, given in enumerate(ids)]
    assert named == ["1", "2", "row 2", "0.5"]
    with pytest.raises(DataError, match=r"^d:4: id '2' is also that of d:1"):
        name_record(Record({"id": 2}, "d:4"), 4, DataConfig(), names)
    with pytest.raises(DataError, match=r"^d:5: the id must be a text or a number, got a int with a number of more than 4,300 digits"):
        name_record(Record({"id": 10**5000}, "d:5"), 5, DataConfig(), names)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """A row as a mapping would hold one of them."""
    import pandas as pd

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: two columns have the name 'prompt'; rename one"):
        prompts_of(tmp_path / "p.parquet")
    for objects in (table, pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"])):
        with pytest.raises(DataError, match=r"^the data passed: two columns have the name 'prompt'"):
            given(objects)


def test_a_part_of_a_single_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert prompts_of(tmp_path / "p.jsonl", "test") == ["a", "b"]
    with pytest.raises(DataError, match=r"a single file is read as a whole, but data\.split is 'train\[:1\]'"):
        prompts_of(tmp_path / "p.jsonl", "train[:1]")
    with pytest.raises(DataError, match=r"a single file has no subsets, but data\.subset is 'easy'"):
        prompts_of(tmp_path / "p.jsonl", subset="easy")


def test_odd_paths(tmp_path: Path) -> None:
    """Brackets in a directory's name are no pattern; a text too long for a path, and the home of nobody, are refused as paths."""
    folder = tmp_path / "runs of [lr=1]*"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    assert prompts_of(folder) == ["a"]
    for path, message in [("x" * 5000, "not readable: File name too long"), ("~nobody-here/p.jsonl", "no such file or directory")]:
        with pytest.raises(DataError, match=message):
            list(read_records(path, "train"))


def test_the_index_that_pandas_writes_into_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(",prompt\n0,a\n1,b\n")
    assert prompts_of(tmp_path / "p.csv") == ["a", "b"]


def test_a_name_that_no_terminal_can_write() -> None:
    """Half a surrogate pair in a key is escaped in the message."""
    with pytest.raises(DataError, match=r"^the data passed: a mapping with the keys \['\\ud800'\]"):
        given({"\ud800": None})


def test_what_a_caller_passes_is_listed_once() -> None:
    """A data frame has no truth value, and a generator can be read once; an empty list says that there is nothing."""
    config = DataConfig()
    for objects in (data_frame(), generated(), dataset(), ["a", "b"]):
        first = listed(objects, config)
        assert [record.values["prompt"] for record in read_source(None, first, config, BadRecords(False))] == ["a", "b"]
    assert listed([], config) == []
    assert listed(None, config) is None
