"""Runs the commands of docs/papers and of the recipes in small: what they name is replaced by something tiny, everything else is theirs.

In place of a model, a reward model or an oracle that a page or a recipe names there is one of the tests; in place of a benchmark's
questions or a recipe's data there are a few records in the same layout; and a recipe's config gets the overrides of ``SMALL`` and ``OWN``
in front of those of the command. Every command runs in this process, on the Ray cluster that is there; the runs of ``raypref sweep`` join
that cluster.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from examples.spo_alpacafarm import data as alpacafarm
from examples.srpo_tldr import data as tldr
from examples.srpo_ultrafeedback import data as ultrafeedback
from raypref.cli.app import app, resume_with_value
from tests.oracles import pairrm_checkpoint, pairwise_checkpoint
from tests.oracles.http_server import Request, Response, completion
from tests.test_docs import blocks_of, commands_of

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
POLICIES = (
    "mistralai/Mistral-7B-Instruct-v0.2",
    "snorkelai/Snorkel-Mistral-PairRM-DPO",
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "RLHFlow/LLaMA3-SFT",
    "meta-llama/Llama-2-7b-hf",
    "huggyllama/llama-7b",
    "runs/spo_tinystories_data/stories110M",
)
PAIRRM, PAIRWISE, REWARD = "llm-blender/PairRM", "RLHFlow/pair-preference-model-LLaMA3-8B", "sfairXC/FsfairX-LLaMA3-RM-v0.1"
SMALL = (
    "policy.dtype=float32",
    "policy.max_context_tokens=512",
    "rollout.max_tokens=12",
    "rollout.max_num_seqs=32",
    "rollout.kv_cache_gib=0.1",
    "learner.global_batch=2",
    "learner.micro_batch_tokens=2048",
    "learner.optimizer.lr=1e-3",
    "placement.device=cpu",
    "placement.learner.ranks=1",
    "placement.rollout.engines=1",
    *(f"placement.{role}.cpus=1" for role in ("learner", "rollout", "reference", "oracle")),
    "evaluation.bootstrap_resamples=200",
)
"""What every recipe's config gets: a policy of 260K parameters takes larger steps, and a machine without GPUs holds one of each actor."""
ONLINE = ("data.held_out_prompts=6", "learner.schedule.warmup_ratio=0")
OWN: dict[str, tuple[str, ...]] = {
    "sppo_mistral7b/run.yaml": ONLINE,
    "sppo_llama3_8b/run.yaml": ONLINE,
    "inpo_llama3_8b/run.yaml": ONLINE,
    "inpo_llama3_8b/sppo.yaml": ONLINE,
    "iterative_dpo/run.yaml": ONLINE,
    "spo_alpacafarm/run.yaml": ("data.passes=2", "loop.iterations=2", "regulariser.samples=4", "regulariser.max_tokens=12"),
    "spo_tinystories/run.yaml": (
        "data.passes=2",
        "loop.iterations=2",
        "rollout.max_tokens=48",
        "learner.global_batch=16",
        "learner.optimizer.lr=1e-3",
        "learner.schedule.warmup_steps=2",
        "regulariser.samples=4",
        "regulariser.max_tokens=24",
        "evaluation.every=1",
        "checkpoint.policies=2",
    ),
    "srpo_tldr/run.yaml": (
        "data.passes=2",
        "loop.iterations=2",
        "data.held_out_prompts=6",
        "evaluation.revisions=2",
        "learner.schedule.warmup_steps=1",
    ),
    "srpo_ultrafeedback/sft.yaml": ("learner.schedule.warmup_steps=1",),
    "srpo_ultrafeedback/run.yaml": ("evaluation.revisions=1", "learner.schedule.warmup_steps=1"),
}
"""``recipe/config`` -> what it gets besides: fewer prompts and passes."""
SHORTER = {
    "loss.eta=100,500,1000,2000": "loss.eta=100,2000",
    "learner.optimizer.lr=5e-7,1e-6": "learner.optimizer.lr=1e-6",
    "loss.beta=0.001,0.01,0.1": "loss.beta=0.001,0.1",
    "loss.tau=0.0005,0.005,0.05": "loss.tau=0.0005,0.05",
    "loss.eta=0.1,0.01,0.0075,0.005,0.002": "loss.eta=0.1,0.002",
    "loss.alpha=0,0.25,0.5,0.75,1": "loss.alpha=0.25,1",
    "loss.alpha=0.001,0.01,0.1": "loss.alpha=0.001,0.1",
}
"""Grids of the pages -> two runs each."""


def sections_of(page: Path) -> dict[str, list[list[str]]]:
    """Heading -> the commands below it, as words."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[list[str]]] = {}
    for block in blocks_of(page):
        if block.language == "bash":
            heading = next((line for line in reversed(lines[: block.line]) if line.startswith("## ")), "## ").removeprefix("## ")
            found.setdefault(heading, []).extend(commands_of(block.text))
    return found


@dataclass
class SmallPage:
    """The commands of one page, in the current directory."""

    page: Path
    models: Mapping[str, Path]
    """What the page and its recipes name -> a model's directory."""
    judge: str
    """The URL of a chat endpoint."""
    instead: Mapping[str, str] = field(default_factory=lambda: SHORTER)
    """A word of a command -> what stands for it."""
    done: list[list[str]] = field(default_factory=list)

    def section(self, heading: str) -> list[list[str]]:
        """The commands below the heading that begins so."""
        ((_, commands),) = [(name, found) for name, found in sections_of(self.page).items() if name.startswith(heading)]
        return commands

    def through(self, heading: str) -> None:
        """Run the commands of the page down to the end of a section, one after another; those that have run are not repeated."""
        for name, commands in sections_of(self.page).items():
            for words in commands:
                self.once(words)
            if name.startswith(heading):
                return
        raise AssertionError(f"{self.page.name}: no commands below {heading!r}")

    def once(self, words: list[str]) -> None:
        """Run a command that has not run yet."""
        if words not in self.done:
            self.run_command(words)
            self.done.append(words)

    def run_command(self, words: Sequence[str]) -> None:
        """It ends with exit code 0, and what it is to write is there."""
        words = [self._here(word) for word in words]
        match words:
            case ["raypref", *arguments]:
                self._raypref(arguments)
            case ["python", "-m", module, *arguments] if named := re.fullmatch(r"examples\.(\w+)\.run", module):
                given = [word for word in arguments[:1] if "=" not in word] or ["run.yaml"]
                overrides = [*self._small(f"{named[1]}/{given[0]}", arguments), *(word for word in arguments if word not in given)]
                self._module(module, [*given, *overrides])
                _check_run(ROOT / "examples" / named[1] / given[0], overrides)
            case ["python", "-m", module, *arguments]:
                self._module(module, arguments)
            case _:
                raise AssertionError(f"{self.page.name}: no such command: {words}")

    def _here(self, word: str) -> str:
        word = self.instead.get(word, word)
        key, equals, value = word.partition("=")
        return f"{key}={self.models[value]}" if equals and value in self.models else word

    def _small(self, config: str, given: Sequence[str]) -> list[str]:
        """The overrides that make a recipe's config small; ``given`` are the command's own."""
        sections = yaml.safe_load((ROOT / "examples" / config).read_text())
        named = [("policy", "path"), ("policy", "tokenizer")]
        named += [] if any(word.startswith("oracle.type=") for word in given) else [("oracle", "path")]
        values = [(f"{section}.{key}", sections.get(section, {}).get(key)) for section, key in named]
        models = [f"{key}={self.models[value]}" for key, value in values if value in self.models]
        judge = [f"oracle.base_url={self.judge}", "oracle.key_env=null"] if "oracle.type=judge" in given else []
        return [*SMALL, *OWN.get(config, ()), *models, *judge]

    def _raypref(self, arguments: list[str]) -> None:
        named = [word for word in arguments if re.fullmatch(r"examples/\w+/\w+\.yaml", word)]
        for config in named:
            place = arguments.index(config) + 1
            arguments = [*arguments[:place], *self._small(config.removeprefix("examples/"), arguments), *arguments[place:]]
        with pytest.MonkeyPatch.context() as patch:
            if arguments[0] == "sweep":
                import ray

                patch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
                arguments = [*arguments[:2], "loop.iterations=1", *arguments[2:]]
            result = CliRunner().invoke(app, resume_with_value(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        written = Path(arguments[arguments.index("--output") + 1])
        assert list(written.iterdir()) if written.is_dir() else written.stat().st_size, f"{' '.join(arguments)} wrote nothing"

    @staticmethod
    def _module(module: str, arguments: list[str]) -> None:
        """As ``python -m`` runs it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module, *arguments])
            patch.delitem(sys.modules, module, raising=False)  # otherwise runpy warns that it was imported before
            code: object = None
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as end:
                code = end.code
        assert not code, f"{module} {' '.join(arguments)}: {code}"
        for option in ("--output", "--figure"):
            if option in arguments:
                assert Path(arguments[arguments.index(option) + 1]).stat().st_size, f"{module} {' '.join(arguments)} wrote nothing"


def _check_run(config: Path, overrides: Sequence[str]) -> None:
    """The run is finished, and its policy is a model directory."""
    directories = [word.partition("=")[2] for word in overrides if word.startswith("output_dir=")]
    run = Path((directories or [yaml.safe_load(config.read_text())["output_dir"]])[-1])
    assert json.loads((run / "summary.json").read_text())["iterations"] >= 1
    assert (run / "policy" / "config.json").exists()


# ---------------------------------------------------------------------------------- what stands for models, data and people


def make_models(stories: Path, directory: Path) -> dict[str, Path]:
    """Name in the pages and recipes -> a directory here: the model of stories with a chat template, and three oracles of random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    policy = shutil.copytree(stories / "hf_head32", directory / "policy")
    settings = json.loads((policy / "tokenizer_config.json").read_text())
    (policy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    (directory / "ranker").mkdir()
    ranker = pairrm_checkpoint.make_checkpoint(directory / "ranker", openings(stories, "train"), vocabulary=200)
    pairwise = pairwise_checkpoint.make_checkpoint(directory / "pairwise", positions=8192)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    limits = {"vocab_size": len(tokenizer), "max_position_embeddings": 4096, "initializer_range": 0.3, "num_labels": 1, "pad_token_id": 0}
    LlamaForSequenceClassification(LlamaConfig(**sizes, **limits)).save_pretrained(directory / "reward")
    tokenizer.save_pretrained(directory / "reward")
    return {**dict.fromkeys(POLICIES, policy), PAIRRM: ranker.path, PAIRWISE: pairwise, REWARD: directory / "reward"}


def openings(stories: Path, kind: str) -> list[str]:
    """Beginnings of stories, each once; ``kind``: train or heldout."""
    lines = (stories / f"prompts_selfgen_{kind}.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["prompt"] for line in lines))


def write_data(stories: Path) -> None:
    """Into the current directory: a few records in the layout of each file that a recipe downloads or a page names."""
    train, apart = openings(stories, "train")[:40], openings(stories, "heldout")[:20]
    _write("runs/ultrafeedback/prompts.jsonl", ({"id": f"train-{k}", "prompt": text} for k, text in enumerate(train[:12])))
    _write("runs/ultrafeedback/held_out.jsonl", ({"id": f"held-out-{k}", "prompt": text} for k, text in enumerate(apart[:6])))
    _write("runs/rlhflow/prompts.jsonl", ({"id": f"train-{k}", "prompt": _asked(text)} for k, text in enumerate(train[:12])))
    _write("runs/rlhflow/held_out.jsonl", ({"id": f"held-out-{k}", "prompt": _asked(text)} for k, text in enumerate(apart[:6])))
    alpaca = [{"instruction": text, "output": "The end.", "generator": "text_davinci_003", "dataset": "koala"} for text in apart[:12]]
    Path("alpaca_eval.json").write_text(json.dumps(alpaca))
    arena = [{"question_id": f"q{k}", "cluster": "a", "turns": [{"content": text}]} for k, text in enumerate(apart[12:16])]
    _write("arena_hard/question.jsonl", arena)

    posts = [{"prompt": f"SUBREDDIT: r/pets\n\nTITLE: A pet\n\nPOST: {text}\n\nTL;DR:", "completion": "A pet."} for text in train + apart]
    posts = [post | {"chosen": " A happy pet.", "rejected": " No idea."} for post in posts]
    news = [{"id": f"n{k}", "title": "News", "text": text, "summary": "It rains."} for k, text in enumerate(apart[6:12])]
    folder = Path("runs/srpo_tldr_data")
    _write(folder / "demonstrations.jsonl", (tldr.demonstration(post) for post in posts[:4]))
    _write(folder / "preferences.jsonl", (tldr.pair(post) for post in posts[4:8]))
    _write(folder / "held_out.jsonl", (tldr.post_of(post) for post in posts[40:46]))
    _write(folder / "gold_tldr.jsonl", (tldr.gold("tldr", tldr.post_of(post), post["completion"]) for post in posts[40:46]))
    _write(folder / "xsum.jsonl", (tldr.article_of(row) for row in news))
    _write(folder / "gold_xsum.jsonl", (tldr.gold("xsum", tldr.article_of(row), row["summary"]) for row in news))

    folder = Path("runs/spo_alpacafarm_data")
    rows = [
        {"instruction": text, "output": "Yes.", "output_1": "No.", "output_2": "It was fun.", "preference": 2} for text in train + apart
    ]
    _write(folder / "demonstrations.jsonl", map(alpacafarm.demonstration, rows[:4]))
    _write(folder / "preferences.jsonl", map(alpacafarm.pair, rows[4:8]))
    _write(folder / "held_out.jsonl", map(alpacafarm.prompt_alone, rows[40:46]))

    folder = Path("runs/srpo_ultrafeedback_data")
    chats = [{"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes, it was fun."}]} for text in train[:4]]
    answers = {"chosen": "It was a happy day.", "rejected": "No."}
    pairs = [{key: [*_asked(text), {"role": "assistant", "content": given}] for key, given in answers.items()} for text in train[4:8]]
    _write(folder / "demonstrations.jsonl", (pair for chat in chats if (pair := ultrafeedback.first_exchange(chat)) is not None))
    _write(folder / "preferences.jsonl", pairs)
    _write(folder / "arena_hard.jsonl", (ultrafeedback.question(row) for row in arena))


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _write(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON Lines file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def answer(request: Request) -> Response:
    """Ranks four stories by their exclamation marks, questions and quotes, or names the livelier one of two; a tie by the text, so that
    both orders agree."""
    if "**Story 1:**" in request.text:
        stories = re.split(r"\*\*Story \d:\*\*\n", request.text.partition("**Your Task:**")[0])[1:]
        order = sorted(range(len(stories)), key=lambda k: _liveliness(stories[k]))
        places = zip(("1st", "2nd", "3rd", "4th"), order, strict=True)
        return completion("\n".join(f"**{ordinal} Place:** Story {k + 1}" for ordinal, k in places))
    first, second = re.findall(r"<answer [AB] (?:\w+)>\n(.*?)\n</answer", request.text, re.DOTALL)
    return completion("[[C]]" if first == second else f"[[{'A' if _liveliness(first) < _liveliness(second) else 'B'}]]")


def _liveliness(story: str) -> tuple[int, str]:
    """The livelier story comes first."""
    return -sum(story.count(mark) for mark in '!?"'), story.strip()
