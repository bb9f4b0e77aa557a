"""``raypref check``: all problems in one go, and nothing started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.errors import ConfigError
from tests.tiny_models import make_model

ORACLE = {"type": "callable", "function": "tests.cli.test_check:answer"}


def answer(prompts: list[str], responses: list[list[str]]) -> None:
    """Named by the configs; nothing is asked here."""


def check(tmp_path: Path, config: dict[str, Any], *overrides: str) -> tuple[int, list[str]]:
    """The exit code and the lines of the command."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["check", str(path), *overrides])
    return done.exit_code, done.output.splitlines()


def test_five_mistakes_are_five_lines(tmp_path: Path) -> None:
    """An unknown key, a pair loss beside a selection of all responses, a placement that cannot be, a model and a data file that are not
    there."""
    config = {
        "policy": {"path": str(tmp_path / "no" / "model")},
        "data": {"path": str(tmp_path / "nothing.jsonl")},
        "loss": {"type": "dpo"},
        "selection": {"type": "all_responses"},
        "oracle": ORACLE,
        "learner": {"lr": 1e-6},
        "placement": {"layout": "colocated", "learner": {"ranks": 2}},
    }
    code, lines = check(tmp_path, config)
    assert code == 2
    assert [line.split(":")[:2] for line in lines[:-1]] == [
        ["error", " learner.lr"],
        ["error", " loss.type"],
        ["error", " placement.rollout.engines"],
        ["error", " policy.path"],
        ["error", " data.path"],
    ]
    assert lines[-1].endswith("run.yaml: 5 problems")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tied=True)


def good(tmp_path: Path, model: Path, *records: dict[str, Any]) -> dict[str, Any]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "policy": {"path": str(model), "dtype": "float32"},
        "data": {"path": str(path), "chat_template": False},
        "rollout": {"max_tokens": 8},
        "loss": {"type": "dpo"},
        "selection": {"type": "best_worst"},
        "oracle": ORACLE,
    }


def test_no_problems_is_said_in_a_line(tmp_path: Path, model: Path) -> None:
    import ray

    code, lines = check(tmp_path, good(tmp_path, model, {"prompt": "w1 w2"}), "data.held_out_prompts=8")
    assert code == 0
    assert len(lines) == 1
    assert "no problems" in lines[0]
    assert not ray.is_initialized()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl", "run.yaml"]


def test_records_are_named_by_file_and_line_and_the_first_ones_alone_are_read(tmp_path: Path, model: Path) -> None:
    fine = [{"prompt": f"w{k}"} for k in range(32)]
    config = good(tmp_path, model, *fine, {"text": "b"})
    assert check(tmp_path, config)[0] == 0
    config = good(tmp_path, model, *fine[:3], {"text": "b"})
    code, lines = check(tmp_path, config)
    assert code == 2
    assert lines[0].startswith(f"error: {tmp_path}/prompts.jsonl:4: ")


def test_prompts_that_are_held_out_at_the_head_of_the_data_are_no_problem(tmp_path: Path, model: Path) -> None:
    """Held-out prompts are often the first lines of the data; the lines behind those that are read here may have others."""
    lines = [{"prompt": f"w1 w{k % 9} w{k // 9}"} for k in range(40)]
    config = good(tmp_path, model, *lines)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(line) + "\n" for line in lines[:35]))
    config["data"]["held_out"] = str(held_out)
    assert check(tmp_path, config)[0] == 0
    held_out.write_text(json.dumps({"text": "w1"}) + "\n")
    code, shown = check(tmp_path, config)
    assert (code, shown[0].split(": ")[:2]) == (2, ["error", f"{held_out}:1"])


def test_held_out_records_of_given_data_are_checked_with_their_answers(tmp_path: Path, model: Path) -> None:
    """The same pairs as in the data, of which the first lines alone are read. Prompts without answers would need the oracle."""
    lines = [{"prompt": f"w1 w{k % 9} w{k // 9}", "chosen": " w2", "rejected": " w3"} for k in range(40)]
    config = good(tmp_path, model, *lines) | {"oracle": None, "selection": None, "loss": {"type": "dpo"}}
    held_out = tmp_path / "held_out.jsonl"
    config["data"] |= {"type": "preferences", "held_out": str(held_out)}
    held_out.write_text("".join(json.dumps(line) + "\n" for line in lines[:35]))
    assert check(tmp_path, config)[0] == 0
    held_out.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[1] | {"chosen": ""}) + "\n")
    code, shown = check(tmp_path, config)
    assert (code, shown[0].split(": ")[:2]) == (2, ["error", f"{held_out}:2"])
    held_out.write_text(json.dumps({"prompt": "w1"}) + "\n")
    code, shown = check(tmp_path, config)
    assert code == 2
    assert "oracle: required to evaluate on held-out prompts without answers" in "".join(shown).replace("\n", " ")


def test_what_the_keys_that_are_wrong_hide_is_checked_too(tmp_path: Path, model: Path) -> None:
    """A value out of range, an unknown key of the loss, an old key; beside them two problems of sections that do not fit."""
    config = good(tmp_path, model, {"prompt": "w1 w2"}) | {"oracle": None}
    overrides = ("rollout.top_p=2", "loss.betta=1", "rollout.truncated=drop", "selection.type=all_responses")
    code, lines = check(tmp_path, config, *overrides)
    assert code == 2
    assert sorted(line.split(":")[1].strip() for line in lines[:-1]) == [
        "loss.betta",
        "loss.type",
        "oracle",
        "rollout.top_p",
        "rollout.truncated",
    ]


def test_a_transport_that_does_not_work_on_the_device_is_named(tmp_path: Path, model: Path) -> None:
    config = good(tmp_path, model, {"prompt": "w1 w2"}) | {"sync": {"transport": "nccl"}}
    assert check(tmp_path, config)[0] == 0
    code, lines = check(tmp_path, config, "placement.device=cpu")
    assert (code, lines[0].split(";")[0]) == (2, "error: sync.transport: nccl does not work on a CPU")


def test_a_file_that_is_no_config_is_the_only_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        CliRunner().invoke(app, ["check", str(tmp_path / "nowhere.yaml")], catch_exceptions=False)
