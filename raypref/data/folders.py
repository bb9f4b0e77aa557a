"""Folders of data files, read as ``datasets`` reads them: the files of one split, without hidden files and folders.

A split's files are those that the folder's README.md names, or whose file or folder names hold ``train``, ``test`` and so on; without such
names everything is ``train``. Different from ``datasets``: a split may have files of several formats, and all of them are read.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypref.data.files import SUFFIXES, OnBad, Row, format_of, read_file
from raypref.errors import DataError


def read_folder(folder: Path, split: str, subset: str | None, on_bad: OnBad) -> Iterator[Row]:
    """The rows of a split, the files in the order of their names; or those of a data set that ``save_to_disk`` has written.

    Args:
        folder: of data files.
        split: name of the split; empty: the only one.
        subset: name of a configuration in the folder's README.md.
        on_bad: takes what is wrong with a row.

    Raises:
        DataError: the folder has no such split, no data file at all, or the same data in two formats.
    """
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        yield from _saved(folder, split)
        return
    splits = {name: [file for file in files if format_of(file)] for name, files in _splits(folder, subset).items()}
    splits = {name: sorted(files) for name, files in splits.items() if files}
    if not splits:
        raise DataError(f"{folder}: no {' or '.join(SUFFIXES)} file in this directory")
    files = splits[chosen_split(split, splits, str(folder))]
    _refuse_doubles(files)
    for file in files:
        yield from read_file(file, on_bad)


def chosen_split(split: str, splits: Mapping[str, Any], place: str) -> str:
    """The split that is read.

    Raises:
        DataError: there is no split of this name, or none is named and there are several.
    """
    names = [str(name) for name in splits]
    if split in names:
        return split
    if not split and len(names) == 1:
        return names[0]
    got = f"no split {split!r} here" if split else "there are several splits"
    raise DataError(f"{place}: {got}; set data.split to one of: {', '.join(names)}")


def rows_of_dataset(rows: Any, place: str) -> Iterator[Row]:
    """The rows of a ``datasets.Dataset``, as plain Python values whatever its format is."""
    plain = rows.with_format(None) if hasattr(rows, "with_format") else rows
    for number, values in enumerate(plain):
        yield values, f"{place}, row {number}"


def _splits(folder: Path, subset: str | None) -> dict[str, list[Path]]:
    """Split -> its files, whatever their format."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns
    from datasets.exceptions import DatasetsError

    files: Any
    try:
        if subset is not None or _names_files(folder):
            files = datasets.load_dataset_builder(str(folder.absolute()), subset).config.data_files
        else:
            base = glob.escape(folder.absolute().as_posix())
            files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except FileNotFoundError:
        return {}
    except (DatasetsError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: datasets does not understand this directory: {error}") from error
    return {str(split): [Path(file) for file in named] for split, named in (files or {}).items()}


def _names_files(folder: Path) -> bool:
    """Whether the folder's README.md says which files belong to which split."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    return len(parts) == 3 and not parts[0].strip() and "data_files" in parts[1]


def _saved(folder: Path, split: str) -> Iterator[Row]:
    """A data set from ``save_to_disk``: a table of one split, or several splits."""
    import datasets
    import pyarrow

    try:
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            loaded = loaded[chosen_split(split, loaded, str(folder))]
        elif loaded.split is not None and split:
            chosen_split(split, {str(loaded.split): loaded}, str(folder))
        yield from rows_of_dataset(loaded, str(folder))
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a data set that save_to_disk wrote, or a damaged one: {error}") from error


def _refuse_doubles(files: Sequence[Path]) -> None:
    """Refuse a file beside another one that is named like it in another format: the same records would be read twice."""
    known: dict[Path, Path] = {}
    for file in files:
        stem = file.with_name(file.name[: file.name.lower().rindex(str(format_of(file)))])
        other = known.setdefault(stem, file)
        if other != file:
            raise DataError(f"{file}: {other.name} beside it looks like the same data in another format; remove one, or name one file")
