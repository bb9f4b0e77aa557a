"""Measures the capability of one policy with lm-eval, in a process of its own: its engine ends with it, and cannot harm a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from raypref.config import RunConfig
from raypref.errors import ConfigError, RunFailed
from raypref.evaluation.capability.tasks import main_figure
from raypref.output.capability import Capability

LOG_TAIL = 2000
"""Characters of the process's output that an error shows."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured, and how the engine is set up."""

    tasks: Mapping[str, int | None]
    """Task -> examples in the prompt; None: as the task says."""
    engine: Mapping[str, Any]
    """Arguments of lm-eval's vLLM model."""
    device: str
    """``cpu`` or ``cuda``."""
    gpus: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of the process; None: as it is here."""
    include_path: Path | None = None
    """A directory of further tasks, lm-eval's YAML files."""
    limit: int | None = None
    """Records of each task; None: all."""
    chat_template: bool = False

    @classmethod
    def of(cls, config: RunConfig, tasks: Mapping[str, int | None], **options: Any) -> Self:
        """With the engine as the config has it.

        Args:
            config: policy (dtype, context, tokenizer's template) and rollout (memory, eager) are what matters.
            tasks: from ``read_tasks``.
            options: further fields.

        Raises:
            ConfigError: lm-eval is not installed.
        """
        if find_spec("lm_eval") is None:
            raise ConfigError("capability needs lm-eval, which is not installed: pip install 'raypref[lm-eval]'")
        rollout, policy = config.rollout, config.policy
        cpu = config.placement.device == "cpu"
        engine: dict[str, Any] = {
            "dtype": policy.dtype,
            "trust_remote_code": policy.trust_remote_code,
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "enforce_eager": rollout.enforce_eager or cpu,
            "tensor_parallel_size": config.placement.rollout.tensor_parallel,
        }
        if policy.max_context_tokens is not None:
            engine["max_model_len"] = policy.max_context_tokens
        cache_gib = rollout.kv_cache_gib or (0.25 if cpu else None)
        if cache_gib is not None:
            engine["kv_cache_memory_bytes"] = int(cache_gib * 2**30)
        chat = options.pop("chat_template", config.data.chat_template)
        return cls(tasks, engine, "cpu" if cpu else "cuda", chat_template=chat, **options)

    def start(self, model: str, output: Path) -> subprocess.Popen[bytes]:
        """The process that measures the policy in the directory ``model``; what it prints goes to ``<output>.log``, beside ``output``."""
        request = {
            "model": model,
            "tasks": dict(self.tasks),
            "engine": dict(self.engine),
            "include_path": None if self.include_path is None else str(self.include_path),
            "limit": self.limit,
            "chat_template": self.chat_template,
            "output": str(output),
        }
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1"}
        environment["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        if self.device == "cpu":
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus
        output.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "raypref.evaluation.capability.job", json.dumps(request)]
        with _log(output).open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def finish(self, process: subprocess.Popen[bytes], policy: str, model: str, output: Path) -> Capability:
        """Wait for the process; what it found.

        Raises:
            RunFailed: it failed; the message has the end of its output.
        """
        if process.wait() != 0 or not output.exists():
            tail = _log(output).read_text(errors="replace")[-LOG_TAIL:]
            raise RunFailed(f"capability of {policy}: lm-eval ended with status {process.returncode}; the end of {_log(output)}:\n{tail}")
        found = json.loads(output.read_text(encoding="utf-8"))
        better = found.get("higher_is_better", {})
        figures = {task: main_figure(task, found["results"][task], examples, better.get(task)) for task, examples in self.tasks.items()}
        output.unlink()
        return Capability(policy, model, figures, self.limit, found["version"])


def measure(measurement: Measurement, policy: str, model: str, directory: Path) -> Capability:
    """Measure one policy, and write ``<policy>.json`` into ``directory``.

    Raises:
        RunFailed: as ``Measurement.finish``.
    """
    output = directory / f"{policy}.partial"
    result = measurement.finish(measurement.start(model, output), policy, model, output)
    result.write(directory)
    return result


def _log(output: Path) -> Path:
    return output.with_suffix(".log")
