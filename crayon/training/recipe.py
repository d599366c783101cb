"""What a pool is trained from, and how: one TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crayon.adapters.gate import Gate
from crayon.adapters.manifest import Member
from crayon.adapters.records import record
from crayon.customising.samples import read_samples
from crayon.data.qa import Item, load_items
from crayon.errors import AdapterError, ConfigError, InvalidRequestError

MAX_RECIPE_BYTES = 1 << 20
GENERALIST = "generalist"


@dataclass(frozen=True, slots=True)
class Source:
    """Where items come from: a task (or all tasks) of a dataset, or a file of samples of your own."""

    dataset: str = ""
    task: str | None = None
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.dataset) == bool(self.file):
            raise ConfigError("sources", "each must name either a dataset or a file")

    def items(self, split: str) -> list[Item]:
        """Return the items of a split; a file of samples is split here, every fifth sample being held out.

        Raises:
            ConfigError, InvalidRequestError: it cannot be read.
        """
        if self.dataset:
            return load_items(self.dataset, split, self.task)
        samples = [sample for sample in read_samples(Path(self.file)) if sample.answer is not None]
        if not samples:
            raise InvalidRequestError("file", f"{self.file} holds no sample with an answer")
        return [
            Item(
                id=f"{Path(self.file).name}/{i}",
                dataset=Path(self.file).stem,
                task=Path(self.file).stem,
                question=sample.question,
                answer_text=sample.answer or "",
                choices=sample.choices,
                answer=sample.choices.index(sample.answer) if sample.choices and sample.answer else None,
            )
            for i, sample in enumerate(samples)
            if (i % 5 == 4) == (split == "test")
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecipe:
    """One member: its task, how many of its items are used, and how long it trains (None: the recipe's default).

    `mixes` False keeps it out of blends for users whom no member fits: it only answers alone.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    licence: str = ""
    items: int = 1000
    steps: int | None = None
    mixes: bool = True
    rate: float | None = None

    def __post_init__(self) -> None:
        _checked("member", name=self.name, title=self.title, licences=(self.licence,))
        if self.name == GENERALIST:
            raise ConfigError("member.name", f"{GENERALIST!r} is the member that is trained on all tasks; use another")
        if not self.sources:
            raise ConfigError("member.sources", f"{self.name} has none; add {{ dataset = ... }} or {{ file = ... }}")
        if self.items < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError(f"member {self.name}", "items and steps must be at least 1")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"member {self.name}", "rate must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole pool.

    Args:
        matrices: which of a layer's matrices change, by llama.cpp's names; in layers `first_layer` (None: upper half)
            up to but not including `end_layer` (None: all).
        alpha: scale of the change is alpha / rank.
        clusters: 0 makes one member of each [[member]]; K makes K members of clusters of similar questions of all.
        generalist_steps: batches over all items together, 0 for no such member. Members start from it.
        member_steps: batches for each member.
        blended_steps: batches in which blends are trained: each batch is one task's, blended by the gate from the
            others' members. Kept if `held_out` tasks do better for it.
        batch, rate, member_rate, blended_rate: examples in a batch and the learning rates of the three stages.
        max_tokens: longer examples are left out, and counted.
        min_gain: points that a member must be above the base.
        held_out: tasks for that judgement; only their train split is read, and nothing trains on them.
    """

    name: str
    title: str
    model: str
    members: tuple[MemberRecipe, ...]
    held_out: tuple[Source, ...] = ()
    gate: Gate = Gate()  # noqa: RUF009 - frozen
    kind: Literal["shared", "independent"] = "shared"
    rank: int = 32
    alpha: float = 64.0
    matrices: tuple[str, ...] = ("attn_output", "ffn_down")
    first_layer: int | None = None
    end_layer: int | None = None
    seed: int = 0
    clusters: int = 0
    generalist_steps: int = 150
    member_steps: int = 30
    blended_steps: int = 0
    batch: int = 16
    rate: float = 4e-3
    member_rate: float = 3e-3
    blended_rate: float = 1e-3
    max_tokens: int = 160
    min_gain: float = 5.0
    scored_items: int = 200

    def __post_init__(self) -> None:
        if self.gate.alone or self.gate.mixes:
            raise ConfigError(
                "gate", "leave out alone and mixes: training measures the one, each [[member]] says the other"
            )
        _checked("recipe", name=self.name, title=self.title, rank=self.rank, alpha=self.alpha)
        if not self.members:
            raise ConfigError("member", "the recipe has none; add [[member]] tables")
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ConfigError("member.name", "two members have one name")
        least = {"batch": 1, "member_steps": 1, "max_tokens": 1, "scored_items": 1}
        for key, bound in (least | {"seed": 0, "generalist_steps": 0, "blended_steps": 0}).items():
            if getattr(self, key) < bound:
                raise ConfigError(key, f"must be at least {bound}")
        if not min(self.rate, self.member_rate, self.blended_rate) > 0:
            raise ConfigError("rate", "rate, member_rate and blended_rate must be above 0")
        if not self.matrices or len(set(self.matrices)) != len(self.matrices):
            raise ConfigError("matrices", "must be different names, at least one")
        if self.clusters < 0 or self.clusters == 1:
            raise ConfigError("clusters", "must be 0 (members as listed) or at least 2")
        if self.kind == "independent" and self.blended_steps:
            raise ConfigError("blended_steps", "blends are trained in shared pools only; set it to 0")
        if self.blended_steps and not self.held_out:
            raise ConfigError("held_out", "a blended stage needs tasks to be judged on; add some")


def load_recipe(reference: str) -> Recipe:
    """Return a recipe by path, or one that comes with Crayon by name.

    Raises:
        ConfigError: there is none of that name, or a key is unknown, missing or of the wrong type.
    """
    shipped = resources.files("crayon.training").joinpath("recipes", f"{reference}.toml")
    path = Path(reference)
    try:
        data = path.read_bytes() if path.is_file() else shipped.read_bytes()
        if len(data) > MAX_RECIPE_BYTES:
            raise ConfigError("recipe", f"{reference} is larger than {MAX_RECIPE_BYTES} bytes")
        table = tomllib.loads(data.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("recipe", f"{reference!r} is no recipe of ours and no TOML file ({error})") from None
    if "members" in table:
        raise ConfigError("recipe", "has the unknown field 'members'; write [[member]] tables")
    table["members"] = table.pop("member", [])
    try:
        return record(Recipe, table, "recipe")
    except AdapterError as error:
        raise ConfigError("recipe", str(error).removeprefix("recipe: ").replace("JSON object", "table")) from None


def _checked(where: str, **said: Any) -> None:
    """Refuse what a pool could not say of itself: better now than after an hour of training."""
    try:
        Member(**{"title": "-", "rank": 1, "alpha": 1.0, **said})
    except AdapterError as error:
        raise ConfigError(where, str(error).removeprefix("pool: ")) from None
