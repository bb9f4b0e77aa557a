"""How long training waits for a checkpoint: seconds of a save at which it waits until all is on the disk, with sizes and checksums, over
those of one that is written in the background (``checkpoint.background``): of the call, and of the next step's wait for the copy.

- ``saving``: the training state of 15M parameters, one rank at ZeRO stage 2 with AdamW.
- ``saving_with_policy``: with the policy's model directory, too; what is in it beside the weights does not grow with them.
- ``saving_first``: the first save of a run, for whose copy the system clears fresh memory while the next step goes on.

The sides take turns, each after an optimiser step; the result is the median of the ratios of the turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.figure import Figure
from benchmarks.learner_sides import Learner
from benchmarks.models import SHAPES, make_policy
from raypref.output import manifest

SIZE = "15m"
SAMPLES = 7
BAR = 10.0
"""Training waits for less than 10% of the write."""


class Saver(Learner):
    """A rank that saves after each step."""

    def waited_s(self, directory: Path, *, background: bool, with_policy: bool) -> float:
        """Seconds until training may go on; returns when all is written."""
        self.seconds()
        self._rank._writer.background = background
        begun = time.perf_counter()
        self._rank.save(directory / "learner", directory / "policy" if with_policy else None)
        if not background:
            manifest.write(directory)
        waited = time.perf_counter() - begun
        if background:
            waited += self._waited_in_a_step_s()
        while not self._rank.saved():
            time.sleep(0.01)
        return waited

    def _waited_in_a_step_s(self) -> float:
        """Take a step: the seconds for which it waits, once it has its gradient, for the copy of the state."""
        training, waits = self._rank._training, [0.0]
        copied = training._before_change

        def timed() -> None:
            begun = time.perf_counter()
            copied()
            waits.append(time.perf_counter() - begun)

        training._before_change = timed
        self.seconds()
        training._before_change = copied
        return sum(waits)


def main(arguments: Sequence[str]) -> int:
    """No arguments."""
    import ray

    from actors.learner.deepspeed_setup import learner_env

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            make_policy(directory / "base", SIZE)
            options = {"num_cpus": 0, "runtime_env": {"env_vars": learner_env("cpu", 1)}}
            saver = ray.remote(Saver).options(**options).remote(directory / "base", SHAPES[SIZE]["vocab_size"], 1, 2)

            def waited_s(background: bool, with_policy: bool) -> float:
                call = saver.waited_s.remote(directory / "saved", background=background, with_policy=with_policy)
                return float(ray.get(call, timeout=600))

            first = waited_s(background=True, with_policy=False)
            turns = [(waited_s(False, False), waited_s(True, False), waited_s(False, True), waited_s(True, True)) for _ in range(SAMPLES)]
    finally:
        ray.shutdown()
    whole, part, whole_with_policy, part_with_policy = zip(*turns, strict=True)
    for name, all_of_it, waits, bar in (
        ("saving", whole, part, BAR),
        ("saving_with_policy", whole_with_policy, part_with_policy, 0.0),
        ("saving_first", whole, (first,) * SAMPLES, 0.0),
    ):
        unit = f"seconds of a save ({median(all_of_it):.3f}) over those for which training waits ({median(waits):.3f})"
        Figure(name, median(a / b for a, b in zip(all_of_it, waits, strict=True)), bar, unit, SAMPLES).show()
    return 0
