"""From a recipe to a pool: generalist, members, blended stage, scores, keys. Every finished part is kept on disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.adapters.formats.matrices import BaseShapes
from crayon.adapters.gate import similarities, weights
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import BaseModel, EncoderRecord, Manifest, Rejected, Score, Target
from crayon.adapters.pool import Pool
from crayon.adapters.shared_a import join_b, random_a, split_b
from crayon.customising.space import Space
from crayon.data.texts import background_texts
from crayon.errors import AdapterError, ConfigError
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.training.card import generalist_card, member_card, too_little
from crayon.training.checkpoints import Checkpoints, digest
from crayon.training.descent import TrainState, Watch
from crayon.training.embedder import Embedder
from crayon.training.examples import Prompts
from crayon.training.keys import make_keys
from crayon.training.network import Network
from crayon.training.reader import ReaderStage, check_fits, joined
from crayon.training.recipe import GENERALIST
from crayon.training.tasks import TokenTask, clustered_tasks, held_out_task, listed_tasks
from crayon.training.trainer import Accuracy, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.training.examples import Example
    from crayon.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Event:
    """Progress: what is being done, how far it is (0 to 1), and its latest figure as text."""

    what: str
    done: float
    note: str = ""


class Builder:
    """Trains one pool.

    Args:
        recipe: what and how.
        work: folder of checkpoints; what is there and fits the recipe is not computed again.
        models_dir: where models are kept.
        device, dtype: where and in what torch multiplies.
        progress: told of every step.

    Raises:
        ModelError: the base was never prepared for this machine, or cannot be read.
        ConfigError, InvalidRequestError: a task cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        work: Path,
        *,
        models_dir: Path | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        progress: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.recipe, self._progress = recipe, progress
        local = resolve(recipe.model, models_dir=models_dir)
        # Members correct what the device runs, so they are trained on the file that the device runs.
        self.path = prepared.usable(local, models_dir) or local.path
        self._local = local
        progress(Event("reading the base model", 0.0, self.path.name))
        self._shapes = BaseShapes.read(self.path)
        self._embed = Embedder(self.path, lambda done: progress(Event("embedding questions", done)))
        with Model(self.path) as model:
            layers, width = model.n_layer, model.n_embd
            prompts = Prompts(model)
            self._start, self._end = prompts.start, prompts.end
            self._tasks = (
                clustered_tasks(recipe, prompts, self._embed) if recipe.clusters else listed_tasks(recipe, prompts)
            )
            self._reader = None if recipe.reader is None else ReaderStage(recipe.reader, prompts, recipe.seed)
            self._held_out = [held_out_task(source.items("train"), recipe, prompts) for source in recipe.held_out]
        self.first = layers // 2 if recipe.first_layer is None else recipe.first_layer
        end = layers if recipe.end_layer is None else recipe.end_layer
        if not 0 <= self.first < end <= layers:
            raise ConfigError("first_layer", f"layers {self.first} to {end} are not among the model's {layers}")
        self.network = Network(self.path, device=device, dtype=dtype)
        self.targets = tuple(
            Target(name, *self.network.shape(name))
            for layer in range(self.first, end)
            for name in (f"blk.{layer}.{matrix}.weight" for matrix in recipe.matrices)
        )
        self._base = BaseModel(local.name, local.sha256, self._shapes.architecture, layers, width)
        self.a = {t.name: random_a(recipe.seed, t.name, recipe.rank, t.inputs) for t in self.targets}
        self.network.adapt(self.targets, recipe.rank, recipe.alpha / recipe.rank, self.a)
        self.trainer = Trainer(self.network, self._start, self.first, self._end)
        network = self.network
        self._kept = Checkpoints(
            work,
            [
                *(local.sha256, self.path.name, str(network.dtype), network.device.type, self._start, self._end),
                *(recipe.kind, recipe.rank, recipe.alpha, recipe.seed, [target.name for target in self.targets]),
            ],
        )

    # -- the whole

    def build(self) -> Pool:
        """Train what is not there yet and return the pool.

        Raises:
            AdapterError: no member is good enough.
            ConfigError: the recipe has nothing but a reader.
        """
        if not self._tasks:
            raise ConfigError("member", "the recipe has only a reader: add it to a pool with --into")
        pool = self._of_tasks()
        return pool if self.recipe.reader is None else self.into(pool)

    def into(self, pool: Pool) -> Pool:
        """Return `pool` with the recipe's reader, or with the reason why it has none; nothing else is trained.

        Raises:
            AdapterMismatchError: the pool was made for another base, or other matrices.
            ConfigError: the recipe has no reader.
        """
        check_fits(pool, self._manifest(members=(generalist_card(self.recipe, ()),)))
        b, score = self.reader()
        return joined(pool, self.recipe, self.pool_order(b), score)

    def _of_tasks(self) -> Pool:
        started = time.monotonic()
        recipe = self.recipe
        vectors = self.trained()
        scores, rejected = {}, []
        kept: list[TokenTask] = []
        for task in self._tasks:
            name = task.recipe.name
            scores[name] = self._score(task, vectors[name])
            if scores[name].gain >= recipe.min_gain:
                kept.append(task)
            else:
                rejected.append(Rejected(name=name, reason=too_little(scores[name], recipe), score=scores[name]))
        if not kept:
            raise AdapterError("no member gains enough over the base; see the scores in the work folder")
        states, middle = self._states(kept)
        made = make_keys(states, middle, recipe.seed)
        keys, centre, head, alone = made.keys, made.centre, made.head, made.alone
        training: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed, "batch": recipe.batch}
        names = [task.recipe.name for task in kept]
        mixes = tuple(task.recipe.mixes for task in kept)
        if recipe.blended_steps and len(kept) > 1:
            blended = self._blended(names, kept, vectors, keys)
            place = Space("", self._embed.layer, centre, head).place
            before, after = (self._judge(choice, names, keys, place) for choice in (vectors, blended))
            better = kept if after > before else ()
            rescored = {task.recipe.name: self._score(task, blended[task.recipe.name]) for task in better}
            wins = after > before and all(score.gain >= recipe.min_gain for score in rescored.values())
            training["blended"] = {"held_out_before": before, "held_out_after": after, "kept": wins}
            if wins:
                vectors = blended
                scores |= rescored
        training["seconds"] = round(time.monotonic() - started)
        training["too_long"] = {task.recipe.name: task.too_long for task in kept if task.too_long}
        members = [member_card(recipe, task, scores[task.recipe.name]) for task in kept]
        if GENERALIST in vectors:
            members.append(generalist_card(recipe, self._tasks))
            names.append(GENERALIST)
            # No similarity chooses it: a key of zeros is near to nothing, and it never answers alone.
            keys = np.vstack([keys, np.zeros_like(keys[:1])])
            alone = (*alone, 2.0)
            mixes = (*mixes, True)
        manifest = self._manifest(
            members=tuple(members),
            encoder=EncoderRecord(layer=self._embed.layer, dimensions=keys.shape[1], head=head is not None),
            gate=replace(recipe.gate, alone=alone, mixes=mixes),
            training=training,
            rejected=tuple(rejected),
        )
        if recipe.kind == "independent":
            adapters = [LoraTensors(self._tensors(vectors[name]), manifest.scale) for name in names]
            return Pool.independent(manifest, adapters, keys=keys, centre=centre, head=head)
        rows = np.stack([self.pool_order(vectors[name]) for name in names])
        return Pool.shared(manifest, rows, keys=keys, centre=centre, head=head)

    def all_data(self) -> Pool:
        """Return the pool's hardest rival, a pool of one: trained on all tasks together, by as many batches as `build`.

        It has no keys: nothing is chosen, it answers everything.

        Raises:
            ConfigError: the recipe's adapters have A's of their own.
        """
        recipe = self.recipe
        if recipe.kind != "shared":
            raise ConfigError("kind", "the adapter of all data is trained on a shared A; drop --independent")
        steps = recipe.generalist_steps + recipe.blended_steps
        steps += sum(task.recipe.steps or recipe.member_steps for task in self._tasks)
        vector = self.generalist(steps)
        manifest = self._manifest(
            name=f"{recipe.name}-all-data",
            title="One adapter for all tasks of the pool together",
            members=(generalist_card(recipe, self._tasks),),
            training={"recipe": recipe.name, "seed": recipe.seed, "batch": recipe.batch, "steps": steps},
        )
        return Pool.shared(manifest, self.pool_order(vector)[np.newaxis])

    def _manifest(self, **said: Any) -> Manifest:
        recipe = self.recipe
        return Manifest(
            **{"name": recipe.name, "title": recipe.title, **said},
            kind=recipe.kind,
            base=self._base,
            rank=recipe.rank,
            alpha=recipe.alpha,
            targets=self.targets,
            a_seed=recipe.seed if recipe.kind == "shared" else None,
        )

    def trained(self) -> dict[str, NDArray[np.float32]]:
        """Return each member's B's, (N,), or of independent ones A's and B's, (M + N,), in transformers' order."""
        recipe = self.recipe
        vectors: dict[str, NDArray[np.float32]] = {}
        init = self._start_vector()
        if recipe.generalist_steps:
            init = vectors[GENERALIST] = self.generalist(recipe.generalist_steps)
        for i, task in enumerate(self._tasks):
            member = task.recipe
            vectors[member.name] = self._trained(
                member.name,
                task.train,
                steps=member.steps or recipe.member_steps,
                rate=member.rate or recipe.member_rate,
                seed=recipe.seed + 1 + i,
                init=init,
            )
        return vectors

    def generalist(self, steps: int) -> NDArray[np.float32]:
        """Return one adapter trained on all tasks, each with an equal share."""
        share = max(len(task.train) for task in self._tasks)
        examples = [task.train[i % len(task.train)] for task in self._tasks for i in range(share)]
        recipe = self.recipe
        return self._trained(
            GENERALIST, examples, steps=steps, rate=recipe.rate, seed=recipe.seed, init=self._start_vector()
        )

    def reader(self) -> tuple[NDArray[np.float32], Score]:
        """Return the reader's B's, (N,), and its score on tasks held out.

        Raises:
            ConfigError: the recipe has none.
        """
        if self._reader is None:
            raise ConfigError("reader", "the recipe has none; add a [reader] table")
        b = self._reader.train(self.trainer, self._kept, lambda name, steps: self._teller(f"training {name}", steps))
        self._progress(Event("scoring reader", 0.0))
        return b, self._reader.score(b, self._measured)

    def pool_order(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return B's with their rows as llama.cpp has them: q and k of llama models are permuted."""
        parts = split_b(vector, self.targets, self.recipe.rank)
        ordered = {name: self._shapes.from_transformers(name, part) for name, part in parts.items()}
        return join_b(ordered, self.targets, self.recipe.rank)

    def _start_vector(self) -> NDArray[np.float32] | None:
        """Return None for B's of zeros on the shared A; for independent adapters the A's and zeros."""
        if self.recipe.kind == "shared":
            return None
        flat = [self.a[target.name].ravel() for target in self.targets]
        return np.concatenate([*flat, np.zeros(self.network.size, np.float32)])

    def _tensors(self, vector: NDArray[np.float32]) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return A and B of each target of an independent adapter, B in llama.cpp's order."""
        rank, start = self.recipe.rank, 0
        b = split_b(self.pool_order(vector[self.network.a_size :]), self.targets, rank)
        tensors = {}
        for target in self.targets:
            end = start + rank * target.inputs
            tensors[target.name] = (vector[start:end].reshape(rank, target.inputs), b[target.name])
            start = end
        return tensors

    # -- stages

    def _trained(
        self,
        name: str,
        examples: Sequence[Example],
        *,
        steps: int,
        rate: float,
        seed: int,
        init: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        made_of = [steps, rate, seed, self.recipe.batch, "zeros" if init is None else digest(init), _digest(examples)]

        def train(resume: TrainState | None, save: Callable[[TrainState], None]) -> NDArray[np.float32]:
            watch = Watch(resume, save, self._teller(f"training {name}", steps))
            batch = self.recipe.batch
            return self.trainer.train(examples, steps=steps, rate=rate, batch=batch, seed=seed, init=init, watch=watch)

        return self._kept.trained(name, made_of, train)

    def _teller(self, what: str, steps: int) -> Callable[[int, float], None]:
        return lambda step, loss: self._progress(Event(what, step / steps, f"loss {loss:.2f}"))

    def _score(self, task: TokenTask, b: NDArray[np.float32]) -> Score:
        self._progress(Event(f"scoring {task.recipe.name}", 0.0))
        base, member = self._accuracy(task, None), self._accuracy(task, b)
        choices = not math.isnan(member.scored)
        before, after = (base.scored, member.scored) if choices else (base.exact, member.exact)
        metric = "likeliest choice" if choices else "exact answer"
        self._progress(Event(f"scoring {task.recipe.name}", 1.0, f"{before:.0f} -> {after:.0f}"))
        return Score(base=round(before, 1), member=round(after, 1), n=member.n, metric=metric)

    def _accuracy(self, task: TokenTask, b: NDArray[np.float32] | None) -> Accuracy:
        return self._measured(task.recipe.name, task.test, b)

    def _measured(self, name: str, examples: Sequence[Example], b: NDArray[np.float32] | None) -> Accuracy:
        made_of = [_digest(examples), "base" if b is None else digest(b)]
        return self._kept.measured(name, made_of, lambda: self.trainer.accuracy(examples, b))

    def _states(self, tasks: Sequence[TokenTask]) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
        """Return the states of each task's questions, and the centre if it is not that of the tasks.

        The only task of a pool would be its own centre: then it is the mean of the background texts.
        """
        states = [self._embed(task.texts) for task in tasks]
        return states, self._embed(background_texts()).mean(axis=0) if len(states) == 1 else None

    def _blended(
        self,
        names: Sequence[str],
        tasks: Sequence[TokenTask],
        vectors: dict[str, NDArray[np.float32]],
        keys: NDArray[np.float32],
    ) -> dict[str, NDArray[np.float32]]:
        """Return members trained further as blends: each batch is a task's, without the task's own member."""
        recipe = self.recipe
        similarity = keys @ keys.T
        np.fill_diagonal(similarity, -1.0)
        shares = np.stack([weights(row, replace(recipe.gate, sharpen=2.0, floor=-1.0, alone=())) for row in similarity])
        np.fill_diagonal(shares, 0.0)
        init = np.stack([vectors[name] for name in names])
        steps, rate, batch, seed = recipe.blended_steps, recipe.blended_rate, recipe.batch, recipe.seed
        examples = [task.train for task in tasks]

        def train(resume: TrainState | None, save: Callable[[TrainState], None]) -> NDArray[np.float32]:
            watch = Watch(resume, save, self._teller("training blends", steps))
            return self.trainer.train_blends(
                examples, shares, init, steps=steps, rate=rate, batch=batch, seed=seed, watch=watch
            )

        made_of = [steps, rate, batch, digest(shares), digest(init), [_digest(part) for part in examples]]
        trained = self._kept.trained("blends", made_of, train)
        return vectors | dict(zip(names, trained, strict=True))

    def _judge(
        self,
        vectors: dict[str, NDArray[np.float32]],
        names: Sequence[str],
        keys: NDArray[np.float32],
        place: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    ) -> float:
        """Return the mean accuracy, in points, on tasks that no member knows, blended as for a user of 16 samples."""
        points = []
        for i, (texts, measured) in enumerate(self._held_out):
            self._progress(Event("judging blends on tasks held out", i / len(self._held_out)))
            share = weights(similarities(place(self._embed(texts)), keys), replace(self.recipe.gate, alone=()))
            b = sum(float(w) * vectors[name] for w, name in zip(share, names, strict=True))
            found = self.trainer.accuracy(measured, np.asarray(b, np.float32))
            points.append(found.exact if math.isnan(found.scored) else found.scored)
        return float(np.mean(points))


def _digest(examples: Sequence[Example]) -> str:
    return digest(repr([(e.prompt, e.answer, e.options, e.gold) for e in examples]).encode())
