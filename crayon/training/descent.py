"""Gradient descent that can stop and go on as if it had not: AdamW without decay, its state three tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAVE_EVERY = 50
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a training stands: enough to go on exactly as if it had not stopped."""

    step: int
    b: Any
    mean: Any
    square: Any


def _nothing(*_: object) -> None:
    """Stand for a listener that is not there."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of a training, and where it goes on.

    Args:
        resume: a state that `save` was given.
        save: called every 50 steps.
        progress: called with each step and its loss, in nats per token.
    """

    resume: TrainState | None = None
    save: Callable[[TrainState], None] = _nothing
    progress: Callable[[int, float], None] = _nothing


def descend(
    start: Any, batches: Iterator[Batch], loss: Callable[[Any, Batch], Any], *, steps: int, rate: float, watch: Watch
) -> Any:
    """Return `start` after so many steps down the loss; `batches` yields the same ones each time it is begun."""
    resume = watch.resume
    b = torch.nn.Parameter((start if resume is None else resume.b).to(start.device, copy=True))
    mean = torch.zeros_like(b) if resume is None else resume.mean.to(b.device, copy=True)
    square = torch.zeros_like(b) if resume is None else resume.square.to(b.device, copy=True)
    done = 0 if resume is None else resume.step
    for step, batch in enumerate(islice(batches, done, steps), done):
        now = loss(b, batch)
        (gradient,) = torch.autograd.grad(now, b)
        gradient *= torch.clamp(1.0 / (gradient.norm() + 1e-9), max=1.0)
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        with torch.no_grad():
            size = rate * schedule(step, steps) / (1 - 0.9 ** (step + 1))
            b.addcdiv_(mean, (square / (1 - 0.99 ** (step + 1))).sqrt_().add_(1e-8), value=-size)
        watch.progress(step + 1, float(now.detach()))
        if (step + 1) % SAVE_EVERY == 0:
            watch.save(TrainState(step + 1, b.detach().cpu().clone(), mean.cpu().clone(), square.cpu().clone()))
    return b.detach()


def schedule(step: int, steps: int, warmup: int = 5) -> float:
    """Return the share of the learning rate at a step: a short rise, then half a cosine down to a twentieth."""
    return min(1.0, (step + 1) / warmup) * max(0.05, 0.5 * (1 + math.cos(math.pi * step / max(steps, 1))))
