"""The shipped recipes: every config passes the check and says what its README says; the quickstart is made of what it claims to be."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import raypref
from benchmarks.gpu_models import model_config
from examples import rlhflow, ultrafeedback
from examples.quickstart import base_policy, grammar, oracle
from examples.spo_alpacafarm import data as alpacafarm
from examples.spo_tinystories import rankings
from examples.srpo_tldr import data as tldr
from raypref.plan.memory import colocated_peak, estimate, kv_bytes_per_token
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if path.name != "rayjob.yaml")
PAPER_SCALE = ("sppo_mistral7b", "sppo_llama3_8b")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_parses_and_passes_the_check(path: Path) -> None:
    config = raypref.load_config(path)
    assert raypref.check(config) == []
    assert config.output_dir.parts[0] == "runs"  # git ignores it, and Ray's upload leaves it out
    assert not config.policy.trust_remote_code


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_every_set_of_overrides_in_a_readme_passes_the_check(path: Path) -> None:
    """A table's cell in code that consists of overrides, with that recipe's config."""
    config = path.parent / "run.yaml"
    cells = [text.split() for text in re.findall(r"`([a-z_.]+\.[a-z_]+=[^`]*)`", path.read_text())] if config.exists() else []
    for overrides in cells:
        assert raypref.check(raypref.load_config(config, overrides)) == [], overrides


def test_every_recipe_has_a_readme() -> None:
    for folder in sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir() and not path.name.startswith(("_", "."))):
        assert (folder / "README.md").exists(), folder


def _differences(left: Any, right: Any, path: str = "") -> set[str]:
    if not isinstance(left, dict) or not isinstance(right, dict):
        return set() if left == right else {path}
    keys = left.keys() | right.keys()
    return set().union(*(_differences(left.get(key), right.get(key), f"{path}.{key}".strip(".")) for key in keys))


@pytest.mark.parametrize("recipe", PAPER_SCALE)
def test_the_authors_preset_differs_from_the_paper_where_the_readme_says(recipe: str) -> None:
    paper, authors = (raypref.load_config(ROOT / "examples" / recipe / name).model_dump() for name in ("run.yaml", "authors.yaml"))
    assert _differences(paper, authors) == {
        "name",
        "output_dir",
        "learner.optimizer.type",
        "learner.optimizer.beta2",
        "learner.schedule.horizon_iterations",
        "rollout.temperature",
        "rollout.top_p",
        "rollout.max_tokens",
        "judging.preference",
        "loss.average_terms",
    }


def test_nothing_is_cut_for_inpo_s_judge() -> None:
    """A prompt of 2,048 tokens, two responses of the greatest length, and the frame around them."""
    config = raypref.load_config(ROOT / "examples" / "inpo_llama3_8b" / "run.yaml")
    judge: Any = config.oracle
    assert judge.max_tokens >= 2048 + 2 * config.rollout.max_tokens + 100


@pytest.mark.parametrize(("recipe", "warmup_steps"), [("spo_tinystories", 5000), ("srpo_tldr", 150)])
def test_warm_up_is_as_many_steps_as_in_the_paper(recipe: str, warmup_steps: int) -> None:
    """SPO appendix D, SRPO appendix C.1.1."""
    assert raypref.load_config(ROOT / "examples" / recipe / "run.yaml").learner.schedule.warmup(10_048) == warmup_steps


def test_iterative_dpo_differs_from_inpo_in_the_loss_alone() -> None:
    inpo, dpo = (raypref.load_config(ROOT / "examples" / name / "run.yaml").model_dump() for name in ("inpo_llama3_8b", "iterative_dpo"))
    assert {path.partition(".")[0] for path in _differences(inpo, dpo)} == {"name", "output_dir", "loss"}


@pytest.mark.parametrize(
    "recipe", [*PAPER_SCALE, "inpo_llama3_8b", "iterative_dpo", "semi_online_dpo", "comal", "spo_alpacafarm", "srpo_tldr"]
)
def test_the_placement_fills_eight_gpus(recipe: str) -> None:
    """A reference takes its share only where the loss needs frozen log-probs."""
    config = raypref.load_config(ROOT / "examples" / recipe / "run.yaml")
    placement = config.placement
    engines = placement.rollout.engines * placement.rollout.tensor_parallel
    roles = (placement.oracle, placement.reference) if config.loss.needs else (placement.oracle,)
    assert placement.learner.ranks + engines + sum(role.replicas * role.gpus for role in roles) == 8


def test_semi_online_dpo_takes_whole_iterations_of_s_steps() -> None:
    """320 prompts give 320 pairs at most: 10 steps of 32. 1,000 steps are 100 syncs, and 32,000 of the 59,000 prompts are used."""
    config = raypref.load_config(ROOT / "examples" / "semi_online_dpo" / "run.yaml")
    assert (config.steps_per_iteration, config.iterations) == (10, 100)
    assert config.learner.schedule.span == "run"
    online = raypref.load_config(ROOT / "examples" / "semi_online_dpo" / "run.yaml", ["loop.sync_interval=1"])
    assert (online.steps_per_iteration, online.iterations) == (1, 1000)


def test_comal_is_inpo_whose_reference_changes_once_in_its_run() -> None:
    """Every 12 of 24 iterations: one refresh, after the 12th; tau is a third of eta."""
    config = raypref.load_config(ROOT / "examples" / "comal" / "run.yaml")
    loss: Any = config.loss
    assert loss.type == "inpo"
    assert loss.weights == {"reference": pytest.approx(1 / 3), "previous": pytest.approx(2 / 3)}
    assert [t for t in range(1, config.iterations) if t % config.reference.every == 0] == [12]


@pytest.mark.parametrize(
    ("name", "shape", "oracle_bytes"),
    [
        ("run.yaml", "0.5b", 4 * 435_000_000),  # DeBERTa-v3-large and two layers, in float32
        ("lora.yaml", "1.5b", 2 * 596_000_000),  # Qwen3-0.6B's layers, in bfloat16
    ],
)
def test_one_gpu_has_room_in_24_gb(name: str, shape: str, oracle_bytes: int) -> None:
    """In every phase, in the memory model. Cards that are sold with 24 GB have 22 GiB or more; each of four processes has a CUDA context
    of half a GiB. The cache has room for the longest responses of some tens of sequences."""
    config = raypref.load_config(ROOT / "examples" / "one_gpu" / name)
    model = ModelShape.of(model_config(shape), config.policy.lora)
    job = Job.of(config, model, oracle_bytes=oracle_bytes)
    phase, needed = colocated_peak(estimate(job))
    assert needed + 4 * 2**29 <= 22 * 2**30, phase
    assert job.kv_cache_bytes >= 24 * (config.policy.max_context_tokens or 0) * kv_bytes_per_token(job)
    assert config.rollout.gpu_memory_utilization * 22 * 2**30 >= job.kv_cache_bytes + 2 * model.parameters


def test_split_keeps_the_portions_apart_and_of_one_length() -> None:
    """Portions of 10, 8 and 9 prompts, one of them repeated in the next: 10, 8 and 8 are distinct. Of each, 6 // 3 = 2 are held out; the
    shortest has 6 left, so iterations get 6 each.
    """
    portions = [[f"a{k}" for k in range(10)], [f"b{k}" for k in range(8)], [f"c{k}" for k in range(8)] + ["a0"]]
    train, held_out = ultrafeedback.split(portions, held_out=6, seed=0)
    assert [{prompt[0] for prompt in train[k : k + 6]} for k in (0, 6, 12)] == [{"a"}, {"b"}, {"c"}]
    assert len(train) == 18
    assert sorted(prompt[0] for prompt in held_out) == ["a", "a", "b", "b", "c", "c"]
    assert not set(train) & set(held_out)


# The quickstart's panel.

FOX = "Describe the fox of the forest one autumn evening.\n"
PLAIN = "The hen helps a duck."
"""0 adjectives, 5 words, 0 mentions."""
VIVID = "The small red hen helps a duck."
"""2 adjectives, 7 words, 0 mentions."""
ON_SUBJECT = "The old fox hides in the forest of the fox."
"""1 adjective, 10 words, 3 mentions: fox twice, forest once."""


def test_panel_by_hand() -> None:
    """Votes, in the order adjectives, brevity, subject: plain against vivid 0:1, 1:0, 0:0, a tie. On-subject against plain 1, 0, 1 to
    0, 1, 0: 2 - 1 = 1. On-subject against vivid 0, 0, 1 to 1, 1, 0: 1 - 2 = -1.
    """
    (matrix,) = oracle.panel([FOX], [[PLAIN, VIVID, ON_SUBJECT]])
    one = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(matrix, [[0.5, 0.5, 1 - one], [0.5, 0.5, one], [one, 1 - one, 0.5]], rtol=1e-12)


def test_panel_is_not_transitive() -> None:
    """(adjectives, words, mentions): a = (2, 9, 1), b = (1, 7, 0), c = (0, 8, 2). a beats b on the first and third, b beats c on the
    first two, c beats a on the last two.
    """
    a = "The small red hen calls a fox near barn."
    b = "The small hen calls a duck there."
    c = "The hen calls a fox near the forest."
    (matrix,) = oracle.panel([FOX], [[a, b, c]])
    assert matrix[0, 1] > 0.5
    assert matrix[1, 2] > 0.5
    assert matrix[2, 0] > 0.5


@given(seed=st.integers(0, 10_000), size=st.integers(2, 6))
def test_panel_gives_preference_matrices(seed: int, size: int) -> None:
    source = random.Random(seed)
    prompt = source.choice(grammar.all_prompts())
    responses = [grammar.answer(prompt, source) for _ in range(size)]
    (matrix,) = oracle.panel([prompt], [responses])
    np.testing.assert_allclose(matrix + matrix.T, 1.0, atol=1e-12)
    order = source.sample(range(size), k=size)
    (permuted,) = oracle.panel([prompt], [[responses[k] for k in order]])
    np.testing.assert_array_equal(permuted, matrix[np.ix_(order, order)])


def test_prompts_are_distinct_and_name_their_subject() -> None:
    prompts = grammar.all_prompts()
    assert len(set(prompts)) == len(prompts) == 16 * 14 * 4 * 4
    assert grammar.subject(FOX) == ("fox", "forest")
    assert FOX in prompts


def test_the_prepared_files_share_no_prompt_and_the_model_is_servable(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    base_policy.prepare(tmp_path)
    records = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("prompts", "held_out", "demonstrations")
    }
    prompts = {name: {record["prompt"] for record in rows} for name, rows in records.items()}
    assert (len(prompts["prompts"]), len(prompts["held_out"]), len(records["demonstrations"])) == (1080, 96, 9600)
    assert not prompts["prompts"] & prompts["held_out"]
    assert not prompts["demonstrations"] & (prompts["prompts"] | prompts["held_out"])

    config = AutoConfig.from_pretrained(tmp_path / "init")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "init")
    assert config.hidden_size // config.num_attention_heads == 32
    assert config.eos_token_id == tokenizer.eos_token_id
    longest = max(len(tokenizer(record["response"]).input_ids) for record in records["demonstrations"])
    assert longest + 1 <= 48  # run.yaml's rollout.max_tokens: the base policy can finish its answers
    sample = records["demonstrations"][0]["response"]
    assert tokenizer.decode(tokenizer(sample).input_ids) == sample


# The data and the oracles of the other recipes.


def test_rlhflow_s_chats_are_written_as_chats_and_compared_as_texts() -> None:
    chat = [{"content": "Hi", "role": "user"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Why?"}]
    same = [dict(reversed(turn.items())) for turn in chat]
    assert rlhflow.as_text(chat) == rlhflow.as_text(same)
    (line,) = rlhflow.records("train", [rlhflow.as_text(chat)])
    assert json.loads(line) == {"id": "train-00000", "prompt": chat}


def test_alpacafarm_s_better_output_is_chosen() -> None:
    row = {"instruction": "Name a bird.", "input": "", "output_1": "Cat", "output_2": "Owl", "preference": 2}
    pair = alpacafarm.pair(row)
    assert (pair["chosen"], pair["rejected"]) == ("Owl", "Cat")
    assert pair["prompt"] == "Name a bird."
    assert alpacafarm.prompt_of(row | {"input": "red"}) == "Name a bird.\n\nred"
    with pytest.raises(ValueError, match="preference 0"):
        alpacafarm.pair(row | {"preference": 0})


def test_tldr_posts_are_taken_apart() -> None:
    """A post may hold blank lines of its own."""
    post = "SUBREDDIT: r/cats\n\nTITLE: My cat\n\nPOST: She sleeps.\n\nAlways.\n\nTL;DR:"
    fields = {"subreddit": "cats", "title": "My cat", "post": "She sleeps.\n\nAlways."}
    assert tldr.pair({"prompt": post, "chosen": "She sleeps.", "rejected": " No "}) == {
        **fields,
        "chosen": " She sleeps.",
        "rejected": " No",
    }
    assert tldr.demonstration({"prompt": post, "completion": " Sleeps."}) == {**fields, "response": " Sleeps."}
    gold = tldr.gold("tldr", fields, " Sleeps. ")
    assert gold["response"] == " Sleeps."
    assert gold["prompt"].endswith("POST: She sleeps.\n\nAlways.\nTL;DR:")
    article = tldr.article_of({"id": 7, "title": "T", "text": "News.", "summary": "S"})
    assert tldr.gold("xsum", article, "S")["id"] == "7"
    with pytest.raises(ValueError, match="expected 'SUBREDDIT"):
        tldr.post_of({"prompt": "Article: none"})


def _answer(*best_first: int) -> str:
    ordinals = ["1st", "2nd", "3rd", "4th"]
    places = "".join(
        f"   {k}. **{ordinal} Place:** Story {story}\n" for k, (ordinal, story) in enumerate(zip(ordinals, best_first, strict=True))
    )
    return f"**Conclusion:**\n- **Overall Ranking of the Stories:**\n{places}"


def test_rankings_that_both_orders_agree_on_are_kept() -> None:
    """The ranking b d a c: stories 2 4 1 3. Reversed they are shown as d c b a: stories 3 1 4 2."""
    story_set = {"id": "s", "prompt": "Once", "responses": ["a", "b", "c", "d"]}
    answers = {"s/forward": _answer(2, 4, 1, 3), "s/backward": _answer(3, 1, 4, 2)}
    assert rankings.rankings([story_set], answers) == [
        {"id": "s", "prompt": "Once", "responses": ["b", "d", "a", "c"], "ranking": [0, 1, 2, 3]}
    ]
    assert rankings.rankings([story_set], answers | {"s/backward": _answer(3, 1, 2, 4)}) == []
    assert rankings.rankings([story_set], {"s/forward": _answer(2, 4, 1, 3)}) == []
    assert rankings.read_ranking(_answer(2, 4, 1, 1), 4) is None


def test_both_questions_show_all_four_stories() -> None:
    forward, backward = rankings.questions({"id": "s", "prompt": "Once", "responses": ["tale a", "tale b", "tale c", "tale d"]})
    assert (forward["id"], backward["id"]) == ("s/forward", "s/backward")
    assert [forward["question"].index(f"tale {k}") for k in "abcd"] == sorted(forward["question"].index(f"tale {k}") for k in "abcd")
    assert backward["question"].index("tale d") < backward["question"].index("tale a")
    assert "{}" not in forward["question"]
    assert rankings.read_ranking(forward["question"], 4) is None  # the answer's form in the prompt is no answer
