"""``python -m tests.chaos REQUEST``: one light run in a process of its own; REQUEST is a JSON file with config, faults and nodes."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

AWAY_S = 3.0
"""Seconds that the second node is gone."""


def main() -> None:
    import actors.run_actors
    import raypref
    from raypref.config import RunConfig
    from raypref.errors import RayprefError
    from tests.chaos import light, moments

    request = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = RunConfig.parse(request["config"])
    stand_ins = {"RolloutActor": light.LightRollout, "ReferenceActor": light.LightReference, "LearnerRank": light.LightRank}
    for name, stand_in in stand_ins.items():
        setattr(actors.run_actors, name, stand_in)
    with two_nodes() if request["two_nodes"] else contextlib.nullcontext(lambda: None) as renew_node:
        callbacks = [moments.watching(request["faults"], config.output_dir, renew_node)]
        try:
            raypref.run(config, prompts=request["prompts"], oracle=light.more_different_words, resume="auto", callbacks=callbacks)
        except RayprefError as error:
            logging.exception("the run ended")
            sys.exit(error.exit_code)


@contextlib.contextmanager
def two_nodes() -> Iterator[Callable[[], None]]:
    """A cluster of two nodes, which the run needs both; yields what removes the second and adds it again. The run must free both."""
    import ray
    from ray.cluster_utils import Cluster

    from tests.chaos.light import note

    shape: dict[str, Any] = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=shape | {"include_dashboard": False})
    cluster._shutdown_at_exit = False  # of further nodes: they would set signal handlers, which only the main thread may
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    second = [cluster.add_node(**shape)]  # only now: the driver belongs to the first

    def renew() -> None:
        cluster.remove_node(second.pop())
        time.sleep(AWAY_S)
        second.append(cluster.add_node(**shape))

    try:
        yield renew
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and ray.available_resources().get("CPU") != 4.0:
            time.sleep(0.2)
        states = {group["state"] for group in ray.util.placement_group_table().values()}
        note("after", json.dumps({"free": ray.available_resources().get("CPU"), "states": sorted(states)}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
