"""The weights of a policy on disk, sent like those in training: pi_t for an actor that is replaced when the learner has trained on."""

from __future__ import annotations

from collections.abc import Iterator

from safetensors import safe_open
from torch import Tensor

from actors.weight_files import weight_files
from actors.weights.source import DeepSpeedSource, TensorInfo, WeightSource
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig


class StoredSource(WeightSource):
    """Names, dtypes, shapes and order are those of the weights in training: a policy that the run has written has the same names."""

    def __init__(self, source: DeepSpeedSource, policy: PolicyConfig, path: str, *, read: bool) -> None:
        """
        Args:
            source: the weights in training.
            policy: of the run.
            path: the policy that is sent.
            read: False on a rank that does not send: its passes give nothing.

        Raises:
            ConfigError: there are no safetensors files, or they lack a tensor.
        """
        self._source = source
        self._file_of: dict[str, str] = {}
        for file in weight_files(policy.model_copy(update={"path": path})) if read else ():
            with safe_open(file, framework="pt") as opened:
                self._file_of |= dict.fromkeys(opened.keys(), file)
        self._tensors = source.metadata() if read else []
        if missing := [tensor.name for tensor in self._tensors if tensor.name not in self._file_of]:
            raise ConfigError(f"{path} holds no {missing[0]}")

    def metadata(self) -> list[TensorInfo]:
        return self._source.metadata()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """One pass."""
        for tensor in self._tensors:
            with safe_open(self._file_of[tensor.name], framework="pt") as opened:
                yield tensor.name, opened.get_tensor(tensor.name).to(self._source.device, tensor.dtype)
