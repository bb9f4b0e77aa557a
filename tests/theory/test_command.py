"""``python -m benchmarks theory``: its lines, its status, its picture."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from benchmarks import theory
from benchmarks.__main__ import main
from benchmarks.theory.claim import Claim
from benchmarks.theory.figure import draw


def test_lines_and_status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the three claims hold, a fourth line is reported only: 2/3, and status 1."""
    claims = [Claim("a", 1.0, 2.0), Claim("b", 1.0, 0.5, ">="), Claim("c", float("nan"), 1.0), Claim("d", -0.5)]
    monkeypatch.setattr(theory, "METHODS", {"sppo": lambda: iter(claims)})
    assert main(["theory"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["holds"] for line in lines] == [True, True, False, None, False]
    assert lines[0] == {"name": "a", "value": 1.0, "relation": "<=", "bound": 2.0, "holds": True}
    assert lines[2]["value"] is None
    assert lines[-1]["value"] == 2 / 3


def test_one_method_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--only", "inpo"]) == 0
    names = {json.loads(line)["name"].split("/")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("{")}
    assert names == {"inpo", "theory"}, "of its own lines: Ray writes to the same output from a thread of an earlier test"


def test_a_module_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theorie"]) == 2
    assert "theory" in capsys.readouterr().err


def test_the_picture_has_a_panel_a_method_and_a_line_an_arm(tmp_path: Path) -> None:
    """Three arms over 1,000 steps, each share straight from 1/3 to its last value; two panels below each other."""
    path = np.linspace([1 / 3] * 3, [0.1, 0.2, 0.7], 1001)
    target = tmp_path / "figure.svg"
    draw({"uniform": {"srpo": path}, "skewed": {"srpo": path}}, "Figure 2", target)
    root = ElementTree.parse(target).getroot()
    lines = [element.get("points").split() for element in root if element.tag.endswith("polyline")]
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert len(lines) == 6
    assert all(len(points) == 200 for points in lines)
    assert {"SRPO, uniform behaviour policy", "SRPO, skewed behaviour policy", "y2 0.70", "1000 steps"} <= set(texts)
