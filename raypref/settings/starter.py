"""A config to start from, for ``raypref init``: few keys, each with its docstring as a comment; the loss with all of its keys."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml

from raypref.losses.base import Loss, losses
from raypref.settings import reference

Kind = Literal["prompts", "preferences", "demonstrations"]
FILES: dict[Kind, str] = {"prompts": "prompts.jsonl", "preferences": "pairs.jsonl", "demonstrations": "answers.jsonl"}

_SELECTIONS = {"inpo": "tournament", "ranking_dpo": "ranking", "s_dpo": "best_of_n", "best_response_sft": "best_of_n"}
"""Method -> its selection, where that is not best_worst."""
_REVISION = "{prompt}\nAn earlier answer:\n{answer}\nA better answer:\n"
_WIDTH = 110
_ON_A_GPU: dict[str, Any] = {
    "loop": {"overlap": False},
    "rollout": {"gpu_memory_utilization": 0.5},
    "placement": {"layout": "colocated", "device": "cuda", "sleep": True},
}
"""All roles share one GPU and take turns."""
_ON_A_CPU: dict[str, Any] = {"placement": {"device": "cpu", "oracle": {"gpus": 0}}}


def kinds_of(method: str) -> tuple[Kind, ...]:
    """The kinds of data that a method trains on, the usual one first.

    Args:
        method: a registered loss, or ``module:Class``.

    Raises:
        ConfigError: there is no such loss.
    """
    losses.resolve(method)
    return ("demonstrations",) if method == "sft" else ("prompts", "preferences")


def config_text(
    method: str, kind: Kind, *, name: str, policy: str, chat: bool, gpu: bool, loss: str | None = None, selection: str | None = None
) -> str:
    """A commented YAML file.

    Args:
        method: a registered loss, or ``module:Class``.
        kind: of the data.
        name: of the run.
        policy: model directory or hub name.
        chat: whether the policy's tokenizer has a chat template.
        gpu: one GPU, which all roles share; or the CPU.
        loss: a loss of one's own in its place, as ``module:Class``.
        selection: likewise.
    """
    values = _values(method, kind, name=name, policy=policy, chat=chat, gpu=gpu)
    if loss is not None:
        values["loss"] = {"type": loss}
    if selection is not None and "selection" in values:
        values["selection"] = {"type": selection}
    head = [
        f"# {loss or method} on {kind}. Paths are relative to the directory in which the command is called.",
        "#   raypref check run.yaml    names every mistake        raypref config learner    explains a section",
        "#   raypref train run.yaml    trains                     raypref inspect data run.yaml    shows the tokens",
    ]
    return "\n".join([*head, *_section(values, "", "", loss or method)]) + "\n"


def _values(method: str, kind: Kind, *, name: str, policy: str, chat: bool, gpu: bool) -> dict[str, Any]:
    """The keys that are set, in the config's order; they suit the 20 records that ``raypref init`` writes."""
    own: Loss = losses.resolve(method).model_validate({"type": method})
    data: dict[str, Any] = {"type": kind, "path": FILES[kind], "chat_template": chat, "held_out_prompts": 4}
    if own.revisions:
        data["template"] = "chat" if chat else _REVISION
    values: dict[str, Any] = {
        "name": name,
        "output_dir": f"runs/{name}",
        "policy": {"path": policy, "dtype": "bfloat16" if gpu else "float32"},
        "data": data,
        "loop": {"iterations": 2},
        "rollout": {"responses": 4, "max_tokens": 256 if gpu else 48},
        "oracle": {"type": "callable", "function": "my_oracle:prefer", "mode": "pairwise"},
        "selection": {"type": _SELECTIONS.get(method, "best_worst")},
        "loss": {"type": method},
        "learner": {"global_batch": 4, "micro_batch_tokens": 4096, "optimizer": {"lr": 1e-6}},
        "placement": {},
    }
    for key, section in (_ON_A_GPU if gpu else _ON_A_CPU).items():
        values[key] = values[key] | section
    if kind != "prompts":
        del values["selection"], values["rollout"]["responses"]
    if kind == "demonstrations":
        del values["oracle"], values["rollout"]["max_tokens"]
        values["placement"].pop("oracle", None)
    return {key: value for key, value in values.items() if value != {}}


def _section(values: Mapping[str, Any], path: str, indent: str, method: str) -> Iterator[str]:
    """Lines of YAML: each key below its meaning. The loss' other keys follow with their defaults, commented out."""
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            if not indent:
                yield ""
            yield f"{indent}{key}:"
            yield from _section(value, where, indent + "  ", method)
            continue
        if key == "type" and path in ("loss", "selection", "oracle"):
            yield from _comment(_method_meaning(path, str(value)), indent)
        elif path not in ("oracle",):
            yield from _comment(_meaning(where), indent)
        yield f"{indent}{yaml.safe_dump({key: value}, width=1000, sort_keys=False, allow_unicode=True).rstrip()}"
    if path == "loss":
        for own in _loss_keys(method):
            yield from _comment(own.meaning, indent)
            yield f"{indent}# {own.path.rpartition('.')[2]}: {own.default}"


def _loss_keys(method: str) -> tuple[reference.Key, ...]:
    return reference.find(f"loss.{method}")[0].keys if ":" not in method else ()


def _meaning(path: str) -> str:
    """A key's docstring, where it has one."""
    section, _, name = path.rpartition(".")
    for entry in reference.entries():
        if entry.name == section:
            return next((key.meaning for key in entry.keys if key.path.rpartition(".")[2] == name), "")
    return ""


def _method_meaning(axis: str, name: str) -> str:
    """The first paragraph of a method's docstring; nothing for one that is being written."""
    return "" if ":" in name else reference.find(f"{axis}.{name}")[0].meaning.partition("\n\n")[0]


def _comment(meaning: str, indent: str) -> list[str]:
    text = " ".join(meaning.partition("\n\n")[0].split()).replace("``", "")
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)]
