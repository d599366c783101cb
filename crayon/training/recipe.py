"""What a pool is trained from, and how: one TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crayon.adapters.gate import Gate
from crayon.adapters.manifest import Member
from crayon.adapters.records import record
from crayon.customising.samples import read_samples
from crayon.data.qa import Item, load_items
from crayon.errors import AdapterError, ConfigError, InvalidRequestError
from crayon.training.cuts import CUTS

MAX_RECIPE_BYTES = 1 << 20
GENERALIST = "generalist"
READER = "reader"


@dataclass(frozen=True, slots=True)
class ItemSource:
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
    sources: tuple[ItemSource, ...]
    licence: str = ""
    items: int = 1000
    steps: int | None = None
    mixes: bool = True
    rate: float | None = None

    def __post_init__(self) -> None:
        _checked("member", name=self.name, title=self.title, licences=(self.licence,))
        for name, what in ((GENERALIST, "trained on all tasks"), (READER, "trained to read examples")):
            if self.name == name:
                raise ConfigError("member.name", f"{name!r} is the member that is {what}; use another")
        if not self.sources:
            raise ConfigError("member.sources", f"{self.name} has none; add {{ dataset = ... }} or {{ file = ... }}")
        if self.items < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError(f"member {self.name}", "items and steps must be at least 1")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"member {self.name}", "rate must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRecipe:
    """The member that reads examples: it is trained on conversations whose earlier turns are examples of one task.

    Args:
        sources: whose tasks it reads; one is drawn by its share, then one of its tasks evenly.
        shares: of each source, and last of `cuts`; () for even ones.
        cuts: rules that cut answers out of short questions (`crayon.training.cuts`).
        held_out: tasks that it is measured on; what the sources have of them is left out.
        steps, batch, rate: conversations are `steps` times `batch`, each comes once.
        examples: most turns before the last question.
        replaced, shuffled: shares of conversations whose labels are called by other words, or by one another's names.
        max_tokens: of a conversation.
        scored_items: questions of each task it is measured on.
    """

    title: str
    sources: tuple[ItemSource, ...]
    held_out: tuple[ItemSource, ...]
    shares: tuple[float, ...] = ()
    cuts: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    steps: int = 120
    batch: int = 4
    rate: float = 3e-3
    examples: int = 16
    replaced: float = 0.2
    shuffled: float = 0.1
    max_tokens: int = 400
    scored_items: int = 20

    def __post_init__(self) -> None:
        _checked("reader", name=READER, title=self.title, licences=self.licences)
        for key in ("sources", "held_out"):
            if not getattr(self, key):
                raise ConfigError(f"reader.{key}", "has none; add { dataset = ... } or { file = ... }")
        if unknown := [rule for rule in self.cuts if rule not in CUTS]:
            raise ConfigError("reader.cuts", f"{unknown[0]!r} is no rule; there are {', '.join(CUTS)}")
        if self.shares and (
            len(self.shares) != len(self.sources) + bool(self.cuts) or min(self.shares) < 0 or not sum(self.shares)
        ):
            raise ConfigError(
                "reader.shares", "must hold one number from 0 on for each source, and a last one for cuts"
            )
        for key in ("steps", "batch", "examples", "max_tokens", "scored_items"):
            if getattr(self, key) < 1:
                raise ConfigError(f"reader.{key}", "must be at least 1")
        if not self.rate > 0:
            raise ConfigError("reader.rate", "must be above 0")
        if min(self.replaced, self.shuffled) < 0 or self.replaced + self.shuffled > 1:
            raise ConfigError("reader.replaced", "and shuffled must be shares that sum to at most 1")

    def items(self) -> list[list[Item]]:
        """Return the train items of each source, without those of tasks held out.

        Raises:
            ConfigError, InvalidRequestError: they cannot be read.
        """
        kept = {(source.dataset, source.task) for source in self.held_out if source.dataset}

        def learned(item: Item) -> bool:
            return not {(item.dataset, None), (item.dataset, item.task)} & kept

        return [[item for item in source.items("train") if learned(item)] for source in self.sources]


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
        reader: one more member, which reads examples in the prompt; None for no such one.
    """

    name: str
    title: str
    model: str
    members: tuple[MemberRecipe, ...]
    held_out: tuple[ItemSource, ...] = ()
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
    reader: ReaderRecipe | None = None

    def __post_init__(self) -> None:
        if self.gate.alone or self.gate.mixes:
            raise ConfigError(
                "gate", "leave out alone and mixes: training measures the one, each [[member]] says the other"
            )
        _checked("recipe", name=self.name, title=self.title, rank=self.rank, alpha=self.alpha)
        if not self.members and self.reader is None:
            raise ConfigError("member", "the recipe has none; add [[member]] tables")
        if self.reader is not None and self.kind != "shared":
            raise ConfigError("reader", "is trained on a shared A; leave it out of independent pools")
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

    def only_reader(self) -> Recipe:
        """Return the recipe without all that a reader's training does not follow from.

        Raises:
            ConfigError: it has no reader.
        """
        if self.reader is None:
            raise ConfigError("reader", f"the recipe {self.name} has none; add a [reader] table")
        return replace(self, members=(), held_out=(), blended_steps=0, clusters=0)


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
        table = tomllib.loads(data.decode("utf-8-sig"))
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
