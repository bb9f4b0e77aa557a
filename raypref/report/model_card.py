"""The model card of a run's policy: where it comes from, how it was trained, how good it is, what its limits are."""

from __future__ import annotations

from typing import Any

from raypref.output.environment import in_words
from raypref.output.summary import RunResult
from raypref.output.whole_file import write_whole
from raypref.report.completeness import gaps
from raypref.report.evaluations import length_controlled
from raypref.report.page import TEMPLATES
from raypref.report.published import on_the_hub, published, source
from raypref.report.run_directory import RunDirectory
from raypref.report.settings import changed_settings
from raypref.report.verdict import health

PAPERS = {
    "sppo": ("Self-play preference optimization (SPPO)", "2405.00675"),
    "inpo": ("Iterative Nash policy optimization (INPO)", "2407.00617"),
    "spo": ("Soft preference optimization (SPO)", "2405.00747"),
    "srpo": ("Self-improving robust preference optimization (SRPO)", "2406.01660"),
    "dpo": ("Direct preference optimization (DPO)", "2305.18290"),
    "ranking_dpo": ("Direct preference optimization (DPO)", "2305.18290"),
    "ipo": ("A general theoretical paradigm (IPO)", "2310.12036"),
    "kto": ("KTO", "2402.01306"),
    "cpo": ("Contrastive preference optimization (CPO)", "2401.08417"),
    "r_dpo": ("Disentangling length from quality (R-DPO)", "2403.19159"),
    "simpo": ("SimPO", "2405.14734"),
    "rpo": ("Provably mitigating overoptimization (RPO)", "2405.16436"),
    "s_dpo": ("S-DPO", "2406.09215"),
    "slic_hf": ("SLiC-HF", "2305.10425"),
    "orpo": ("ORPO", "2403.07691"),
    "rebel": ("REBEL", "2404.16767"),
}
"""Loss -> title and arXiv number of its paper; docs/paper_index.md lists them with what else is from each."""
_LONGEST = 200
"""Characters of a setting that are shown."""


def model_card(run: RunDirectory, iteration: int | None = None, repo: str | None = None) -> str:
    """The card as Markdown, with the metadata of the Hugging Face hub at its top.

    Args:
        run: whose policy it is.
        iteration: of the policy; None: the final one.
        repo: where it is uploaded, for the example of its use.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    number = run.finished_iterations if iteration is None else iteration
    environment = Environment(  # Markdown, not HTML
        loader=FileSystemLoader(TEMPLATES), autoescape=False, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["cell"] = _cell
    base = str(run.setting("policy.path"))
    return environment.get_template("model_card.md.j2").render(
        metadata=_metadata(run),
        name=repo or run.setting("name"),
        repo=repo or "PATH",
        iteration=number,
        iterations=run.iterations or number,
        base=published(base),
        base_source=source(base),
        data=source(run.setting("data.path")) if run.setting("data.path") else "objects given from Python",
        data_type=run.setting("data.type"),
        loss=str(run.setting("loss.type")),
        loss_text=_documentation(run),
        paper=PAPERS.get(str(run.setting("loss.type"))),
        selection=run.setting("selection.type"),
        oracle=run.setting("oracle.type"),
        steps=_steps(run, number),
        results=_results(run, number),
        confidence=f"{run.interval['confidence']:.0%}",
        prompts=next((entry.win_rate.prompts for entry in run.against("base")), 0),
        findings=[finding for finding in health(run) if finding.severity != "note" and finding.iteration <= max(1, number)],
        settings=_settings(run),
        missing=gaps(run),
        seed=run.setting("seed"),
        hardware=in_words(run.environment.get("nodes", [])),
        versions=run.environment.get("versions") or {},
    )


def with_card(result: RunResult) -> RunResult:
    """The result of a finished run, whose policy has its card as ``policy/README.md`` now."""
    write_whole(result.policy_dir / "README.md", model_card(RunDirectory(result.output_dir)))
    return result


def _metadata(run: RunDirectory) -> str:
    """What the hub reads. A base model or data of the hub is named as such; a local path means nothing there, and is left out."""
    from huggingface_hub import ModelCardData

    base, data = str(run.setting("policy.path")), run.setting("data.path")
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    facts["tags"] = ["raypref", "preference-optimization", str(run.setting("loss.type"))]
    if on_the_hub(base):
        facts["base_model"] = base
    if isinstance(data, str) and on_the_hub(data):
        facts["datasets"] = [data]
    return str(ModelCardData(**facts).to_yaml())


def _documentation(run: RunDirectory) -> str:
    """The formula and the source of the loss, from its class."""
    text = "" if run.config is None else type(run.config.loss).__doc__ or ""
    return "\n".join(line.removeprefix("    ") for line in text.strip().split("\n"))


def _steps(run: RunDirectory, iteration: int) -> int | None:
    """Optimiser steps up to the end of an iteration; None where the metrics that say so are lost."""
    ends = {run.finished_iterations: run.steps} | dict(enumerate((0, *run.iteration_ends)))
    return ends.get(iteration)


def _settings(run: RunDirectory) -> list[tuple[str, str]]:
    changed = [] if run.config is None else changed_settings(run.config)
    return [(entry.path, str(published(entry.value))[:_LONGEST]) for entry in changed]


def _results(run: RunDirectory, iteration: int) -> list[dict[str, str]]:
    """A row for each evaluated policy up to this iteration."""
    against = [entry for entry in run.against("base") if entry.iteration <= iteration]
    controlled = length_controlled(against, run.interval)
    fitted = controlled if isinstance(controlled, dict) else {}
    rows = []
    for entry in against:
        at_equal_lengths = fitted.get(entry.iteration)
        rows.append(
            {
                "iteration": str(entry.iteration),
                "rate": _rate(entry.win_rate),
                "controlled": "" if at_equal_lengths is None else _rate(at_equal_lengths),
                "tokens": f"{entry.tokens:.1f}",
                "base_tokens": f"{entry.opponent_tokens:.1f}",
            }
        )
    return rows


def _rate(rate: Any) -> str:
    return f"{rate.win_rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _cell(text: object) -> str:
    """Text that stays in one cell of a Markdown table."""
    return str(text).replace("\n", " ").replace("|", "\\|").replace("`", "'")
