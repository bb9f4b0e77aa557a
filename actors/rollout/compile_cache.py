"""Where vLLM keeps compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def use_own_cache() -> None:
    """Give the engine of this process a cache folder of its own, named after the GPUs that it sees; called before vLLM starts.

    Engines of one node compile the same model at the same time, and vLLM 0.32 writes ``vllm_compile_cache.py`` in place
    (``CompilerManager.save_to_file``): another engine could read the half of it. The folder below VLLM_CACHE_ROOT stays, so that the next
    run on these GPUs finds its code there.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vllm"
    root = Path(os.environ.get("VLLM_CACHE_ROOT") or default).expanduser()
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "all"
    os.environ["VLLM_CACHE_ROOT"] = str(root / f"raypref-gpus-{gpus}")
