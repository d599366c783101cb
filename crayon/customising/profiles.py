"""A user's tasks, found among the samples: pure functions over embeddings in the pool's own space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.gate import similarities, weights
from crayon.customising.evidence import NONE, Evidence
from crayon.router.scope import MIN_EXAMPLES, FittedScope, distinct_rows, fit_few, fit_scope, unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.adapters.gate import Gate

MAX_PROFILES = 4
# Fewer samples, or a smaller share of them, are no task of their own.
MIN_PART, MIN_SHARE = 4, 0.125
# How much nearer (cosine) to a member the samples must on average come by a split in two, and by each further part. Set
# on real questions (16 of one of 16 tasks, or 8 each of two) under the encoder of before docs/explanation/encoders.md,
# where it split 5 % of the single tasks and 75 % of the pairs; not measured again since. No class of a closed set
# becomes a part by it.
MIN_GAIN, FURTHER_GAIN = 0.07, 0.05
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
        evidence: what answers beside the blend, or in place of it.
    """

    name: str
    weights: tuple[float, ...]
    similarity: tuple[float, ...]
    samples: int
    threshold: float
    centre: tuple[float, ...] = field(default=(), repr=False)
    refined: bool = False
    evidence: Evidence = NONE

    @property
    def fits(self) -> bool:
        """Whether any member of the pool takes part."""
        return any(self.weights)

    @property
    def changes(self) -> bool:
        """Whether anything answers but the plain base alone."""
        return self.fits or bool(self.evidence)

    def scope(self) -> FittedScope:
        """Return the profile as a scope of the router."""
        return FittedScope(self.name, unit_rows(self.name, [self.centre])[0], self.threshold, ())


def split(vectors: NDArray[np.float32], keys: NDArray[np.float32], most: int = MAX_PROFILES) -> NDArray[np.intp]:
    """Return the part, from 0, of each sample: as many parts as are worth it, at most `most`, the largest first.

    Parts begin at the members that most samples are nearest to, and move to where the samples lie. They count only if
    each has at least `MIN_PART` samples and `MIN_SHARE` of all, their best members differ, and the samples come nearer
    to the best member of their part than they were to that of the whole, by `MIN_GAIN` and `FURTHER_GAIN`.

    Args:
        vectors: (n, D) unit rows, and
        keys: (K, D) unit rows, of one space.
        most: parts at most.
    """
    cosines = vectors @ keys.T
    nearest = np.argmax(cosines, axis=1)
    found, counts = np.unique(nearest, return_counts=True)
    seeds = found[np.argsort(-counts, kind="stable")]
    least = max(MIN_PART, int(np.ceil(MIN_SHARE * len(vectors))))
    best = np.zeros(len(vectors), np.intp)
    best_worth = float(cosines[:, _best_members(vectors, best, 1, keys)[0]].mean())
    for k in range(2, min(most, len(seeds), len(vectors) // least) + 1):
        parts = _settle(vectors, np.stack([vectors[nearest == seed].mean(axis=0) for seed in seeds[:k]]))
        members = _best_members(vectors, parts, k, keys)
        if np.bincount(parts, minlength=k).min() < least or len(set(members.tolist())) < k:
            continue
        worth = float(cosines[np.arange(len(vectors)), members[parts]].mean()) - MIN_GAIN - FURTHER_GAIN * (k - 2)
        if worth > best_worth:
            best, best_worth = parts, worth
    order = np.argsort(-np.bincount(best), kind="stable")
    return np.asarray(np.argsort(order)[best], np.intp)


def make_profiles(
    vectors: NDArray[np.float32],
    background: NDArray[np.float32],
    keys: NDArray[np.float32],
    members: Sequence[str],
    gate: Gate,
    most: int = MAX_PROFILES,
) -> tuple[tuple[Profile, ...], NDArray[np.intp]]:
    """Return the profiles of a user's samples, and which one each sample belongs to.

    Args:
        vectors: (n, D) unit rows, the samples.
        background: (m, D) unit rows, texts of no task in particular.
        keys: (K, D) unit rows, one for each member.
        members: the members' names.
        gate: the pool's rule for weights.
        most: profiles at most.

    Raises:
        InvalidRequestError: sizes do not match, or a vector is unusable.
    """
    parts = split(vectors, keys, most)
    profiles: list[Profile] = []
    for part in range(int(parts.max()) + 1):
        own = vectors[parts == part]
        similarity = similarities(own, keys)
        name = _free_name(members[int(np.argmax(similarity))], [profile.name for profile in profiles])
        many = distinct_rows(own) >= MIN_EXAMPLES
        fitted = fit_scope(name, own, background) if many else fit_few(name, own, background)
        profiles.append(
            Profile(
                name=name,
                weights=_numbers(weights(similarity, gate, len(own))),
                similarity=_numbers(similarity),
                samples=len(own),
                threshold=round(fitted.threshold, 6),
                centre=_numbers(fitted.centre, 7),
            )
        )
    return tuple(profiles), parts


def one_profile(
    name: str, vectors: NDArray[np.float32], background: NDArray[np.float32]
) -> tuple[tuple[Profile, ...], NDArray[np.intp]]:
    """Return all samples as one profile, for a model without a pool; arguments and errors as `make_profiles`."""
    many = distinct_rows(vectors) >= MIN_EXAMPLES
    fitted = fit_scope(name, vectors, background) if many else fit_few(name, vectors, background)
    profile = Profile(
        name=name,
        weights=(),
        similarity=(),
        samples=len(vectors),
        threshold=round(fitted.threshold, 6),
        centre=_numbers(fitted.centre, 7),
    )
    return (profile,), np.zeros(len(vectors), np.intp)


def left_out_score(vectors: NDArray[np.float32], parts: NDArray[np.intp], sample: int) -> float:
    """Return the cosine of one sample, a unit row, to the mean of the others of its part; 1 where there are none."""
    rest = vectors[parts == parts[sample]].sum(axis=0) - vectors[sample]
    length = float(np.linalg.norm(rest))
    return float(vectors[sample] @ rest) / length if length > 1e-6 else 1.0


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


def _best_members(
    vectors: NDArray[np.float32], parts: NDArray[np.intp], k: int, keys: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Return the member nearest to each part's mean, shape (k,)."""
    sums = np.stack([vectors[parts == part].sum(axis=0) for part in range(k)])
    return np.asarray(np.argmax(sums @ keys.T, axis=1), np.intp)


def _free_name(member: str, taken: Sequence[str]) -> str:
    name, number = member, 2
    while name in taken or name == BASE:
        name, number = f"{member}-{number}", number + 1
    return name


def _numbers(values: NDArray[np.floating], digits: int = 6) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)
