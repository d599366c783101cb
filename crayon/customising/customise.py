"""From samples to a customisation: embed, find the tasks, weigh the members; then put it all on trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.customising.customization import Customization, Refused, check_name
from crayon.customising.device_calls import some_pool
from crayon.customising.examples import CONTEXT_SHARE, MAX_EXAMPLES, choose_examples, judged_by
from crayon.customising.expectation import (
    MAX_CASES,
    MIN_JUDGED,
    QUICK_CASES,
    CaseOutcome,
    expected,
    few_of,
    left_out_weights,
    make_cases,
)
from crayon.customising.material import material_key
from crayon.customising.profiles import make_profiles, one_profile
from crayon.customising.refine import MAX_CASES as MAX_REFINED
from crayon.customising.refine import MAX_EVALUATIONS, Refined, refine
from crayon.customising.refine import MIN_CASES as MIN_REFINED
from crayon.customising.sample import by_answer, closed_answers, one_spelling
from crayon.customising.support import turns_of
from crayon.customising.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.customization import Expectation
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.profiles import Profile
    from crayon.customising.sample import Sample
    from crayon.customising.trial import TrialResult, TrialScoring
    from crayon.messages import Message

    Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class NewCustomization:
    """A customisation just made, with what it was made from: embeddings (n, D), and the profile of each sample (n,)."""

    customization: Customization
    samples: tuple[Sample, ...]
    vectors: NDArray[np.float32]
    parts: NDArray[np.intp]
    pool: Pool | None


def customise(
    calls: DeviceCalls, name: str, samples: Sequence[Sample], *, pool_id: str | None = None
) -> NewCustomization:
    """Embed a user's samples, find their tasks, and weigh a pool's members for them: no training, one pass.

    Args:
        calls: the device.
        name: what the customisation is called.
        samples: 1 to 1,000 checked ones.
        pool_id: which of the engine's pools; by default its first one, if it has any; "" for none.

    Raises:
        InvalidRequestError: a bad name, or a sample that is longer than the context.
        AdapterError: the pool that is named is not loaded, or the engine cannot compare texts.
    """
    check_name(name)
    samples, merged = one_spelling(samples)
    pool = some_pool(calls.engine, pool_id)
    vectors, background, space = calls.vectors(pool, [sample.question for sample in samples])
    if pool is None:
        profiles, parts = one_profile(name, vectors, background)
        model = calls.engine.models()[0]
        base, base_sha256 = model.name, model.source_sha256
    else:
        manifest = pool.manifest
        profiles, parts = make_profiles(vectors, background, pool.keys, pool.names, manifest.gate)
        if _tears_apart(samples, parts):
            profiles, parts = make_profiles(vectors, background, pool.keys, pool.names, manifest.gate, 1)
        if len(profiles) == 1 and not _at_home(profiles[0]):
            # Named for the nearest member it would say what the task is not.
            profiles = (replace(profiles[0], name=name),)
        base, base_sha256 = manifest.base.name, manifest.base.source_sha256
    customization = Customization(
        name=name,
        pool_id=pool.id if pool else "",
        base=base,
        base_sha256=base_sha256,
        members=pool.names if pool else (),
        layer=space.layer,
        profiles=profiles,
        samples=len(samples),
        answered=sum(sample.answer is not None for sample in samples),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=_of_samples(samples, merged),
        material=material_key(samples, vectors),
        space=space.id,
    )
    return NewCustomization(customization, tuple(samples), vectors, parts, pool)


def check(
    calls: DeviceCalls,
    draft: NewCustomization,
    *,
    refining: bool = False,
    quick: bool = False,
    system: Message | None = None,
    ready: Callable[[Customization], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Customization:
    """Return what goes live: for each profile the evidence that its own samples speak for, or the plain base.

    Each of about 24 answered samples is scored under the plain base, under the blend that the others of its profile
    give, and with other samples as examples; the classifier is left out in closed form. What does worse than the base
    does not go live: a blend that does is in the expectation's `refused`. A blend that was refined is judged on the
    samples that the search did not see; on the others it counts as the base.

    Args:
        calls: the device.
        draft: what `customise` made.
        refining: search for better weights first.
        quick: end after the first stage: at most 8 samples of each profile under the plain base, which are enough to
            tell whether the classifier beats it. Neither blend nor examples go live by it.
        system: what stands before each question.
        ready: is told what the first stage lets go live.
        progress: is called with "check" or "refine", steps done and steps in all.
    """
    made = draft.customization
    if not made.answered:
        found = _noted(made, "no sample has an answer, so nothing can be checked")
        ready(found)
        return found
    profiles = list(made.profiles)
    held = _refine(calls, draft, profiles, system, progress) if refining else {}
    trials = [_trial(calls, draft, part, held.get(part)) for part in range(len(profiles))]
    first, later = _stages(trials)
    if quick:
        later = []
    for done, (trial, job) in enumerate([*first, *later]):
        if done == len(first):
            ready(_decided(made, profiles, trials, refining=refining, quick=True))
        progress("check", done, len(first) + len(later))
        trial.score(calls, job, system)
    progress("check", len(first) + len(later), len(first) + len(later))
    decided = _decided(made, profiles, trials, refining=refining, quick=quick)
    if not later:
        ready(decided)
    return decided


def _stages(trials: Sequence[Trial]) -> tuple[list[tuple[Trial, TrialScoring]], list[tuple[Trial, TrialScoring]]]:
    """Return the scorings of the quick check, under the plain base and evenly from each trial's cases; and the rest."""
    first: list[tuple[Trial, TrialScoring]] = []
    later: list[tuple[Trial, TrialScoring]] = []
    for trial in trials:
        few = set(few_of(by_answer(trial.samples, trial.cases), QUICK_CASES))
        for job in trial.jobs:
            (first if job.prompt == "base" and job.case in few else later).append((trial, job))
    return first, later


def _decided(
    made: Customization,
    profiles: Sequence[Profile],
    trials: Sequence[Trial],
    *,
    refining: bool,
    quick: bool,
) -> Customization:
    """Return the customisation that the trials so far speak for."""
    found = [trial.verdict() for trial in trials]
    refused: list[Refused] = []
    decided: list[Profile] = []
    for profile, trial, one in zip(profiles, trials, found, strict=True):
        if profile.fits and one.harmed is not None:
            refused.append(_refused(profile, one))
        # A single sample has no others to judge it by: its blend is all there is.
        keeps = one.prompt == "blend" or (not one.outcomes and not quick)
        weights = profile.weights if keeps else (0.0,) * len(profile.weights)
        if one.prompt == "reader":
            weights = trial.reader
        refined = profile.refined and one.prompt == "blend"
        decided.append(replace(profile, weights=weights, refined=refined, evidence=one.evidence))
    expectation = _expectation(trials, found, refused)
    note = _note(made, trials, found, expectation, refining=refining, quick=quick)
    return _noted(replace(made, profiles=tuple(decided), expectation=expectation), note)


def _tears_apart(samples: Sequence[Sample], parts: NDArray[np.intp]) -> bool:
    """Return whether a part has one answer again and again, of a set that all parts close: it is a class, no task."""
    if not parts.any() or not closed_answers(samples):
        return False
    answers: dict[int, list[str]] = {}
    for sample, part in zip(samples, parts.tolist(), strict=True):
        if sample.answer is not None:
            answers.setdefault(part, []).append(sample.answer)
    return any(len(own) > 1 and len(set(own)) == 1 for own in answers.values())


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


def _trial(calls: DeviceCalls, draft: NewCustomization, part: int, held: Refined | None) -> Trial:
    """Return the trial of a profile: which samples are scored, under which weights and beside which examples."""
    samples, parts = draft.samples, draft.parts
    numbers = [i for i, sample in enumerate(samples) if sample.answer is not None and parts[i] == part]
    room = int(CONTEXT_SHARE * calls.engine.models()[0].context_tokens)

    def fits(chosen: tuple[int, ...]) -> bool:
        turns = turns_of([samples[i] for i in chosen])
        return calls.tokens((*turns, turns[0])) <= room

    examples = choose_examples(samples, numbers, fits) if len(numbers) > 1 else ()
    share = MAX_CASES * len(numbers) // max(draft.customization.answered, 1)
    cases = sorted(few_of(by_answer(samples, judged_by(numbers, examples)), max(MIN_JUDGED, share)))
    weights: list[tuple[float, ...] | None] = [None] * len(cases)
    if held is not None:
        unseen = {case.sample for case in held.held_out}
        cases = sorted({*cases, *unseen})
        weights = [held.weights if case in unseen else None for case in cases]
    elif draft.pool is not None:
        gate, keys = draft.pool.manifest.gate, draft.pool.keys
        weights = [left_out_weights(draft.vectors, parts, case, keys, gate) for case in cases]
    reader: tuple[float, ...] = ()
    if draft.pool is not None and draft.pool.reader is not None:
        reader = tuple(float(k == draft.pool.reader) for k in range(len(draft.pool)))
    own = held is None and _at_home(draft.customization.profiles[part])
    pool_id = draft.customization.pool_id
    return Trial(part, samples, numbers, cases, draft.vectors, examples, weights, pool_id, reader, own)


def _at_home(profile: Profile) -> bool:
    """Return whether the gate says that this is a member's own task; members that share a task have less than 1."""
    return max(profile.weights, default=0.0) == 1.0


def _refine(
    calls: DeviceCalls, draft: NewCustomization, profiles: list[Profile], system: Message | None, progress: Progress
) -> dict[int, Refined]:
    """Search for better weights of each profile; return what is better, and put its weights into the profiles."""
    held: dict[int, Refined] = {}
    if draft.pool is None:
        return held
    cases, metric = make_cases(draft.samples, draft.parts, system)
    for part, profile in enumerate(profiles):
        own = [case for case in cases if draft.parts[case.sample] == part]
        chosen = set(few_of([case.sample for case in own], MAX_REFINED))
        found = refine(
            calls,
            draft.customization.pool_id,
            [case for case in own if case.sample in chosen],
            profile.weights,
            profile.similarity,
            metric,
            evaluations=MAX_EVALUATIONS // len(profiles),
            progress=lambda done, total: progress("refine", done, total),
        )
        if found is not None and found.better:
            held[part] = found
            profiles[part] = replace(profile, weights=found.weights, refined=True)
    return held


def _refused(profile: Profile, found: TrialResult) -> Refused:
    base = float(np.mean([outcome.base for outcome in found.outcomes]))
    return Refused(
        profile=profile.name,
        weights=profile.weights,
        base=round(base, 4),
        customised=round(found.harmed or 0.0, 4),
        samples=len(found.outcomes),
    )


def _expectation(
    trials: Sequence[Trial], found: Sequence[TrialResult], refused: Sequence[Refused]
) -> Expectation | None:
    """Return what is expected, in the unit of the largest profile: points and nats are not added up."""
    free = trials[0].kind == "free"
    outcomes: list[CaseOutcome] = [
        outcome
        for trial, one in zip(trials, found, strict=True)
        if (trial.kind == "free") == free
        for outcome in one.outcomes
    ]
    return expected(outcomes, "logprob" if free else "accuracy", refused)


def _note(
    made: Customization,
    trials: Sequence[Trial],
    found: Sequence[TrialResult],
    expectation: Expectation | None,
    *,
    refining: bool,
    quick: bool,
) -> str:
    if made.answered == 1:
        return "a single answered sample cannot be checked: there are no others to answer it by"
    if expectation is None:
        if any(trial.scored for trial in trials):
            return "each task has a single answered sample, which no other one can speak for: nothing could be checked"
        return "nothing could be checked: every question with its answers is longer than the context"
    notes = []
    for trial, one in zip(trials, found, strict=True):
        shown, most = len(one.evidence.examples), min(len(trial.numbers), MAX_EXAMPLES)
        if 0 < shown < most:
            few = "1 sample" if shown == 1 else f"{shown} samples"
            notes.append(f"{few} in place of {most} shown as examples: more do not fit the context")
        elif most > 1 and not trial.examples and not quick:
            notes.append("no sample was tried as an example: each is too long for a quarter of the context")
    if refining and made.answered < MIN_REFINED:
        notes.append(f"too few answered samples to refine: {MIN_REFINED} are the least")
    if quick:
        cases = sum(min(len(trial.cases), QUICK_CASES) for trial in trials)
        of = f"{cases} of {made.answered} samples"
        notes.append(f"only the quick check was made, on {of}: neither blend nor examples were tried")
    return "; ".join(notes)
