"""A search's result, kept for one model on one machine and checked before use."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError
from crayon.machine import inspect_machine
from crayon.server.tuning.choice import TunedSettings
from crayon.server.tuning.journal import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a result depends on.

    Args:
        model_sha256: of the file that runs.
        quantization: its type.
        cpu: name and instruction sets.
        cores: cores that this process may use.
        quota: its CPU quota in cores; None: no limit.
        library: version of llama-cpp-python.
        n_ctx: cells of the cache.
    """

    model_sha256: str
    quantization: str
    cpu: str
    cores: int
    quota: float | None
    library: str
    n_ctx: int

    @classmethod
    def here(cls, model_sha256: str, quantization: str, n_ctx: int) -> Key:
        """Return the key of a model on this machine, as this process may use it, with a cache of so many cells."""
        machine = inspect_machine()
        return cls(
            model_sha256=model_sha256,
            quantization=quantization,
            cpu=f"{machine.cpu} [{' '.join(machine.instruction_sets)}]",
            cores=machine.allowed_cores,
            quota=machine.cpu_quota,
            library=metadata.version("llama-cpp-python"),
            n_ctx=n_ctx,
        )

    @property
    def name(self) -> str:
        """A short name, the same for equal keys."""
        return _sha256(asdict(self))[:16]

    def difference(self, other: Key) -> str:
        """Say why a result of `other` is of no use here; "" where it is of use."""
        if (self.model_sha256, self.quantization) != (other.model_sha256, other.quantization):
            return "it is of another model file"
        if self.library != other.library:
            return f"it was measured with llama-cpp-python {other.library}, here is {self.library}"
        if self.cpu != other.cpu:
            return f"it was measured on another CPU ({other.cpu.partition(' [')[0]})"
        if (self.cores, self.quota) != (other.cores, other.quota):
            return f"it was measured with {_share(other)}, here are {_share(self)}"
        if self.n_ctx != other.n_ctx:
            return f"it was measured with a context of {other.n_ctx} tokens, here are {self.n_ctx}"
        return ""


def _share(key: Key) -> str:
    return f"{key.cores} cores" + ("" if key.quota is None else f" and a quota of {key.quota:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedProfile:
    """What was chosen, and all that speaks for it.

    Args:
        key: what it holds for.
        choice: how to work.
        workload: for which requests.
        cost: the terms of a call's cost, in seconds.
        fit: how far off the cost is.
        quick: whether it was the short search.
        made: when, in ISO 8601.
        seconds: how long the search took.
        evidence: what was predicted and measured, the losers too, what was left out, and why each knob is as it is.
    """

    key: Key
    choice: TunedSettings
    workload: dict[str, Any]
    cost: dict[str, float]
    fit: dict[str, Any]
    quick: bool
    made: str
    seconds: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the profile as JSON, with the digest of all else in it."""
        body = json.loads(json.dumps({"schema": SCHEMA, **asdict(self)}))
        return {**body, "digest": _sha256(body)}


def path_of(folder: Path, key: Key) -> Path:
    """Return where the record of a key belongs."""
    return folder / f"tuned-{key.name}.json"


def partial_path(folder: Path, key: Key) -> Path:
    """Return where an unfinished search keeps its measurements."""
    return folder / f"tuning-{key.name}.json"


def keep(profile: TunedProfile, folder: Path) -> Path:
    """Write the record, whole or not at all; return where it is.

    Raises:
        OSError: the disk refuses.
    """
    path = path_of(folder, profile.key)
    write_whole(path, profile.as_json())
    return path


def load(folder: Path, key: Key) -> tuple[TunedProfile | None, str]:
    """Return the record that holds for `key` and "", or None and why there is none."""
    path = path_of(folder, key)
    if path.exists():
        return _read(path, key)
    others = sorted(folder.glob("tuned-*.json"), key=os.path.getmtime, reverse=True) if folder.is_dir() else []
    for other in others:
        _, reason = _read(other, key)
        if reason:
            return None, f"{other.name} is of no use here: {reason}"
    return None, "this model was never tuned here"


def _read(path: Path, key: Key) -> tuple[TunedProfile | None, str]:
    try:
        raw: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return None, f"it cannot be read ({error})"
    if not isinstance(raw, dict):
        return None, "it is no record"
    digest = raw.pop("digest", None)
    if digest != _sha256(raw):
        return None, "it was edited after it was measured"
    if raw.pop("schema", None) != SCHEMA:
        return None, "it was written by another version of Crayon"
    try:
        found = Key(**raw.pop("key"))
        profile = TunedProfile(key=found, choice=TunedSettings(**raw.pop("choice")), **raw)
    except (KeyError, TypeError, ConfigError) as error:
        return None, f"it does not hold what a record holds ({error})"
    reason = key.difference(found)
    return (None, reason) if reason else (profile, "")


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
