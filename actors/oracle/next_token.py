"""The token after a prompt, by a vLLM engine in the calling process: ``raypref.oracles.base.NextToken`` for an oracle's own model.

vLLM is imported by the constructor, in an environment that has ``actors.rollout.engine.engine_env``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rollout.compile_cache import use_own_cache
from raypref.errors import ConfigError

CPU_KV_CACHE_INPUTS = 8
"""Inputs of full length that a CPU engine's key-value cache holds."""


class VllmNextToken:
    """Prompts that begin alike are asked side by side, so that the engine's prefix cache has what they share."""

    def __init__(self, path: str, *, dtype: str, max_tokens: int, gpu_memory_utilization: float, device: str) -> None:
        """
        Args:
            path: Hugging Face model directory or hub name.
            dtype: ``float32`` or ``bfloat16``.
            max_tokens: longest prompt.
            gpu_memory_utilization: share of the GPU that the engine takes.
            device: ``cpu`` or ``cuda``; vLLM must be built for it.

        Raises:
            ConfigError: vLLM is built for another device, or cannot serve this model.
        """
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.device_type != device:
            raise ConfigError(f"placement.device: {device}, but the installed vLLM runs on {current_platform.device_type!r}")
        on_cpu = device == "cpu"
        if not on_cpu:
            use_own_cache()
        try:
            self._llm = LLM(
                path,
                dtype=dtype,
                skip_tokenizer_init=True,
                generation_config="vllm",
                load_format="safetensors",
                max_model_len=max_tokens + 1,  # vLLM answers with one token
                kv_cache_memory_bytes=_cache_bytes(path, dtype, max_tokens) if on_cpu else None,
                gpu_memory_utilization=gpu_memory_utilization,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except (OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(f"oracle.path: vLLM cannot serve {path!r}: {error}") from error

    def logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """(N, C) log-probs in nats, at temperature 1, over the whole vocabulary.

        Args:
            prompts: N, each of at most ``max_tokens`` tokens.
            tokens: C of the vocabulary.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if not prompts:
            return np.zeros((0, len(tokens)))
        sampling = SamplingParams(
            temperature=0.0,  # no generator: vLLM 0.32 cannot rewind one on a CPU after a part of a prompt
            max_tokens=1,
            logprob_token_ids=list(tokens),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        order = sorted(range(len(prompts)), key=lambda k: tuple(prompts[k]))
        outputs = self._llm.generate([{"prompt_token_ids": list(prompts[k])} for k in order], sampling, use_tqdm=False)
        found = np.empty((len(prompts), len(tokens)))
        for k, output in zip(order, outputs, strict=True):
            (logprobs,) = output.outputs[0].logprobs
            found[k] = [logprobs[token].logprob for token in tokens]
        return found


def _cache_bytes(path: str, dtype: str, max_tokens: int) -> int:
    """Keys and values of ``CPU_KV_CACHE_INPUTS`` inputs, in blocks of 128 tokens."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(path).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * heads * width * (4 if dtype == "float32" else 2)
    return CPU_KV_CACHE_INPUTS * (max_tokens // 128 + 2) * 128 * a_token
