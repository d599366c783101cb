"""From a user's queries to a calibration: both sides answer, and the router's mathematics draws the lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crayon.customising.sample import closed_answers, one_spelling
from crayon.data.priors import load_priors
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.router.calibration import calibrate
from crayon.router.cases import Case, Priors
from crayon.router.record import CalibrationRecord
from crayon.router.rules import MIN_OWN
from crayon.sdk.answering import asked, device_says, same_text, server_says, signal_of
from crayon.sdk.binding import binding_of, server_model_of
from crayon.sdk.places import places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from crayon.customising.customization import Customization
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.engine import Engine
    from crayon.router.calibration import Calibration
    from crayon.router.targets import Target
    from crayon.sdk.accounts import Accounts
    from crayon.sdk.answering import Asking, Said
    from crayon.sdk.places import Place

    Progress = Callable[[str, int, int], None]


def make_calibration(
    calls: DeviceCalls,
    server: Engine | None,
    samples: Sequence[Sample],
    asking: Asking,
    accounts: Accounts,
    *,
    customization: Customization | None = None,
    kept: Sequence[Sample] = (),
    others: Sequence[Sample] = (),
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
        others: labelled queries that do not belong to it; they are asked like samples, and teach what is outside.
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
    # A label is one label, however it is written here and there.
    alike, _ = one_spelling([*kept, *samples])
    kept, samples = alike[: len(kept)], alike[len(kept) :]
    others, _ = one_spelling(others)
    usable = list(samples) if traffic else [sample for sample in samples if sample.answer is not None]
    if not usable:
        raise InvalidRequestError("samples", "none has an answer, so nobody can be judged by them; give samples with")
    model = None if server is None else server.models()[0]
    foreign = [sample for sample in others if sample.answer is not None]
    places, theirs_at, homes = places_of(calls, customization, kept, usable, foreign)
    choices = _choices(usable, places, [*kept, *samples], homes)
    signal = signal_of(any(choices))
    usable, places, choices = [*usable, *foreign], [*places, *theirs_at], [*choices, *_choices_of_others(foreign)]
    said, too_long = _ask_device(calls, asking, usable, places, choices, customization, progress)
    left = [i for i, one in enumerate(said) if one is not None]
    usable, places, choices = [usable[i] for i in left], [places[i] for i in left], [choices[i] for i in left]
    answers = [one for one in said if one is not None]
    theirs: dict[int, str] = {}
    if server is not None:
        system = [asking.system.content] if asking.system else []
        sent = [i for i, sample in enumerate(usable) if may_send([*system, sample.question, *choices[i]])]
        questions = [(usable[i].question, choices[i]) for i in sent]
        theirs = dict(zip(sent, _ask_server(server, accounts, asking, questions, progress), strict=True))
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
                sure=one.sure if _tells(place, signal, signal_of(bool(choices[i]))) else None,
                device_right=float(same(one.text, truth)),
                server_right=None if other is None else float(same(other, truth)),
                own=place.own,
                id=asked(sample.question),
            )
        )
    device_name = calls.engine.models()[0].name
    signal = signal_of(any(choices))
    priors = load_priors(device_name, None if model is None else model.name, signal)
    names = [profile.name for profile in customization.profiles] if customization else []
    found = calibrate(cases, target, priors or Priors(), profiles=names)
    unlabelled = len(samples) + len(others) - len(usable) - too_long
    notes = [*found.report.notes, *_notes(unlabelled, too_long), *_of_others(found, cases)]
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


def _choices(
    samples: Sequence[Sample],
    places: Sequence[Place],
    labelled: Sequence[Sample],
    homes: Mapping[str, str | None],
) -> list[tuple[str, ...]]:
    """Return the choices of each sample, its own or its task's labels; none at all unless every sample has some."""
    known = {sample.question: sample for sample in labelled if sample.answer is not None and sample.question in homes}
    labels = {
        name: closed_answers([sample for question, sample in known.items() if homes[question] == name])
        for name in {place.profile for place in places}
    }
    found = [sample.choices or labels[place.profile] for sample, place in zip(samples, places, strict=True)]
    fits = all(
        choices and (sample.answer is None or sample.answer in choices)
        for sample, choices in zip(samples, found, strict=True)
    )
    return found if fits else [()] * len(samples)


def _choices_of_others(others: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Return the choices of each: its own, or the labels that it shares with others; none is answered with a text.

    Their tasks are others than the profiles', so neither takes the other's labels, and each has a kind of its own.
    """
    labels = closed_answers([sample for sample in others if not sample.choices])
    return [sample.choices or labels for sample in others]


def _tells(place: Place, signal: str, own: str) -> bool:
    """Return whether a query's signal, `own`, says something of a profile's, which is called `signal`.

    Outside, a query is decided before the device decodes; and a margin is nothing to compare a log-probability with.
    """
    return own == signal and (place.profile is None or place.inside >= 0)


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


def _of_others(found: Calibration, cases: Sequence[Case]) -> Iterator[str]:
    """Yield how many of the queries were others, and what they did to each profile's threshold."""
    others = [case for case in cases if case.own is False]
    if not others:
        return
    yield f"{len(others)} of the queries were others, {sum(case.inside_score >= 0 for case in others)} of them inside"
    for rule in found.rules:
        near = sum(case.profile == rule.profile for case in others)
        own = sum(case.profile == rule.profile and case.own is True for case in cases)
        if min(near, own) < MIN_OWN:
            yield (
                f"the scope's threshold of {rule.profile} stays: it moves with {MIN_OWN} kept samples and {MIN_OWN} "
                f"others that are closest to it, and there are {own} and {near}"
            )
        elif rule.scope == 0:
            yield f"the scope's threshold of {rule.profile} stays: no other one tells its queries better from others"
        else:
            yield f"the scope's threshold of {rule.profile} moved by {rule.scope:+.2f}"


def _notes(unlabelled: int, too_long: int) -> list[str]:
    found = []
    if unlabelled:
        found.append(f"{unlabelled} without an answer were left out")
    if too_long:
        found.append(f"{too_long} longer than the context were left out")
    return found
