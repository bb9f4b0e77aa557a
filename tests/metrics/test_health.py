"""What a run is warned of: early on a sick run, never on a healthy one, and once unless it gets worse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from raypref.metric_info import MetricInfo
from raypref.metrics.health import Finding, HealthWatch, findings, lasting
from raypref.metrics.table import METRICS, MetricTable

RECORDED = Path(__file__).parent / "recorded"
"""Some metrics of the quickstart, and of the same run with an oracle that loves length, eta 200 and 25 times the learning rate."""


def recorded(name: str) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]


def steps(metric: str, values: Iterable[float | None], **others: float) -> list[dict[str, float | None]]:
    """One line for each value, from step 1."""
    return [{"step": step, metric: value, **others} for step, value in enumerate(values, start=1)]


def told(found: Iterable[Finding]) -> list[tuple[str, str, int]]:
    return [(finding.metric, finding.severity, finding.step) for finding in found]


def test_a_healthy_run_gives_no_warning() -> None:
    """Its gradients are clipped at every step, as those of losses that are sums over tokens are: worth a note, once."""
    assert told(findings(recorded("quickstart"), max_grad_norm=1.0)) == [("grad_norm", "note", 20)]
    assert findings(recorded("quickstart")) == []


def test_a_sick_run_is_warned_within_its_first_steps() -> None:
    found = findings(recorded("sick"), max_grad_norm=1.0)
    assert told(found)[:2] == [("oracle/length_bias", "critical", 5), ("kl_previous", "warning", 6)]
    assert found[0].text.startswith("oracle/length_bias is 0.98 (healthy: -0.5 to 0.5, mean of the last 3 values): Spearman correlation")
    assert "length-controlled oracle" in found[0].remedy
    assert "0.54 per token (healthy: at most 0.3)" in found[1].text
    assert {finding.iteration for finding in found} == {1, 2}
    assert told(lasting(recorded("sick")))[0][:2] == ("oracle/length_bias", "critical"), "the worst first"


def test_the_run_and_the_report_find_the_same() -> None:
    """Line by line while the run goes on, and all at once from its file."""
    watch = HealthWatch(max_grad_norm=1.0)
    assert [finding for line in recorded("sick") for finding in watch.observe(line)] == findings(recorded("sick"), max_grad_norm=1.0)


def test_all_responses_cut_off() -> None:
    """Beyond the critical limit three values are enough."""
    (found,) = findings(steps("rollout/truncated", [1.0] * 30))
    assert (found.severity, found.step, found.iteration) == ("critical", 3, 1)
    assert found.text == (
        "rollout/truncated is 100% (healthy: at most 30%, mean of the last 3 values): "
        "Share of responses that were cut off at rollout.max_tokens"
    )
    assert "raise rollout.max_tokens" in found.remedy


def test_a_warning_comes_again_when_it_has_become_worse() -> None:
    """Ties 0.6 are 0.1 beyond the limit of 0.5; 0.66 is no news; at 0.8 the mean of 20 values passes 0.7, twice as far, and 1.0 passes 0.9,
    which is critical."""
    found = findings(steps("oracle/ties", [0.6] * 30 + [0.66] * 40 + [0.8] * 40 + [1.0] * 40))
    assert [(finding.severity, finding.step <= 70) for finding in found] == [("warning", True), ("warning", False), ("critical", False)]
    assert found[0].step == 5


def test_what_has_passed_is_not_lasting() -> None:
    history = steps("oracle/ties", [0.8] * 10 + [0.1] * 20)
    assert told(findings(history)) == [("oracle/ties", "warning", 5)]
    assert lasting(history) == []


def test_chance_alone_gives_no_warning() -> None:
    """Where the policy is the frozen one at every step (a sync at each) the winner's reward is higher by rounding, as often as lower."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        accuracies = rng.binomial(8, 0.5, size=400) / 8
        lines = steps("rewards/accuracies", accuracies.tolist())
        for line, margin in zip(lines, rng.normal(0.0, 1e-7, size=400), strict=True):
            line["rewards/margins"] = float(margin)
        assert findings(lines) == []


def test_margins_that_stay_below_0() -> None:
    rng = np.random.default_rng(0)
    assert told(findings(steps("rewards/margins", rng.normal(-1.0, 0.5, size=40).tolist())))[0][:2] == ("rewards/margins", "warning")


@pytest.mark.parametrize(
    ("metric", "first", "later"),
    [
        ("rollout/response_tokens", 100.0, 210.0),
        ("rollout/response_tokens", 100.0, 40.0),
        ("entropy", 2.0, 0.5),
        ("grad_norm", 3.0, 40.0),
        ("logps/chosen_per_token", -1.0, -3.5),
    ],
)
def test_what_runs_away_from_its_first_values(metric: str, first: float, later: float) -> None:
    """Compared with the median of the first 10; five of the last values are enough."""
    history = steps(metric, [first] * 15 + [later] * 20)
    (found,) = findings(history)
    assert (found.metric, found.severity) == (metric, "warning")
    assert f"times its {first:.3g} at the start of the run" in found.text
    assert findings(steps(metric, [first] * 15 + [1.2 * first] * 20)) == []


def test_entropy_collapse_is_critical() -> None:
    assert told(findings(steps("entropy", [0.004] * 5))) == [("entropy", "critical", 3)]


@pytest.mark.parametrize(("nats", "severity"), [(20.0, None), (40.0, "warning"), (120.0, "critical")])
def test_the_policy_runs_away(nats: float, severity: str | None) -> None:
    """Of 100 tokens: 0.2, 0.4 and 1.2 nats each."""
    found = findings(steps("kl", [nats] * 8, **{"rollout/response_tokens": 100.0}))
    assert [(finding.severity, finding.step) for finding in found] == ([] if severity is None else [(severity, 5)])


def test_win_rates_count_alone() -> None:
    """0.58 is 0.06 below the best, 0.42 0.22 below, and below 0.5 by more than a tenth of the range; 0.3 is critical."""
    found = findings(steps("eval/win_rate_against_base", [0.6, 0.64, 0.6, 0.58, 0.42, 0.3]))
    assert [(finding.severity, finding.step) for finding in found] == [("warning", 4), ("warning", 5), ("warning", 5), ("critical", 6)]
    assert found[0].text == "eval/win_rate_against_base has fallen to 0.580 from 0.640 at its best: the policy gets worse again"


def test_a_policy_that_gets_longer_and_not_better() -> None:
    """From 100 to 120 tokens: worth it where the longer responses win."""
    for won, expected in ((0.6, []), (0.49, [("eval/response_tokens", "warning", 2)])):
        lines = steps("eval/response_tokens", [100.0, 120.0, 125.0], **{"eval/win_rate_against_previous": won})
        assert told(findings(lines)) == expected


def test_a_policy_that_moves_away_without_a_gain() -> None:
    """Since the best win rate KL has grown from 4 to 9 nats; of the policy that iteration 3 ended with."""
    history: list[dict[str, float | None]] = []
    for iteration, (kl, rate) in enumerate(((2.0, 0.6), (4.0, 0.7), (9.0, 0.68)), start=1):
        history += [{"step": 10 * iteration + k, "kl": kl, "rollout/response_tokens": 100.0} for k in range(10)]
        history.append({"step": 10 * iteration + 9, "time/iteration_s": 1.0})
        history.append({"step": 10 * iteration + 9, "eval/win_rate_against_base": rate})
    (found,) = findings(history)
    assert (found.metric, found.severity, found.iteration, found.step) == ("kl", "warning", 3, 39)
    assert found.text == "kl has grown from 4 to 9 nats per response since the best win rate, 0.700, which is 0.680 now"


def test_held_out_loss_above_its_start() -> None:
    found = findings(steps("eval/loss", [0.69, 0.6, 0.71, 0.75]))
    assert told(found) == [("eval/loss", "warning", 4)]


def test_what_is_not_a_number_is_passed_over() -> None:
    assert findings(steps("oracle/ties", [None, float("nan"), float("inf")] * 10)) == []


def test_metrics_of_third_parties_are_judged_by_their_own_range() -> None:
    own = MetricInfo("oracle/mine", "My share.", "share", "mean over groups", (0.0, 0.2), "Ask me.")
    (found,) = findings(steps("oracle/mine", [0.5] * 6), MetricTable([own]))
    assert (found.metric, found.remedy) == ("oracle/mine", "Ask me.")
    assert findings(steps("oracle/nobody_knows", [0.5] * 6)) == []


def test_iterations_are_counted_by_their_end() -> None:
    history: list[dict[str, float | None]] = [{"step": 3, "time/iteration_s": 1.0}, {"step": 6, "time/iteration_s": 1.0}]
    (found,) = findings(history + steps("oracle/ties", [0.9] * 6))
    assert found.iteration == 3


def test_limits_of_the_table_are_consistent() -> None:
    """A critical range is no narrower than the healthy one, and whoever has a limit has a remedy."""
    for entry in METRICS:
        if entry.critical is not None:
            assert entry.healthy is not None, entry.name
            for critical, healthy, sign in zip(entry.critical, entry.healthy, (1, -1), strict=True):
                assert critical is None or healthy is None or sign * (healthy - critical) >= 0, entry.name
        assert entry.drift is None or entry.remedy, entry.name
