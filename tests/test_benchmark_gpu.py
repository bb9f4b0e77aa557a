"""The table of ``python -m benchmarks gpu``, of checks that are one line long, and of one that runs on a CPU."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks.gpu import CHECKS, ENGINES, Check, Row, main, run, table

CHECK = Check("benchmarks.gpu_passes:head", limit_s=20.0)


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_check_that_passes() -> None:
    row = run(CHECK, "cpu", command=program(f"print({json.dumps({'name': 'head', 'detail': '69 ms'})!r})"))
    assert (row.name, row.outcome, row.detail) == ("head", "passed", "69 ms")


def test_a_failure_has_its_cause() -> None:
    """The exception's message; a time-out; an end without a result."""
    row = run(CHECK, "cpu", command=program("raise ValueError('gradients is 0.5; at most 2e-05 is expected')"))
    assert (row.outcome, row.detail) == ("failed", "ValueError: gradients is 0.5; at most 2e-05 is expected")
    hung = run(Check("benchmarks.gpu_passes:head", limit_s=0.2), "cpu", command=program("import time; time.sleep(60)"))
    assert (hung.outcome, hung.detail) == ("failed", "not done after 0.2 s")
    silent = run(CHECK, "cpu", command=program("pass"))
    assert (silent.outcome, silent.detail) == ("failed", "no result")


def test_what_cannot_run_is_skipped_with_its_reason() -> None:
    engines = Check("benchmarks.gpu_programs:tests_engines", 1.0, frozenset({"ray", "vllm", "no_such_package"}))
    assert run(engines, "cpu", only_torch=True).detail == "left out by --only torch"
    assert run(Check("benchmarks.gpu_passes:head", 1.0, frozenset({"no_such_package"})), "cpu").detail == "not installed: no_such_package"
    measurement = Check("benchmarks.gpu_passes:head_speed", 1.0, gpus=1)
    assert run(measurement, "cpu") == Row("head_speed", "skipped", 0.0, "needs a GPU")
    assert run(Check("benchmarks.gpu_engines:sync_nccl", 1.0, gpus=2), "cpu").detail == "needs 2 GPUs; there is none"


def test_every_check_can_be_loaded() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert callable(check.load())


def test_table() -> None:
    shown = table(
        [Row("head", "passed", 8.6, "a|b"), Row("packing", "failed", 1.0, "too far"), Row("speed", "skipped", 0.0, "needs a GPU")]
    )
    assert shown.splitlines()[2:] == [
        "| `head` | passed | 9 | a/b |",
        "| `packing` | failed | 1 | too far |",
        "| `speed` | skipped | 0 | needs a GPU |",
        "",
        "1 passed, 1 failed, 1 skipped",
    ]


def test_on_a_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    """One comparison runs; a measurement and what starts engines are skipped."""
    assert main(["head", "head_speed", "quickstart", "--device", "cpu", "--only", "torch"]) == 0
    shown = capfd.readouterr().out
    assert "| `head` | passed |" in shown
    assert "1 passed, 0 failed, 2 skipped" in shown


ON_A_CPU = [check for check in CHECKS if not check.gpus and check.needs & ENGINES]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("check", ON_A_CPU, ids=lambda check: check.name)
def test_what_starts_engines_passes_on_a_cpu(check: Check) -> None:
    """Nothing is tried on a GPU for the first time that could have been tried before."""
    row = run(check, "cpu")
    assert (row.outcome, row.detail) == ("passed", row.detail)


def test_which_checks_of_engines_need_no_gpu() -> None:
    assert [check.name for check in ON_A_CPU] == [
        "engine_eager",
        "sync_on_one_device",
        "sleep_and_wake",
        "killed_receiver",
        "rollout_speed",
        "sync_speed",
        "iteration_speed",
    ]


@pytest.mark.integration
def test_a_frozen_copy_and_an_export_on_a_cpu() -> None:
    (check,) = [check for check in CHECKS if check.name == "frozen_copy_and_export"]
    row = run(check, "cpu")
    assert row.outcome == "passed", row.detail
    assert row.detail.startswith("ZeRO 2: KL 0.0e+00")


def test_an_unknown_check(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["heads"])
    assert "no check heads; the checks are head, token_kl," in capfd.readouterr().err


def test_it_is_left_out_of_all_benchmarks() -> None:
    assert "gpu" in command.names()
    assert "gpu" in command.STUDIES
