"""From samples to a customisation: embed, find the tasks, weigh the members; then check, and refine if wished."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from crayon.customising.customization import Customization, check_name
from crayon.customising.device_calls import pool_of
from crayon.customising.expectation import (
    MAX_CASES,
    QUICK_CASES,
    Case,
    compare,
    expected,
    few_of,
    judge,
    left_out_weights,
    make_cases,
)
from crayon.customising.material import material_key
from crayon.customising.profiles import make_profiles
from crayon.customising.refine import MAX_CASES as MAX_REFINED
from crayon.customising.refine import MAX_EVALUATIONS, Refined, refine
from crayon.customising.sample import one_spelling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.messages import Message

    Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Draft:
    """A customisation just made, with what it was made from: embeddings (n, D), and the profile of each sample (n,)."""

    customization: Customization
    samples: tuple[Sample, ...]
    vectors: NDArray[np.float32]
    parts: NDArray[np.intp]
    pool: Pool


def customise(calls: DeviceCalls, name: str, samples: Sequence[Sample], *, pool_id: str | None = None) -> Draft:
    """Weigh a pool's members for a user's samples: no training, one pass over the questions.

    Args:
        calls: the device.
        name: what the customisation is called.
        samples: 1 to 1,000 checked ones.
        pool_id: which of the engine's pools; by default its first one.

    Raises:
        InvalidRequestError: a bad name, or a sample that is longer than the context.
        AdapterError: no pool that samples can be compared with.
    """
    check_name(name)
    samples, merged = one_spelling(samples)
    pool = pool_of(calls.engine, pool_id)
    vectors, background = calls.vectors(pool, [sample.question for sample in samples])
    manifest = pool.manifest
    profiles, parts = make_profiles(vectors, background, pool.keys, pool.names, manifest.gate)
    customization = Customization(
        name=name,
        pool_id=pool.id,
        base=manifest.base.name,
        base_sha256=manifest.base.source_sha256,
        members=pool.names,
        layer=manifest.encoder.layer if manifest.encoder else 0,
        profiles=profiles,
        samples=len(samples),
        answered=sum(sample.answer is not None for sample in samples),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=_of_samples(samples, merged),
        material=material_key(samples, vectors),
    )
    return Draft(customization, tuple(samples), vectors, parts, pool)


def check(
    calls: DeviceCalls,
    draft: Draft,
    *,
    refining: bool = False,
    quick: bool = False,
    system: Message | None = None,
    progress: Progress = lambda *_: None,
) -> Customization:
    """Return the draft with what it is expected to be worth, and refined if wished.

    Each of about 24 answered samples is scored under the weights that the others of its profile give, and under the
    plain base. A refined profile is judged on the samples that the search did not see. A profile that does worse than
    the base on 8 samples or more keeps the base: what would have been is in the expectation's `refused`. `quick`: at
    most 8 samples of each profile are scored, enough to refuse a blend, and too few to say much of what it is worth.
    """
    made, parts = draft.customization, draft.parts
    cases, metric = make_cases(draft.samples, parts, system)
    if not cases:
        return _noted(made, "no sample has an answer, so nothing can be checked")
    profiles = list(made.profiles)
    held: dict[int, Refined] = {}
    for part, profile in enumerate(profiles) if refining else ():
        own = few_of([case for case in cases if parts[case.sample] == part], parts, MAX_REFINED)
        found = refine(
            calls,
            made.pool_id,
            own,
            profile.weights,
            profile.similarity,
            metric,
            evaluations=MAX_EVALUATIONS // len(profiles),
            progress=lambda done, total: progress("refine", done, total),
        )
        if found is not None and found.better:
            held[part] = found
            profiles[part] = replace(profile, weights=found.weights, refined=True)
    plan: list[tuple[Case, tuple[float, ...]]] = []
    limit = QUICK_CASES if quick else MAX_CASES
    for case in few_of([case for case in cases if parts[case.sample] not in held], parts, limit):
        weights = left_out_weights(draft.vectors, parts, case.sample, draft.pool.keys, draft.pool.manifest.gate)
        if weights is not None:
            plan.append((case, weights))
    plan += [(case, found.weights) for found in held.values() for case in found.held_out]
    outcomes = compare(calls, made.pool_id, plan, parts, metric, lambda done, total: progress("check", done, total))
    refused = judge(outcomes, profiles)
    expectation = expected(outcomes, metric, profiles, refused)
    for blend in refused:
        part = next(part for part, profile in enumerate(profiles) if profile.name == blend.profile)
        profiles[part] = replace(profiles[part], weights=(0.0,) * len(blend.weights), refined=False)
    note = _note(made, plan, refining=refining)
    if plan and expectation is None:
        note = "nothing could be checked: every question with its answers is longer than the context"
    elif quick and 0 < len(plan) < len(cases):
        note = f"only the quick check was made, on {len(plan)} of {len(cases)} samples"
    return _noted(replace(made, profiles=tuple(profiles), expectation=expectation), note)


def _of_samples(samples: Sequence[Sample], merged: int) -> str:
    """Return what is to be known of samples; none of their texts, since notes are exported."""
    notes: list[str] = []
    if merged:
        what = "1 answer was" if merged == 1 else f"{merged} answers were"
        notes.append(f"{what} written in several ways (case, Unicode form or spaces): the first of them counts")
    answers = [sample.answer for sample in samples if sample.answer is not None]
    if len(answers) > 1 and len(set(answers)) == 1:
        notes.append("all samples have one answer, so nothing says when another one is right: add some with others")
    return "; ".join(notes)


def _noted(made: Customization, note: str) -> Customization:
    return replace(made, note="; ".join(text for text in (made.note, note) if text))


def _note(made: Customization, plan: Sequence[object], *, refining: bool) -> str:
    if not plan:
        return "a single answered sample cannot be checked: there are no others to take the weights from"
    too_few = refining and made.answered < 8
    return "too few answered samples to refine: 8 are the least" if too_few else ""
