"""A user's tasks, found among the samples: pure functions over embeddings in the pool's own space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.gate import similarities, weights
from crayon.errors import InvalidRequestError
from crayon.router.scope import MIN_EXAMPLES, FittedScope, fit_few, fit_scope, unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters.gate import Gate

MAX_PROFILES = 4
# Fewer samples are no task of their own.
MIN_PART = 4
# How much nearer (cosine) the samples must on average be to their own part than to the next one.
MIN_SEPARATION = 0.2
# The profile that stands for the plain base; no profile of the user's has this name.
BASE = "base"
_ROUNDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One task of a user.

    Args:
        name: unique within the customisation.
        weights: one for each member of the pool; all 0 where none fits and the base is kept.
        similarity: cosine of the samples' mean to each member's key.
        samples: how many samples it was made from.
        threshold: cosine to `centre` at or above which a query belongs to the task.
        centre: direction of the samples' mean, length 1, in the pool's space; empty in an export that leaves it out.
        refined: whether a search on the samples chose the weights instead of the similarity.
    """

    name: str
    weights: tuple[float, ...]
    similarity: tuple[float, ...]
    samples: int
    threshold: float
    centre: tuple[float, ...] = field(default=(), repr=False)
    refined: bool = False

    @property
    def fits(self) -> bool:
        """Whether any member of the pool takes part; else the base answers alone."""
        return any(self.weights)

    def scope(self) -> FittedScope:
        """Return the profile as a scope of the router."""
        return FittedScope(self.name, unit_rows(self.name, [self.centre])[0], self.threshold, ())


def pool_vectors(states: NDArray[np.floating], centre: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return mean states, shape (n, D), as unit rows in the space of a pool's keys: its centre is (D,).

    Raises:
        InvalidRequestError: other dimensions than the pool's, or a state that is not finite.
    """
    if states.ndim != 2 or states.shape[1] != centre.size:
        raise InvalidRequestError(
            "samples", f"have states of shape {states.shape}, the pool's have {centre.size} numbers"
        )
    return unit_rows("samples", np.asarray(states, np.float64) - centre)


def split(vectors: NDArray[np.float32], keys: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the part, from 0, of each sample: as many parts as can be told apart, at most 4, the largest first.

    Parts begin at the members that most samples are nearest to, and move to where the samples lie. They count only if
    each has at least `MIN_PART` samples, their best members differ and they are apart by `MIN_SEPARATION`.

    Args:
        vectors: (n, D) unit rows, and
        keys: (K, D) unit rows, of one space.
    """
    whole = np.zeros(len(vectors), np.intp)
    nearest = np.argmax(vectors @ keys.T, axis=1)
    found, counts = np.unique(nearest, return_counts=True)
    seeds = found[np.argsort(-counts, kind="stable")]
    for k in range(min(MAX_PROFILES, len(seeds), len(vectors) // MIN_PART), 1, -1):
        start = np.stack([vectors[nearest == seed].mean(axis=0) for seed in seeds[:k]])
        parts = _settle(vectors, start)
        if _told_apart(vectors, parts, k, keys):
            order = np.argsort(-np.bincount(parts, minlength=k), kind="stable")
            return np.argsort(order)[parts]
    return whole


def make_profiles(
    vectors: NDArray[np.float32],
    background: NDArray[np.float32],
    keys: NDArray[np.float32],
    members: Sequence[str],
    gate: Gate,
) -> tuple[tuple[Profile, ...], NDArray[np.intp]]:
    """Return the profiles of a user's samples, and which one each sample belongs to.

    Args:
        vectors: (n, D) unit rows, the samples.
        background: (m, D) unit rows, texts of no task in particular.
        keys: (K, D) unit rows, one for each member.
        members: the members' names.
        gate: the pool's rule for weights.

    Raises:
        InvalidRequestError: sizes do not match, or a vector is unusable.
    """
    parts = split(vectors, keys)
    profiles: list[Profile] = []
    for part in range(int(parts.max()) + 1):
        own = vectors[parts == part]
        similarity = similarities(own, keys)
        name = _free_name(members[int(np.argmax(similarity))], [profile.name for profile in profiles])
        many = len(np.unique(np.round(own, 5), axis=0)) >= MIN_EXAMPLES
        fitted = fit_scope(name, own, background) if many else fit_few(name, own, background)
        profiles.append(
            Profile(
                name=name,
                weights=_numbers(weights(similarity, gate)),
                similarity=_numbers(similarity),
                samples=len(own),
                threshold=round(fitted.threshold, 6),
                centre=_numbers(fitted.centre, 7),
            )
        )
    return tuple(profiles), parts


def _settle(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the part of each vector after spherical k-means from the given centres."""
    parts = np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        before, parts = parts, np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(before, parts):
            break
        for part in range(len(centres)):
            if (parts == part).any():
                centres[part] = vectors[parts == part].sum(axis=0)
    return parts


def _told_apart(vectors: NDArray[np.float32], parts: NDArray[np.intp], k: int, keys: NDArray[np.float32]) -> bool:
    counts = np.bincount(parts, minlength=k)
    if counts.min() < MIN_PART:
        return False
    sums = np.stack([vectors[parts == part].sum(axis=0) for part in range(k)])
    best = np.argmax(sums @ keys.T, axis=1)
    if len(set(best.tolist())) < k:
        return False
    # Each sample against its own part without itself: else it would always be near.
    rows = np.arange(len(vectors))
    cosines = _cosines(vectors, np.broadcast_to(sums, (len(vectors), *sums.shape)))
    own = _cosines(vectors, (sums[parts] - vectors)[:, None])[:, 0]
    cosines[rows, parts] = -np.inf
    gaps = own - cosines.max(axis=1)
    return all(float(gaps[parts == part].mean()) >= MIN_SEPARATION for part in range(k))


def _cosines(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each vector (n, D) with its own centres (n, k, D), shape (n, k)."""
    lengths = np.maximum(np.linalg.norm(centres, axis=2), 1e-12)
    return np.asarray(np.einsum("nd,nkd->nk", vectors, centres) / lengths, np.float32)


def _free_name(member: str, taken: Sequence[str]) -> str:
    name, number = member, 2
    while name in taken or name == BASE:
        name, number = f"{member}-{number}", number + 1
    return name


def _numbers(values: NDArray[np.floating], digits: int = 6) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)
