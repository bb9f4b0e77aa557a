"""Bundles computed from the config, and the arithmetic that a refusal shows. Pure: nothing here talks to Ray.

Separate layout, 2 engines of tensor parallel 2, 2 references, 1 oracle without a GPU, 4 learner ranks:

    learner   4 x {GPU 1}      rollout   2 x {GPU 2}      reference 2 x {GPU 1}      oracle 1 x {CPU}

Colocated, 4 ranks, tensor parallel 2: 2 bundles of {GPU 2}. Each holds two learner ranks, for which Ray reserves the GPUs. An engine and
some of the references and oracles run in the same bundle and share these GPUs.

An engine is one bundle, and a bundle lies on one node, so the engine's tensor-parallel ranks are on one node, too. For the same reason the
learner's bundles are joined where the cluster has room for larger ones (``joined``, ``capacity.arranged``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from raypref.checks import Task, judges, samples
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.sections import PlacementConfig

Role = Literal["learner", "rollout", "reference", "oracle"]


@dataclass(frozen=True, slots=True)
class Need:
    """Which roles a run has. A loss without frozen log-probs needs no reference; given data needs no engines and no oracle."""

    rollout: bool
    reference: bool
    oracle: bool
    learner: bool = True
    """False for generation and for questions to an oracle: engines then load the policy themselves."""

    @classmethod
    def of(cls, config: RunConfig, task: Task) -> Self:
        """The roles of a task."""
        if task.kind != "run":
            oracle = task.kind == "compare" or task.chooses > 0
            return cls(rollout=task.kind == "generate", reference=False, oracle=oracle, learner=False)
        return cls(rollout=samples(config, task), reference=bool(config.frozen_logps), oracle=judges(config, task))


@dataclass(frozen=True, slots=True)
class ActorPlacement:
    """Where one actor runs."""

    role: Role
    index: int
    """Among the actors of its role."""
    bundle: int
    """Index in ``Plan.bundles``."""
    cpus: float
    gpus: float
    """GPUs that Ray reserves for the actor; 0 for one that uses those of learner ranks."""
    shares_gpus_of: tuple[int, ...] = ()
    """Learner ranks whose GPUs it uses."""

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Bundles of one placement group, and which actor runs in which."""

    bundles: tuple[Mapping[str, float], ...]
    actors: tuple[ActorPlacement, ...]

    def of(self, role: Role) -> list[ActorPlacement]:
        """The actors of a role, by index."""
        return [actor for actor in self.actors if actor.role == role]

    def total(self, resource: str) -> float:
        """The sum over all bundles, of ``GPU`` or ``CPU``."""
        return sum(bundle.get(resource, 0.0) for bundle in self.bundles)

    def arithmetic(self, device: str = "cuda") -> str:
        """``learner 4 x {GPU 1, CPU 1} + rollout 2 x {GPU 2, CPU 2} = 8 GPU, 8 CPU``; on a CPU it says that the GPUs are not there."""
        roles = ["+".join(sorted({actor.role for actor in self.actors if actor.bundle == k})) for k in range(len(self.bundles))]
        kinds = Counter((names, show(bundle)) for names, bundle in zip(roles, self.bundles, strict=True))
        terms = " + ".join(f"{names} {count} x {{{shape}}}" for (names, shape), count in kinds.items())
        note = " (counted, not there: the run computes on CPUs)" if device == "cpu" else ""
        return f"{terms} = {self.total('GPU'):g} GPU, {self.total('CPU'):g} CPU{note}"


def plan_placement(config: PlacementConfig, need: Need) -> Plan:
    """The bundles of a run, and the actors in them.

    Raises:
        ConfigError: the layout cannot be made of these numbers.
    """
    if need.rollout and config.rollout.engines < 1:
        raise ConfigError("placement.rollout.engines: 0, but the run samples from the policy; at least 1")
    return _colocated(config, need) if config.layout == "colocated" and need.learner else _separate(config, need)


def _separate(config: PlacementConfig, need: Need) -> Plan:
    bundles: list[Mapping[str, float]] = []
    actors: list[ActorPlacement] = []

    def place(role: Role, count: int, gpus: float, cpus: float) -> None:
        for index in range(count):
            actors.append(ActorPlacement(role, index, len(bundles), cpus, gpus))
            bundles.append({"CPU": cpus} | ({"GPU": gpus} if gpus else {}))

    gpus = config.reference.gpus
    if need.reference and gpus > 1 and gpus % 1:
        raise ConfigError(f"placement.reference.gpus: {gpus:g}; give a share of a GPU, or a whole number of GPUs")
    if need.oracle and config.oracle.gpus > 1:
        raise ConfigError(f"placement.oracle.gpus: {config.oracle.gpus:g}, but an oracle computes on one GPU; give 1 at most")
    if need.reference and config.reference.replicas > 1 and gpus < 1:
        raise ConfigError(
            f"placement.reference.gpus: {config.reference.gpus:g}, but {config.reference.replicas} replicas that share a GPU cannot take "
            f"part in one weight transfer (nccl wants a GPU each); set it to 1, or replicas to 1"
        )
    if need.learner:
        place("learner", config.learner.ranks, 1, config.learner.cpus)
    if need.rollout:
        width = config.rollout.tensor_parallel
        place("rollout", config.rollout.engines, width, config.rollout.cpus * width)
    if need.reference:
        place("reference", config.reference.replicas, config.reference.gpus, config.reference.cpus)
    if need.oracle:
        place("oracle", config.oracle.replicas, config.oracle.gpus, config.oracle.cpus)
    return Plan(tuple(bundles), tuple(actors))


def _colocated(config: PlacementConfig, need: Need) -> Plan:
    ranks, width = config.learner.ranks, config.rollout.tensor_parallel
    if ranks % width:
        raise ConfigError(
            f"placement: colocated engines of tensor_parallel {width} need a multiple of {width} learner ranks, not {ranks}: "
            f"set placement.learner.ranks or placement.rollout.tensor_parallel"
        )
    if need.reference and config.reference.gpus > 1:
        raise ConfigError(
            f"placement.reference.gpus: {config.reference.gpus:g}, but a colocated reference uses the GPU of one learner rank; set it to 1 "
            f"or placement.layout=separate"
        )
    count = ranks // width
    if need.rollout and config.rollout.engines != count:
        raise ConfigError(
            f"placement.rollout.engines: {config.rollout.engines}, but {ranks} learner ranks hold {count} colocated engines of "
            f"tensor_parallel {width}; set it to {count}"
        )
    cpus = [0.0] * count
    actors: list[ActorPlacement] = []

    def place(role: Role, index: int, bundle: int, cores: float) -> None:
        ranks = () if role == "learner" else tuple(range(bundle * width, (bundle + 1) * width))
        actors.append(ActorPlacement(role, index, bundle, cores, 1.0 if role == "learner" else 0.0, ranks))
        cpus[bundle] += cores

    for rank in range(ranks):
        place("learner", rank, rank // width, config.learner.cpus)
    if need.rollout:
        for engine in range(count):
            place("rollout", engine, engine, config.rollout.cpus * width)
    for replica in range(config.reference.replicas if need.reference else 0):
        place("reference", replica, replica % count, config.reference.cpus)
    for replica in range(config.oracle.replicas if need.oracle else 0):
        place("oracle", replica, replica % count, config.oracle.cpus)
    bundles = tuple({"CPU": cores, "GPU": float(width)} for cores in cpus)
    return Plan(bundles, tuple(actors))


def joined(plan: Plan, size: int) -> Plan:
    """The plan with each ``size`` of the learner's bundles joined into one. A bundle lies on one node, and so do the ranks in it."""
    learner = sorted({rank.bundle for rank in plan.of("learner")})
    first = {bundle: learner[k - k % size] for k, bundle in enumerate(learner)}
    kept = [bundle for bundle in range(len(plan.bundles)) if first.get(bundle, bundle) == bundle]
    index = {bundle: kept.index(first.get(bundle, bundle)) for bundle in range(len(plan.bundles))}
    sums: list[dict[str, float]] = [{} for _ in kept]
    for bundle, resources in enumerate(plan.bundles):
        for key, value in resources.items():
            sums[index[bundle]][key] = sums[index[bundle]].get(key, 0.0) + value
    return Plan(tuple(sums), tuple(replace(actor, bundle=index[actor.bundle]) for actor in plan.actors))


def show(resources: Mapping[str, float]) -> str:
    """``GPU 2, CPU 4``"""
    shown = [f"{key} {resources[key]:g}" for key in ("GPU", "CPU") if resources.get(key)]
    return ", ".join(shown) or "nothing"
