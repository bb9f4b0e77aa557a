"""Make a base policy, align it with SPPO, show what changed: ``python -m examples.quickstart.quickstart [section.key=value ...]``.

Run it from the repository's root; overrides apply to ``run.yaml``.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from pathlib import Path

from rich.console import Console

import raypref
from examples.quickstart.base_policy import prepare
from raypref.report import print_summary, samples_table

HERE = Path(__file__).parent
BASE = Path("runs/quickstart_base")

logger = logging.getLogger("quickstart")


def main(overrides: list[str]) -> None:
    """Run both configs and print the tables."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    make_base()
    config = raypref.load_config(HERE / "run.yaml", overrides)
    _remove_previous(config)
    result = raypref.run(config)
    print_summary(result.summary)
    Console().print(samples_table(result.output_dir, config.loop.iterations))


def make_base() -> None:
    """Train the base policy, unless it is there and was made from the same files."""
    fingerprint = _fingerprint([HERE / "grammar.py", HERE / "base_policy.py", HERE / "sft.yaml"])
    stamp = BASE / "made_from"
    if stamp.exists() and stamp.read_text() == fingerprint:
        logger.info("the base policy is there already: %s", BASE)
        return
    logger.info("making the base policy: 9,600 demonstrations of a small grammar, 600 steps; about a minute")
    shutil.rmtree(BASE, ignore_errors=True)
    prepare(BASE / "data")
    raypref.run(raypref.load_config(HERE / "sft.yaml"))
    stamp.write_text(fingerprint)


def _fingerprint(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _remove_previous(config: raypref.RunConfig) -> None:
    """Remove the output of an earlier quickstart; a directory of anything else is left for ``run`` to refuse."""
    written = config.output_dir / "config.yaml"
    if written.exists() and raypref.load_config(written).name == config.name:
        logger.info("removing the earlier run in %s", config.output_dir)
        shutil.rmtree(config.output_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
