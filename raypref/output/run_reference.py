"""A run and an iteration by name: ``runs/x@2`` the policy after two iterations, ``runs/x`` the last one, ``runs/x@base`` the base policy.

Such a name stands wherever a policy or its answers are asked for: the policy is a model directory of the run, its answers are those to the
held-out prompts, as the run wrote them when it evaluated that policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from raypref.errors import ConfigError, reason_of
from raypref.output.numbered import by_number, iteration_name, number_in, step_in

BASE = 0
"""The iteration of the base policy."""


@dataclass(frozen=True, slots=True)
class RunReference:
    """One policy of one run."""

    directory: Path
    """``output_dir`` of the run."""
    iteration: int | None = None
    """How many iterations the policy was trained; None: all that are finished."""

    @classmethod
    def read(cls, text: str) -> Self | None:
        """What ``RUN`` or ``RUN@ITERATION`` names; None where ``text`` names no run.

        Raises:
            ConfigError: the run is there, but what follows the ``@`` is no iteration.
        """
        whole = Path(text).expanduser()
        if _holds_run(whole):
            return cls(whole)
        head, at, tail = text.rpartition("@")
        directory = Path(head).expanduser()
        if not at or not head or whole.exists() or not _holds_run(directory):
            return None
        if tail in ("base", "last"):
            return cls(directory, BASE if tail == "base" else None)
        if not tail.isdecimal():
            raise ConfigError(f"{text}: {directory} is a run, but {tail!r} is no iteration of it; give a number, base or last after the @")
        return cls(directory, int(tail))

    @property
    def name(self) -> str:
        """Short, for tables and file names: ``x@2``, ``x``, ``x@base``."""
        suffix = "" if self.iteration is None else "@base" if self.iteration == BASE else f"@{self.iteration}"
        return f"{self.directory.absolute().name}{suffix}"

    @property
    def policy_name(self) -> str:
        """What the policy is called in the run, whichever way it was named: ``base``, ``iteration_0002``.

        Raises:
            ConfigError: the run kept no such policy.
        """
        if self.iteration is not None:
            return "base" if self.iteration == BASE else iteration_name(self.iteration)
        newest = Path(self.policy())
        return newest.name if newest.parent.name == "policies" else iteration_name(self._finished() or BASE)

    @property
    def config(self) -> Path:
        """The config that the run wrote."""
        return self.directory / "config.yaml"

    def policy(self) -> str:
        """The policy as a model directory (or, of a base policy, perhaps a hub name).

        Raises:
            ConfigError: the run kept no such policy.
        """
        if self.iteration == BASE:
            return self._base()
        final, kept = self.directory / "policy", by_number((self.directory / "policies").glob("iteration_*"))
        finished = self._finished() if final.is_dir() else None
        if finished is not None and self.iteration in (None, finished):
            return str(final)
        ends = {number_in(path.name): path for path in kept if not step_in(path.name)}  # the others are of a moment within an iteration
        wanted = kept[-1:] if self.iteration is None else [path for number, path in ends.items() if number == self.iteration]
        if wanted:
            return str(wanted[0])
        there = [f"@{number}" for number in ends] + ([f"@{finished}"] if finished is not None else [])
        which = "no policy" if self.iteration is None else f"no policy of iteration {self.iteration}"
        raise ConfigError(
            f"{self._text()}: the run has {which}; there are: {_listed(there)}, @base. checkpoint.policies says how many a run keeps"
        )

    def answers(self) -> Path:
        """The file with the policy's answers to the held-out prompts, in the format of ``raypref generate``.

        Raises:
            ConfigError: the run evaluated no such policy.
        """
        written = [path for path in by_number((self.directory / "evaluation").glob("iteration_*.jsonl")) if _of_answers(path)]
        wanted = written[-1:] if self.iteration is None else [path for path in written if number_in(path.name) == self.iteration]
        if wanted:
            return wanted[0]
        if not written and (compared := self._comparisons()):
            raise ConfigError(
                f"{self._text()}: the run is of an earlier version, which kept comparisons ({compared[-1].relative_to(self.directory)}) "
                f"but no files of answers, which are needed here; raypref generate {self._text()} --prompts {self._held_out()} --output "
                f"{self.name}.jsonl has the policy answer now: give --responses {self.name}.jsonl then"
            )
        there = ["@base" if number_in(path.name) == BASE else f"@{number_in(path.name)}" for path in written]
        raise ConfigError(
            f"{self._text()}: the run wrote no answers of this policy to held-out prompts; there are answers of: {_listed(there)}. "
            f"raypref generate {self._text()} --prompts FILE --output FILE has the policy answer now"
        )

    def _text(self) -> str:
        return f"{self.directory}{'' if self.iteration is None else '@base' if self.iteration == BASE else f'@{self.iteration}'}"

    def _comparisons(self) -> list[Path]:
        """Files of held-out comparisons, by iteration: of this one, if it was evaluated, otherwise of all."""
        found = by_number((self.directory / "evaluation").glob("iteration_*_against_*.jsonl"))
        return [path for path in found if number_in(path.name) == self.iteration] or found

    def _held_out(self) -> str:
        """The file of the held-out prompts, where the config names one."""
        path = (_read_yaml(self.config).get("data") or {}).get("held_out")
        return path if isinstance(path, str) else "FILE"

    def _base(self) -> str:
        path = (_read_yaml(self.config).get("policy") or {}).get("path")
        if not isinstance(path, str):
            raise ConfigError(f"{self.config}: names no policy.path")
        return path

    def _finished(self) -> int | None:
        """The number of iterations of a finished run."""
        try:
            return int(_read_yaml(self.directory / "summary.json")["iterations"])
        except (ConfigError, KeyError, TypeError, ValueError):  # not written yet, or by another version: the last policy has no number
            return None


def answered_iterations(directory: Path) -> list[int]:
    """The iterations whose answers to held-out prompts a run wrote, in order; 0 is the base policy."""
    return [number_in(path.name) or 0 for path in by_number((directory / "evaluation").glob("iteration_*.jsonl")) if _of_answers(path)]


def answers_file(directory: Path, iteration: int) -> Path:
    """Where a run writes the answers to its held-out prompts."""
    return directory / "evaluation" / f"{iteration_name(iteration)}.jsonl"


def policy_path(text: str) -> str:
    """``text``, or the model directory that it means if it names a run.

    Raises:
        ConfigError: the run has no such policy.
    """
    named = RunReference.read(text)
    return text if named is None else named.policy()


def _holds_run(directory: Path) -> bool:
    return (directory / "config.yaml").is_file() and not (directory / "config.json").exists()  # with this one it is a model


def _of_answers(path: Path) -> bool:
    number = number_in(path.name)
    return number is not None and path.name == f"{iteration_name(number)}.jsonl"


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}; restore it from a copy") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values
