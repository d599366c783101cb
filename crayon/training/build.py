"""From a recipe to a pool: generalist, members, blended stage, scores, keys. Every finished part is kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from crayon.adapters.formats.matrices import BaseShapes
from crayon.adapters.gate import weights
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import BaseModel, Encoder, Manifest, Member, Rejected, Score, Target
from crayon.adapters.pool import Pool
from crayon.adapters.shared_a import join_b, random_a, split_b
from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest
from crayon.errors import AdapterError, ConfigError
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.training.examples import Prompts
from crayon.training.network import Network
from crayon.training.tasks import KEY_TEXTS, Task, clustered_tasks, listed_tasks, source_name
from crayon.training.trainer import Accuracy, Trainer, TrainState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.training.examples import Example
    from crayon.training.recipe import Recipe

GENERALIST = "generalist"
SAMPLES = 16  # of a simulated user, where weights are computed as for a real one


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
        self.recipe, self._work, self._progress = recipe, work, progress
        work.mkdir(parents=True, exist_ok=True)
        local = resolve(recipe.model, models_dir=models_dir)
        # Members correct what the device runs, so they are trained on the file that the device runs.
        self.path = prepared.usable(local, models_dir) or local.path
        self._local = local
        progress(Event("reading the base model", 0.0, self.path.name))
        self._shapes = BaseShapes.read(self.path)
        with Model(self.path) as model:
            layers, width = model.n_layer, model.n_embd
            prompts = Prompts(model)
            self._start, self._end = prompts.start, prompts.end
            self._tasks = (
                clustered_tasks(recipe, prompts, self._embed) if recipe.clusters else listed_tasks(recipe, prompts)
            )
            self._held_out = [
                (prompts.examples(source.items("train")), source.items("train")) for source in recipe.held_out
            ]
        self.first = layers // 2 if recipe.first_layer is None else recipe.first_layer
        self.network = Network(self.path, device=device, dtype=dtype)
        self.targets = tuple(
            Target(name, *self.network.shape(name))
            for layer in range(self.first, recipe.end_layer or layers)
            for name in (f"blk.{layer}.{matrix}.weight" for matrix in recipe.matrices)
        )
        self._base = BaseModel(local.name, local.sha256, self._shapes.architecture, layers, width)
        self.a = {t.name: random_a(recipe.seed, t.name, recipe.rank, t.inputs) for t in self.targets}
        self.network.adapt(self.targets, recipe.rank, recipe.alpha / recipe.rank, self.a)
        self.trainer = Trainer(self.network, self._start, self.first, self._end)

    # -- the whole

    def build(self) -> Pool:
        """Train what is not there yet and return the pool.

        Raises:
            AdapterError: no member is good enough.
        """
        started = time.monotonic()
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
        scores, rejected = {}, []
        kept: list[Task] = []
        for task in self._tasks:
            name = task.recipe.name
            scores[name] = self._score(task, vectors[name])
            if scores[name].gain >= recipe.min_gain:
                kept.append(task)
            else:
                reason = f"gains {scores[name].gain:.1f} points, less than {recipe.min_gain:g}"
                rejected.append(Rejected(name=name, reason=reason, score=scores[name]))
        if not kept:
            raise AdapterError("no member gains enough over the base; see the scores in the work folder")
        keys, centre = self._keys(kept)
        training: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed, "batch": recipe.batch}
        names = [task.recipe.name for task in kept]
        if recipe.blended_steps:
            blended = self._blended(names, kept, vectors, keys)
            before, after = (self._judge(choice, names, keys, centre) for choice in (vectors, blended))
            training["blended"] = {"held_out_before": before, "held_out_after": after, "kept": after > before}
            if after > before:
                vectors = blended
                scores |= {task.recipe.name: self._score(task, vectors[task.recipe.name]) for task in kept}
        training["seconds"] = round(time.monotonic() - started)
        training["too_long"] = {task.recipe.name: task.too_long for task in kept if task.too_long}
        members = [self._member(task, scores[task.recipe.name]) for task in kept]
        if GENERALIST in vectors:
            members.append(self._generalist_member())
            names.append(GENERALIST)
            # It is never chosen by similarity: the gate gives it its part. Any unit key will do.
            keys = np.vstack([keys, keys.mean(axis=0) / np.linalg.norm(keys.mean(axis=0))])
        manifest = Manifest(
            name=recipe.name,
            title=recipe.title,
            kind=recipe.kind,
            base=self._base,
            rank=recipe.rank,
            alpha=recipe.alpha,
            targets=self.targets,
            members=tuple(members),
            encoder=Encoder(layer=self._layer, dimensions=keys.shape[1]),
            gate=recipe.gate,
            a_seed=recipe.seed if recipe.kind == "shared" else None,
            training=training,
            rejected=tuple(rejected),
        )
        keys = keys.astype(np.float32)
        if recipe.kind == "independent":
            adapters = [LoraTensors(self._tensors(vectors[name]), manifest.scale) for name in names]
            return Pool.independent(manifest, adapters, keys=keys, centre=centre)
        return Pool.shared(
            manifest, np.stack([self.pool_order(vectors[name]) for name in names]), keys=keys, centre=centre
        )

    def generalist(self, steps: int) -> NDArray[np.float32]:
        """Return one adapter trained on all tasks, each with an equal share."""
        share = max(len(task.train) for task in self._tasks)
        examples = [task.train[i % len(task.train)] for task in self._tasks for i in range(share)]
        recipe = self.recipe
        return self._trained(
            GENERALIST, examples, steps=steps, rate=recipe.rate, seed=recipe.seed, init=self._start_vector()
        )

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
        recipe = self.recipe
        identity = [
            *(recipe.model, str(self.path.stat().st_size), recipe.rank, recipe.alpha, recipe.seed, recipe.batch),
            *(name, steps, rate, seed, "zeros" if init is None else _hash(init)),
            [target.name for target in self.targets],
            hashlib.sha256(repr([(e.prompt, e.answer) for e in examples]).encode()).hexdigest(),
        ]
        path = self._work / f"{name}-{_hash(json.dumps(identity).encode())}.safetensors"
        resume = None
        if path.is_file():
            found = load_file(path)
            if "done" in found:
                return np.ascontiguousarray(found["b"].numpy())
            resume = TrainState(int(found["step"]), found["b"], found["mean"], found["square"])

        def save(state: TrainState) -> None:
            kept = {"b": state.b, "mean": state.mean, "square": state.square, "step": torch.tensor(state.step)}
            _write(path, kept)

        def tell(step: int, loss: float) -> None:
            self._progress(Event(f"training {name}", step / steps, f"loss {loss:.2f}"))

        b = self.trainer.train(
            examples,
            steps=steps,
            rate=rate,
            batch=recipe.batch,
            seed=seed,
            init=init,
            resume=resume,
            save=save,
            progress=tell,
        )
        _write(path, {"b": torch.from_numpy(b), "done": torch.tensor(1)})
        return b

    def _score(self, task: Task, b: NDArray[np.float32]) -> Score:
        self._progress(Event(f"scoring {task.recipe.name}", 0.0))
        base, member = self._accuracy(task, None), self._accuracy(task, b)
        choices = not math.isnan(member.scored)
        before, after = (base.scored, member.scored) if choices else (base.exact, member.exact)
        metric = "likeliest choice" if choices else "exact answer"
        self._progress(Event(f"scoring {task.recipe.name}", 1.0, f"{before:.0f} -> {after:.0f}"))
        return Score(base=round(before, 1), member=round(after, 1), n=member.n, metric=metric)

    def _accuracy(self, task: Task, b: NDArray[np.float32] | None) -> Accuracy:
        made_of = [repr([(e.prompt, e.answer) for e in task.test]), "" if b is None else _hash(b), self.recipe.rank]
        path = self._work / f"score-{task.recipe.name}-{_hash(json.dumps(made_of).encode())}.json"
        if path.is_file():
            return Accuracy(**json.loads(path.read_text()))
        found = self.trainer.accuracy(task.test, b)
        path.write_text(json.dumps(asdict(found)))
        return found

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return mean states (texts, D) as the device itself computes them."""
        found = []
        with DeviceEngine(self.path, pools=()) as engine:
            for at in range(0, len(texts), KEY_TEXTS):
                raw = engine.encode_raw(EncodeRequest(texts=tuple(texts[at : at + KEY_TEXTS]))).result()
                found.append(raw.states)
                self._layer = raw.layer
                self._progress(Event("embedding questions", min(1.0, (at + KEY_TEXTS) / len(texts))))
        return np.concatenate(found)

    def _keys(self, tasks: Sequence[Task]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return unit keys (K, D) and the centre (D,) that was subtracted: the mean of the tasks' means."""
        means = np.stack([self._embed(task.texts).mean(axis=0) for task in tasks])
        centre = means.mean(axis=0)
        keys = means - centre
        return keys / np.linalg.norm(keys, axis=1, keepdims=True), centre.astype(np.float32)

    def _blended(
        self,
        names: Sequence[str],
        tasks: Sequence[Task],
        vectors: dict[str, NDArray[np.float32]],
        keys: NDArray[np.float32],
    ) -> dict[str, NDArray[np.float32]]:
        """Return members trained further as blends: each batch is a task's, without the task's own member."""
        similarity = keys @ keys.T
        np.fill_diagonal(similarity, -1.0)
        shares = np.stack([weights(row, replace(self.recipe.gate, sharpen=2.0, floor=-1.0)) for row in similarity])
        b = torch.nn.Parameter(torch.from_numpy(np.stack([vectors[name] for name in names])))
        mean, square = torch.zeros_like(b), torch.zeros_like(b)
        steps, rng = self.recipe.blended_steps, np.random.default_rng(self.recipe.seed)
        for step in range(steps):
            k = int(rng.integers(len(tasks)))
            batch = [tasks[k].train[i] for i in rng.integers(len(tasks[k].train), size=self.recipe.batch)]
            share = torch.from_numpy(shares[k].astype(np.float32))
            self.network.apply(share @ b)
            loss = self.trainer.loss(batch)
            (gradient,) = torch.autograd.grad(loss, b)
            gradient *= torch.clamp(1.0 / (gradient.norm() + 1e-9), max=1.0)
            mean.mul_(0.9).add_(gradient, alpha=0.1)
            square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            with torch.no_grad():
                size = self.recipe.blended_rate / (1 - 0.9 ** (step + 1))
                b.addcdiv_(mean, (square / (1 - 0.99 ** (step + 1))).sqrt_().add_(1e-8), value=-size)
            self._progress(Event("training blends", (step + 1) / steps, f"loss {float(loss.detach()):.2f}"))
        self.network.apply(None)
        return vectors | dict(zip(names, b.detach().numpy(), strict=True))

    def _judge(
        self,
        vectors: dict[str, NDArray[np.float32]],
        names: Sequence[str],
        keys: NDArray[np.float32],
        centre: NDArray[np.float32],
    ) -> float:
        """Return the mean accuracy, in points, on tasks that no member knows, blended as for a user of 16 samples."""
        if not self._held_out:
            raise ConfigError("held_out", "a blended stage needs tasks to be judged on; add [[held_out]] tables")
        points = []
        for examples, items in self._held_out:
            states = self._embed([item.prompt for item in items[:SAMPLES]]) - centre
            unit = states / np.linalg.norm(states, axis=1, keepdims=True)
            direction = unit.mean(axis=0)
            share = weights(keys @ (direction / np.linalg.norm(direction)), self.recipe.gate)
            b = sum(float(w) * vectors[name] for w, name in zip(share, names, strict=True))
            measured = examples[SAMPLES : SAMPLES + self.recipe.scored_items]
            points.append(self.trainer.accuracy(measured, np.asarray(b, np.float32)).scored)
        return float(np.mean(points))

    # -- the card

    def _member(self, task: Task, score: Score) -> Member:
        recipe = task.recipe
        return Member(
            name=recipe.name,
            title=recipe.title,
            rank=self.recipe.rank,
            alpha=self.recipe.alpha,
            datasets=tuple(source_name(source) for source in recipe.sources),
            licences=(recipe.licence,) if recipe.licence else (),
            items=len(task.train),
            score=score,
        )

    def _generalist_member(self) -> Member:
        members = [task.recipe for task in self._tasks]
        return Member(
            name=GENERALIST,
            title="All tasks of the pool together",
            rank=self.recipe.rank,
            alpha=self.recipe.alpha,
            datasets=tuple(dict.fromkeys(source_name(s) for m in members for s in m.sources)),
            licences=tuple(dict.fromkeys(m.licence for m in members if m.licence)),
            items=sum(len(task.train) for task in self._tasks),
        )


def _hash(data: Any) -> str:
    raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


def _write(path: Path, tensors: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
