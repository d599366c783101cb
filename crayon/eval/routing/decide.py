"""One draw of a user: customise with the samples, calibrate on what the user has, then route the traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.customising.customise import customise
from crayon.customising.profiles import left_out_score
from crayon.eval.cases import as_samples
from crayon.router.calibration import calibrate
from crayon.router.cases import Case, Priors
from crayon.router.scope import ScopeGate
from crayon.router.targets import Best

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.customising.customise import Draft
    from crayon.data.qa import Item
    from crayon.eval.routing.sides import DeviceSide, Said, ServerSide
    from crayon.eval.routing.traffic import User
    from crayon.eval.subject import Subject
    from crayon.router.calibration import Calibration

    Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Routed:
    """What happened to a user's queries in one draw; all arrays have the shape (queries,).

    `inside` is the scope score minus its fitted threshold; `sure` the device's margin; rights are 1 or 0: of the device
    as it answers (blended inside its scope, plain outside), of its blend alone, and of the server; `benefit` the
    estimated gain of sending, and `sent` what was decided.
    """

    inside: Values
    sure: Values
    device: Values
    blended: Values
    server: Values
    benefit: Values
    sent: NDArray[np.bool_]
    calibration: Calibration
    cases: tuple[Case, ...]


class Decider:
    """Makes draws.

    Args:
        pool: what is blended.
        subject: the device, for embeddings.
        device, server: who answers.
        step: is called for each answer.
    """

    def __init__(
        self, pool: Pool, subject: Subject, device: DeviceSide, server: ServerSide, step: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._subject = subject
        self._device = device
        self._server = server
        self._step = step

    def draw(self, user: User, draw: int) -> Routed:
        """Return what the router makes of the user's queries with the samples of one draw."""
        samples = user.draws[draw]
        draft = customise(self._subject.calls, "eval", as_samples(samples), pool_id=self._pool.id)
        cases = [*self._own_cases(draft, samples), *self._known_cases(draft, user.known)]
        names = [profile.name for profile in draft.customization.profiles]
        calibration = calibrate(cases, Best(), Priors(), profiles=names, rounds=10)
        items = [query.item for query in user.queries]
        profiles, inside = self._places(draft, items)
        scopes = {rule.profile: rule.scope for rule in calibration.rules}
        blends = [draft.customization.blend(name) for name in profiles]
        let_in = [score >= scopes[name] for name, score in zip(profiles, inside, strict=True)]
        blended = self._device.ask(items, blends, self._step)
        plain = self._device.ask(items, [None] * len(items), self._step)
        own = [b if ok else p for b, p, ok in zip(blended, plain, let_in, strict=True)]
        benefit = np.array(
            [
                calibration.benefit(name, score, one.margin)
                for name, score, one in zip(profiles, inside, own, strict=True)
            ]
        )
        return Routed(
            inside=inside,
            sure=np.array([one.margin for one in own]),
            device=_right(own),
            blended=_right(blended),
            server=_right(self._server.ask(items, self._step)),
            benefit=benefit,
            sent=np.array([calibration.sends(float(gain)) for gain in benefit]),
            calibration=calibration,
            cases=tuple(cases),
        )

    def _places(self, draft: Draft, items: Sequence[Item]) -> tuple[list[str], Values]:
        """Return the closest profile of each item, and its scope score minus the profile's threshold."""
        gate = ScopeGate([profile.scope() for profile in draft.customization.profiles])
        vectors, _ = self._subject.calls.vectors(self._pool, [item.prompt for item in items])
        verdicts = [gate.judge(vector) for vector in vectors]
        return [verdict.name for verdict in verdicts], np.array([v.score - v.threshold for v in verdicts])

    def _own_cases(self, draft: Draft, samples: Sequence[Item]) -> list[Case]:
        """Return the user's samples as cases: each placed by the others of its profile, answered by its blend."""
        profiles = draft.customization.profiles
        said = self._device.ask(samples, [_blend(draft, int(part)) for part in draft.parts], self._step)
        answered = self._server.ask(samples, self._step)
        cases = []
        for i, (item, one, other) in enumerate(zip(samples, said, answered, strict=True)):
            profile = profiles[int(draft.parts[i])]
            score = left_out_score(draft.vectors, draft.parts, i)
            cases.append(_case(profile.name, score - profile.threshold, one, other, item, own=True))
        return cases

    def _known_cases(self, draft: Draft, known: Sequence[Item]) -> list[Case]:
        profiles, inside = self._places(draft, known)
        blends = [draft.customization.blend(p) if s >= 0 else None for p, s in zip(profiles, inside, strict=True)]
        said = self._device.ask(known, blends, self._step)
        answered = self._server.ask(known, self._step)
        return [
            _case(name, float(score), one, other, item, own=False)
            for name, score, one, other, item in zip(profiles, inside, said, answered, known, strict=True)
        ]


def _blend(draft: Draft, part: int) -> Blend | None:
    return draft.customization.blend(draft.customization.profiles[part].name)


def _case(profile: str, inside: float, device: Said, server: Said, item: Item, *, own: bool) -> Case:
    return Case(
        profile=profile,
        inside_score=inside,
        sure=device.margin,
        device_right=float(device.right),
        server_right=float(server.right),
        own=own,
        id=item.id,
    )


def _right(said: Sequence[Said]) -> Values:
    return np.array([float(one.right) for one in said])
