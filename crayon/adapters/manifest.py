"""What a pool says of itself: `pool.json`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from crayon.adapters.gate import Gate
from crayon.adapters.records import read_record
from crayon.completion import MAX_WEIGHTS
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = 1
MAX_RANK = 1024
MAX_SIDE = 1 << 20
MAX_TARGETS = 10_000
MAX_SEEDED = 1 << 27
"""Numbers of A that a seed stands for: no file backs them, and a pool for a 7B model of rank 64 has 80 million."""
# ggml's names have at most 63 bytes, and ".lora_a" is put behind.
_TARGET = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MAX_TARGET = 56
# Names become file names where a member is exported, and ids on the wire.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_MAX_TEXT = 2000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_name(name: str, where: str) -> str:
    """Return `name` if it can name a pool, a member or a folder.

    Raises:
        AdapterError: it has capitals, spaces, separators or more than 80 characters.
    """
    if not _NAME.fullmatch(name):
        raise AdapterError(
            f"{where} is {name[:90]!r}: use at most 80 of a-z, 0-9, '.', '_', '-', a letter or digit first"
        )
    return name


def _check_texts(where: str, texts: Iterable[str]) -> None:
    """Refuse texts that would move a terminal's cursor, or fill it."""
    for text in texts:
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise AdapterError(f"pool: {where}: {text[:60]!r} must be one line of at most {_MAX_TEXT:,} characters")


@dataclass(frozen=True, slots=True)
class Target:
    """A weight matrix that adapters change, by its GGUF name, with its shape as rows and columns."""

    name: str
    outputs: int
    inputs: int

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.name) or len(self.name) > _MAX_TARGET:
            raise AdapterError(f"pool: targets: {self.name[:90]!r} is no name of a weight such as blk.0.ffn_up.weight")
        for side in (self.outputs, self.inputs):
            if not 1 <= side <= MAX_SIDE:
                raise AdapterError(f"pool: targets: {self.name} has a side of {side}; 1 to {MAX_SIDE:,} can be read")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that a pool was made for; `source_sha256` is the hash of its source file, not of a prepared one."""

    name: str
    source_sha256: str
    architecture: str
    n_layer: int
    n_embd: int

    def __post_init__(self) -> None:
        _check_texts("base.name", [self.name])
        if not _SHA256.fullmatch(self.source_sha256):
            raise AdapterError("pool: base.source_sha256 must be 64 hexadecimal digits")
        if not re.fullmatch(r"[a-z0-9_.-]{1,40}", self.architecture):
            raise AdapterError(f"pool: base.architecture is {self.architecture[:60]!r}; expected a name such as llama")
        if self.n_layer < 1 or self.n_embd < 1:
            raise AdapterError("pool: base.n_layer and base.n_embd must be at least 1")


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """How a text becomes a vector comparable with the keys: one layer's output, pooled over the text's own tokens.

    With `head`, the centred mean goes through a square matrix that comes with the pool. `kind` "layer_mean" is the
    plain mean of former times: such a pool can be blended by weights, but texts are compared with its keys no more.
    """

    layer: int
    dimensions: int
    kind: Literal["unit_mean", "layer_mean"] = "unit_mean"
    head: bool = False

    def __post_init__(self) -> None:
        if self.layer < 0 or not 1 <= self.dimensions <= MAX_SIDE:
            raise AdapterError("pool: encoder.layer must not be negative and encoder.dimensions be at least 1")


@dataclass(frozen=True, slots=True)
class Score:
    """Points, 0 to 100, of the base and of the member on `n` held-out items of the member's own task."""

    base: float
    member: float
    n: int
    metric: str

    def __post_init__(self) -> None:
        _check_texts("score.metric", [self.metric])

    @property
    def gain(self) -> float:
        """Points that the member is above the base."""
        return self.member - self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One adapter of a pool; `items` counts the training items, `licences` are those of the data sets.

    `role` "reader": it was taught to read examples in the prompt, knows no task, and no similarity chooses it.
    """

    name: str
    title: str
    rank: int
    alpha: float
    datasets: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    items: int = 0
    score: Score | None = None
    role: Literal["task", "reader"] = "task"

    def __post_init__(self) -> None:
        check_name(self.name, "pool: members: name")
        _check_texts(f"members: {self.name}", [self.title, *self.datasets, *self.licences])
        _check_rank(f"members: {self.name}: ", self.rank, self.alpha)

    @property
    def scale(self) -> float:
        """Factor of B @ A."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A member that was trained and is not in the pool."""

    name: str
    reason: str
    score: Score | None = None

    def __post_init__(self) -> None:
        _check_texts("rejected", [self.name, self.reason])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about a pool but its numbers.

    `kind` "shared": one frozen A for each target, K trained Bs, all of this rank and alpha. "independent": every member
    has its own A and B; `rank` and `alpha` are those of the widest. `a_seed` stands for a random shared A. `precision`
    is the type of A and B in the file. `tensors_sha256` is empty until a `Pool` is made.

    Raises:
        AdapterError: a field contradicts another or lies out of bounds; names the field.
    """

    name: str
    title: str
    kind: Literal["shared", "independent"]
    base: BaseModel
    rank: int
    alpha: float
    targets: tuple[Target, ...]
    members: tuple[Member, ...]
    encoder: EncoderRecord | None = None
    gate: Gate = field(default_factory=Gate)
    a_seed: int | None = None
    precision: Literal["F16", "F32"] = "F16"
    training: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()
    tensors_sha256: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise AdapterError(f"pool: schema is {self.schema}, this Crayon reads {SCHEMA}: update Crayon or the pool")
        check_name(self.name, "pool: name")
        _check_texts("title", [self.title])
        _check_rank("", self.rank, self.alpha)
        if not 1 <= len(self.members) <= MAX_WEIGHTS:
            raise AdapterError(f"pool: members: there are {len(self.members)}; a pool has 1 to {MAX_WEIGHTS}")
        if not 1 <= len(self.targets) <= MAX_TARGETS:
            raise AdapterError(f"pool: targets: there are {len(self.targets)}; a pool has 1 to {MAX_TARGETS}")
        _check_distinct("targets", (target.name for target in self.targets))
        _check_distinct("members", (member.name for member in self.members))
        self._check_ranks()
        for name, given in (("alone", self.gate.alone), ("mixes", self.gate.mixes)):
            if len(given) not in (0, len(self.members)):
                raise AdapterError(f"pool: gate.{name} must hold one entry for each member, or none")
        for k, member in enumerate(self.members):
            if member.role == "reader" and not (self.gate.mixes and not self.gate.mixes[k]):
                raise AdapterError(f"pool: gate.mixes must be false for {member.name}, which reads examples")
        if self.tensors_sha256 and not _SHA256.fullmatch(self.tensors_sha256):
            raise AdapterError("pool: tensors_sha256 must be 64 hexadecimal digits")

    @property
    def id(self) -> str:
        """The name that travels on the wire. Its hash covers all that decides what a list of weights does."""
        made_of = [
            self.tensors_sha256,
            self.kind,
            self.base.source_sha256,
            [self.rank, self.alpha, self.a_seed],
            [[target.name, target.outputs, target.inputs] for target in self.targets],
            [[member.name, member.rank, member.alpha] for member in self.members],
        ]
        return f"{self.name}@{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"

    @property
    def scale(self) -> float:
        """Factor of B @ A in a shared pool."""
        return self.alpha / self.rank

    def dump(self) -> bytes:
        """Return the text of `pool.json`.

        Raises:
            AdapterError: `training` or a text holds what JSON cannot.
        """
        try:
            return (json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except (TypeError, ValueError) as error:
            raise AdapterError(f"pool: cannot be written as JSON ({error})") from None

    @classmethod
    def parse(cls, data: bytes, where: str = "pool.json") -> Manifest:
        """Return the manifest that `data` holds.

        Raises:
            AdapterError: not JSON, or a field is missing, unknown, of another type or out of bounds.
        """
        manifest = read_record(cls, data, where)
        if not manifest.tensors_sha256:
            raise AdapterError(f"{where}: lacks the field 'tensors_sha256'")
        return manifest

    def _check_ranks(self) -> None:
        if self.kind == "shared":
            for member in self.members:
                if (member.rank, member.alpha) != (self.rank, self.alpha):
                    raise AdapterError(
                        f"pool: members: {member.name} has another rank or alpha than the pool, which shares one A"
                    )
            seeded = self.rank * sum(target.inputs for target in self.targets)
            if self.a_seed is not None and seeded > MAX_SEEDED:
                raise AdapterError(
                    f"pool: a_seed stands for {seeded:,} numbers (rank {self.rank} by the inputs of all targets), "
                    f"at most {MAX_SEEDED:,} are made; keep A in the file instead"
                )
        else:
            if self.rank != max(member.rank for member in self.members):
                raise AdapterError("pool: rank must be that of the widest member of an independent pool")
            if self.a_seed is not None:
                raise AdapterError("pool: a_seed stands for the A of a shared pool; an independent one has none")


def _check_rank(where: str, rank: int, alpha: float) -> None:
    if not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"pool: {where}rank is {rank}; it must be between 1 and {MAX_RANK}")
    if not 0.0 < alpha <= 1e6:
        raise AdapterError(f"pool: {where}alpha is {alpha}; it must be above 0 and at most 1e6")


def _check_distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise AdapterError(f"pool: {what}: {name} is there twice")
        seen.add(name)
