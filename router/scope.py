"""The scope gate: whether a query is of the kind the device was made for.

A scope is a name and at least 8 example queries. A query belongs to it when the cosine of its embedding to
the mean of the examples' embeddings reaches a threshold. The mean beats the nearest example (AUROC +0.04 to
+0.08 where we measured). Vectors must be centred, as the device's `encode` does: else every cosine is near 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import InvalidRequestError
from crayon.text_form import one_form, same_key

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_EXAMPLES = 8
MAX_EXAMPLES = 1024
# Without background texts: this many standard deviations below the examples' own similarities.
OWN_DEVIATIONS = 1.5
# With fewer than 8 examples: this many standard deviations above the background's similarities. Set on real questions
# of 16 tasks, under the encoder of before docs/explanation/encoders.md: it let in 62 % of a task's own and 21 % of
# foreign ones after 1 example, 85 % and 29 % after 7 (16 examples and the fitted threshold: 87 % and 21 %); not
# measured again.
FEW_DEVIATIONS = 1.0
# How much nearer than the last scope another one must be before a conversation leaves it.
STAY_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Scope:
    """A kind of query, told by at least 8 different examples; `threshold` (cosine) overrides the fitted one.

    Raises:
        InvalidRequestError: no name, fewer than 8 different examples, an empty one, or a bad threshold.
    """

    name: str
    examples: Sequence[str]
    description: str = ""
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidRequestError("scope.name", "must be a non-empty text")
        field = f"scope[{self.name}].examples"
        if isinstance(self.examples, str) or not isinstance(self.examples, Sequence):
            raise InvalidRequestError(field, "must be a list of texts")
        examples = tuple(self.examples)
        for i, text in enumerate(examples):
            if not isinstance(text, str) or not text.strip():
                raise InvalidRequestError(f"{field}[{i}]", "must be a non-empty text")
        examples = tuple(map(one_form, examples))
        different = len({" ".join(same_key(text).split()) for text in examples})
        if different < MIN_EXAMPLES:
            raise InvalidRequestError(
                field, f"needs at least {MIN_EXAMPLES} different queries, not {different}; add more"
            )
        if len(examples) > MAX_EXAMPLES:
            raise InvalidRequestError(field, f"at most {MAX_EXAMPLES} queries, not {len(examples)}")
        if self.threshold is not None:
            _check_threshold(self.name, self.threshold)
        object.__setattr__(self, "examples", examples)


@dataclass(frozen=True, slots=True)
class FittedScope:
    """A scope in one model's embedding space.

    Args:
        name: the scope's name.
        centre: float32 of shape (dimensions,) and length 1, the direction of the examples' mean.
        threshold: cosine at or above which a query is inside.
        own: what each example scores when it is left out of the mean, shape (examples,).
    """

    name: str
    centre: NDArray[np.float32]
    threshold: float
    own: tuple[float, ...]

    def score(self, query: ArrayLike) -> float:
        """Return the cosine, from -1 to 1, of one query vector to the centre.

        Raises:
            InvalidRequestError: the vector has another size, is zero or holds a value that is not finite.
        """
        vector = unit_rows(f"scope[{self.name}].query", np.asarray(query, dtype=np.float32)[np.newaxis])[0]
        if vector.shape != self.centre.shape:
            raise InvalidRequestError(
                f"scope[{self.name}].query", f"has {vector.size} dimensions, the scope {self.centre.size}"
            )
        return float(np.clip(vector @ self.centre, -1.0, 1.0))


@dataclass(frozen=True, slots=True)
class ScopeVerdict:
    """The closest scope (largest score minus threshold), whether the query is inside, and every score."""

    name: str
    score: float
    threshold: float
    inside: bool
    similarity: dict[str, float]


class ScopeGate:
    """Several fitted scopes; a query is inside when it is inside any of them.

    Raises:
        InvalidRequestError: no scopes, two of one name, or scopes of different embedding spaces.
    """

    def __init__(self, scopes: Sequence[FittedScope]) -> None:
        if not scopes:
            raise InvalidRequestError("scopes", "is empty; pass at least one scope")
        names = [scope.name for scope in scopes]
        if len(set(names)) != len(names):
            raise InvalidRequestError("scopes", f"two scopes have one name: {', '.join(sorted(names))}")
        if len({scope.centre.size for scope in scopes}) > 1:
            raise InvalidRequestError(
                "scopes", "were fitted with embeddings of different sizes; fit all with one model"
            )
        self.scopes = tuple(scopes)

    def judge(self, query: ArrayLike, *, last: str | None = None) -> ScopeVerdict:
        """Return where one query vector belongs.

        Args:
            query: shape (dimensions,).
            last: the scope that the conversation is in: it has its threshold lowered by `STAY_MARGIN`, so that a
                short follow-up question does not leave it. A name of no scope counts as None.

        Raises:
            InvalidRequestError: the vector has another size, is zero or holds a value that is not finite.
        """
        scores = [scope.score(query) for scope in self.scopes]
        limits = [scope.threshold - (STAY_MARGIN if scope.name == last else 0.0) for scope in self.scopes]
        best = max(range(len(scores)), key=lambda i: scores[i] - limits[i])
        return ScopeVerdict(
            name=self.scopes[best].name,
            score=scores[best],
            threshold=limits[best],
            inside=scores[best] >= limits[best],
            similarity={scope.name: score for scope, score in zip(self.scopes, scores, strict=True)},
        )


def fit_scope(
    name: str, examples: ArrayLike, background: ArrayLike | None = None, *, threshold: float | None = None
) -> FittedScope:
    """Fit a scope from the embeddings of its examples and of texts that do not belong to it.

    The default threshold lies as many standard deviations below the mean of the examples' own leave-one-out
    scores as above the mean of the background's scores, so it moves towards the tighter of the two groups.
    Without background it lies 1.5 deviations below the examples' own mean.

    Args:
        name: the scope's name.
        examples: shape (n, dimensions), n of 8 or more, at least 8 of them different.
        background: shape (m, dimensions), m of 2 or more, or None.
        threshold: a cosine to use instead of the default.

    Raises:
        InvalidRequestError: too few different examples, a zero or not finite vector, sizes that do not match.
    """
    field = f"scope[{name}].examples"
    rows = unit_rows(field, examples)
    different = distinct_rows(rows)
    if different < MIN_EXAMPLES:
        raise InvalidRequestError(field, f"needs at least {MIN_EXAMPLES} different queries, not {different}; add more")
    total = rows.sum(axis=0)
    centre = _unit(field, total)
    own = tuple(float(row @ _unit(field, total - row)) for row in rows)
    if threshold is not None:
        _check_threshold(name, threshold)
        return FittedScope(name, centre, threshold, own)
    mean, spread = float(np.mean(own)), float(np.std(own))
    if background is None:
        return FittedScope(name, centre, max(-1.0, mean - OWN_DEVIATIONS * spread), own)
    scores = _background(name, background, rows.shape[1]) @ centre
    away, away_spread = float(scores.mean()), float(scores.std())
    if spread + away_spread < 1e-6:
        return FittedScope(name, centre, (mean + away) / 2, own)
    return FittedScope(name, centre, (mean * away_spread + away * spread) / (spread + away_spread), own)


def fit_few(name: str, examples: ArrayLike, background: ArrayLike) -> FittedScope:
    """Fit a scope from 1 to 7 examples: too few to tell how far they spread, so the background alone sets the bar.

    The threshold lies one standard deviation above the mean of the background's scores, or at the example that is
    furthest from the centre where that is lower: the examples themselves are inside.

    Args:
        name: the scope's name.
        examples: shape (n, dimensions), n of 1 or more.
        background: shape (m, dimensions), m of 2 or more.

    Raises:
        InvalidRequestError: a zero or not finite vector, or sizes that do not match.
    """
    field = f"scope[{name}].examples"
    rows = unit_rows(field, examples)
    total = rows.sum(axis=0)
    centre = _unit(field, total)
    own = tuple(float(row @ (_unit(field, total - row) if len(rows) > 1 else centre)) for row in rows)
    scores = _background(name, background, rows.shape[1]) @ centre
    limit = float(scores.mean() + FEW_DEVIATIONS * scores.std())
    return FittedScope(name, centre, float(np.clip(min(limit, (rows @ centre).min()), -1.0, 1.0)), own)


def unit_rows(field: str, vectors: ArrayLike) -> NDArray[np.float32]:
    """Return `vectors`, shape (n, dimensions), as float32 rows of length 1.

    Raises:
        InvalidRequestError: another shape, a zero row, or a value that is not finite.
    """
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (ValueError, TypeError):
        raise InvalidRequestError(field, "must be numbers, all rows of one size") from None
    if rows.ndim != 2 or 0 in rows.shape:
        raise InvalidRequestError(field, f"must have the shape (texts, dimensions), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise InvalidRequestError(field, "holds a value that is not finite; the embedding is broken")
    # Scaled first: the square of a large float32 would overflow.
    scale = np.abs(rows).max(axis=1, keepdims=True)
    if not scale.all():
        raise InvalidRequestError(field, f"row {int(np.argmin(scale))} is all zeros; the embedding is broken")
    rows = rows / scale
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def distinct_rows(rows: NDArray[np.float32]) -> int:
    """Return how many of some unit rows differ by more than rounding."""
    # Many times quicker than np.unique with an axis. Adding 0 makes -0 the same bytes as 0.
    return len({row.tobytes() for row in np.round(rows, 5) + np.float32(0.0)})


def _background(name: str, vectors: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    field = f"scope[{name}].background"
    others = unit_rows(field, vectors)
    if others.shape[1] != dimensions:
        raise InvalidRequestError(field, f"has {others.shape[1]} dimensions, the examples {dimensions}")
    if len(others) < 2:
        raise InvalidRequestError(field, "needs at least 2 texts; add more or pass None")
    return others


def _unit(field: str, total: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InvalidRequestError(field, "the examples cancel each other out: they have nothing in common")
    return np.asarray(total / length, dtype=np.float32)


def _check_threshold(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1:
        raise InvalidRequestError(f"scope[{name}].threshold", f"must be a cosine from -1 to 1, not {value!r}")
