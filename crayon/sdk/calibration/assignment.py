"""Where labelled queries belong: each to the profile it is closest to, inside or outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.profile_gate import pool_for
from crayon.customising.profiles import left_out_score, split
from crayon.errors import InvalidRequestError
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.customising.customization import Customization
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a query belongs: its closest profile, and its scope score minus the profile's threshold.

    `own`: whether it is of the profile's task; None if nobody said so.
    """

    profile: str | None
    inside: float
    own: bool | None = None


def places_of(
    calls: DeviceCalls,
    customization: Customization | None,
    kept: Sequence[Sample],
    samples: Sequence[Sample],
    others: Sequence[Sample] = (),
) -> tuple[list[Assignment], list[Assignment], dict[str, str | None]]:
    """Return the assignments of the samples and of the others, and the profile of every question but the others'.

    A kept sample, one that the customisation was made from, is judged by the others of its profile.

    Raises:
        InvalidRequestError: the customisation cannot tell its queries from others.
    """
    if customization is None:
        return [Assignment(None, 0.0)] * len(samples), [], {sample.question: None for sample in samples}
    if not customization.scoped:
        raise InvalidRequestError("customization", "cannot tell its queries from others, so it cannot be calibrated")
    pool = pool_for(customization, calls.engine)
    vectors, _, _ = calls.vectors(pool, [sample.question for sample in (*samples, *others, *kept)])
    new, foreign, own = np.split(vectors, [len(samples), len(samples) + len(others)])
    gate = ScopeGate([profile.scope() for profile in customization.profiles])

    def judged(vector: NDArray[np.float32], own: bool | None) -> Assignment:  # noqa: FBT001 # as in `Assignment`
        verdict = gate.judge(vector)
        return Assignment(verdict.name, verdict.score - verdict.threshold, own)

    most = len(customization.profiles)
    parts = np.zeros(len(kept), np.intp) if pool is None or not kept else split(own, pool.keys, most)
    left_out = _left_out(customization, kept, own, parts)
    found = [left_out.get(sample.question) or judged(vector, None) for sample, vector in zip(samples, new, strict=True)]
    homes = {question: assignment.profile for question, assignment in left_out.items()}
    homes |= {sample.question: assignment.profile for sample, assignment in zip(samples, found, strict=True)}
    return found, [judged(vector, own=False) for vector in foreign], homes


def _left_out(
    customization: Customization, kept: Sequence[Sample], vectors: NDArray[np.float32], parts: NDArray[np.intp]
) -> dict[str, Assignment]:
    """Return the assignments of the samples that the profiles were made from, each left out of its profile's centre."""
    if not kept:
        return {}
    counts = np.bincount(parts, minlength=len(customization.profiles)).tolist()
    if counts != [profile.samples for profile in customization.profiles]:
        return {}  # made elsewhere, or by another version: then as any query is
    found = {}
    for i, sample in enumerate(kept):
        profile = customization.profiles[int(parts[i])]
        score = left_out_score(vectors, parts, i)
        found[sample.question] = Assignment(profile.name, score - profile.threshold, own=True)
    return found
