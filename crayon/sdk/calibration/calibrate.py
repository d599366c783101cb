"""From a user's queries to a calibration: both sides answer, and the router's mathematics draws the lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crayon.customising.profile_gate import pool_for, profile_supports
from crayon.customising.sample import closed_answers, one_spelling
from crayon.data.priors import load_priors
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.router.calibration import calibrate
from crayon.router.cases import Case, Priors
from crayon.router.record import CalibrationRecord
from crayon.router.rules import MIN_OWN
from crayon.sdk.calibration.assignment import places_of
from crayon.sdk.calibration.binding import binding_of, server_model_of
from crayon.sdk.calibration.labelling import asked, device_answer, same_text, server_answer, signal_of
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from crayon.customising.customization import Customization
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.material import Material
    from crayon.customising.sample import Sample
    from crayon.customising.support import ProfileSupport, Support
    from crayon.engine import Engine
    from crayon.router.calibration import Calibration
    from crayon.router.targets import Target
    from crayon.sdk.budget.usage import UsageTracker
    from crayon.sdk.calibration.assignment import Assignment
    from crayon.sdk.calibration.labelling import Asking, SideAnswer

    Progress = Callable[[str, int, int], None]


def make_calibration(
    calls: DeviceCalls,
    server: Engine | None,
    samples: Sequence[Sample],
    asking: Asking,
    tracker: UsageTracker,
    *,
    customization: Customization | None = None,
    kept: Sequence[Sample] = (),
    material: Material | None = None,
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
        tracker: where what the server is asked is charged.
        customization: whose profiles answer.
        kept: the samples that it was made from, each judged and answered by the others.
        material: the same with their embeddings, where the customisation answers with them.
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
    assignments, theirs_at, homes = places_of(calls, customization, kept, usable, foreign)
    supports = profile_supports(customization, material) if customization else {}
    closed = {name: support.evidence.answers for name, support in supports.items()}
    choices = _choices(usable, assignments, [*kept, *samples], homes, closed)
    signal = signal_of(any(choices))
    usable, assignments, choices = (
        [*usable, *foreign],
        [*assignments, *theirs_at],
        [*choices, *_choices_of_others(foreign)],
    )
    said, too_long = _ask_device(
        calls,
        asking,
        usable,
        assignments,
        choices,
        customization,
        _Supports(calls, customization, supports, kept),
        progress,
    )
    left = [i for i, one in enumerate(said) if one is not None]
    usable, assignments, choices = [usable[i] for i in left], [assignments[i] for i in left], [choices[i] for i in left]
    answers = [one for one in said if one is not None]
    theirs: dict[int, str] = {}
    if server is not None:
        system = [asking.system.content] if asking.system else []
        sent = [i for i, sample in enumerate(usable) if may_send([*system, sample.question, *choices[i]])]
        questions = [(usable[i].question, choices[i]) for i in sent]
        theirs = dict(zip(sent, _ask_server(server, tracker, asking, questions, progress), strict=True))
    cases = []
    for i, (sample, assignment, one) in enumerate(zip(usable, assignments, answers, strict=True)):
        other = theirs.get(i)
        truth = other if traffic else sample.answer
        if truth is None:
            continue  # traffic that had to stay
        same = _equal if choices[i] else same_text
        cases.append(
            Case(
                profile=assignment.profile,
                inside_score=assignment.inside,
                sure=one.sure if _tells(assignment, signal, signal_of(bool(choices[i]))) else None,
                device_right=float(same(one.text, truth)),
                server_right=None if other is None else float(same(other, truth)),
                own=assignment.own,
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
    assignments: Sequence[Assignment],
    labelled: Sequence[Sample],
    homes: Mapping[str, str | None],
    closed: Mapping[str, tuple[str, ...]],
) -> list[tuple[str, ...]]:
    """Return the choices of each sample; none at all unless every sample has some.

    They are its profile's closed answers, its own, or its task's labels.
    """
    known = {sample.question: sample for sample in labelled if sample.answer is not None and sample.question in homes}
    labels = {
        name: closed_answers([sample for question, sample in known.items() if homes[question] == name])
        for name in {assignment.profile for assignment in assignments}
    }
    found = [
        closed.get(assignment.profile or "") or sample.choices or labels[assignment.profile]
        for sample, assignment in zip(samples, assignments, strict=True)
    ]
    fits = all(
        choices and (sample.answer is None or same_key(sample.answer) in map(same_key, choices))
        for sample, choices in zip(samples, found, strict=True)
    )
    return found if fits else [()] * len(samples)


def _choices_of_others(others: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Return the choices of each: its own, or the labels that it shares with others; none is answered with a text.

    Their tasks are others than the profiles', so neither takes the other's labels, and each has a kind of its own.
    """
    labels = closed_answers([sample for sample in others if not sample.choices])
    return [sample.choices or labels for sample in others]


def _tells(assignment: Assignment, signal: str, own: str) -> bool:
    """Return whether a query's signal, `own`, says something of a profile's, which is called `signal`.

    Outside, a query is decided before the device decodes; and a margin is nothing to compare a log-probability with.
    """
    return own == signal and (assignment.profile is None or assignment.inside >= 0)


def _ask_device(
    calls: DeviceCalls,
    asking: Asking,
    samples: Sequence[Sample],
    assignments: Sequence[Assignment],
    choices: Sequence[Sequence[str]],
    customization: Customization | None,
    supports: _Supports,
    progress: Progress,
) -> tuple[list[SideAnswer | None], int]:
    """Return the device's answers, customised inside and plain outside; and how many did not fit."""
    blends = [
        customization.blend(assignment.profile)
        if customization and assignment.profile and assignment.inside >= 0
        else None
        for assignment in assignments
    ]
    # By weights: what one blend has computed serves the next.
    order = sorted(range(len(samples)), key=lambda i: blends[i].weights if blends[i] else ())  # type: ignore[union-attr] # seen
    found: list[SideAnswer | None] = [None] * len(samples)
    too_long = 0
    for done, i in enumerate(order):
        progress("device", done, len(samples))
        try:
            support = supports.of(samples[i], assignments[i])
            found[i] = device_answer(calls, asking, samples[i].question, choices[i], blends[i], support)
        except PromptTooLongError:
            too_long += 1
    progress("device", len(samples), len(samples))
    return found, too_long


class _Supports:
    """What a customisation's samples say of each query; of a sample of its own, what the others say."""

    def __init__(
        self,
        calls: DeviceCalls,
        customization: Customization | None,
        supports: Mapping[str, ProfileSupport],
        kept: Sequence[Sample],
    ) -> None:
        self._calls = calls
        self._supports = supports
        self._numbers = {sample.question: number for number, sample in enumerate(kept)}
        self._pool = pool_for(customization, calls.engine) if customization and supports else None

    def of(self, sample: Sample, assignment: Assignment) -> Support | None:
        """Return the support of a query where it belongs; None outside, and where samples take no part."""
        support = self._supports.get(assignment.profile or "") if assignment.inside >= 0 else None
        if support is None:
            return None
        number = self._numbers.get(sample.question)
        if number is not None and assignment.own:
            return support.left_out(number)
        return support.of(self._calls.vectors(self._pool, [sample.question])[0][0] if support.looks else None)


def _ask_server(
    server: Engine,
    tracker: UsageTracker,
    asking: Asking,
    questions: Sequence[tuple[str, Sequence[str]]],
    progress: Progress,
) -> list[str]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("server", done, len(questions))

    return server_answer(server, tracker, asking, questions, step)


def _equal(one: str, other: str) -> bool:
    return same_key(one) == same_key(other)


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
