"""A customisation as text: weights as bars, and what they are expected to be worth."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.customising.customization import Customization, Expectation, Refused
    from crayon.customising.profiles import Profile

BAR = 30
# Smaller weights are counted and not listed.
SMALL = 0.005
# Fewer samples say little.
MIN_USEFUL = 8


def weight_lines(customization: Customization, current: str | None = None) -> Iterator[str]:
    """Yield each profile's weights as a bar chart; `current` is the profile in use, if any."""
    for profile in customization.profiles:
        mark = " (in use)" if profile.name == current else ""
        refined = ", refined on the samples" if profile.refined else ""
        what = f"{'task' if profile.name == customization.name else 'profile'} {profile.name}"
        yield f"{what}: {_count(profile.samples, 'sample')}{refined}{mark}"
        yield from _evidence_lines(profile)
        refused = customization.refused(profile.name)
        if refused is not None:
            yield "  the blend is refused: the plain base did better on the samples without it; refused was:"
            yield from _bars(customization, replace(profile, weights=refused.weights))
            continue
        if not profile.fits or profile.evidence.examples:  # weights beside examples are the reader's
            if profile.evidence or not customization.members:
                continue
            best = max(zip(profile.similarity, customization.members, strict=True))
            closest = f"closest: {best[1]}, similarity {best[0]:.2f}"
            yield f"  no member of the pool takes part ({closest}): the plain base is kept"
            continue
        yield from _bars(customization, profile)


def expectation_lines(customization: Customization) -> Iterator[str]:
    """Yield what was found out about the gain on the user's samples, in plain words."""
    found = customization.expectation
    if found is not None:
        yield from _figures(found)
        yield from (_refusal(found, refused) for refused in found.refused)
    if customization.note:
        yield customization.note
    if not customization.fits:
        yield "this customisation changes no answer: nothing that your samples hold beats the plain model on them"
        yield _what_next(customization)


def _evidence_lines(profile: Profile) -> Iterator[str]:
    evidence = profile.evidence
    if evidence.answers:
        some = ", ".join(evidence.answers[:4])
        more = f" and {len(evidence.answers) - 4} more" if len(evidence.answers) > 4 else ""
        yield f"  answers: {len(evidence.answers)}, {some}{more}"
        if not (evidence.kinds or evidence.bias or profile.fits):
            yield "  the plain model chooses among them: nothing else that your samples hold does it better"
    if evidence.classes:
        yield f"  classes: {_count(len(evidence.labelled), 'sample')} tell which answer a question is like"
    if evidence.examples:
        reader = ", under the pool's reader" if profile.fits else ""
        yield f"  examples: {_count(len(evidence.examples), 'sample')} shown before each question{reader}"


def _what_next(customization: Customization) -> str:
    if customization.answered < customization.samples // 2 or customization.answered < MIN_USEFUL:
        return f"give more samples with an answer ({MIN_USEFUL} or more), a few for each answer"
    return "a larger model may do better: --device takes another one; or let a server answer these (--server)"


def customization_json(customization: Customization) -> dict[str, Any]:
    """Return everything but the profiles' centres as plain JSON values."""
    record = dataclasses.asdict(customization)
    for profile in record["profiles"]:
        del profile["centre"]
    return record


def _bars(customization: Customization, profile: Profile) -> Iterator[str]:
    letter = "\N{FULL BLOCK}" if _blocks() else "#"
    rows = [
        (name, weight, f"similarity {similarity:.2f}")
        for name, weight, similarity in zip(customization.members, profile.weights, profile.similarity, strict=True)
        if abs(weight) >= SMALL
    ]
    rows.sort(key=lambda row: -row[1])
    rest = sum(0 < abs(weight) < SMALL for weight in profile.weights)
    left = 1.0 - sum(profile.weights)
    if left >= SMALL:
        rows.append(("(plain base)", left, ""))
    width = max(len(name) for name, _, _ in rows)
    for name, weight, note in rows:
        bar = letter * max(1, round(BAR * min(abs(weight), 1.0)))
        yield f"  {name:<{width}}  {weight:5.2f}  {bar:<{BAR}}  {note}".rstrip()
    if rest:
        yield f"  {_count(rest, 'member')} more below {SMALL}"


def _figures(found: Expectation) -> Iterator[str]:
    points = found.metric == "accuracy"
    digits, unit = (0, " points") if points else (2, "")
    between = ""
    if found.low is not None and found.high is not None:
        between = f", 95 % interval {found.low:+.{digits}f} to {found.high:+.{digits}f}"
    gain = f"{found.gain:+.{digits}f}{unit}{between}"
    how = f"{_count(found.samples, 'sample')} of yours, each answered by the others"
    if points:
        yield f"expected: {found.customised:.0f} % right, plain base {found.base:.0f} % ({gain}; {how})"
    else:
        what = f"log-probability of your answers {found.customised:.2f} per token, plain base {found.base:.2f}"
        yield f"expected: {what} ({gain}; {how})"
    if found.high is not None and found.high < 0:
        yield "the plain base did better on your samples: give more samples, or do without it"
    elif found.low is not None and found.low <= 0 and found.gain:
        yield "your samples are too few, or the difference too small, to be sure of it"


def _refusal(found: Expectation, refused: Refused) -> str:
    with_it, without = refused.customised, refused.base
    if found.metric == "accuracy":
        figures = f"{with_it:.0f} % right with its blend, {without:.0f} % without"
    else:
        figures = f"log-probability {with_it:.2f} per token with its blend, {without:.2f} without"
    how = _count(refused.samples, "sample")
    return f"profile {refused.profile}: {figures} ({how} of yours): the blend is refused"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _blocks() -> bool:
    """Whether the reader of standard output is a terminal that shows block letters."""
    return console.colour_wanted(sys.stdout) and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
