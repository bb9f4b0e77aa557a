"""The actors of one run, and the four roles that the driver sees of them.

    with RunActors.reserved(config, plan, device, may_grow=...) as actors:       # bundles
        await actors.start()                                                     # actors, side by side
        await Driver(config, actors.roles, ...).run()
        await actors.close()

Only ``raypref.compose`` uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

from ray.util.placement_group import PlacementGroup

import raypref
from actors.cluster import launch, teardown
from actors.cluster.connection import Device
from actors.cluster.gpu_memory import check_gpu_memory
from actors.cluster.gpu_shares import check_shares, waves
from actors.cluster.machines import machines_of
from actors.cluster.memory_peaks import MemoryPeaks
from actors.cluster.nodes import check_nodes, nodes_of
from actors.cluster.preflight import check_network
from actors.cluster.reservation import reserve, while_placed
from actors.learner.deepspeed_setup import learner_env
from actors.learner.group import LearnerGroup
from actors.learner.phases import FORGET, KEEP, Phases, takes_turns
from actors.learner.rank import LearnerRank
from actors.oracle.actor import SPARE_CALLS, OracleActor
from actors.oracle.actor import constructor as oracle_constructor
from actors.oracle.group import OracleGroup
from actors.oracle.services import PolicyAccess
from actors.policy_model import facts_of, model_config
from actors.reference.actor import ReferenceActor
from actors.reference.group import ReferenceGroup
from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from actors.rollout.group import RolloutGroup
from actors.supervision.copies import Copies
from actors.supervision.supervisor import Supervisor
from actors.weights import transport
from actors.weights.recipients import destinations, meshes, receivers, sender_and_receivers
from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.output.environment import Machine
from raypref.output.policies import stored_policy
from raypref.plan.placement import ActorPlacement, Plan, Role
from raypref.roles import Roles

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 1800.0
"""Longest wait for the actors to load their models."""
CLOSE_TIMEOUT_S = 30.0
"""Longest wait for an actor to end by itself; then it is killed."""
STREAM_AND_CALLS = 4
"""Calls at a time of an engine's actor: its stream lasts as long as the run; submissions and the calls of a weight sync come beside it."""


class RunActors:
    """The actors of one run, and the roles that the driver sees."""

    roles: Roles
    """Set by ``start``."""

    def __init__(self, config: RunConfig, plan: Plan, device: Device, group: PlacementGroup, nodes: int = 1) -> None:
        """See ``reserved``; ``nodes`` is how many nodes the learner and the receivers of its weights are on."""
        self.config = config
        self.plan = plan
        self.device = device
        self._group = group
        self._transport = transport.choose(config.sync.transport, device, config.placement.layout, nodes)
        self._takes_turns = takes_turns(config, plan)
        self.machines: list[Machine] = []  # the nodes on which the actors are placed
        self._handles: dict[str, Any] = {}  # by the actor's name
        self.peaks = MemoryPeaks(self._handles)
        self.supervisor = Supervisor.of(config, self)
        self.on_waiting: Callable[[Sequence[str]], None] = lambda waiting: None
        """Told which actors are not ready yet, each time another one is."""
        self._waiting = {actor.name for actor in plan.actors}
        self._closable: list[RolloutGroup | ReferenceGroup | OracleGroup] = []
        """Groups of actors that are ready, and can end by themselves."""

    @classmethod
    @contextlib.contextmanager
    def reserved(cls, config: RunConfig, plan: Plan, device: Device, *, may_grow: bool, again: bool = False) -> Iterator[RunActors]:
        """Reserve the plan's bundles for the block. After the block, also after an error in it, the actors are gone and the bundles free.

        Args:
            config: the run's.
            plan: which actors there are, and where.
            device: what they compute on.
            may_grow: whether the cluster may get more nodes; one that was started here has this machine alone.
            again: the cluster has held the plan before.

        Raises:
            PlacementError: the cluster cannot hold the plan.
            ConfigError: a node does not see ``output_dir``, ``sync.transport`` does not fit, the shares of a GPU cannot work, or a model
                does not fit the GPUs.
            NetworkError: nodes that must talk cannot.
        """
        if device == "cuda":
            check_shares(plan, config.rollout.gpu_memory_utilization, oracle_share(config))
        asked = config.sync.transport
        way = transport.choose(asked, device, config.placement.layout)
        one_node = asked != "auto" and bool(receivers(config, plan)) and way.one_node
        group, plan = reserve(plan, config.placement.timeout_s, one_node, again=again and may_grow)
        actors = None
        try:
            where = nodes_of(group)
            actors = cls(config, plan, device, group, len({where[actor.bundle] for actor in sender_and_receivers(config, plan)}))
            if may_grow:  # else the cluster was started here: its one node is this machine, with this environment
                actors._check_nodes()
            actors.machines = machines_of(where, plan, config.placement.preflight_timeout_s)
            if device == "cuda":
                check_gpu_memory(config, model_config(config.policy), actors.machines)
            yield actors
        finally:
            handles = [] if actors is None else list(actors._handles.values())
            teardown.bounded("the end of the actors", lambda: launch.stop(handles, group))

    def _check_nodes(self) -> None:
        nodes, limit = nodes_of(self._group), self.config.placement.preflight_timeout_s
        check_nodes(nodes, self.config.output_dir, raypref.__version__, limit)
        check_network(self._group, nodes, meshes(self.config, self.plan, self._transport), self.device, limit)

    async def start(self) -> None:
        """Create the actors, let them load their models side by side, and connect the learner with the other copies of its policy.

        Where roles share GPUs they start in waves (``gpu_shares.waves``).

        Raises:
            ConfigError: an actor refuses its settings, or the policy cannot be loaded.
        """
        in_turn = self._waves()
        for wave in in_turn:
            for placement in wave:
                await self._create(placement)
            if len(in_turn) > 1:
                await launch.ready(self._handles, START_TIMEOUT_S, self._is_ready)
        learner, others = self._make_roles()
        await launch.ready(dict(self._named("learner")), START_TIMEOUT_S)  # quick: the model is loaded by ``learner.start``
        await asyncio.gather(self._others_ready(others), *([self._start_learner(learner)] if self.plan.of("learner") else []))
        if copies := await self._copies.present():
            await learner.connect(copies, self.config.sync.model_copy(update={"transport": self._transport.name}))
        for group in self._closable:
            group.members.watch()
        for name, handle in self._named("learner"):
            self.supervisor.watch(name, handle)

    # --- replacements: ``actors.supervision.supervisor.Starter`` ---------------------------------------------------------------------

    def may_replace(self, name: str) -> bool:
        """Not an engine that takes turns with the learner while the learner has the GPU's memory."""
        return self._phases.leave_room or not name.startswith("rollout")

    def kill(self, name: str) -> None:
        self._phases.lost(name)
        launch.kill(self._handles[name])

    async def restart(self, name: str) -> Any:
        await self._create(next(placement for placement in self.plan.actors if placement.name == name))
        ready = launch.ready({name: self._handles[name]}, START_TIMEOUT_S)
        await while_placed(self._group, name, self.config.placement.timeout_s, ready)
        self._phases.replaced(name, self._handles[name])
        return self._handles[name]

    def _waves(self) -> list[list[ActorPlacement]]:
        """The actors in the order of their start; on a CPU all start side by side."""
        return list(waves(self.plan, oracle_share(self.config) is not None)) if self.device == "cuda" else [list(self.plan.actors)]

    async def close(self) -> None:
        """Let the engines, references and oracles end by themselves: a killed one leaves shared memory behind. Does nothing before they
        are ready: an actor that is still loading would not answer."""
        await self.supervisor.close()
        closing = [asyncio.wait_for(group.close(), CLOSE_TIMEOUT_S) for group in self._closable]
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.warning("an actor did not end by itself: %s", outcome)

    async def _others_ready(self, groups: Sequence[RolloutGroup | ReferenceGroup | OracleGroup]) -> None:
        others = self._named("rollout") + self._named("reference") + self._named("oracle")
        await launch.ready(dict(others), START_TIMEOUT_S, self._is_ready)
        self._closable = list(groups)

    async def _start_learner(self, learner: LearnerGroup) -> None:
        await learner.start()
        for name, _ in self._named("learner"):
            self._waiting.discard(name)
        self.on_waiting(sorted(self._waiting))

    def _is_ready(self, name: str) -> None:
        """A learner's rank is ready when it has loaded its model, which ``_start_learner`` waits for."""
        if name in self._waiting and name not in dict(self._named("learner")):
            self._waiting.discard(name)
            self.on_waiting(sorted(self._waiting))

    async def _create(self, placement: ActorPlacement) -> None:
        make, calls = self._constructor(placement)
        env = await self._environment(placement)
        log_dir = self.config.output_dir / "logs"
        self._handles[placement.name] = launch.start(
            make, placement, self._group, log_dir, env=env, max_concurrency=calls, several_nodes=len(self.machines) > 1
        )

    def _constructor(self, placement: ActorPlacement) -> tuple[partial[Any], int]:
        """What makes the actor, and how many calls it takes at a time."""
        if placement.role == "learner":
            return self._learner_rank(placement.index), 1
        if placement.role == "rollout":
            return self._engine(), STREAM_AND_CALLS
        if placement.role == "reference":
            return self._reference(placement.name), 1
        return self._oracle(placement.name), self.config.judging.groups + SPARE_CALLS

    def _learner_rank(self, rank: int) -> partial[LearnerRank]:
        config = self.config.model_copy(update={"oracle": None})  # an oracle may hold what only its actor can load
        device = "cuda:0" if self.device == "cuda" else "cpu"
        return partial(LearnerRank, config, device=device, rank=rank, world_size=len(self.plan.of("learner")))

    def _engine(self) -> partial[RolloutActor]:
        return partial(
            RolloutActor,
            self.config.policy,
            self.config.rollout,
            tensor_parallel=self.config.placement.rollout.tensor_parallel,
            device=self.device,
            transport=self._transport.name,
            seed=self.config.seed,
            load_weights=not self.plan.of("learner"),
            sleeps=self._takes_turns,
        )

    def _reference(self, name: str) -> partial[ReferenceActor]:
        config, gpus = self.config, max(1, int(self.config.placement.reference.gpus))
        more = (config.learner.micro_batch_tokens, self.device, self._transport.name, gpus, (config.output_dir / "rollouts", name))
        return partial(ReferenceActor, config.policy, config.frozen_logps, *more)

    def _oracle(self, name: str) -> partial[OracleActor]:
        config = self.config
        policy = PolicyAccess(config.policy, config.data, config.rollout, config.seed) if self.plan.of("rollout") else None
        return oracle_constructor(config, name, device=self.device, examples=self._examples, policy=policy)

    @cached_property
    def _examples(self) -> ExampleBuilder | None:
        """Builds the run's examples, in every oracle actor; None where nothing is trained."""
        if not self.plan.of("learner"):
            return None
        return ExampleBuilder.of_run(self.config.loss, self.config.data, facts_of(self.config.policy))

    async def _environment(self, placement: ActorPlacement) -> dict[str, str]:
        """Environment variables of the actor's process, which GPUs it sees among them."""
        threads = max(1, int(placement.cpus))
        if placement.role == "rollout":
            env = engine_env(self.device, max(1, threads // self.config.placement.rollout.tensor_parallel))
        elif placement.role == "oracle":
            env = engine_env(self.device, threads)  # it may have an engine of its own
        else:
            env = learner_env(self.device, threads)
        if self.device == "cuda" and not placement.shares_gpus_of and placement.gpus:
            return env  # Ray shows the actor the GPUs that it reserved for it
        visible: list[str] = []
        if self.device == "cuda" and placement.shares_gpus_of:
            ranks = [self._handles[f"learner-{rank}"] for rank in placement.shares_gpus_of]
            visible = await launch.gpus_of(ranks if placement.role == "rollout" else ranks[:1], START_TIMEOUT_S)
        return env | {"CUDA_VISIBLE_DEVICES": ",".join(visible), "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}

    def _named(self, role: Role) -> list[tuple[str, Any]]:
        """Name and handle of each actor of a role."""
        return [(placement.name, self._handles[placement.name]) for placement in self.plan.of(role)]

    def _make_roles(self) -> tuple[LearnerGroup, list[RolloutGroup | ReferenceGroup | OracleGroup]]:
        """Make the driver's side of every role that the plan has: ``roles``. Returns the learner's, and the others."""
        config, timeout_s, supervisor = self.config, self.config.learner.timeout_s, self.supervisor
        engines, references, oracles = self._named("rollout"), self._named("reference"), self._named("oracle")
        self._copies = copies = Copies(destinations(config, self.plan, self._handles))
        rollout = RolloutGroup(engines, timeout_s, supervisor, copies) if engines else None
        reference = ReferenceGroup(references, timeout_s, supervisor, copies) if references else None
        asked: dict[str, Any] = {"in_flight": config.judging.groups, "policy": None if rollout is None else rollout.sample}
        asked["waits_for_others"] = config.oracle is not None and config.oracle.waits_for_others
        oracle = OracleGroup(dict(oracles), timeout_s, **asked, supervisor=supervisor) if oracles else None
        ranks = [handle for _, handle in self._named("learner")]
        level = KEEP if config.policy.lora is not None else FORGET  # a sync of an adapter sends only a part of the weights
        self._phases = Phases(ranks, engines, level, timeout_s) if self._takes_turns else Phases()
        learner = LearnerGroup(ranks, timeout_s, self._phases, supervisor, copies, partial(stored_policy, config))
        copies.bring = learner.bring
        self.roles = Roles(learner=learner, rollout=rollout, reference=reference, oracle=oracle)
        return learner, [group for group in (oracle, rollout, reference) if group is not None]


def oracle_share(config: RunConfig) -> float | None:
    """Share of a GPU's memory that the engine of the run's oracle takes; None without one."""
    return None if config.oracle is None else config.oracle.engine_share
