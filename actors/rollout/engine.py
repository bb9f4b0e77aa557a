"""One vLLM engine in the calling process: takes requests, gives finished groups, and takes new weights between requests.

    engine = Engine(policy, rollout, tensor_parallel=1, device="cpu", transport="shm", seed=0)     # dummy weights
    (a weight sync brings the policy: start_weight_update ... finish_weight_update)
    engine.add("a", request)
    while engine.unfinished:
        for key, rollout in engine.step(): ...

Not thread-safe; ``actors.rollout.actor`` adds the lock, the check of requests and the stream. The constructor imports vLLM; the process
must have the environment of ``engine_env``.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.policy_model import facts_of
from actors.rollout.compile_cache import use_own_cache
from actors.rollout.engine_stats import EngineFigures, EngineStats
from actors.weights import transport as weight_transport
from raypref.errors import ConfigError, SyncError
from raypref.plan.memory_job import CPU_KV_CACHE_GIB
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Response, Rollout, SampleRequest


def engine_env(device: str, threads: int) -> dict[str, str]:
    """Environment variables that an engine's process needs from its start.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of each of the engine's workers: as many as its bundle has cores. Two engines that both use all cores
            slow each other down almost to a halt.
    """
    common = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in the actor's process and ends with it
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # forking a process that has threads may hang
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if device != "cpu":
        return common
    return common | {
        "TORCH_COMPILE_DISABLE": "1",  # the first request would wait 10 s for a compiled helper of the sampler
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # Ray counts GPUs, but there are none
    }


class Engine:
    """A vLLM engine that samples from the policy of its last weight update."""

    def __init__(
        self,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        *,
        tensor_parallel: int = 1,
        device: str = "cpu",
        transport: str = "shm",
        seed: int = 0,
        load_weights: bool = False,
        sleeps: bool = False,
    ) -> None:
        """
        Args:
            policy: model directory; only its config.json is read here, the weights come by the first sync.
            rollout: limits of the engine. Each request says how to sample.
            tensor_parallel: worker processes that share the model; 1: this process.
            device: ``cpu`` or ``cuda``; vLLM must be built for it.
            transport: how the weights come, a name of ``actors.weights.transport``.
            seed: of the engine; each request comes with a seed as well.
            load_weights: load the weights in the directory; for a run without a learner.
            sleeps: whether ``sleep`` will be called. On a CPU the calls succeed, and no memory is freed.

        Raises:
            ConfigError: vLLM is built for another device, or cannot run this model.
        """
        self._facts = facts_of(policy)
        self.context_tokens = self._facts.context_tokens
        """Longest sequence, prompt and response together."""
        self._open: dict[str, SampleRequest] = {}
        self._relay = weight_transport.load(transport).relay(tensor_parallel)
        self._llm = _start(policy, rollout, self.context_tokens, tensor_parallel, device, transport, seed, load_weights, sleeps)
        self._stats = EngineStats.instead_of_logs(self._llm.llm_engine)

    @property
    def unfinished(self) -> int:
        """Number of requests that were added and are not answered yet."""
        return len(self._open)

    def add(self, key: str, request: SampleRequest) -> None:
        """Add a request, which the caller has checked; ``step`` gives its rollout under ``key``."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            n=request.count,
            seed=request.seed,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            stop_token_ids=list(self._facts.end_token_ids),
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request.prompt.token_ids.tolist()}
        self._llm.llm_engine.add_request(key, prompt, sampling)
        self._open[key] = request

    def step(self) -> list[tuple[str, Rollout]]:
        """Decode one token of every running sequence; the keys and rollouts of the groups that this finished."""
        finished = [output for output in self._llm.llm_engine.step() if output.finished]
        return [(output.request_id, self._rollout(output)) for output in finished]

    def take_figures(self) -> EngineFigures:
        """vLLM's own figures of the steps since they were last taken."""
        return self._stats.take()

    def init_weight_transfer_engine(self, request: Any) -> None:
        with self._relay.connecting(request["init_info"]) as info:
            self._on_workers("init_weight_transfer_engine", init_info=info)

    def start_weight_update(self, complete: bool = True) -> None:
        """Begin an update of all weights, or of some."""
        assert not self._open, "weights may change only between requests"
        self._llm.collective_rpc("raypref_begin_sync", args=(complete,))
        self._on_workers("start_weight_update")

    def update_weights(self, request: Any) -> None:
        self._on_workers("update_weights", update_info=self._relay.updated(request["update_info"]))

    def finish_weight_update(self) -> None:
        """Start to use the new weights, and drop the keys and values that the old ones computed.

        Raises:
            RuntimeError: vLLM kept its prefix cache; the engine would sample from a mixture of policies.
        """
        self._on_workers("finish_weight_update")
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache after a weight update")

    def weight_checksums(self) -> dict[str, Mapping[str, int]]:
        """Worker -> parameter name -> checksum as last received; the workers are ``tp0``, ``tp1`` ..., or ``""`` if there is one."""
        workers = self._llm.collective_rpc("raypref_received")
        return {"" if len(workers) == 1 else f"tp{rank}": checksums for rank, checksums in enumerate(workers)}

    def sleep(self, level: int) -> None:
        """Free the memory of the key-value cache and of the weights; level 1 keeps the weights in host memory, level 2 drops them."""
        assert not self._open, "an engine may sleep only between requests"
        self._llm.sleep(level=level)

    def wake_up(self, tags: list[str]) -> bool:
        """Allocate memory again, for ``weights`` first and ``kv_cache`` last; whether all of it is allocated now."""
        return bool(self._llm.wake_up(tags=tags))

    def shutdown(self) -> None:
        """End the worker processes and free their shared memory, which they would leave behind if they were killed."""
        self._llm.llm_engine.engine_core.shutdown()

    def _on_workers(self, method: str, **arguments: Any) -> None:
        """Call a method of every worker.

        Raises:
            SyncError: one failed; if several did, an error that is no consequence of another's.
        """
        answers: list[tuple[str, str] | None] = self._llm.collective_rpc("raypref_try", args=(method,), kwargs=arguments)
        if errors := [answer for answer in answers if answer is not None]:
            message, trace = min(errors, key=lambda error: weight_transport.BROKEN_OFF in error[0])
            failure = SyncError(message)
            failure.add_note(trace)
            raise failure

    def _rollout(self, output: Any) -> Rollout:
        request = self._open.pop(output.request_id)
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        return Rollout(request.prompt, tuple(self._response(request, sample) for sample in samples), request.policy_version, request.origin)

    def _response(self, request: SampleRequest, sample: Any) -> Response:
        if sample.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"prompt {request.prompt.id!r}: vLLM ended a response with {sample.finish_reason!r}")
        tokens = np.asarray(sample.token_ids, dtype=np.int32)
        logprobs = np.asarray(sample.logprobs.logprobs, dtype=np.float32)
        assert len(tokens) == len(logprobs)
        return Response(tokens, logprobs, self._facts.decoded(tokens), sample.finish_reason)


def _start(
    policy: PolicyConfig,
    rollout: RolloutConfig,
    context_tokens: int,
    tensor_parallel: int,
    device: str,
    transport: str,
    seed: int,
    load_weights: bool,
    sleeps: bool,
) -> Any:
    from vllm import LLM
    from vllm.config import WeightTransferConfig
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        raise ConfigError(
            f"placement.device: {device}, but the installed vLLM runs on {current_platform.device_type!r}; "
            f"install raypref[{'cpu' if device == 'cpu' else 'gpu'}]"
        )
    if device == "cuda":
        use_own_cache()
    backend = weight_transport.load(transport).register()
    cache_gib = rollout.kv_cache_gib if rollout.kv_cache_gib is not None or device != "cpu" else CPU_KV_CACHE_GIB
    gc.freeze()  # vLLM collects garbage five times while it starts; without this each time among all that was imported, 2 s in total
    with _reported(policy):
        llm = LLM(
            policy.path,
            dtype=policy.dtype,
            trust_remote_code=policy.trust_remote_code,
            skip_tokenizer_init=True,
            generation_config="vllm",  # each request says how to sample
            load_format="safetensors" if load_weights else "dummy",
            max_model_len=context_tokens,
            max_num_seqs=rollout.max_num_seqs,
            kv_cache_memory_bytes=None if cache_gib is None else int(cache_gib * 2**30),
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            enforce_eager=rollout.enforce_eager or device == "cpu",
            enable_chunked_prefill=device != "cpu",  # vLLM 0.32 rewinds a seeded generator after a partial prompt; a CPU one cannot
            tensor_parallel_size=tensor_parallel,
            distributed_executor_backend="mp" if tensor_parallel > 1 else "uni",
            worker_extension_cls="actors.weights.worker_extension.WorkerExtension",
            weight_transfer_config=WeightTransferConfig(backend=backend),
            enable_sleep_mode=sleeps and device != "cpu",
            seed=seed,
            disable_log_stats=False,  # see EngineStats
            use_tqdm_on_load=False,
        )
    if device == "cpu" and not llm.model_config.use_mla:  # latent attention has kernels of its own, of which vLLM checks the width itself
        _check_head_width(llm.model_config.get_head_size())
    return llm


def _check_head_width(width: int) -> None:
    """vLLM would fail only at the first request.

    Raises:
        ConfigError: vLLM's CPU kernel does not support the width.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known = CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise ConfigError(f"policy.path: attention heads of width {width}; on a CPU vLLM supports {', '.join(map(str, known))}")


@contextlib.contextmanager
def _reported(policy: PolicyConfig) -> Any:
    """Turn what vLLM refuses (head widths, a cache too small for one sequence) into an error of the config."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"policy.path: vLLM cannot run {policy.path!r} with these rollout settings: {error}") from error
