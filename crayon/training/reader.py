"""The member that reads examples: what it is trained on, what it is measured on, and its card."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.manifest import Member, Rejected, Score
from crayon.adapters.pool import Pool
from crayon.errors import AdapterMismatchError, ConfigError
from crayon.training.card import too_little
from crayon.training.checkpoints import digest
from crayon.training.descent import Watch
from crayon.training.examples import Example
from crayon.training.reading import LONGEST_QUESTION, read_task, read_tasks, readings, user
from crayon.training.recipe import READER
from crayon.training.tasks import source_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.manifest import Manifest
    from crayon.training.checkpoints import Checkpoints
    from crayon.training.descent import TrainState
    from crayon.training.examples import Prompts
    from crayon.training.recipe import ItemSource, ReaderRecipe, Recipe
    from crayon.training.trainer import Accuracy, Trainer

MOST_ASKED = 512  # tokens of a measured question with its examples: a user's prompts are no shorter for training's sake


class ReaderStage:
    """What a reader is trained on and measured on, in tokens.

    Args:
        recipe: the reader's.
        prompts: writes tokens.
        seed: draws conversations, samples and questions.

    Raises:
        ConfigError, InvalidRequestError: a source cannot be read, or holds too little.
    """

    def __init__(self, recipe: ReaderRecipe, prompts: Prompts, seed: int) -> None:
        self._recipe, self._seed = recipe, seed
        tasks = read_tasks(recipe, recipe.items())
        shares = recipe.shares or (1.0,) * len(tasks)
        self.texts = list(islice(readings(tasks, shares, prompts, recipe, seed), recipe.steps * recipe.batch))
        rng = random.Random(seed)  # noqa: S311 - draws samples, keeps no secret
        self.asked = [_asked(source, recipe, prompts, rng) for source in recipe.held_out]

    def train(
        self, trainer: Trainer, kept: Checkpoints, teller: Callable[[str, int], Callable[[int, float], None]]
    ) -> NDArray[np.float32]:
        """Return the reader's B's, (N,), kept or trained; `teller` makes a listener of a name and a number of steps.

        They start from zeros: what a generalist knows of single tasks is what a reader shall not rely on.
        """
        steps, rate, batch, seed = self._recipe.steps, self._recipe.rate, self._recipe.batch, self._seed

        def train(resume: TrainState | None, save: Callable[[TrainState], None]) -> NDArray[np.float32]:
            watch = Watch(resume, save, teller(READER, steps))
            return trainer.train(self.texts, steps=steps, rate=rate, batch=batch, seed=seed, watch=watch)

        read = digest(repr([(text.text, text.said) for text in self.texts]).encode())
        return kept.trained(READER, [steps, rate, seed, batch, read], train)

    def score(
        self,
        b: NDArray[np.float32],
        measure: Callable[[str, Sequence[Example], NDArray[np.float32] | None], Accuracy],
    ) -> Score:
        """Return the means, over tasks held out, of base and reader: exact answers with samples as earlier turns."""
        points = [
            [measure(f"{READER}-{i}", examples, vector).exact for vector in (None, b)]
            for i, examples in enumerate(self.asked)
        ]
        before, after = (round(float(mean), 1) for mean in np.mean(points, axis=0))
        return Score(before, after, sum(map(len, self.asked)), "exact answer, examples in the prompt")


def _asked(source: ItemSource, recipe: ReaderRecipe, prompts: Prompts, rng: random.Random) -> list[Example]:
    """Return questions of one user of a task, each with that user's samples as earlier turns."""
    items = [item for item in source.items("train") if len(item.prompt) <= LONGEST_QUESTION]
    task = read_task(source_name(source), items)
    samples, asked, _ = user(task, recipe.examples, recipe.scored_items, rng)
    found = []
    for question, answer in asked:
        last = prompts.of(question, answer)
        shown: tuple[int, ...] = ()
        for sample in samples:
            one = prompts.of(*sample).text + prompts.joint
            if len(shown) + len(one) + last.tokens <= MOST_ASKED:
                shown += one
        found.append(Example(shown + last.prompt, last.answer))
    return found


def reader_card(recipe: Recipe, score: Score) -> Member:
    """Return what is known of a recipe's reader.

    Raises:
        ConfigError: the recipe has none.
    """
    own = recipe.reader
    if own is None:
        raise ConfigError("reader", "the recipe has none; add a [reader] table")
    return Member(
        name=READER,
        title=own.title,
        rank=recipe.rank,
        alpha=recipe.alpha,
        datasets=tuple(dict.fromkeys(source_name(source) for source in own.sources)),
        licences=own.licences,
        items=own.steps * own.batch,
        score=score,
        role="reader",
    )


def joined(pool: Pool, recipe: Recipe, row: NDArray[np.float32], score: Score) -> Pool:
    """Return a pool with a recipe's reader, if that gains enough; else without one, saying why.

    Args:
        pool: of the recipe's base, A and targets (`check_fits`).
        recipe: has a reader.
        row: the reader's B's, (N,), in the pool's order.
        score: of the reader.
    """
    old = without_reader(pool)
    if score.gain < recipe.min_gain:
        left = Rejected(name=READER, reason=too_little(score, recipe), score=score)
        rejected = (*old.manifest.rejected, left)
        return _shared(replace(old.manifest, rejected=rejected, tensors_sha256=""), old.b, old.keys, old)
    return with_reader(old, row, reader_card(recipe, score))


def with_reader(pool: Pool, row: NDArray[np.float32], card: Member) -> Pool:
    """Return a shared pool with a reader behind its other members, in place of the reader that it may have.

    No similarity chooses it: its key is all zeros, it never answers alone, and it takes no part in mixtures.

    Args:
        pool: of the reader's A and targets (`check_fits`).
        row: the reader's B's, (N,), in the pool's order.
        card: what the manifest says of it.
    """
    old = without_reader(pool)
    gate, count = old.manifest.gate, len(old)
    gate = replace(
        gate,
        alone=(*(gate.alone or (gate.sharpen,) * count), 2.0),
        mixes=(*(gate.mixes or (True,) * count), False),
    )
    manifest = replace(old.manifest, members=(*old.manifest.members, card), gate=gate, tensors_sha256="")
    keys = np.vstack([old.keys, np.zeros_like(old.keys[:1])])
    return _shared(manifest, np.vstack([old.b, row]), keys, old)


def without_reader(pool: Pool) -> Pool:
    """Return a shared pool without its reader, and without what is said of one that was left out."""
    manifest = pool.manifest
    kept = [k for k, member in enumerate(manifest.members) if member.role != "reader"]
    rejected = tuple(each for each in manifest.rejected if each.name != READER)
    if len(kept) == len(pool) and rejected == manifest.rejected:
        return pool
    gate = manifest.gate
    alone = tuple(gate.alone[k] for k in kept) if gate.alone else ()
    mixes = tuple(gate.mixes[k] for k in kept) if gate.mixes else ()
    manifest = replace(
        manifest,
        members=tuple(manifest.members[k] for k in kept),
        gate=replace(gate, alone=alone, mixes=mixes),
        rejected=rejected,
        tensors_sha256="",
    )
    return _shared(manifest, pool.b[kept], pool.keys[kept], pool)


def check_fits(pool: Pool, like: Manifest) -> None:
    """Refuse a pool whose members a reader trained for the manifest `like` could not join.

    Raises:
        AdapterMismatchError: names what differs.
    """
    own = pool.manifest
    for what, mine, theirs in (
        ("kind", own.kind, like.kind),
        ("base model", own.base.source_sha256[:12], like.base.source_sha256[:12]),
        ("rank", own.rank, like.rank),
        ("alpha", own.alpha, like.alpha),
        ("a_seed", own.a_seed, like.a_seed),
        ("targets", [t.name for t in own.targets], [t.name for t in like.targets]),
    ):
        if mine != theirs:
            raise AdapterMismatchError(f"pool {pool.id}: its {what} is {mine}, the recipe's {theirs}")


def _shared(manifest: Manifest, rows: NDArray[np.float32], keys: NDArray[np.float32], old: Pool) -> Pool:
    a = None if manifest.a_seed is not None else old.a
    if manifest.encoder is None:
        return Pool.shared(manifest, rows, a=a)
    return Pool.shared(manifest, rows, a=a, keys=keys, centre=old.centre, head=old.head)
