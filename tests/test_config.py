"""Configs: files, overrides, and what is said about a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from raypref import registry
from raypref.config import RunConfig, load_config
from raypref.errors import ConfigError
from raypref.losses.base import losses
from raypref.losses.dpo import DPO
from raypref.losses.inpo import INPO
from raypref.losses.sppo import SPPO
from raypref.oracles.base import oracles
from raypref.registry import Section
from raypref.sections import LearnerConfig, LoopConfig, LoraConfig, PolicyConfig
from raypref.selection.base import selections
from raypref.selection.best_worst import BestWorst
from raypref.settings import foreign_keys
from raypref.settings.overrides import AXES
from raypref.training.schedule import horizon_steps, learning_rate

GOOD = """
policy: {path: some/model, dtype: float32}
loss: {type: sppo, eta: 10}
selection: {type: best_worst}
"""


def load(tmp_path: Path, text: str = GOOD, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, list(overrides))


def test_dotted_overrides(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "loss.eta=500", "placement.rollout.engines=4", "name=mine")
    assert config.loss.eta == 500  # type: ignore[attr-defined]
    assert config.placement.rollout.engines == 4
    assert config.name == "mine"


def test_resolved_config_reads_back(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert RunConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.truncated=drop", r"rollout\.truncated: is now called judging\.truncated"),
        ("rollout.truncation_penalty=1", r"rollout\.truncation_penalty: is now called judging\.truncation_penalty"),
        ("loss.etta=5", r"loss.etta: unknown key; did you mean 'eta'\?"),
        ("rolout.responses=5", r"rolout: unknown key; did you mean 'rollout'\?"),
        ("placement.rollout.engine=5", r"placement.rollout.engine: unknown key; did you mean 'engines'\?"),
        ("rollout.top_p=1.5", r"rollout.top_p: Input should be less than or equal to 1 \(got 1.5\)"),
        ("policy.attention=flash", r"policy.attention: Input should be 'sdpa', 'eager' or 'flash_attention_2' \(got 'flash'\)"),
        ("rollout.responses=many", "rollout.responses: .*got 'many'"),
        ("loss.type=spo2", "loss.type: no loss is called 'spo2'"),
        ("loss.type=no.such.module:Loss", "loss.type: cannot import 'no.such.module:Loss'"),
        ("loss.type=raypref.types:Prompt", "is not a subclass of raypref.losses.base.Loss"),
        ("loop={prompts_per_iteration: 8, sync_interval: 2}", "set prompts_per_iteration .* or sync_interval"),
        ("learner", "expected section.key=value"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD, override)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD, "seed=x", "rollout.top_p=2", "learner.lr=3")
    assert len(str(error.value).splitlines()) == 3


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"a directory; give a run's YAML file$"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("policy: {path: p}\n")
    with pytest.raises(ConfigError, match=r"; of this run it is .*/config\.yaml$"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="not a readable YAML file"):
        load(tmp_path, "policy: [")
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, "policy:\n  path: p\n  dtype float32\nloss: dpo\n")
    assert str(refused.value) == (
        f"{tmp_path / 'run.yaml'}: not a readable YAML file: line 4, column 1: could not find expected ':' (while scanning a simple key); "
        "correct it there"
    )
    for broken in ("policy: ${nothing.there}\n", "a: b: c\n", "a: [1\nb: 2\n", "\tpolicy: x\n", "\x00"):
        with pytest.raises(ConfigError) as refused:
            load(tmp_path, broken)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="policy: required, but not given"):
        load(tmp_path, "loss: {type: sppo}")


def test_groups_in_flight_fill_the_engines_twice(tmp_path: Path) -> None:
    """256 sequences are 52 groups of 5, twice that for each of 8 engines: 832; groups of one response: 4,096. One engine's 104 are below
    the least. What is asked for is what is done."""
    eight = load(tmp_path, GOOD, "placement.rollout.engines=8")
    assert (eight.groups_in_flight(), eight.groups_in_flight(1)) == (832, 4096)
    assert load(tmp_path).groups_in_flight() == 256
    assert load(tmp_path, GOOD, "placement.rollout.engines=8", "loop.window_groups=7").groups_in_flight() == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lr=3", "learner.lr: unknown key; did you mean 'learner.optimizer.lr'?"),
        ("loop.responses=3", "loop.responses: unknown key; did you mean 'rollout.responses' or 'evaluation.responses'?"),
        ("rollout.timeout=3", "rollout.timeout: unknown key; known keys: "),
        ("loss.lr=3", "loss.lr: unknown key; did you mean 'learner.optimizer.lr'?"),
    ],
)
def test_an_unknown_key_that_stands_elsewhere_is_named_with_its_path(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD, override)
    assert str(error.value).startswith(message)


def test_an_old_key_is_refused_with_its_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RENAMED, "learner.batch", "learner.global_batch")
    with pytest.raises(ConfigError, match=r"^learner\.batch: is now called learner\.global_batch$"):
        load(tmp_path, GOOD, "learner.batch=3")
    with pytest.raises(ConfigError, match=r"^batch: is now called learner\.global_batch$"):
        LearnerConfig(batch=3)  # type: ignore[call-arg]


def test_every_renamed_key_is_gone_and_its_new_name_is_there() -> None:
    extensions = {axis: {key for name in axis.names() for key in axis.resolve(name).model_fields} for axis in (losses, selections, oracles)}
    keys = set(registry.all_keys()) | {f"{axis.axis}.{key}" for axis, own in extensions.items() for key in own}
    for old, new in registry.RENAMED.items():
        assert old not in keys, old
        assert new in keys, new


def test_a_config_built_in_python_is_refused_in_the_same_words(tmp_path: Path) -> None:
    """A file, a mapping and constructors: the same two problems, in the same words."""
    with pytest.raises(ConfigError) as from_file:
        load(tmp_path, "policy: {pth: m}\nloss: {type: sppo}\n")
    with pytest.raises(ConfigError) as from_python:
        RunConfig(policy={"pth": "m"}, loss={"type": "sppo"})  # type: ignore[arg-type]
    assert str(from_python.value) == str(from_file.value)
    assert str(from_file.value).splitlines() == [
        "policy.path: required, but not given",
        "policy.pth: unknown key; did you mean 'path'?",
    ]
    with pytest.raises(ConfigError, match=r"^eta: Input should be greater than 0 \(got -1\)$"):
        SPPO(eta=-1)


ONLINE = GOOD + "loop: {sync_interval: 1, steps: 400}\n"


def test_online_defaults_span_the_run_and_count_in_steps(tmp_path: Path) -> None:
    """Moments and warm-up do not start anew at every step, and neither evaluation nor checkpoint falls on every one."""
    config = load(tmp_path, ONLINE)
    assert config.learner.schedule.span == "run"
    assert (config.evaluation.every, config.evaluation.every_steps, config.checkpoint.every_steps) == (None, 100, 100)
    assert (config.iterations, config.steps_per_iteration) == (400, 1)
    two = load(tmp_path, ONLINE, "loop.sync_interval=10", "learner.epochs=2")
    assert (two.iterations, two.steps_per_iteration) == (20, 20)


def test_online_the_rate_warms_up_once_and_decays(tmp_path: Path) -> None:
    """100 steps, a tenth of them warm-up: the first step has 1/11 of the peak, step 55 half of it, the last 1/90."""
    config = load(tmp_path, GOOD + "loop: {sync_interval: 1, steps: 100}", "learner.optimizer.lr=2e-4")
    schedule = config.learner.schedule
    assert config.steps_per_iteration == 1
    horizon = horizon_steps(1, config.iterations, schedule)
    rates = [learning_rate(step, horizon, config.learner.optimizer.lr, schedule) for step in (0, 9, 10, 55, 99)]
    assert rates == pytest.approx([2e-4 / 11, 2e-4 * 10 / 11, 2e-4, 1e-4, 2e-4 / 90])


def test_what_is_given_wins_over_the_defaults_of_the_mode(tmp_path: Path) -> None:
    given = ("learner.schedule.span=iteration", "evaluation.every=3", "checkpoint.every_steps=7")
    config = load(tmp_path, ONLINE, *given)
    assert config.learner.schedule.span == "iteration"
    assert (config.evaluation.every, config.evaluation.every_steps, config.checkpoint.every_steps) == (3, None, 7)
    assert load(tmp_path, ONLINE, "checkpoint.every_steps=null").checkpoint.every_steps is None
    assert load(tmp_path, ONLINE, "evaluation.every=0").evaluation.every_steps is None
    assert load(tmp_path, ONLINE, "evaluation.every_steps=20").evaluation.every is None


def test_without_a_sync_interval_the_defaults_are_those_of_the_papers(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.learner.schedule.span, config.evaluation.every, config.checkpoint.every_steps) == ("iteration", 1, None)
    assert (config.iterations, config.steps_per_iteration, config.evaluation.every_steps) == (3, None, None)


@pytest.mark.parametrize("text", [GOOD, ONLINE, GOOD + "loop: {sync_interval: 2}", GOOD + "loop: {sync_interval: 2, iterations: 9}"])
def test_the_resolved_config_of_every_mode_reads_back(tmp_path: Path, text: str) -> None:
    config = load(tmp_path, text)
    again = RunConfig.parse(config.model_dump(mode="json"))
    assert again == config
    assert (again.iterations, again.steps_per_iteration) == (config.iterations, config.steps_per_iteration)
    assert RunConfig.parse(again.model_dump(mode="json")) == config


def test_the_defaults_of_the_mode_are_the_same_from_python() -> None:
    """Sections as objects, as mappings, and the class' default objects, which stay as they are."""
    loop = LoopConfig(steps=10, sync_interval=1)
    config = RunConfig(policy=PolicyConfig(path="m"), loss=SPPO(), loop=loop, learner=LearnerConfig())
    assert (config.learner.schedule.span, config.evaluation.every_steps) == ("run", 100)
    assert RunConfig(policy=PolicyConfig(path="m"), loss=SPPO()).learner.schedule.span == "iteration"
    assert LearnerConfig().schedule.span == "iteration"


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ("{steps: 10}", "loop.steps: 10, but without loop.sync_interval the number of steps follows from the prompts; set loop.sync_inter"),
        ("{steps: 10, sync_interval: 1, iterations: 3}", "loop.steps: 10, but loop.iterations=3 is given as well; give one of the two"),
        ("{sync_interval: 1, iterations: null}", "loop.iterations: required, unless loop.steps is given"),
        ("{steps: 0, sync_interval: 1}", "loop.steps: Input should be greater than 0 (got 0)"),
    ],
)
def test_a_run_has_one_length(tmp_path: Path, loop: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD + f"loop: {loop}")
    assert str(error.value).startswith(message)


def test_an_evaluation_interval_has_one_unit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation.every_steps: 50, but evaluation.every=2 is given as well; give one of the two$"):
        load(tmp_path, ONLINE, "evaluation.every=2", "evaluation.every_steps=50")


EVERY_AXIS = """
policy: {path: some/model}
loss: {type: sppo, eta: 1000, against: pair}
selection: {type: best_worst, by: score}
oracle: {type: reward_model, path: some/reward, temperature: 2.0}
"""


def test_a_changed_loss_leaves_the_other_loss_s_keys_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """INPO's eta is the inverse of a step size (0.005), SPPO's is a step size (1000): the file's value is not INPO's."""
    config = load(tmp_path, EVERY_AXIS, "loss.type=inpo")
    assert config.loss == INPO()
    assert config.oracle is not None
    assert config.oracle.temperature == 2.0  # type: ignore[attr-defined]
    assert "loss.type=inpo replaces sppo, so that loss.eta, loss.against of the file are not used" in caplog.text


@pytest.mark.parametrize(
    "overrides", [("loss.type=inpo", "loss.eta=0.01"), ("loss.eta=0.01", "loss=inpo"), ("loss={type: inpo, eta: 0.01}",)]
)
def test_what_the_overrides_give_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: tuple[str, ...]) -> None:
    assert load(tmp_path, EVERY_AXIS, *overrides).loss == INPO(eta=0.01)
    assert "so that loss.against of the file is not used" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "axis", "expected", "told"),
    [
        (["selection.type=ranking"], "selection", {"type": "ranking", "by": "win_rate"}, "selection.by"),
        (["selection=ranking"], "selection", {"type": "ranking", "by": "win_rate"}, "selection.by"),
        (
            ["oracle.type=pairrm", "oracle.device=cpu"],
            "oracle",
            {"type": "pairrm", "path": "llm-blender/PairRM"},
            "oracle.path, oracle.temp",
        ),
        (["oracle.type=self_judge"], "oracle", {"type": "self_judge", "temperature": 0.7}, "oracle.path, oracle.temperature"),
        (["loss.type=spo"], "loss", {"type": "spo", "alpha": 0.001}, "loss.eta, loss.against"),
    ],
)
def test_every_axis_drops_the_keys_of_the_method_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: list[str], axis: str, expected: dict[str, object], told: str
) -> None:
    """Also keys that both have, as ``by``, ``path`` and ``temperature``."""
    section = getattr(load(tmp_path, EVERY_AXIS, *overrides), axis)
    assert {key: getattr(section, key) for key in expected} == expected
    assert f"so that {told}" in caplog.text


def test_an_ensemble_s_member_drops_them_too_and_keeps_its_weight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = "{type: reward_model, path: r, temperature: 2.0, weight: 3}, {type: pairrm, device: cpu, weight: 2}"
    inner = "{type: ensemble, members: [{type: self_judge, temperature: 0.5}]}"
    text = GOOD + f"oracle: {{type: ensemble, members: [{members}, {inner}]}}"
    config = load(tmp_path, text, "oracle.members.0.type=self_judge", "oracle.members[2].members.0.type=pairrm")
    assert config.oracle is not None
    first, second, third = config.oracle.model_dump()["members"]
    assert (first["type"], first["temperature"], first["weight"]) == ("self_judge", 0.7, 3)
    assert (second["device"], second["weight"]) == ("cpu", 2)
    assert third["members"][0]["type"] == "pairrm"
    assert "oracle.members.0.path, oracle.members.0.temperature of the file are not used" in caplog.text
    assert "oracle.members.2.members.0.temperature of the file is not used" in caplog.text


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.type=sppo"],
        ["loss=sppo"],
        ["loss.type=raypref.losses.sppo:SPPO"],
        ["loss.type=inpo", "loss.type=sppo"],
        ["loss.eta=1000"],
        ["learner.optimizer.type=rmsprop", "learner.schedule.type=cosine"],
        ["loss={type: sppo}"],
    ],
)
def test_the_same_method_keeps_its_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: list[str]) -> None:
    """Optimisers and schedules share their keys and their meaning: these stay as well."""
    text = EVERY_AXIS + "learner: {optimizer: {lr: 3e-6, beta2: 0.9}, schedule: {warmup_ratio: 0.3}}"
    config = load(tmp_path, text, *overrides)
    assert isinstance(config.loss, SPPO)
    assert (config.loss.eta, config.loss.against) == (1000, "pair")
    assert (config.learner.optimizer.lr, config.learner.optimizer.beta2, config.learner.schedule.warmup_ratio) == (3e-6, 0.9, 0.3)
    assert caplog.text == ""


def test_short_forms(tmp_path: Path) -> None:
    """A type alone, and adapters switched on; an override keeps what the file says of the adapters."""
    text = "policy: {path: m, lora: true}\nloss: dpo\nselection: best_worst\noracle: {type: ensemble, members: [pairrm, {type: pairrm}]}\n"
    config = load(tmp_path, text)
    assert config.loss == DPO()
    assert config.selection == BestWorst()
    assert config.policy.lora == LoraConfig()
    assert config == RunConfig(**yaml.safe_load(text))
    assert load(tmp_path, text, "loss.beta=0.3").loss == DPO(beta=0.3)
    assert load(tmp_path, text, "policy.lora.rank=4").policy.lora == LoraConfig(rank=4)
    assert load(tmp_path, text, "policy.lora=false").policy.lora is None
    assert load(tmp_path, GOOD, "policy.lora=true").policy.lora == LoraConfig()
    ranked = "policy: {path: m, lora: {rank: 8}}\nloss: dpo\n"
    assert load(tmp_path, ranked, "policy.lora=true").policy.lora == LoraConfig(rank=8)
    assert load(tmp_path, ranked, "policy.lora=true", "policy.lora.alpha=2").policy.lora == LoraConfig(rank=8, alpha=2)


def test_dotted_keys_in_a_file_are_those_of_overrides(tmp_path: Path) -> None:
    text = "policy: {path: m}\nloss: dpo\npolicy.lora: true\nlearner.optimizer.lr: 1e-5\nloss.beta: 0.3\n"
    config = load(tmp_path, text)
    assert (config.policy.lora, config.learner.optimizer.lr, config.loss) == (LoraConfig(), 1e-5, DPO(beta=0.3))
    assert load(tmp_path, text, "learner.optimizer.lr=2e-5").learner.optimizer.lr == 2e-5
    with pytest.raises(ConfigError, match=r"^policy.path: 'n', but policy is given as well: .*; write the key once, inside of policy$"):
        load(tmp_path, text + "policy.path: n\n")
    assert LearnerConfig.parse({"optimizer.lr": 1e-3}).optimizer.lr == 1e-3


def test_values_that_refer_to_others_are_resolved(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "seed: 7\nrollout: {responses: '${seed}'}\nname: run_${loss.type}", "seed=9")
    assert (config.rollout.responses, config.name) == (9, "run_sppo")


@pytest.mark.parametrize(
    "override", ["=5", "loss..eta=4", ".eta=4", "loss", "loss={", "oracle.members.7.type=z", "oracle.members.x.type=z", "seed=${nowhere}"]
)
def test_overrides_that_make_no_sense_are_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD + "oracle: {type: ensemble, members: [{type: pairrm}]}", override)
    assert "override" in str(error.value) or "cannot be resolved" in str(error.value)


@pytest.mark.parametrize(
    ("loss", "key", "message"),
    [
        ("sppo", "beta", "sppo has no beta: its strength is loss.eta = 1/beta, larger is bolder; the paper's eta 1000 is beta 0.001"),
        ("inpo", "beta", "inpo has no beta: loss.eta is the inverse of its step size, smaller is bolder"),
        ("rebel", "beta", "rebel has no beta: its strength is loss.eta = 1/beta, larger is bolder"),
        ("ipo", "beta", "ipo's beta is loss.tau here"),
        ("orpo", "beta", "ORPO's lambda, which TRL calls beta, is loss.weight here"),
        ("spo", "beta", "spo has no beta: its softness is loss.alpha"),
        ("dpo", "eta", "dpo has no eta: its strength is loss.beta"),
        ("dpo", "rpo_alpha", "it has no exact counterpart"),
        ("dpo", "loss_type", "loss.type names the loss"),
        ("sft", "beta", "a loss has its own strength: loss.beta of dpo, "),
        ("kto", "desirable_weight", "loss.lambda_desirable is the weight of desirable responses"),
        ("dpo", "gamma", "did you mean 'loss.gamma'"),
    ],
)
def test_a_loss_says_what_another_loss_s_key_is_called(loss: str, key: str, message: str) -> None:
    """From a mapping as from a file; and by the loss' own constructor, without the section."""
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({"policy": {"path": "m"}, "loss": {"type": loss, key: 0.1}})
    assert str(error.value).startswith(f"loss.{key}: unknown key")
    if message.startswith("did"):
        assert "'loss.gamma' (of simpo, spo)" in str(error.value)
    else:
        assert str(error.value).startswith(f"loss.{key}: unknown key; {message}")
    with pytest.raises(ConfigError) as direct:
        losses.resolve(loss)(**{key: 0.1})
    assert str(direct.value) == str(error.value).removeprefix("loss.")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("per_device_train_batch_size=4", "learner.micro_batch_tokens limits the memory of a forward pass"),
        ("learner.micro_batch_size=8", "learner.micro_batch_tokens limits the memory of a forward pass"),
        ("learner.gradient_accumulation_steps=8", "the number of micro-batches follows; "),
        ("learner.num_train_epochs=3", "loop.iterations says how long the run is, and learner.epochs how often"),
        ("learner.learning_rate=1e-6", "learner.optimizer.lr is the peak learning rate"),
        ("learner.schedule.num_warmup_steps=10", "learner.schedule.warmup_steps is the warm-up in optimiser steps"),
        ("lr_scheduler_type=cosine", "learner.schedule.type is linear, cosine or constant"),
        ("rollout.n=8", "rollout.responses is K, responses per prompt"),
        ("num_generations=8", "rollout.responses is K, responses per prompt"),
        ("policy.max_length=1024", "policy.max_context_tokens limits prompt and response together"),
        ("rollout.max_prompt_length=512", "a prompt may be as long as policy.max_context_tokens - rollout.max_tokens"),
        ("rollout.Max-New-Tokens=512", "rollout.max_tokens is the longest response, in tokens"),
        ("kl_coef=0.1", "no reward is reduced by a KL here"),
        ("beta=0.1", "a loss has its own strength: loss.beta of dpo, loss.eta of sppo, inpo and rebel, loss.tau of ipo"),
        ("evaluation.eval_steps=50", "evaluation.every counts iterations, and evaluation.every_steps optimiser steps"),
        ("trainer.n_gpus_per_node=8", "training is the section learner, and its length the section loop"),
        ("eta=3", "did you mean 'loss.eta' (of inpo, rebel, rpo, sppo)?"),
        ("warmup_ratio=0.2", "did you mean 'learner.schedule.warmup_ratio'?"),
        ("warmup_ratios=0.2", "did you mean 'learner.schedule.warmup_ratio'?"),
        ("Seed=2", "did you mean 'seed'?"),
        ("lora.rank=2", "did you mean 'policy.lora'?"),
    ],
)
def test_a_key_of_another_tool_is_explained(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD, override)
    _, _, said = str(error.value).partition(": unknown key; ")
    assert said.startswith(message)


def test_what_is_said_about_other_tools_keys_names_keys_that_exist() -> None:
    """And no key that exists is in the table, since a hint at its place says more."""
    extensions = {f"{name}.{key}" for name, axis in AXES.items() for method in axis.names() for key in axis.resolve(method).model_fields}
    known = set(registry.all_keys()) | extensions
    sentences = [*foreign_keys.FOREIGN.values(), *foreign_keys.OF_METHOD.values()]
    named = {place for sentence in sentences for place in re.findall(r"\b(?:[a-z]+\.)+[a-z_0-9]+\b", sentence)}
    assert named - known - {"data.train_batch_size", "metrics.jsonl"} == set()
    assert len(named) > 50
    assert not set(foreign_keys.FOREIGN) & {place.rpartition(".")[2] for place in registry.all_keys()}
    for (method, key), sentence in foreign_keys.OF_METHOD.items():
        fields = losses.resolve(method).model_fields
        assert key not in fields
        for place in re.findall(r"\bloss\.([a-z_]+)", sentence):
            assert place in fields, (method, sentence)


WRONG: list[dict[str, object]] = [
    {"policy": {"pth": "m"}},
    {"loss": {"type": "sppo", "beta": 0.1}},
    {"loss": {"type": "sppo", "eta": -1}},
    {"loss": {"type": "nope"}},
    {"loss": {"eta": 3}},
    {"loss": {"type": "sppo", "against": "pair", "baseline": "estimate"}},
    {"oracle": {"type": "ensemble", "members": [{"type": "pairrm"}, {"type": "judge"}]}},
    {"loop": {"sync_interval": 1, "prompts_per_iteration": 3}},
    {"learner": {"lr": 1e-5, "optimizer": {"lr": "fast"}}},
    {"learner": 3, "rollout": ["x"]},
    {"policy": "some/model"},
    {"data": {"template": "{answer}"}},
    {"rollout": {"top_p": 2.0}, "num_generations": 3},
    {"policy": {"path": "m"}, "policy.path": "n"},
]


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_every_way_into_a_config_says_the_same(tmp_path: Path, values: dict[str, object]) -> None:
    """A file, a mapping, keyword arguments and pydantic's own entrance: the same lines."""
    whole = {"policy": {"path": "m"}, "loss": {"type": "sppo"}} | values
    texts = []
    for enter in (
        lambda: load(tmp_path, yaml.safe_dump(whole)),
        lambda: RunConfig.parse(whole),
        lambda: RunConfig(**whole),
        lambda: RunConfig.model_validate(whole),
    ):
        with pytest.raises(ConfigError) as error:
            enter()
        texts.append(str(error.value))
    assert len(set(texts)) == 1, texts
    assert "pydantic" not in texts[0]


def test_sections_that_are_no_mappings() -> None:
    with pytest.raises(
        ConfigError, match=r"^rollout: expected a section \(a mapping with the keys responses, temperature, top_p, \.\.\.\), got"
    ):
        RunConfig.parse({"policy": {"path": "m"}, "loss": "sppo", "rollout": 3})
    with pytest.raises(ConfigError, match=r"^the config: expected a section \(a mapping with the keys name, output_dir, seed, "):
        RunConfig.parse([])  # type: ignore[arg-type]


def test_the_home_directory_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` in a file or an override is the home directory; otherwise a folder of that name is made in the current one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "output_dir: ~/run\npolicy: {path: ~/model, tokenizer: ~/words}\nloss: {type: dpo}\njudging: {cache: ~/cache}\n"
    (tmp_path / "run.yaml").write_text(text + "oracle: {type: pairrm, path: ~/ranker, base: ~/base}\n")
    config = load_config("~/run.yaml", ["data.path=~/p.jsonl"]).located()
    oracle = config.oracle
    assert oracle is not None
    paths = [config.output_dir, config.policy.path, config.policy.tokenizer, config.judging.cache, config.data.path]
    assert [str(path) for path in (*paths, *(getattr(oracle, name) for name in oracle.directories))] == [
        str(tmp_path / name) for name in ("run", "model", "words", "cache", "p.jsonl", "ranker", "base")
    ]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_library_takes_are_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"seed: .*(greater than or equal to 0|less than 9223372036854775808)"):
        RunConfig.parse({"policy": {"path": "p"}, "loss": {"type": "dpo"}, "seed": seed})


def test_numbers_that_are_too_long_and_paths_from_python(tmp_path: Path) -> None:
    """5,000 digits are no YAML number that Python reads; a ``Path`` is a path."""
    with pytest.raises(ConfigError, match=r"^override 'seed=9+': the value is not YAML: Exceeds the limit"):
        load(tmp_path, GOOD, "seed=" + "9" * 5000)
    with pytest.raises(ConfigError, match=r"run\.yaml: not a readable YAML file: Exceeds the limit"):
        load(tmp_path, GOOD + "seed: " + "9" * 5000)
    assert RunConfig.parse({"policy": {"path": Path("some/model")}, "loss": {"type": "dpo"}}).policy.path == "some/model"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (DPO, {"beta": True}),
        (LoopConfig, {"iterations": True, "prompts_per_iteration": 1}),
        (LoopConfig, {"steps": False}),
        (LoraConfig, {"rank": True}),
        (LearnerConfig, {"global_batch": True}),
    ],
)
def test_a_truth_value_is_no_number(section: type[Section], values: dict[str, object]) -> None:
    """pydantic reads true as 1: ``steps: yes`` would run one step."""
    with pytest.raises(ConfigError, match=rf"{next(iter(values))}: .*true and false are no numbers; give a number \(got (True|False)\)"):
        section.parse(dict(values))


def test_a_schedule_over_several_passes_is_one_schedule() -> None:
    given = {"policy": {"path": "p"}, "loss": {"type": "dpo"}, "data": {"type": "preferences", "path": "d"}}
    assert RunConfig.parse(given).learner.schedule.span == "iteration"
    assert RunConfig.parse(given | {"data": given["data"] | {"passes": 4}}).learner.schedule.span == "run"
