"""The control that everybody must report: a LoRA trained from zero on a user's own few samples."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.formats.matrices import BaseShapes
from crayon.adapters.shared_a import join_b, split_b
from crayon.errors import InvalidRequestError
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.training.examples import Prompts
from crayon.training.network import Network
from crayon.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.samples import Sample

STEPS = 20
RATE = 4e-3
BATCH = 16


class FreshTrainer:
    """Trains B's for a pool's matrices and A from zero, on samples alone, on the file that the device runs.

    Raises:
        ModelError: the pool's base model cannot be found.
    """

    def __init__(self, pool: Pool) -> None:
        manifest = pool.manifest
        local = resolve(manifest.base.name)
        self._path = prepared.usable(local) or local.path
        with Model(self._path, vocab_only=True) as model:
            prompts = Prompts(model)
        network = Network(self._path)
        network.adapt(
            manifest.targets, manifest.rank, manifest.scale, {name: np.array(a) for name, a in pool.a.items()}
        )
        first = min(int(target.name.split(".")[1]) for target in manifest.targets)
        self._trainer = Trainer(network, prompts.start, first, prompts.end)
        self._manifest = manifest

    def train(self, samples: Sequence[Sample], seed: int) -> NDArray[np.float32]:
        """Return B's, (N,), in the pool's order, after 20 batches of at most 16 samples; equal for equal arguments.

        Raises:
            InvalidRequestError: no sample has an answer.
        """
        with Model(self._path, vocab_only=True) as model:
            prompts = Prompts(model)
            examples = [prompts.of(s.question, s.answer) for s in samples if s.answer is not None]
        if not examples:
            raise InvalidRequestError("samples", "hold no answer, so nothing can be trained on them")
        batch = min(BATCH, len(examples))
        b = self._trainer.train(examples, steps=STEPS, rate=RATE, batch=batch, seed=seed)
        manifest = self._manifest
        shapes = BaseShapes.read(self._path)
        parts = split_b(b, manifest.targets, manifest.rank)
        ordered = {name: shapes.from_transformers(name, part) for name, part in parts.items()}
        return join_b(ordered, manifest.targets, manifest.rank)


def train_fresh(pool: Pool, samples: Sequence[Sample], seed: int) -> NDArray[np.float32]:
    """Return what `FreshTrainer.train` returns; the network of the last pool stays loaded."""
    return _trainer(pool).train(samples, seed)


@functools.lru_cache(maxsize=1)
def _trainer(pool: Pool) -> FreshTrainer:
    return FreshTrainer(pool)
