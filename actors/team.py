"""The run's actors, assembled: bundles reserved, actors started and connected, the four roles handed to the driver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ray.util.placement_group import PlacementGroup

import raypref
from actors.cluster import launch
from actors.cluster.connection import Device
from actors.cluster.placement import Plan, Seat
from actors.learner.deepspeed_setup import learner_env
from actors.learner.group import LearnerGroup
from actors.learner.phases import FORGET, KEEP, Phases
from actors.learner.rank import LearnerRank
from actors.oracle.actor import SPARE_CALLS, OracleActor
from actors.oracle.group import OracleGroup
from actors.oracle.services import PolicyAccess
from actors.policy_model import facts_of
from actors.reference.actor import ReferenceActor
from actors.reference.group import ReferenceGroup
from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from actors.rollout.group import RolloutGroup
from actors.weights import transport
from actors.weights.sender import Destination
from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.roles import Roles

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 1800.0
"""Longest wait for the actors to load their models."""
CLOSE_TIMEOUT_S = 30.0
"""Longest wait for an actor to end by itself; then it is killed."""
STREAM_AND_CALLS = 4
"""Calls at a time of an engine's actor: its stream lasts as long as the run, submissions and the sync's calls come beside it."""


class Team:
    """The actors of one run, and the roles that the driver sees."""

    def __init__(self, config: RunConfig, plan: Plan, device: Device) -> None:
        self.config = config
        self.plan = plan
        self.device = device
        self.transport = transport.choose(config.sync.transport, device, config.placement.layout)
        self.takes_turns = takes_turns(config, plan)
        self._handles: dict[str, Any] = {}
        """Seat name -> actor handle."""
        self.roles: Any = None

    @classmethod
    @contextlib.contextmanager
    def assembled(cls, config: RunConfig, plan: Plan, device: Device, *, may_grow: bool) -> Iterator[Team]:
        """Start the actors for the time of the block; whatever happens, they are gone and their bundles free after it.

        Args:
            may_grow: whether the cluster may get more nodes.

        Raises:
            PlacementError: the cluster cannot hold the plan.
            ConfigError: an actor refuses its settings, or a node does not see ``output_dir``.
        """
        team = cls(config, plan, device)
        strategy = "STRICT_PACK" if team.transport.one_node else "PACK"
        group = launch.reserve(plan, config.placement.timeout_s, may_grow, strategy)
        try:
            launch.check_nodes(group, config.output_dir, raypref.__version__)
            team._start_actors(group)
            team.roles = team._make_roles()
            yield team
        finally:
            launch.stop([team._handles[seat.name] for seat in plan.seats if seat.name in team._handles], group)

    def _start_actors(self, group: PlacementGroup) -> None:
        """In waves where they share GPUs: guests must be told which GPUs the learner's ranks got, and while an engine measures the free
        memory of its GPU nobody else may take some."""
        share = self.device == "cuda" and self.config.placement.layout == "colocated"
        waves = (("learner",), ("rollout",), ("reference", "oracle")) if share else (("learner", "rollout", "reference", "oracle"),)
        for wave in waves:
            for seat in (seat for role in wave for seat in self.plan.of(role)):
                self._start(seat, group)
            launch.ready(self._handles, START_TIMEOUT_S)

    def _start(self, seat: Seat, group: PlacementGroup) -> None:
        cls, max_concurrency, kwargs = self._part(seat)
        env = self._environment(seat)
        log_dir = self.config.output_dir / "logs"
        self._handles[seat.name] = launch.start(cls, seat, group, log_dir, env=env, max_concurrency=max_concurrency, kwargs=kwargs)

    def _part(self, seat: Seat) -> tuple[type, int, dict[str, Any]]:
        """Who sits there: class, calls at a time, and its own part of the config."""
        config, device = self.config, self.device
        if seat.role == "learner":
            return (
                LearnerRank,
                1,
                {
                    "config": config.model_copy(update={"oracle": None}),  # it may hold what only its own actor can load
                    "device": "cuda:0" if device == "cuda" else "cpu",
                    "rank": seat.index,
                    "world_size": len(self.plan.of("learner")),
                },
            )
        if seat.role == "rollout":
            return (
                RolloutActor,
                STREAM_AND_CALLS,
                {
                    "policy": config.policy,
                    "rollout": config.rollout,
                    "tensor_parallel": config.placement.rollout.tensor_parallel,
                    "device": device,
                    "transport": self.transport.name,
                    "seed": config.seed,
                    "load_weights": not self.plan.of("learner"),
                    "sleeps": self.takes_turns,
                },
            )
        if seat.role == "reference":
            tokens = config.learner.micro_batch_tokens
            return (
                ReferenceActor,
                1,
                {
                    "policy": config.policy,
                    "needs": config.frozen_logps,
                    "micro_batch_tokens": tokens,
                    "device": device,
                    "transport": self.transport.name,
                },
            )
        asked = PolicyAccess(config.policy, config.data, config.rollout, config.seed) if self.plan.of("rollout") else None
        return (
            OracleActor,
            config.judging.groups + SPARE_CALLS,
            {
                "oracle": config.oracle,
                "selection": config.selection,
                "loss": config.loss,
                "examples": ExampleBuilder.of_run(config.loss, config.data, facts_of(config.policy)) if self.plan.of("learner") else None,
                "journal_dir": config.output_dir / "rollouts",
                "name": seat.name,
                "judging": config.judging,
                "device": device,
                "policy": asked,
                "timeout_s": config.learner.timeout_s,
            },
        )

    def _environment(self, seat: Seat) -> dict[str, str]:
        threads = max(1, int(seat.cpus))
        if seat.role == "rollout":
            env = engine_env(self.device, max(1, threads // self.config.placement.rollout.tensor_parallel))
        elif seat.role == "oracle":
            env = engine_env(self.device, threads)  # it may have an engine of its own
        else:
            env = learner_env(self.device, threads)
        if self.device == "cuda" and not seat.guest_of and seat.gpus:
            return env  # Ray shows the actor the GPUs that it reserved for it
        visible: list[str] = []
        if self.device == "cuda" and seat.guest_of:
            hosts = [self._handles[f"learner-{rank}"] for rank in seat.guest_of]
            visible = launch.gpus_of(hosts if seat.role == "rollout" else hosts[:1], START_TIMEOUT_S)
        return env | {"CUDA_VISIBLE_DEVICES": ",".join(visible), "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}

    def _of(self, role: str) -> list[tuple[str, Any]]:
        return [(seat.name, self._handles[seat.name]) for seat in self.plan.of(role)]

    def _make_roles(self) -> Roles:
        """The driver's side of every role that the plan has."""
        timeout_s = self.config.learner.timeout_s
        engines, references, oracles = self._of("rollout"), self._of("reference"), self._of("oracle")
        rollout = RolloutGroup(engines, timeout_s) if engines else None
        policy = None if rollout is None else rollout.sample
        ranks = [handle for _, handle in self._of("learner")]
        level = KEEP if self.config.policy.lora is not None else FORGET  # syncs of an adapter send a part of the weights
        return Roles(
            learner=LearnerGroup(ranks, timeout_s, Phases(ranks, engines, level, timeout_s) if self.takes_turns else None),
            rollout=rollout,
            reference=ReferenceGroup(references, timeout_s) if references else None,
            oracle=OracleGroup(dict(oracles), timeout_s, in_flight=self.config.judging.groups, policy=policy) if oracles else None,
        )

    async def connect(self) -> None:
        """Bring the learner's ranks together, and the weights' way to the engines and references.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        if not self.plan.of("learner"):
            return
        learner = self.roles.learner
        await learner.start()
        destinations = [Destination(name, handle, self.config.placement.rollout.tensor_parallel) for name, handle in self._of("rollout")]
        if "previous" in self.config.loss.needs:
            destinations += [Destination(name, handle) for name, handle in self._of("reference")]
        if destinations:
            await learner.connect(destinations, self.config.sync.model_copy(update={"transport": self.transport.name}))

    async def close(self) -> None:
        """Let the engines and references end by themselves: killed ones leave shared memory behind."""
        roles = (self.roles.oracle, self.roles.rollout, self.roles.reference)
        closing = [asyncio.wait_for(role.close(), CLOSE_TIMEOUT_S) for role in roles if role is not None]
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.warning("an actor did not end by itself: %s", outcome)


def takes_turns(config: RunConfig, plan: Plan) -> bool:
    """Whether the learner and the engines of this plan take turns on their GPUs (``placement.sleep``)."""
    return config.placement.sleep and bool(plan.of("learner") and plan.of("rollout"))
