"""Who would answer a query and why: one turn, up to the point where something would be shown or sent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.customising.profile_gate import check_model
from crayon.engine import EncodeRequest, wait_for
from crayon.errors import CrayonError, DeadlineExceededError, EngineError
from crayon.router.features import Features, TokenFeatures
from crayon.router.hardness import choice_gate
from crayon.router.signals import DEFAULT_CHOICE, DEFAULT_TEXT, SIGNALS, signal_value
from crayon.sdk.actions import Embed, Fail, Generate, Read
from crayon.sdk.call.choosing import check_choices
from crayon.sdk.scoring import Scoring, score_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.completion import Reason
    from crayon.router.scope import ScopeVerdict
    from crayon.router.targets import Target
    from crayon.sdk.actions import Action
    from crayon.sdk.call.options import Call
    from crayon.sdk.core import Core
    from crayon.sdk.turn import Turn

_POLL = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What the hardness gate read: `signal` by name, its value against the threshold, over so many tokens."""

    signal: str
    score: float | None
    threshold: float | None
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """The calibration in use.

    Args:
        date: when it was made.
        target: what for.
        lam: a query is sent if it gains more than this; where a server share is kept, as it stands now.
        benefit: the estimated gain of sending this query; None where nothing was calibrated for it.
        share: server share of all gated queries so far, where one is kept.
    """

    date: str
    target: Target
    lam: float
    benefit: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Who would answer a query and why.

    Args:
        source: the side.
        reason: why.
        score: the number that decides, if one does, and
        threshold: at or above which the device answers.
        allowed: the sides that may answer, the preferred one first, and
        allowed_reason: why that one is first.
        scope: the closest scope or profile with its score and threshold; None where none was looked at.
        customization: what the device would answer with, and
        profile: which of its profiles; "base" is the plain base.
        hold: what the hardness gate read; None where it had no say.
        signals: every signal that was measured, by name; higher is surer.
        calibration: the one in use, if any.
        choices: how many texts there are to choose from; 0 where a text is written.
    """

    source: Source
    reason: Reason
    score: float | None
    threshold: float | None
    allowed: tuple[Source, ...]
    allowed_reason: Reason
    scope: ScopeVerdict | None = None
    customization: str | None = None
    profile: str | None = None
    hold: Hold | None = None
    signals: dict[str, float] = field(default_factory=dict)
    calibration: InUse | None = None
    choices: int = 0


def explain(core: Core, call: Call, choices: Iterable[str] | None = None) -> Explanation:
    """Return who would answer a call, or choose; nothing is sent. Errors as `Crayon.explain`."""
    benefits: list[float] = []
    scoring = None if choices is None else Scoring(check_choices(choices))
    call = core.screen.look(call, scoring.choices if scoring else ())
    lost = _open_device(core, call)
    if scoring is None:
        turn = core.turn(call, watch=benefits.append)
    else:
        turn = core.turn(call, gate=choice_gate, of_choices=True, watch=benefits.append)
    action = turn.begin() if lost is None else turn.begin_without_device(lost)
    if isinstance(action, Embed):
        action = _embed(core, turn, call, action)
    closed = action.support if isinstance(action, Generate) else None
    if scoring is None and closed is not None and closed.answers:
        scoring = Scoring(closed.answers, given=False)  # one of a closed set is wanted, as in `Answer`
    if isinstance(action, Generate) and action.source is Source.DEVICE and turn.gate is not None:
        action = _hold(core, turn, action, scoring)
    if isinstance(action, Fail):
        raise action.error
    return _told(core, turn, call, benefits, scoring)


def _open_device(core: Core, call: Call) -> CrayonError | None:
    """Open and check the device where it comes first; return why it cannot be opened, where the server would answer."""
    if call.allowed.sources[0] is not Source.DEVICE:
        return None
    try:
        device = core.engines.open(Source.DEVICE, call.allowed.sources)
    except CrayonError as error:
        if not core.engines.lost_device(error, call.allowed.sources):
            raise
        return error
    if call.allowed.gated:
        core.calibrations.prepare(call, core.engines, server=False)
    if call.customization is not None:
        check_model(call.customization, device)
    return None


def _embed(core: Core, turn: Turn, call: Call, action: Embed) -> Action:
    try:
        gate = core.query_gate(call, action.until, gated=call.allowed.gated)
        request = EncodeRequest(texts=(action.text,), deadline=action.until)
        verdict = gate.judge(wait_for(gate.encode(core.engines.open(Source.DEVICE), request), action.until))
    except CrayonError as error:
        return turn.failed(error)
    return turn.embedded(verdict.scope, 0.0, verdict.choice)


def _hold(core: Core, turn: Turn, action: Generate, scoring: Scoring | None) -> Action:
    """Let the device decode what would be held back, or score the choices, until the gate has decided."""
    device, request = core.engines.open(Source.DEVICE), action.request
    # No more tokens than can be held: the rest would be for nobody.
    sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, turn.most_held))
    try:
        if scoring is None:
            stream = device.generate(replace(request, sampling=sampling))
        else:
            stream = scoring.start(device, Source.DEVICE, score_request(request, scoring.choices), action.support)
        with stream:
            step = turn.begun()
            while isinstance(step, Read):
                left = _POLL if step.until is None else min(_POLL, step.until - time.monotonic())
                event = stream.get(max(0.0, left))
                if event is not None:
                    step = turn.received(event)
                elif step.until is not None and time.monotonic() >= step.until:
                    raise DeadlineExceededError
            return step
    except StopIteration:
        return turn.failed(EngineError("the engine ended its answer without finishing it"))
    except CrayonError as error:
        return turn.failed(error)


def _told(core: Core, turn: Turn, call: Call, benefits: list[float], scoring: Scoring | None) -> Explanation:
    decision, route_log, gate = turn.route_log.last, turn.route_log, turn.gate
    if decision is None:
        raise EngineError("nothing was decided")
    record = core.calibrations.record(call) if call.allowed.gated else None
    keeper = core.calibrations.keeper(call) if record else None
    margin = route_log.scope.score - route_log.scope.threshold if route_log.scope else None
    ranking = scoring.rankings.get(Source.DEVICE) if scoring else None
    seen = Features(
        tokens=gate.features() if gate and scoring is None else TokenFeatures(),
        choice=ranking.features if ranking else None,
        scope_margin=margin,
    )
    usual = DEFAULT_TEXT if scoring is None else DEFAULT_CHOICE
    values = {name: signal_value(name, seen) for name in SIGNALS}
    return Explanation(
        source=decision.source,
        reason=decision.reason,
        score=decision.score,
        threshold=decision.threshold,
        allowed=turn.call.allowed.sources,
        allowed_reason=turn.call.allowed.reason,
        scope=route_log.scope,
        customization=route_log.choice.customization if route_log.choice else None,
        profile=route_log.choice.profile if route_log.choice else None,
        hold=None
        if gate is None
        else Hold(
            signal=record.signal if record and benefits else usual,
            score=gate.score,
            threshold=gate.threshold,
            tokens=gate.tokens,
        ),
        signals={name: value for name, value in values.items() if value is not None},
        calibration=None
        if record is None
        else InUse(
            date=record.date,
            target=record.calibration.target,
            lam=record.calibration.lam if keeper is None else keeper.lam,
            benefit=benefits[-1] if benefits else None,
            share=keeper.share if keeper and keeper.n else None,
        ),
        choices=len(scoring.choices) if scoring else 0,
    )
