"""A light run: the project's own driver, actors, placement, journal, checkpoints and weight syncs around a model of one table.

Next-token probabilities are a row of the table for each previous token. vLLM, DeepSpeed and transformers have stand-ins; what they are
called by is the project's. So a run of several iterations takes seconds, and its result depends on every group, log-prob and step.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.learner.rank import LearnerRank
from actors.reference.actor import ReferenceActor
from actors.rollout.actor import RolloutActor
from actors.rollout.engine_stats import EngineFigures
from actors.weights import transport
from actors.weights.checksums import ReceivedChecksums
from raypref.types import Example, Response, Rollout, SampleRequest

VOCABULARY = 64
GROUP_S = "RAYPREF_CHAOS_GROUP_S"
"""Environment variable: seconds that an engine takes for a group; default 0.02."""
STEP_S = 0.05
"""Seconds that the learner takes for a step, beside its arithmetic."""
SAVE_S = 0.3
"""Seconds that the two files of a checkpoint take."""
DIRECTORY = "RAYPREF_CHAOS_DIRECTORY"
"""Environment variable of every process of a light run: where it notes what is sampled and judged."""

PERTURBED = "RAYPREF_CHAOS_PERTURBED"
"""Environment variable: which transfer to an engine is changed on its way, from 1."""


def note(file: str, line: str) -> None:
    """Append a line to a file of the run's notes, in one write."""
    descriptor = os.open(Path(os.environ[DIRECTORY]) / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def lines(file: str) -> int:
    """How many lines a file of the notes has so far."""
    path = Path(os.environ[DIRECTORY]) / file
    return path.read_bytes().count(b"\n") if path.exists() else 0


def more_different_words(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
    """Prefers responses with more different words; notes every group."""
    for prompt, group in zip(prompts, responses, strict=True):
        note("judged", repr((prompt, tuple(group))))
    scores = [np.array([len(set(text.split())) for text in group], dtype=np.float64) for group in responses]
    return [1 / (1 + np.exp(-(counts[:, None] - counts[None, :]) / 2)) for counts in scores]


class TableModel(nn.Module):
    """Answers as a causal language model of transformers does."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config: Any = SimpleNamespace(model_type="table", _attn_implementation="eager", get_text_config=lambda: self.config)
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)))

    def get_output_embeddings(self) -> None:
        """The logits are not those of a linear layer."""

    def forward(self, input_ids: Tensor, logits_to_keep: int, **_: Any) -> Any:
        return SimpleNamespace(logits=self.table(input_ids)[:, -logits_to_keep:])


class TableEngine:
    """Stands in for ``actors.rollout.engine.Engine``: one group a step, sampled by the request's seed from the table that was received."""

    context_tokens = 256

    def __init__(self, policy: Any, rollout: Any, *, transport: str, **_: Any) -> None:
        self._open: deque[tuple[str, SampleRequest]] = deque()
        self.tensors = {"table.weight": torch.zeros(VOCABULARY, VOCABULARY)}
        self._checksums = ReceivedChecksums(self)
        self._receiver = _load_transport(transport).receiver(InTransit(self), torch.device("cpu"))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            self.tensors[name].copy_(tensor)

    @property
    def unfinished(self) -> int:
        return len(self._open)

    def add(self, key: str, request: SampleRequest) -> None:
        self._open.append((key, request))

    def step(self) -> list[tuple[str, Rollout]]:
        time.sleep(float(os.environ.get(GROUP_S, 0.02)))
        key, request = self._open.popleft()
        if request.max_tokens > 8:  # not the check after a sync
            note("sampled", request.origin)
        logps = torch.log_softmax(self.tensors["table.weight"], dim=-1).numpy()
        responses = tuple(self._sample(request, logps, number) for number in range(request.count))
        return [(key, Rollout(request.prompt, responses, request.policy_version, request.origin))]

    def take_figures(self) -> EngineFigures:
        return EngineFigures()

    def _sample(self, request: SampleRequest, logps: NDArray[np.float32], number: int) -> Response:
        random = np.random.default_rng([request.seed, number])
        tokens, previous = list[int](), int(request.prompt.token_ids[-1])
        while len(tokens) < request.max_tokens and previous != 2:
            previous = int(np.argmax(logps[previous] + random.gumbel(size=VOCABULARY)))
            tokens.append(previous)
        before = [int(request.prompt.token_ids[-1]), *tokens[:-1]]
        text = " ".join(f"w{token - 3}" for token in tokens if token > 2)
        return Response(np.array(tokens, dtype=np.int32), logps[before, tokens], text, "stop" if previous == 2 else "length")

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._receiver.connect(request["init_info"])

    def start_weight_update(self, complete: bool = True) -> None:
        self._checksums.begin(complete=complete)
        self._receiver.begin()

    def update_weights(self, request: Any) -> None:
        self._receiver.update(request["update_info"])

    def finish_weight_update(self) -> None:
        self._receiver.finish()

    def weight_checksums(self) -> dict[str, Mapping[str, int]]:
        return {"": self._checksums.values()}

    def sleep(self, level: int) -> None:
        if level > 1:
            self.tensors["table.weight"].zero_()

    def wake_up(self, tags: list[str]) -> bool:
        return "kv_cache" in tags

    def shutdown(self) -> None:
        self._receiver.close()


class InTransit:
    """Between the transport and an engine. In the transfer of the number that ``PERTURBED`` says one element changes, before the engine
    has the tensors; each transfer is noted, with how many groups were sampled before it."""

    def __init__(self, engine: TableEngine) -> None:
        self._engine = engine

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        note("received", str(lines("sampled")))
        tensors = {name: tensor.clone() for name, tensor in weights}
        if lines("received") == int(os.environ.get(PERTURBED, 0)):
            tensors["table.weight"][-1, -1] += 1e-3
        self._engine.load_weights(tensors.items())


_load_transport = transport.load


class LightRollout(RolloutActor):
    """The project's actor around ``TableEngine``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        import actors.rollout.actor

        actors.rollout.actor.Engine = TableEngine  # type: ignore[assignment, misc]
        super().__init__(*arguments, **options)


class LightReference(ReferenceActor):
    """The project's actor around ``TableModel``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        import actors.weights.received_policy

        actors.weights.received_policy.stored_form = as_it_is
        super().__init__(*arguments, **options)

    def _load(self, policy: Any) -> Any:
        return TableModel().requires_grad_(False).eval()

    def _computed(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        note("scored", f"{examples[0].policy_version}-{examples[0].prompt_index}")
        return super()._computed(examples)


class LightRank(LearnerRank):
    """The project's rank around ``TableModel`` and ``PlainEngine``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        import actors.learner.rank
        import actors.weights.source
        from actors.learner import deepspeed_setup, policy_export

        for module, name, stand_in in (
            (actors.learner.rank, "load_model", lambda *_, **__: TableModel()),
            (actors.weights.source, "stored_form", as_it_is),
            (actors.learner.rank, "Offload", StaysWhereItIs),
            (deepspeed_setup, "join_group", join_group),
            (deepspeed_setup, "build_engine", build_engine),
            (policy_export, "describe", describe),
            (policy_export, "write_weights", write_weights),
        ):
            setattr(module, name, stand_in)
        super().__init__(*arguments, **options)


class PlainEngine:
    """Stands in for DeepSpeed's engine, with torch's own optimiser; gradients are averaged over the ranks."""

    device = torch.device("cpu")

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ranks: int) -> None:
        self.module, self.optimizer = module, optimizer
        self.checkpoint_engine: Any = SimpleNamespace(save=write)
        self._ranks = ranks
        self._norm = 0.0

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        pass

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= self._ranks
        time.sleep(STEP_S)
        self._norm = float(torch.nn.utils.get_total_norm(gradients))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def was_step_applied(self) -> bool:
        return True

    def get_global_grad_norm(self) -> float:
        return self._norm

    def save_checkpoint(self, directory: str, tag: str, save_latest: bool) -> None:
        folder = Path(directory) / tag
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint_engine.save(self.module.state_dict(), str(folder / "model.pt"))
        self.checkpoint_engine.save(self.optimizer.state_dict(), str(folder / "optimizer.pt"))

    def load_checkpoint(self, directory: str, tag: str) -> tuple[str, dict[str, Any]]:
        folder = Path(directory) / tag
        self.module.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        return str(folder), {}

    def destroy(self) -> None:
        pass


class StaysWhereItIs:
    """Stands in for ``actors.learner.offload.Offload``: there is no other memory."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer) -> None:
        pass

    def offload(self) -> None:
        pass

    def reload(self) -> None:
        pass


def join_group(address: str, store: Any, rank: int, world_size: int, device: torch.device, timeout_s: float) -> None:
    if store is None:
        host, _, port = address.rpartition(":")
        store = torch.distributed.TCPStore(host, int(port), None, False)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)


def build_engine(model: nn.Module, policy: Any, learner: Any, world_size: int) -> tuple[Any, torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learner.optimizer.lr)
    return PlainEngine(model, optimizer, world_size), optimizer


def write(state: Any, path: str) -> None:
    """What DeepSpeed's ``checkpoint_engine`` does."""
    torch.save(state, path)
    time.sleep(SAVE_S / 2)


def describe(policy: Any, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)


def write_weights(weights: Iterable[tuple[str, Tensor]], directory: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(weights), directory / "model.safetensors")


def as_it_is(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """``stored_form`` of a model whose checkpoint has the module's names and tensors; transformers takes 3 s to import."""
    from actors.weights.stored_form import StoredTensor

    strides = {name: tensor.stride() for name, tensor in model.named_parameters()}
    return {name: (StoredTensor(name, tuple(shape), strides[name], 0),) for name, shape in shapes.items()}
