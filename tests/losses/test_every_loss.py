"""What every registered loss promises, in each of its forms: finite values, exact gradients, padding without effect, additive shards."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from raypref import losses as package
from raypref.errors import ConfigError
from raypref.losses.base import Loss, losses
from raypref.metrics.table import MetricTable
from tests.losses.bed import bed, columns, gradient, in_float32, numeric_gradient, padded, rows, with_statistics

COMBINATIONS: list[dict[str, Any]] = [
    {"type": "dpo", "reference": "previous", "labels": "soft", "label_smoothing": 0.1},
    {"type": "inpo", "labels": "win_rate", "eta": 0.5, "tau": 0.0},
    {"type": "ipo", "reference": "previous", "labels": "soft"},
    {"type": "kto", "desirable": "win_rate", "lambda_undesirable": 2.0},
    {"type": "rebel", "rewards": "win_rate", "eta": 1000.0},
    {"type": "rpo", "average_logps": True, "labels": "soft"},
    {"type": "spo", "gamma": 0.0},
    {"type": "spo", "labels": "soft", "regulariser": "tokenwise"},
    {"type": "spo", "alpha": 0.0, "regulariser": "log_prob"},
    {"type": "spo", "form": "best_of_n", "alpha": 0.0, "regulariser": "importance"},
    {"type": "spo", "form": "ranking", "decay": 0.5},
    {"type": "spo", "form": "ranking", "alpha": 0.0, "regulariser": "tokenwise"},
    {"type": "sppo", "against": "pair", "labels": "hard"},
    {"type": "sppo", "average_terms": True, "baseline": "estimate"},
    {"type": "srpo", "average_logps": True, "beta": 1.3},
]
"""Settings that change several things at once. A new loss is tested without an entry here."""


def _forms(name: str) -> list[dict[str, Any]]:
    """A registered loss with its defaults, and with each other value of each setting that has named values, where it takes it alone."""
    defaults = losses.build({"type": name})
    forms: list[dict[str, Any]] = [{"type": name}]
    for key, field in losses.resolve(name).model_fields.items():
        values = (
            (False, True) if field.annotation is bool else get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        )
        for value in values:
            if value != getattr(defaults, key) and _is_valid({"type": name, key: value}):
                forms.append({"type": name, key: value})
    return forms


def _is_valid(settings: dict[str, Any]) -> bool:
    try:
        losses.build(settings)
    except ConfigError:
        return False
    return True


def _named(settings: dict[str, Any]) -> str:
    return "-".join([settings["type"], *(f"{key}={value}" for key, value in settings.items() if key != "type")])


SETTINGS = [form for name in losses.names() for form in _forms(name)] + COMBINATIONS
every_loss = pytest.mark.parametrize("loss", [losses.build(form) for form in SETTINGS], ids=[_named(form) for form in SETTINGS])
any_regime = pytest.mark.parametrize("regime", ["near", "extreme"])


@any_regime
@every_loss
def test_one_finite_value_and_gradient_for_each_example(loss: Loss, regime: str) -> None:
    batch = bed(loss, regime=regime)
    value = loss(batch)
    assert value.loss.shape == (6,)
    assert value.loss.isfinite().all()
    assert gradient(loss, batch).isfinite().all()
    assert gradient(loss, batch).abs().sum() > 0
    for name, metric in value.metrics.items():
        assert metric.shape == (6,), name
        assert metric.isfinite().all(), name
    MetricTable(loss.extra_metrics()).check(value.metrics)


@every_loss
def test_gradient_against_finite_differences(loss: Loss) -> None:
    """SPO's weight mu passes no gradient, which finite differences cannot see: they are taken with gamma = 0."""
    still = loss.model_copy(update={"gamma": 0.0}) if loss.type == "spo" else loss
    batch = bed(still)
    torch.testing.assert_close(gradient(still, batch), numeric_gradient(still, batch), rtol=1e-5, atol=1e-6)


@any_regime
@every_loss
def test_single_precision_agrees_with_double(loss: Loss, regime: str) -> None:
    """To 2^-10 of a nat's effect: log-probs near 5,000 are 2^-11 apart in float32."""
    batch = bed(loss, regime=regime)
    single = in_float32(batch)
    assert loss(single).loss.dtype == torch.float32
    torch.testing.assert_close(loss(single).loss.double(), loss(batch).loss, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gradient(loss, single).double(), gradient(loss, batch), rtol=1e-3, atol=1e-4)


@any_regime
@every_loss
def test_columns_without_a_sequence_change_nothing(loss: Loss, regime: str) -> None:
    batch = bed(loss, regime=regime)
    wider = with_statistics(loss, padded(batch, 2))
    found, expected = loss(wider), loss(batch)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.metrics, expected.metrics)
    torch.testing.assert_close(wider.statistics, batch.statistics)
    width = batch.logps.shape[1]
    torch.testing.assert_close(gradient(loss, wider)[:, :width], gradient(loss, batch))
    assert (gradient(loss, wider)[:, width:] == 0).all()
    assert (gradient(loss, batch)[~batch.mask] == 0).all()


@every_loss
def test_permuting_the_examples_permutes_the_values(loss: Loss) -> None:
    batch, order = bed(loss), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(loss(rows(batch, order)).loss, loss(batch).loss[order])


@every_loss
def test_shards_average_to_the_whole(loss: Loss) -> None:
    """Statistics are means over the whole batch, made of the shards' sums; each shard is as wide as it needs."""
    batch = bed(loss)
    shards = [[0, 1], [2, 3, 4, 5]]
    if loss.has_statistics:
        parts = [loss.statistics(rows(batch, shard)) for shard in shards]
        for name, mean in batch.statistics.items():
            torch.testing.assert_close(torch.cat([part[name] for part in parts]).mean(), mean)
    values = torch.cat([loss(rows(batch, shard)).loss for shard in shards])
    torch.testing.assert_close(values.mean(), loss(batch).loss.mean())


@every_loss
def test_no_gradient_leaves_the_policy(loss: Loss) -> None:
    """Neither pi_ref nor pi_t nor the statistics are trained, even where they could be; metrics carry no gradient."""
    batch = bed(loss)
    frozen = {name: value.requires_grad_() for name, value in columns(batch).items() if name in ("reference_logps", "previous_logps")}
    statistics = {name: value.requires_grad_() for name, value in batch.statistics.items()}
    value = loss(replace(batch, logps=batch.logps.requires_grad_(), statistics=statistics))
    value.loss.sum().backward()
    assert batch.logps.grad is not None
    assert all(leaf.grad is None for leaf in [*frozen.values(), *statistics.values()])
    assert not any(metric.requires_grad for metric in value.metrics.values())


@every_loss
def test_the_loss_asks_for_what_it_reads(loss: Loss) -> None:
    """The bed holds only what the loss declares, so the other tests show that it reads nothing else. It is rebuilt from its own config."""
    batch = bed(loss)
    assert (batch.reference_logps is not None) == ("reference" in loss.needs)
    assert (batch.previous_logps is not None) == ("previous" in loss.needs)
    assert bool(batch.statistics) == loss.has_statistics
    assert losses.build(loss.model_dump()) == loss


def test_every_file_registers_a_loss_and_none_needs_torch_to_be_configured() -> None:
    """In a new process, so that nothing is imported beforehand."""
    code = "import sys\nfrom raypref.losses.base import losses\nprint(*[losses.build({'type': name}).type for name in losses.names()])\n"
    printed = subprocess.run([sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True, check=True)
    names, loaded = printed.stdout.splitlines()
    assert names.split() == losses.names()
    assert loaded == "False"
    files = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg}
    assert {losses.resolve(name).__module__.rpartition(".")[2] for name in losses.names()} == files - {"base"}
