"""One draw of a user: customise with the samples, calibrate on what the user has, then route the traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from crayon.customising.customise import customise
from crayon.customising.profiles import left_out_score
from crayon.lab.eval.cases import as_samples
from crayon.router.calibration import calibrate
from crayon.router.cases import Case
from crayon.router.scope import ScopeGate
from crayon.router.targets import Best

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.customising.customise import NewCustomization
    from crayon.data.qa import Item
    from crayon.lab.eval.device_runner import DeviceRunner
    from crayon.lab.eval.routing.sides import DeviceSide, ServerSide, TakenOption
    from crayon.lab.eval.routing.traffic import User
    from crayon.router.calibration import Calibration
    from crayon.router.cases import Priors

    Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Routed:
    """What happened to a user's queries in one draw; all arrays have the shape (queries,).

    `inside` is the scope score minus its fitted threshold, and `let_in` whether the calibrated scope lets the query in;
    `sure` is the device's margin, which the router sees of what is let in: all else is decided before the device
    answers. Rights are 1 or 0: of the device as it answers (blended inside its scope, plain outside), of its blend
    alone, of the plain base alone, and of the server. `blends` is each query's blend, were it let in; `benefit` is the
    estimated gain of sending, and `sent` what was decided. `day_one` is who was right (1 or 0) where only the user's
    own samples were known.
    """

    inside: Values
    let_in: NDArray[np.bool_]
    sure: Values
    device: Values
    blended: Values
    plain: Values
    server: Values
    blends: tuple[Blend | None, ...]
    benefit: Values
    sent: NDArray[np.bool_]
    day_one: Values
    calibration: Calibration
    cases: tuple[Case, ...]


class Decider:
    """Makes draws.

    Args:
        pool: what is blended.
        subject: the device, for embeddings.
        device, server: who answers.
        priors: what is believed of the two before a user's own queries tell, as the product has them.
        step: is called for each answer.
    """

    def __init__(
        self,
        pool: Pool,
        subject: DeviceRunner,
        device: DeviceSide,
        server: ServerSide,
        priors: Priors,
        step: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._subject = subject
        self._device = device
        self._server = server
        self._priors = priors
        self._step = step

    def draw(self, user: User, draw: int) -> Routed:
        """Return what the router makes of the user's queries with the samples of one draw."""
        samples = user.draws[draw]
        draft = customise(self._subject.calls, "eval", as_samples(samples), pool_id=self._pool.id)
        mine = self._own_cases(draft, samples)
        cases = [*mine, *self._known_cases(draft, user.known)]
        names = [profile.name for profile in draft.customization.profiles]
        calibration = calibrate(cases, Best(), self._priors, profiles=names, rounds=10)
        items = [query.item for query in user.queries]
        profiles, inside = self._places(draft, items)
        blends = [draft.customization.blend(name) for name in profiles]
        blended = self._device.ask(items, blends, self._step)
        plain = self._device.ask(items, [None] * len(items), self._step)
        server = _right(self._server.ask(items, self._step))
        let_in, own, benefit = _judged(calibration, profiles, inside, blended, plain)
        sent = _sent(calibration, benefit)
        # The day a user customises: only the own samples are known.
        first = calibrate(mine, Best(), self._priors, profiles=names, rounds=10)
        _, own_first, benefit_first = _judged(first, profiles, inside, blended, plain)
        return Routed(
            inside=inside,
            let_in=let_in,
            sure=np.array([one.margin for one in own]),
            device=_right(own),
            blended=_right(blended),
            plain=_right(plain),
            server=server,
            blends=tuple(blends),
            benefit=benefit,
            sent=sent,
            day_one=np.where(_sent(first, benefit_first), server, _right(own_first)),
            calibration=calibration,
            cases=tuple(cases),
        )

    def _places(self, draft: NewCustomization, items: Sequence[Item]) -> tuple[list[str], Values]:
        """Return the closest profile of each item, and its scope score minus the profile's threshold."""
        gate = ScopeGate([profile.scope() for profile in draft.customization.profiles])
        vectors, _, _ = self._subject.calls.vectors(self._pool, [item.prompt for item in items])
        verdicts = [gate.judge(vector) for vector in vectors]
        return [verdict.name for verdict in verdicts], np.array([v.score - v.threshold for v in verdicts])

    def _own_cases(self, draft: NewCustomization, samples: Sequence[Item]) -> list[Case]:
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

    def _known_cases(self, draft: NewCustomization, known: Sequence[Item]) -> list[Case]:
        profiles, inside = self._places(draft, known)
        blends = [draft.customization.blend(p) if s >= 0 else None for p, s in zip(profiles, inside, strict=True)]
        said = self._device.ask(known, blends, self._step)
        answered = self._server.ask(known, self._step)
        return [
            _case(name, float(score), one, other, item, own=False)
            for name, score, one, other, item in zip(profiles, inside, said, answered, known, strict=True)
        ]


def _blend(draft: NewCustomization, part: int) -> Blend | None:
    return draft.customization.blend(draft.customization.profiles[part].name)


def _case(profile: str, inside: float, device: TakenOption, server: TakenOption, item: Item, *, own: bool) -> Case:
    return Case(
        profile=profile,
        inside_score=inside,
        # Outside, the query is decided before the device answers.
        sure=device.margin if inside >= 0 else None,
        device_right=float(device.right),
        server_right=float(server.right),
        own=own,
        id=item.id,
    )


def _judged(
    calibration: Calibration,
    profiles: Sequence[str],
    inside: Values,
    blended: Sequence[TakenOption],
    plain: Sequence[TakenOption],
) -> tuple[NDArray[np.bool_], list[TakenOption], Values]:
    """Return which queries the scopes let in, the device's answers then, and the estimated gains of sending."""
    scopes = {rule.profile: rule.scope for rule in calibration.rules}
    let_in = np.array([score >= scopes[name] for name, score in zip(profiles, inside, strict=True)])
    own = [b if ok else p for b, p, ok in zip(blended, plain, let_in, strict=True)]
    benefit = [
        # Outside, the query is decided before the device answers.
        calibration.benefit(name, float(score), one.margin if ok else None)
        for name, score, one, ok in zip(profiles, inside, own, let_in, strict=True)
    ]
    return let_in, own, np.array(benefit)


def _sent(calibration: Calibration, benefit: Values) -> NDArray[np.bool_]:
    return np.array([calibration.sends(float(gain)) for gain in benefit])


def _right(said: Sequence[TakenOption]) -> Values:
    return np.array([float(one.right) for one in said])
