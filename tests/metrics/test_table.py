"""The table of metrics: what it holds, what it refuses, what a third party adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypref.config import RunConfig
from raypref.losses.sppo import SPPO
from raypref.metric_info import MetricInfo
from raypref.metrics.table import METRICS, MetricTable
from raypref.metrics.writer import MetricsWriter
from raypref.oracles.base import Oracle
from raypref.oracles.ensemble import Ensemble, Member
from raypref.selection.best_worst import BestWorst


class Timed(Oracle):
    """An oracle that declares a metric of its own."""

    type: str = "timed"

    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        return (MetricInfo("oracle/latency_s", "Seconds per question.", "s", "mean over groups"),)


class Lifted(SPPO):
    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        return (MetricInfo("loss/lift", "Just a test.", "1"),)


class Picky(BestWorst):
    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        return (MetricInfo("oracle/picky", "Just a test.", "1", "mean over groups"),)


def name_of(entry: MetricInfo | None) -> str | None:
    return None if entry is None else entry.name


def test_every_metric_is_described_once_and_in_full() -> None:
    assert len({entry.name for entry in METRICS}) == len(METRICS)
    for entry in METRICS:
        assert entry.definition.endswith("."), entry.name
        assert entry.unit, entry.name
        assert entry.healthy is None or entry.remedy, f"{entry.name}: what to do outside its range"


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("loss", "loss"),
        ("time/rollout_s", "time/<stage>_s"),
        ("time/iteration_s", "time/iteration_s"),
        ("eval/win_rate_against_base", "eval/win_rate_against_<opponent>"),
        ("oracle/judge_1/unparsed", "oracle/unparsed"),
        ("oracle/ensemble_0/judge_1/unparsed", "oracle/unparsed"),
        ("eval/oracle/unparsed", "oracle/unparsed"),
        ("eval/loss", "eval/loss"),
        ("eval/rewards/accuracies", "eval/rewards/accuracies"),
        ("eval/logps/rejected", "logps/rejected"),
        ("eval/loss/kl_baseline", "loss/kl_baseline"),
        ("eval/loss/made_up", None),
        ("eval/made_up", None),
        ("loss/value", None),
        ("time/rollout", None),
        ("oracle/made_up", None),
        ("oracle/judge_1/made_up", None),
        ("eval/oracle/made_up", None),
    ],
)
def test_a_name_is_found_in_the_table(name: str, entry: str | None) -> None:
    assert name_of(MetricTable().find(name)) == entry


def test_the_writer_refuses_a_name_that_is_not_in_the_table(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    with pytest.raises(ValueError, match=r"metric 'oracle/made_up' is not in the table .* extra_metrics"):
        writer.write(1, {"loss": 1.0, "oracle/made_up": 2.0})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "", "nothing of the refused line is written"


def test_losses_oracles_and_selections_declare_their_own_metrics() -> None:
    """An ensemble declares those of its members, which it reports under the members' names."""
    sections: dict[str, Any] = {"loss": Lifted(), "oracle": Timed(), "selection": Picky(), "policy": {"path": "p"}}
    MetricTable.of(RunConfig(**sections)).check(["loss/lift", "oracle/latency_s", "oracle/picky"])
    together = Ensemble(members=[Member(oracle=Timed()), Member(oracle=Timed())])
    MetricTable.of(RunConfig(**sections | {"oracle": together})).check(["oracle/timed_1/latency_s", "eval/oracle/timed_0/latency_s"])
