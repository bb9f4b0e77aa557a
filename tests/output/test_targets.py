"""What is written last is checked first."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from raypref import compose
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output import targets
from raypref.output.targets import check_directory, check_file, check_room, check_run


def config_for(directory: Path, **sections: Any) -> RunConfig:
    return RunConfig.parse({"output_dir": str(directory), "policy": {"path": "p"}, "loss": {"type": "sppo", "eta": 5}} | sections)


def everything_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file, a directory with a file, a link to the file, and a hard link."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "prompts.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.link(tmp_path / "file", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/out.jsonl", "--output: .*file/out.jsonl cannot be written: .*; give another place"),
        ("folder", "--output: .*folder is a directory; give the name of a file"),
        ("file", r"--output: .*file is read \(prompts\) and would be replaced; give another file"),
        ("link", r"is read \(prompts\)"),
        ("hard", r"is read \(prompts\)"),
        ("folder/../file", r"is read \(prompts\)"),
        ("folder/prompts.jsonl", r"is read \(data.path\)"),
        ("x" * 250, "File name too long"),
        ("x" * 300, "File name too long"),
        ("none/" + "x" * 300 + "/out", "File name too long"),
    ],
)
def test_a_file_that_could_not_be_written_or_is_read_is_refused(place: Path, name: str, message: str) -> None:
    before = everything_in(place)
    with pytest.raises(ConfigError, match=message):
        check_file("--output", place / name, {"prompts": place / "file", "data.path": place / "folder"})
    assert everything_in(place) == before


@pytest.mark.parametrize("name", ["new.jsonl", "new/folders/out.jsonl", "folder/out.jsonl", "old.jsonl"])
def test_a_file_that_can_be_written_leaves_no_trace(place: Path, name: str) -> None:
    (place / "old.jsonl").write_text("an earlier result")
    before = everything_in(place)
    check_file("--output", place / name, {"prompts": place / "file", "data.path": place / "folder"})
    assert everything_in(place) == before
    assert (place / "old.jsonl").read_text() == "an earlier result"


def test_a_device_is_no_target() -> None:
    with pytest.raises(ConfigError, match="/dev/null is no regular file"):
        check_file("--output", Path("/dev/null"))


def test_a_directory_in_place_of_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output: .*file is a file; give a directory"):
        check_directory("--output", tmp_path / "file")
    with pytest.raises(ConfigError, match="--output: /proc/nope cannot be written"):
        check_directory("--output", Path("/proc/nope"))
    for name in ("policy", "evaluation", "checkpoints"):
        (tmp_path / name).write_text("in the way")
        with pytest.raises(ConfigError, match=f"output_dir: .*{name} is a file"):
            check_run(config_for(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(ConfigError, match=r"output_dir: .*summary\.json is a directory"):
        check_run(config_for(tmp_path))


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("policy.path", {"policy": {"path": "{}/policy"}}),
        ("policy.tokenizer", {"policy": {"path": "p", "tokenizer": "{}/policy"}}),
        ("data.path", {"data": {"path": "{}/rollouts"}}),
        ("data.held_out", {"data": {"path": "d", "held_out": "{}/evaluation"}}),
    ],
)
def test_what_a_run_reads_is_not_in_the_folders_that_it_writes(key: str, sections: dict[str, Any], tmp_path: Path) -> None:
    for name in ("policy", "rollouts", "evaluation"):
        (tmp_path / name).mkdir()
    filled = {name: {k: v.format(tmp_path) for k, v in section.items()} for name, section in sections.items()}
    with pytest.raises(ConfigError, match=rf"output_dir: .* holds .*, which the run reads \({key}\) and would replace; give another"):
        check_run(config_for(tmp_path, **filled))
    check_run(config_for(tmp_path / "other", **filled))


def test_answers_of_opponents_are_not_replaced(tmp_path: Path) -> None:
    """A file, and the answers of another run; in the directory of that run they would be replaced."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "iteration_0002.jsonl").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}")
    for text in (str(tmp_path / "evaluation" / "iteration_0002.jsonl"), f"{tmp_path}@2", str(tmp_path)):
        against = {"evaluation": {"against": {"earlier": text}}}
        with pytest.raises(ConfigError, match=r"holds .*iteration_0002\.jsonl, which the run reads \(evaluation\.against\.earlier\)"):
            check_run(config_for(tmp_path, **against))
        check_run(config_for(tmp_path / "other", **against))
    check_run(config_for(tmp_path / "other", evaluation={"against": {"none": f"{tmp_path}@7"}}))


def test_room_for_the_policy_and_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 parameters in bfloat16: 2,000 bytes for the last policy, for each of 2 iterations', for the best and for the one that is being
    written, and 12,000 for each of 4 checkpoints (2 are kept, the best, and one is being written; with checkpoints within iterations that
    of the iteration's start stays, too)."""
    (tmp_path / "p").mkdir()
    save_file({"a": np.zeros((20, 40), np.float16), "b": np.zeros(200, np.float32)}, tmp_path / "p" / "model.safetensors")
    assert targets.stored_parameters(tmp_path / "p") == 1000
    config = config_for(tmp_path / "run", policy={"path": str(tmp_path / "p")}, loop={"iterations": 5}, checkpoint={"policies": 2})
    usage = namedtuple("usage", "free")

    def with_checkpoint(**values: Any) -> RunConfig:
        return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update=values)})

    for case, checkpoints, needed in (
        (config, 4, 58_000),
        (with_checkpoint(best=False), 3, 44_000),
        (with_checkpoint(every_steps=5), 5, 70_000),
        (with_checkpoint(policies=0), 4, 50_000),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=needed: usage(free))
        check_room(case)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=needed - 1: usage(free))
        with pytest.raises(ConfigError, match=rf"output_dir: 0\.0 GiB are free .* up to {checkpoints} checkpoints .* lower checkpoint\."):
            check_room(case)
    check_room(config.model_copy(update={"policy": config.policy.model_copy(update={"path": "a/hub-name"})}))


@pytest.mark.parametrize("best", [False, True])
def test_generate_looks_at_its_output_before_anything_is_read(place: Path, best: bool) -> None:
    config = config_for(place / "run")
    with pytest.raises(ConfigError, match=r"output: .*file is read \(prompts\)"):
        compose.generate(config, str(place / "file"), place / "file", responses=2, best=best)
    with pytest.raises(ConfigError, match=r"output: .*out.jsonl cannot be written"):
        compose.generate(config, ["say a"], place / "file" / "out.jsonl", responses=2, best=best)
    if best:
        (place / "out.all.jsonl").mkdir()
        with pytest.raises(ConfigError, match=r"output: .*out\.all\.jsonl is a directory"):
            compose.generate(config, ["say a"], place / "out.jsonl", responses=2, best=True)
    assert (place / "file").read_text() == "x"
