"""Files of questions for ``raypref ask``: what cannot be read is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypref.errors import DataError
from raypref.oracles.support.asking import read_questions


def test_an_id_that_is_a_number_is_refused_with_its_type(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": 1, "question": "Why?"}) + "\n")
    with pytest.raises(DataError, match=r"q\.jsonl:1: .* both texts .* fields here: id \(int\), question \(str\)"):
        read_questions(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    path.write_bytes(b"PAR1\xf2\xf2")
    with pytest.raises(DataError, match=r"q\.parquet: no UTF-8 text"):
        read_questions(path)
