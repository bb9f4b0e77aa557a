"""The metrics as Prometheus has them: one family per entry of the metric table, its placeholders as labels.

    time/<stage>_s              raypref_time_s{stage="rollout"}
    oracle/ties                 raypref_oracle_ties
    oracle/judge_1/ties         raypref_oracle_ties{part="judge_1"}      a member of an ensemble
    eval/oracle/ties            raypref_oracle_ties{part="eval"}         of an evaluation

Every series also has the label ``run``. Ray puts ``ray_`` before the name, and ``_total`` after that of a counter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from raypref.metric_info import MetricInfo

_PLACEHOLDER = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class Family:
    """What Prometheus knows of one entry of the table."""

    name: str
    """As given to Ray."""
    labels: tuple[str, ...]
    """Beside ``run`` and ``part``."""
    counter: bool
    """A total since the start; everything else is a gauge."""

    @property
    def exported(self) -> str:
        """As Prometheus reads it from Ray's port."""
        return f"ray_{self.name}_total" if self.counter else f"ray_{self.name}"


def family(entry: MetricInfo) -> Family:
    """The family of a metric."""
    labels = tuple(_PLACEHOLDER.findall(entry.name))
    counter = entry.kind == "total since start"
    plain = re.sub(r"[^a-zA-Z0-9]+", "_", _PLACEHOLDER.sub("", entry.name)).strip("_")
    if counter:
        plain = plain.removesuffix("_total")
    return Family(f"raypref_{plain}", labels, counter)


def labels_of(name: str, entry: MetricInfo) -> dict[str, str]:
    """The labels of a metric's name, ``part`` among them: the member of an ensemble, ``eval``, or empty."""
    found = {"part": "", **dict.fromkeys(_PLACEHOLDER.findall(entry.name), "")}
    pattern = "(.+)".join(map(re.escape, _PLACEHOLDER.split(entry.name)[::2]))
    if match := re.fullmatch(pattern, name):
        return found | dict(zip(_PLACEHOLDER.findall(entry.name), match.groups(), strict=True))
    tail = entry.name.rpartition("/")[2]
    parts = name.split("/")
    if parts[0] == "eval":
        inner = [part for part in parts[1:-1] if part not in entry.name.split("/")]
        return found | {"part": "/".join(["eval", *inner])}
    return found | {"part": "/".join(parts[1:-1]) if parts[-1] == tail else name}
