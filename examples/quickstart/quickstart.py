"""Make a base policy, align it with SPPO, show what changed.

``python -m examples.quickstart.quickstart [--output-dir DIR] [section.key=value ...]``, from the repository's root; overrides apply to
``run.yaml``.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
from pathlib import Path

from rich.console import Console

import raypref
from examples.quickstart.base_policy import prepare
from raypref.errors import ConfigError
from raypref.output.summary import print_summary, samples_table

HERE = Path(__file__).parent
MAKES_BASE = (HERE / "grammar.py", HERE / "base_policy.py", HERE / "sft.yaml")

logger = logging.getLogger("quickstart")


def main() -> None:
    """Run both configs and print the tables."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, which transformers imports, announces that it found no GPU
    parser = argparse.ArgumentParser(description="Make a base policy, align it with SPPO, show what changed.")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"), help="on several nodes: a path that all share")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="over run.yaml")
    arguments = parser.parse_args()
    output_dir: Path = arguments.output_dir.absolute()
    config = raypref.load_config(HERE / "run.yaml", [f"output_dir={output_dir}", *arguments.overrides])
    make_base(output_dir.with_name(f"{output_dir.name}_base"))
    _remove_previous(config)
    result = raypref.run(config)
    print_summary(result.summary)
    Console().print(samples_table(result.output_dir, config.iterations))


def make_base(directory: Path) -> None:
    """Train the base policy into ``directory``, unless it is there and was made from the same files.

    Raises:
        ConfigError: the directory holds something else, which is not removed.
    """
    fingerprint = hashlib.sha256(b"".join(file.read_bytes() for file in MAKES_BASE)).hexdigest()
    stamp = directory / "made_from"
    if stamp.exists() and stamp.read_text() == fingerprint:
        logger.info("the base policy is there already: %s", directory)
        return
    logger.info("making the base policy: 9,600 demonstrations of a small grammar, 600 steps; about a minute")
    if directory.exists():
        if not (directory / "data" / "demonstrations.jsonl").exists():
            raise ConfigError(f"--output-dir: {directory}, where the base policy goes, holds something else; choose another directory")
        shutil.rmtree(directory)
    prepare(directory / "data")
    raypref.run(raypref.load_config(HERE / "sft.yaml", [f"output_dir={directory}"]))
    stamp.write_text(fingerprint)


def _remove_previous(config: raypref.RunConfig) -> None:
    """Remove the output of an earlier quickstart; a directory of anything else is left for ``run`` to refuse."""
    written = config.output_dir / "config.yaml"
    if written.exists() and raypref.load_config(written).name == config.name:
        logger.info("removing the earlier run in %s", config.output_dir)
        shutil.rmtree(config.output_dir)


if __name__ == "__main__":
    main()
