"""The pages of docs/papers in small: each of their commands runs on the model of stories, ends, and writes what the page says; needs
RAYPREF_TEST_DATA.

A page's commands build on each other: a test runs those down to the end of its section, which earlier tests have mostly done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.paper_commands import ROOT, SmallPage, answer, make_models, read, write_data
from tests.oracles.http_server import serving

DATA = os.environ.get("RAYPREF_TEST_DATA")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),  # transformers, on import of DeBERTa
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]

Pages = Callable[[str], SmallPage]
SETS, STORIES, HELD_OUT = 200, 4, 32


@pytest.fixture(scope="module")
def pages(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A page's commands by the page's name, in one directory with small models and data and a chat endpoint that judges."""
    assert DATA is not None
    stories, directory = Path(DATA) / "tinystories_260k", tmp_path_factory.mktemp("papers")
    models, known = make_models(stories, tmp_path_factory.mktemp("models")), dict[str, SmallPage]()
    with serving(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        (directory / "examples").symlink_to(ROOT / "examples")  # commands name its files from the repository's root
        write_data(stories)
        yield lambda name: known.setdefault(name, SmallPage(ROOT / "docs" / "papers" / f"{name}.md", models, server.url))


def summary(run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path("runs") / run / "summary.json").read_text())
    return content


def result(file: str) -> Any:
    return json.loads(Path(file).read_text())


def chosen_among(sweep: str) -> set[str]:
    return {candidate["name"] for candidate in result(f"runs/{sweep}/best.json")["candidates"]}


def is_picture(file: str) -> bool:
    return Path(file).read_text().lstrip().startswith(("<svg", "<?xml"))


# --------------------------------------------------------------------------------------------------------------- SPPO


def test_sppo_has_three_iterates_of_each_method_and_chooses_among_settings(pages: Pages) -> None:
    pages("sppo").through("The policies")
    for run in ("sppo_mistral7b", "sppo_llama3_8b", "dpo_mistral7b", "ipo_mistral7b", "sppo_k2"):
        assert [entry["iteration"] for entry in summary(run)["evaluations"]] == [1, 2, 3], run
        assert len(list((Path("runs") / run / "policies").iterdir())) == 3, run
    assert chosen_among("sweep_eta") == {"eta=100@1", "eta=2000@1"}
    assert chosen_among("sweep_dpo") == {"beta=0.001@1", "beta=0.1@1"}
    assert chosen_among("sweep_ipo") == {"tau=0.0005@1", "tau=0.05@1"}


def test_sppo_is_compared_with_its_base_as_it_is_and_by_the_best_of_sixteen(pages: Pages) -> None:
    """Of each iteration, too, as the page says: its commands with @1 and @2 in place of @3."""
    page = pages("sppo")
    page.through("Tables 2 and 3")
    commands = page.section("Tables 2 and 3")
    (best,) = [words for words in commands if "answers/sppo3_best16.jsonl" in words and "generate" in words]
    for iteration in (1, 2):
        page.once([word.replace("@3", f"@{iteration}").replace("sppo3", f"sppo{iteration}") for word in best])
    names = [*(f"sppo{iteration}_best16" for iteration in (1, 2, 3)), "base_best16"]
    for name in names:
        chosen, among = read(f"answers/{name}.jsonl"), read(f"answers/{name}.all.jsonl")
        assert [len(record["responses"]) for record in among] == [16] * 12
        assert [len(record["responses"]) for record in chosen] == [1] * 12
        assert all(one["responses"][0] in all_of["responses"] for one, all_of in zip(chosen, among, strict=True))
    exported = result("alpaca/sppo3.json")
    assert [(row.keys(), row["generator"]) for row in exported] == [({"instruction", "output", "generator"}, "SPPO-Iter3")] * 12

    (controlled,) = [words for words in commands if "length-controlled" in words]
    sets = [word for name in names[:2] for word in ("--responses", f"answers/{name}.jsonl")]
    page.once([*controlled[:4], *sets, *controlled[4:-1], "out/lc_each"])
    assert result("out/lc/length_controlled.json").keys() == {"sppo3", "sppo3_best16"}
    rates = result("out/lc_each/length_controlled.json")
    assert rates.keys() == {"sppo3", "sppo1_best16", "sppo2_best16", "sppo3_best16"}
    assert all(0 < rate["low"] <= rate["high"] < 1 and 0 < rate["win_rate"] < 1 for rate in rates.values()), rates
    assert {(rate["prompts"], rate["difficulties"], rate["sets"]) for rate in rates.values()} == {(12, "estimated", 4)}


def test_sppo_s_answers_to_arena_hard_keep_the_questions_ids(pages: Pages) -> None:
    pages("sppo").through("Figure 2")
    rows = read("arena_hard/model_answer/sppo3.jsonl")
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in read("arena_hard/question.jsonl")]
    assert {row["model_id"] for row in rows} == {"sppo3"}


def test_sppo_s_figure_3_has_everyone_against_everyone(pages: Pages) -> None:
    pages("sppo").through("Figure 3")
    matrix = result("out/figure3/matrix.json")
    assert matrix["names"] == ["base", "SPPO1", "SPPO2", "SPPO3", "DPO3", "IPO3"]
    rates = np.array(matrix["win_rates"])
    np.testing.assert_allclose(rates + rates.T, 1.0)
    assert not np.allclose(rates, 0.5), "the iterates answer alike"
    assert matrix["prompts"] == 6
    assert is_picture("out/figure3/matrix.svg")


# ---------------------------------------------------------------------------------------------------------------- SPO


@pytest.fixture(scope="module")
def rankings(pages: Pages) -> list[dict[str, Any]]:
    """The rankings of the stories that the policy told from nothing, made by the commands of the recipe's README."""
    page = pages("spo")
    readme = ROOT / "examples" / "spo_tinystories" / "README.md"
    counts = {"25000": str(SETS), "1000": str(HELD_OUT)}
    recipe = SmallPage(readme, page.models, page.judge, counts)
    for words in recipe.section("What it needs under"):
        recipe.once(words)
    return read("runs/spo_tinystories_data/rankings.jsonl")


def test_tinystories_from_nothing_are_ranked_twice_and_kept_where_both_agree(rankings: list[dict[str, Any]]) -> None:
    """The annotator's order depends on the texts alone, so that it agrees with itself unless two stories of a set are the same."""
    told = read("runs/spo_tinystories_data/stories.jsonl")
    assert [(record["prompt"], len(record["responses"])) for record in told] == [("", STORIES)] * SETS
    assert len(read("runs/spo_tinystories_data/answers.jsonl")) == 2 * SETS
    different = [record["id"] for record in told if len({story.strip() for story in record["responses"]}) == STORIES]
    assert [record["id"] for record in rankings] == different
    assert len(different) > SETS * 0.9
    for record in rankings:
        marks = [sum(story.count(mark) for mark in '!?"') for story in record["responses"]]
        assert marks == sorted(marks, reverse=True)


def test_tinystories_at_every_pass_against_best_response_sft_with_the_peak(pages: Pages, rankings: list[dict[str, Any]]) -> None:
    """The first two rows of SPO's Table 2: trained on the rankings, judged by the endpoint after each pass."""
    page = pages("spo")
    commands = page.section("Tables 2 and 3")
    for words in commands[:2]:
        page.once(words)
    steps = -(-len(rankings) // 16)
    evaluations = summary("spo_tinystories")["evaluations"]
    assert [(entry["iteration"], entry["step"]) for entry in evaluations] == [(1, steps), (2, 2 * steps)]
    peak = summary("spo_tinystories")["peaks"]["sft"]
    assert peak["win_rate"] == max(entry["sft"]["win_rate"] for entry in evaluations)
    assert peak["of_evaluations"] == 2
    for iteration in (1, 2):
        assert (Path("runs/spo_tinystories/policies") / f"iteration_{iteration:04}" / "config.json").exists()
        assert len(read(f"runs/spo_tinystories/evaluation/iteration_{iteration:04}.jsonl")) == HELD_OUT


def test_tinystories_has_the_other_rows_of_its_tables(pages: Pages, rankings: list[dict[str, Any]]) -> None:
    page = pages("spo")
    for words in page.section("Tables 2 and 3"):
        page.once(words)
    for run in ("ts_dpo", "ts_s_dpo", "ts_best", "ts_best_basic", "ts_s_dpo_best"):
        assert summary(run)["peaks"]["sft"]["of_evaluations"] == 2, run


def test_alpacafarm_has_every_method_of_its_tables_at_every_pass(pages: Pages) -> None:
    page = pages("spo")
    page.through("Table 4")
    methods = ("basic", "dpo", "ipo", "cpo", "kto", "simpo", "rdpo", "log_prob", "tokenwise", "importance", "global")
    for run in ("spo_alpacafarm", *(f"af_{method}" for method in methods)):
        assert summary(run)["peaks"]["base"]["of_evaluations"] == 2, run
    assert chosen_among("af_alpha") == {f"alpha={alpha}@{iteration}" for alpha in (0.001, 0.1) for iteration in (1, 2)}, "after each pass"
    assert [row["generator"] for row in result("alpaca/spo1.json")] == ["SPO"] * 12
    assert result("out/table1/length_controlled.json").keys() == {"pass1"}


# --------------------------------------------------------------------------------------------------------------- INPO


def test_inpo_has_its_three_oracles_and_their_baselines(pages: Pages) -> None:
    pages("inpo").through("Table 1")
    for run in ("inpo_llama3_8b", "inpo_rm", "dpo_rm", "iterative_dpo", "inpo_llama3_8b_sppo"):
        assert [entry["iteration"] for entry in summary(run)["evaluations"]] == [1, 2, 3], run
    assert [row["generator"] for row in result("alpaca/inpo3.json")] == ["INPO"] * 12
    assert [row["model_id"] for row in read("arena_hard/model_answer/inpo3.jsonl")] == ["inpo3"] * 4


def test_inpo_chooses_eta_and_is_compared_with_itself_without_the_kl_term(pages: Pages) -> None:
    pages("inpo").through("Table 3")
    assert chosen_among("inpo_eta") == {"eta=0.1@1", "eta=0.002@1"}
    matrix = result("out/table3/matrix.json")
    assert (matrix["names"], matrix["prompts"]) == (["INPO", "no_KL", "SFT"], 6)


def test_inpo_starts_from_the_instruct_model(pages: Pages) -> None:
    pages("inpo").through("Table 4")
    assert all(summary(run)["iterations"] == 3 for run in ("inpo_instruct", "sppo_instruct", "dpo_instruct"))


# --------------------------------------------------------------------------------------------------------------- SRPO


def test_srpo_s_figure_2_is_drawn(pages: Pages) -> None:
    pages("srpo").through("Figure 2")
    assert is_picture("figure2.svg")


@pytest.mark.parametrize(
    ("section", "out", "methods", "opponent", "prompts"),
    [
        ("Figures 1 and 3", "figure3_tldr", ["SRPO", "IPO", "DPO"], "GOLD", 6),
        ("Figures 1 and 3", "figure3_xsum", ["SRPO", "IPO", "DPO"], "GOLD", 6),
        ("Figure 4", "figure4", ["alpha 0.25", "alpha 1"], "GOLD", 6),
        ("Appendix D", "figure5", ["SRPO", "DPO"], "Instruct", 4),
    ],
)
def test_srpo_s_curves_are_scores_after_zero_to_five_revisions(
    pages: Pages, section: str, out: str, methods: list[str], opponent: str, prompts: int
) -> None:
    pages("srpo").through(section)
    points = result(f"out/{out}/revisions.json")
    assert [(point["name"], point["revisions"], point["reference"]) for point in points] == [
        (name, number, opponent) for name in methods for number in range(6)
    ]
    assert {point["wins"] + point["draws"] + point["losses"] + point["unanswered"] for point in points} == {prompts}
    assert is_picture(f"out/{out}/revisions.svg")


def test_srpo_reports_the_rate_against_human_summaries_while_it_trains(pages: Pages) -> None:
    pages("srpo").through("Figures 1 and 3")
    for run in ("srpo_tldr", "tldr_ipo", "tldr_dpo"):
        assert [entry["gold"]["win_rate"] is not None for entry in summary(run)["evaluations"]] == [True, True], run


def test_srpo_s_table_1_is_head_to_head(pages: Pages) -> None:
    pages("srpo").through("Table 1")
    for revisions in (0, 1):
        (rate,) = result(f"out/table1_{revisions}/references.json")
        assert rate["reference"] == "DPO"
        assert rate["wins"] + rate["draws"] + rate["losses"] + rate["unanswered"] == 4
