"""From a user's queries to a calibration: both sides answer, and the router's mathematics draws the lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.profile_gate import pool_for
from crayon.customising.profiles import left_out_score, split
from crayon.customising.sample import choices_of
from crayon.data.priors import load_priors
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.router.calibration import calibrate
from crayon.router.cases import Case, Priors
from crayon.router.record import CalibrationRecord
from crayon.router.scope import ScopeGate
from crayon.sdk.answering import device_says, same_text, server_says, signal_of
from crayon.sdk.binding import binding_of, server_model_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.customising.customization import Customization
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.engine import Engine
    from crayon.router.targets import Target
    from crayon.sdk.accounts import Accounts
    from crayon.sdk.answering import Asking, Said

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a query belongs: its profile, and its scope score minus the profile's threshold."""

    profile: str | None
    inside: float
    own: bool | None = None


def make_calibration(
    calls: DeviceCalls,
    server: Engine | None,
    samples: Sequence[Sample],
    asking: Asking,
    accounts: Accounts,
    *,
    customization: Customization | None = None,
    kept: Sequence[Sample] = (),
    traffic: bool = False,
    may_send: Callable[[Sequence[str]], bool] = lambda _: True,
    target: Target | None = None,
    progress: Progress = lambda *_: None,
) -> CalibrationRecord:
    """Calibrate on a user's samples.

    Args:
        calls: the device.
        server: who is asked too, and what is sent to: the caller has agreed to that. None: nobody is.
        samples: what is asked; those without an answer are left out, but for traffic.
        asking: how.
        accounts: where what the server is asked is charged.
        customization: whose profiles answer.
        kept: the samples that it was made from, each judged by the others.
        traffic: the server's answers stand for the truth.
        may_send: whether a question with its choices may be sent; one that may not is answered by the device alone, and
            left out of traffic.
        target: of the calibration.
        progress: is called with "device" or "server", answers done and answers in all.

    Raises:
        BudgetError: the server's budget is used up on the way.
        InvalidRequestError: too few samples with an answer, or the target is impossible; says what would be possible.
        ServerError: the server cannot be asked, or answers with what are no scores.
        EngineError: the device's answers are unusable.
    """
    usable = list(samples) if traffic else [sample for sample in samples if sample.answer is not None]
    if not usable:
        raise InvalidRequestError("samples", "none has an answer, so nobody can be judged by them; give samples with")
    model = None if server is None else server.models()[0]
    places, homes = _places(calls, customization, kept, usable)
    choices = _choices(usable, places, [*kept, *samples], homes)
    said, too_long = _ask_device(calls, asking, usable, places, choices, customization, progress)
    left = [i for i, one in enumerate(said) if one is not None]
    usable, places, choices = [usable[i] for i in left], [places[i] for i in left], [choices[i] for i in left]
    answers = [one for one in said if one is not None]
    theirs: dict[int, str] = {}
    if server is not None:
        system = [asking.system.content] if asking.system else []
        sent = [i for i, sample in enumerate(usable) if may_send([*system, sample.question, *choices[i]])]
        asked = [(usable[i].question, choices[i]) for i in sent]
        theirs = dict(zip(sent, _ask_server(server, accounts, asking, asked, progress), strict=True))
    cases = []
    for i, (sample, place, one) in enumerate(zip(usable, places, answers, strict=True)):
        other = theirs.get(i)
        truth = other if traffic else sample.answer
        if truth is None:
            continue  # traffic that had to stay
        same = _equal if choices[i] else same_text
        cases.append(
            Case(
                profile=place.profile,
                inside_score=place.inside,
                # Outside, the query is decided before the device decodes.
                sure=one.sure if place.profile is None or place.inside >= 0 else None,
                device_right=float(same(one.text, truth)),
                server_right=None if other is None else float(same(other, truth)),
                own=place.own,
                id=" ".join(sample.question.split()).casefold(),
            )
        )
    device_name = calls.engine.models()[0].name
    signal = signal_of(any(choices))
    priors = load_priors(device_name, None if model is None else model.name, signal)
    names = [profile.name for profile in customization.profiles] if customization else []
    found = calibrate(cases, target, priors or Priors(), profiles=names)
    notes = [*found.report.notes, *_notes(len(samples) - len(usable) - too_long, too_long)]
    if priors is None:
        notes.append("nothing is believed beforehand of this pair of models: each is taken for half right")
    if server is not None and len(theirs) < len(usable):
        notes.append(f"{len(usable) - len(theirs)} were not sent to the server: they must stay on the device")
    if traffic:
        notes.append("the server's answers stood for the truth: right means agreement with it")
    return CalibrationRecord(
        binding=binding_of(calls.engine, customization, "" if model is None else server_model_of(model)),
        calibration=replace(found, report=replace(found.report, notes=tuple(notes))),
        signal=signal,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hold_tokens=asking.hold_tokens,
    )


def _places(
    calls: DeviceCalls, customization: Customization | None, kept: Sequence[Sample], samples: Sequence[Sample]
) -> tuple[list[Place], dict[str, str | None]]:
    """Return where each sample belongs, and the profile of every question, kept ones too.

    A kept sample is judged by the others of its profile.
    """
    if customization is None:
        return [Place(None, 0.0)] * len(samples), {sample.question: None for sample in samples}
    if not customization.scoped:
        raise InvalidRequestError("customization", "cannot tell its queries from others, so it cannot be calibrated")
    pool = pool_for(customization, calls.engine)
    vectors, _ = calls.vectors(pool, [sample.question for sample in (*samples, *kept)])
    new, own = vectors[: len(samples)], vectors[len(samples) :]
    gate = ScopeGate([profile.scope() for profile in customization.profiles])
    left_out = _left_out(customization, kept, own, pool.keys)
    found = []
    for sample, vector in zip(samples, new, strict=True):
        place = left_out.get(sample.question)
        if place is None:
            verdict = gate.judge(vector)
            place = Place(verdict.name, verdict.score - verdict.threshold)
        found.append(place)
    homes = {question: place.profile for question, place in left_out.items()}
    return found, homes | {sample.question: place.profile for sample, place in zip(samples, found, strict=True)}


def _left_out(
    customization: Customization, kept: Sequence[Sample], vectors: NDArray[np.float32], keys: NDArray[np.float32]
) -> dict[str, Place]:
    """Return the places of the samples that the profiles were made from, each left out of its profile's centre."""
    if not kept:
        return {}
    parts = split(vectors, keys)
    counts = np.bincount(parts, minlength=len(customization.profiles)).tolist()
    if counts != [profile.samples for profile in customization.profiles]:
        return {}  # made elsewhere, or by another version: then as any query is
    found = {}
    for i, sample in enumerate(kept):
        profile = customization.profiles[int(parts[i])]
        score = left_out_score(vectors, parts, i)
        found[sample.question] = Place(profile.name, score - profile.threshold, own=True)
    return found


def _choices(
    samples: Sequence[Sample],
    places: Sequence[Place],
    labelled: Sequence[Sample],
    homes: Mapping[str, str | None],
) -> list[tuple[str, ...]]:
    """Return the choices of each sample, its own or its task's labels; none at all unless every sample has some."""
    known = {sample.question: sample for sample in labelled if sample.answer is not None and sample.question in homes}
    labels = {
        name: choices_of([sample for question, sample in known.items() if homes[question] == name])
        for name in {place.profile for place in places}
    }
    found = [sample.choices or labels[place.profile] for sample, place in zip(samples, places, strict=True)]
    fits = all(
        choices and (sample.answer is None or sample.answer in choices)
        for sample, choices in zip(samples, found, strict=True)
    )
    return found if fits else [()] * len(samples)


def _ask_device(
    calls: DeviceCalls,
    asking: Asking,
    samples: Sequence[Sample],
    places: Sequence[Place],
    choices: Sequence[Sequence[str]],
    customization: Customization | None,
    progress: Progress,
) -> tuple[list[Said | None], int]:
    """Return the device's answers, as it would give them: blended inside, plain outside; and how many did not fit."""
    blends = [
        customization.blend(place.profile) if customization and place.profile and place.inside >= 0 else None
        for place in places
    ]
    # By weights: what one blend has computed serves the next.
    order = sorted(range(len(samples)), key=lambda i: blends[i].weights if blends[i] else ())  # type: ignore[union-attr] # seen
    found: list[Said | None] = [None] * len(samples)
    too_long = 0
    for done, i in enumerate(order):
        progress("device", done, len(samples))
        try:
            found[i] = device_says(calls, asking, samples[i].question, choices[i], blends[i])
        except PromptTooLongError:
            too_long += 1
    progress("device", len(samples), len(samples))
    return found, too_long


def _ask_server(
    server: Engine,
    accounts: Accounts,
    asking: Asking,
    questions: Sequence[tuple[str, Sequence[str]]],
    progress: Progress,
) -> list[str]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("server", done, len(questions))

    return server_says(server, accounts, asking, questions, step)


def _equal(one: str, other: str) -> bool:
    return one == other


def _notes(unlabelled: int, too_long: int) -> list[str]:
    found = []
    if unlabelled:
        found.append(f"{unlabelled} without an answer were left out")
    if too_long:
        found.append(f"{too_long} longer than the context were left out")
    return found
