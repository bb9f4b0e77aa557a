"""How long each stage takes alone: from the operations and bytes of its work, and the assumed speeds."""

from __future__ import annotations

from raypref.plan.fit import processes
from raypref.plan.hardware import CPU
from raypref.plan.learner_memory import FP32
from raypref.plan.memory import kv_bytes_per_token
from raypref.plan.setting import Setting
from raypref.plan.speeds import Speeds
from raypref.plan.supply import Supply


class StageTimes:
    """The seconds of each stage."""

    def __init__(self, setting: Setting, supply: Supply, speeds: Speeds, response_tokens: float) -> None:
        gpu = setting.cluster.gpu
        assert gpu is not None
        self._setting, self._config, self._supply, self._speeds = setting, setting.config, supply, speeds
        self._shape, self._job, self._gpu = setting.shape, setting.job, gpu
        self.response_tokens = response_tokens
        if not supply.sampled and supply.sequences:
            self.response_tokens = max(1.0, supply.examples.mean / supply.sequences - supply.prompts.mean)

    def _operations(self, cpus: float) -> float:
        """Per second of a GPU, or of the cores in its place."""
        return self._speeds.mfu * self._gpu.teraflops * 1e12 * (cpus if self._gpu is CPU else 1.0)

    @property
    def _example_tokens(self) -> float:
        if not self._supply.sampled:
            return self._supply.examples.mean
        return self._supply.sequences * (self._supply.prompts.mean + self.response_tokens)

    def sampling_rate(self) -> float:
        """Tokens per second of one engine: as many sequences as it may decode at once, its cache holds, or there are."""
        if self._speeds.sampling_rate is not None:
            return self._speeds.sampling_rate
        placement, rollout = self._config.placement.rollout, self._config.rollout
        held = self._supply.prompts.mean / rollout.responses + self.response_tokens / 2
        per_token = kv_bytes_per_token(self._job)
        of_role = processes(self._setting)
        cache = of_role["rollout", "rollout"].gpu.get("cache", 0)
        prompts = self._supply.share.items if self._supply.sampled else self._supply.held_out
        count = max(1.0, min(rollout.max_num_seqs, prompts * rollout.responses / max(1, placement.engines)))
        if cache:
            count = max(1.0, min(count, cache / (held * per_token)))
        read = self._job.dtype_bytes * self._shape.active / placement.tensor_parallel + count * held * per_token
        bandwidth = self._speeds.bandwidth_share * self._gpu.terabytes_per_s * 1e12
        computed = 2 * self._shape.active * count / (placement.tensor_parallel * self._operations(placement.cpus))
        host = self._speeds.step_ms / 1e3 + count * self._speeds.sequence_us / 1e6
        return count / (host + read / bandwidth + computed)

    def sample_s(self, prompts: float, responses: int, rate: float) -> float:
        placement = self._config.placement.rollout
        decoded = prompts * responses * self.response_tokens / rate
        operations = 2 * self._shape.active * prompts * self._supply.prompts.mean
        prefilled = operations / (placement.tensor_parallel * self._operations(placement.cpus))
        return (decoded + prefilled) / max(1, placement.engines)

    def comparison_rate(self) -> float | None:
        """Of one replica; None where it cannot be told."""
        if self._speeds.judging_rate is not None:
            return self._speeds.judging_rate
        if not self._setting.oracle_bytes:
            return None
        parameters = self._setting.oracle_bytes / (2 if getattr(self._config.oracle, "dtype", None) == "bfloat16" else FP32)
        orders = 2 if getattr(self._config.oracle, "orders", "both") == "both" else 1
        tokens = orders * (self._supply.prompts.mean + 2 * self.response_tokens)
        return self._operations(self._config.placement.oracle.cpus) / (2 * parameters * tokens)

    def judge_s(self, comparisons: float) -> float:
        rate = self.comparison_rate()
        return 0.0 if rate is None else comparisons / (rate * self._config.placement.oracle.replicas)

    def reference_s(self, examples: float) -> float:
        """A replica over several GPUs is one after another on each."""
        placement = self._config.placement.reference
        operations = 2 * self._shape.active * len(self._config.frozen_logps) * examples * self._example_tokens
        return operations / (placement.replicas * self._operations(placement.cpus))

    def training_rate(self) -> float:
        """Tokens per second of one rank. Forward pass 2 operations per parameter, backward 4, of which an adapter needs 2; with gradient
        checkpointing the forward pass twice; pi_ref's forward pass for a KL."""
        if self._speeds.training_rate is not None:
            return self._speeds.training_rate
        passes = 4 if self._shape.adapter_parameters else 6
        passes += 2 * self._job.gradient_checkpointing + 2 * self._job.divergence
        return self._operations(self._config.placement.learner.cpus) / (passes * self._shape.active)

    def train_s(self, examples: float) -> float:
        tokens = self._config.learner.epochs * examples * self._example_tokens
        return tokens / (self._config.placement.learner.ranks * self.training_rate())

    def sync_s(self) -> float:
        return self._job.dtype_bytes * self._shape.parameters / (self._speeds.sync_gb_per_s * 1e9)

    def checkpoint_s(self) -> float:
        """The training state, 4 bytes per master weight and moment, and the policy once beside it and once as a model directory."""
        state = 4 * (1 + self._job.moments) * self._shape.trained + self._job.dtype_bytes * self._shape.parameters
        policy = self._job.dtype_bytes * self._shape.parameters if self._config.checkpoint.policies else 0
        return (state + policy) / (self._speeds.disk_gb_per_s * 1e9)

    def not_counted(self, judged: bool) -> tuple[str, ...]:
        oracle = self._config.oracle
        if not judged or oracle is None or self.comparison_rate() is not None:
            return ()
        return (f"judge: how fast oracle.type={oracle.type} answers is not known (--judging-rate)",)
