"""Weights & Biases and MLflow, through their own clients and without a network; skipped where a client is not installed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from raypref.checks import Task, check
from raypref.config import RunConfig
from raypref.metrics import config as metrics_config
from raypref.metrics.config import MetricsConfig
from raypref.metrics.mlflow_tracker import Mlflow
from raypref.metrics.wandb_tracker import Wandb

WHY = 'pip install "raypref[wandb,mlflow]" installs it'


def run_config(directory: Path, metrics: dict[str, Any]) -> RunConfig:
    sections = {"name": "mine", "output_dir": str(directory), "policy": {"path": "p"}, "loss": "sppo", "metrics": metrics}
    return RunConfig.parse(sections)


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_missing_client_is_refused_before_anything_starts(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_config, "find_spec", lambda name: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    config = run_config(tmp_path, {tracker: True})
    problems = [str(problem) for problem in check(config) if problem.path.startswith("metrics")]
    expected = f'metrics.{tracker}: given, but the package {tracker} is not installed; pip install "raypref[{tracker}]"'
    assert problems == [expected]
    assert [problem for problem in check(config, Task("generate")) if problem.path.startswith("metrics")] == [], "it tracks nothing"
    monkeypatch.setattr(metrics_config, "find_spec", lambda name: object())
    assert [problem for problem in check(config) if problem.path.startswith("metrics")] == []


def test_mlflow_must_be_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own default is a database in the working directory, which the client alone cannot open."""
    monkeypatch.setattr(metrics_config, "find_spec", lambda name: object())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (problem,) = (problem for problem in check(run_config(tmp_path, {"mlflow": True})) if problem.path.startswith("metrics"))
    assert str(problem) == "metrics.mlflow.tracking_uri: required; give the address of a server, or set MLFLOW_TRACKING_URI"


def test_true_means_the_defaults_and_false_none() -> None:
    section = MetricsConfig.parse({"wandb": True, "mlflow": False})
    assert section.wandb is not None
    assert section.wandb.project == "raypref"
    assert section.mlflow is None


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client writes its own files below the run's directory; a resumed run goes on under the same id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("wandb", reason=WHY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = run_config(tmp_path, {"wandb": {"project": "alignment", "tags": ["test"]}})
    assert config.metrics.wandb is not None
    ids = []
    for step in (1, 2):
        tracker = Wandb(config, config.metrics.wandb)
        tracker.write(step, {"loss": 0.5, "kl": float("nan")})
        tracker.close(failed=False)
        ids.append(json.loads((tmp_path / "trackers.json").read_text())["wandb"])
    assert ids[0] == ids[1]
    records = list((tmp_path / "wandb").glob(f"offline-run-*/run-{ids[0]}.wandb"))
    assert records, "what `wandb sync` sends"
    assert b"optimizer_step" in b"".join(path.read_bytes() for path in records)


def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, metrics with their steps, and how the run ended; a resumed run goes on in the same one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow = pytest.importorskip("mlflow", reason=WHY)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        store = f"file://{tmp_path / 'store'}"
        config = run_config(tmp_path, {"mlflow": {"tracking_uri": store, "experiment": "alignment"}})
        assert config.metrics.mlflow is not None
        client = mlflow.MlflowClient(tracking_uri=store)
        for step, failed in ((1, True), (2, False)):
            tracker = Mlflow(config, config.metrics.mlflow)
            tracker.write(step, {"rollout/truncated": 0.25 * step, "kl": float("nan")})
            tracker.close(failed)
            (run,) = client.search_runs([client.get_experiment_by_name("alignment").experiment_id])
            assert run.info.status == ("FAILED" if failed else "FINISHED")
        assert (run.info.run_name, run.data.params["loss.type"], run.data.params["learner.optimizer.type"]) == ("mine", "sppo", "adamw")
        history = client.get_metric_history(run.info.run_id, "rollout/truncated")
        assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.5)]
        assert "kl" not in run.data.metrics
