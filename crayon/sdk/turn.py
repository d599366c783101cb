"""One turn as a state machine without input or output: events in, the next action out.

The sync and the async driver do what the action says and report what happened; everything that is decided on the way
is decided here, once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crayon.completion import Completion, Reason, Source
from crayon.engine import Delta, Finished, GenerateRequest, Prefix, Started, check_kept, new_request_id
from crayon.errors import (
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    PromptTooLongError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.messages import question
from crayon.privacy.redaction import Restorer, restored_json
from crayon.router.hardness import HardnessGate, Verdict, choice_gate
from crayon.sdk.actions import Done, Embed, Emit, Fail, Generate, Read
from crayon.sdk.call.device_failures import is_devices_own
from crayon.sdk.route_log import RouteLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crayon.completion import Route
    from crayon.customising.support import Support
    from crayon.engine import Event
    from crayon.errors import BudgetError
    from crayon.messages import ToolCall
    from crayon.router.decide import CalibratedGate, CalibratedRouter
    from crayon.router.hardness import Hardness
    from crayon.router.scope import ScopeVerdict
    from crayon.sampling import Sampling
    from crayon.sdk.actions import Action
    from crayon.sdk.call.options import Call
    from crayon.sdk.query_gate import ChosenProfile
    from crayon.token_options import TokenLogprob

# While the device can still stand in, the server must show its first token within this share of the time left; the
# rest is kept for the device. After its first token it has all of it.
FIRST_TOKEN_SHARE = 0.5


class Turn:
    """One query on its way to one answer.

    Args:
        call: the resolved call; its timeout starts to run now.
        scoped: whether there are scopes or profiles to test the query against.
        choosing: whether the query's embedding chooses the profile that the device answers with.
        choice: that profile where there is nothing to choose.
        hardness: settings of the hardness gate, or None to let every device answer go at once.
        calibrated: a calibration in use; where it knows the query's profile, it takes the place of both gates' own.
        gate: makes the hardness gate, or None for no gate.
        server: address of the server, for the report.
        request_bytes: size of a request on the wire.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        call: Call,
        *,
        scoped: bool = False,
        choosing: bool = False,
        choice: ChosenProfile | None = None,
        hardness: Hardness | None = None,
        calibrated: CalibratedRouter | None = None,
        gate: Callable[[Hardness], HardnessGate | None] = HardnessGate,
        server: str | None = None,
        request_bytes: Callable[[GenerateRequest], int] = lambda _: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.call = call
        self._scoped = scoped
        self._choosing = choosing
        self._waiting: bool | None = None  # for the profile; then whether the attempt is gated
        self._hardness = hardness
        self._calibrated = calibrated
        self.gate: HardnessGate | CalibratedGate | None = None  # of the device's last attempt, for who explains
        self._ruled = False  # whether the calibration decides by the device's first tokens
        self._gate_of = gate
        self._request_bytes = request_bytes
        self._clock = clock
        self._t0 = clock()
        self.deadline = None if call.timeout is None else self._t0 + call.timeout
        report = call.screened.report if call.screened else None
        self.route_log = RouteLog(new_request_id(), server, call.last_profile, choice, report)
        self._attempts = 0
        self._attempt: Attempt | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] = []
        self._ttft: float | None = None
        self._finished: Finished | None = None

    @property
    def most_held(self) -> int:
        """How many tokens the gate may hold back."""
        return 0 if self.gate is None else self.gate.hold_tokens

    @property
    def _named(self) -> bool:
        return self.call.always or self.call.blend is not None

    @property
    def text(self) -> str:
        """The text shown so far."""
        return "".join(self._text)

    @property
    def _seen(self) -> bool:
        """Whether the caller saw anything of the answer, so that it is not taken back."""
        return bool(self._text or self._reasoning or self._calls or self._logprobs)

    @property
    def route(self) -> Route | None:
        """The report, once text was shown or the answer has ended, so that it is not taken back."""
        decision, attempt = self.route_log.last, self._attempt
        if decision is None or attempt is None or not (self._seen or self._finished):
            return None
        return self.route_log.route(decision, attempt.started.blend if attempt.started else None)

    # -- events

    def begin(self) -> Action:
        """Start."""
        first, reason = self.call.allowed.sources[0], self.call.allowed.reason
        if self.call.allowed.gated and self._scoped:
            return self._embed()
        ruled = self._rule() if self.call.allowed.gated else None
        if ruled is not None:
            return ruled
        self.route_log.decide(first, reason)
        return self._run(first, gated=self.call.allowed.gated)

    def begin_without_device(self, error: CrayonError) -> Action:
        """Start where the device's model could not be opened, so that the server, which is allowed to, answers."""
        self.route_log.failures[Source.DEVICE] = error
        self.route_log.decide(Source.SERVER, Reason.DEVICE_FAILED)
        return self._run(Source.SERVER)

    def embedded(self, verdict: ScopeVerdict | None, encode_ms: float, choice: ChosenProfile | None = None) -> Action:
        """Take in the verdict on the query: where it belongs, and what the device would answer with."""
        self.route_log.encode_ms, self._choosing = encode_ms, False
        if choice:
            self.route_log.choice = choice.for_text() if self.call.wants_text else choice
        if self._waiting is not None or verdict is None:
            gated, self._waiting = bool(self._waiting), None
            return self._run(Source.DEVICE, gated=gated)
        self.route_log.scope = verdict
        ruled = self._rule()
        if ruled is not None:
            return ruled
        source = Source.DEVICE if verdict.inside else Source.SERVER
        reason = Reason.IN_SCOPE if verdict.inside else Reason.OUT_OF_SCOPE
        self.route_log.decide(source, reason, verdict.score, verdict.threshold)
        return self._run(source, gated=verdict.inside)

    def begun(self) -> Action:
        """Take in that the engine accepted the request."""
        attempt = self._running()
        if attempt.source is Source.SERVER:
            self.route_log.bytes_sent += self._request_bytes(attempt.request)
        return self._read()

    def received(self, event: Event) -> Action:
        """Take in the running stream's next event."""
        attempt = self._running()
        match event:
            case Started():
                try:
                    check_kept(attempt.request, event)
                except CrayonError as error:
                    return self.failed(error)
                attempt.started = event
                return self._read()
            case Delta():
                if self._late():
                    return self.timed_out()
                attempt.first_by = None
                attempt.see(event)
                if attempt.closed and event.signals:
                    attempt.probability = math.exp(event.signals[0].logprob)
                if attempt.gate is not None:
                    return self._weigh(attempt, attempt.gate, event)
                return self._show(attempt.restored(event))
            case Finished():
                return self._finish(attempt, event)

    def shown(self) -> Action:
        """Take in that the text was handed over."""
        return self._read() if self._finished is None else self._done(self._finished)

    def timed_out(self) -> Action:
        """Take in that `until` has passed."""
        if self._attempt is not None and self._attempt.first_by is not None and not self._late():
            return self.failed(ServerUnavailableError("the server did not show a first token in time"))
        return self.failed(DeadlineExceededError("the deadline passed before the answer was complete"))

    def failed(self, error: CrayonError) -> Action:
        """Take in that embedding, starting or reading failed."""
        source = self._attempt.source if self._attempt else Source.DEVICE
        shorter = self._shorter(error)
        if shorter is not None:
            return shorter
        if self._seen or not self._may_fall_back(source, error):
            return Fail(self._final(source, error))
        self._discard()
        self.route_log.failures[source] = error
        if source is Source.DEVICE:
            self.route_log.decide(Source.SERVER, Reason.DEVICE_FAILED)
            return self._run(Source.SERVER)
        before = self.route_log.last
        self.route_log.decide(
            Source.DEVICE,
            Reason.SERVER_FAILED,
            before.score if before else None,
            before.threshold if before else None,
        )
        return self._run(Source.DEVICE)

    def spent(self, error: BudgetError) -> Action:
        """Take in that the budget was used up before the server was asked; nothing was sent."""
        self._attempt = None
        if not self._may_stand_in(Source.DEVICE):
            return Fail(self._final(Source.SERVER, error))
        self.route_log.decide(Source.DEVICE, Reason.BUDGET)
        return self._run(Source.DEVICE)

    # -- the calibration, and the hardness gate

    def _rule(self) -> Action | None:
        """Let the calibration decide; None: there is none, or it knows nothing of the query or only of its answer."""
        router = self._router
        ruling = router.before(*self._place) if router else None
        if ruling is None:
            return None
        if ruling.source is None:
            self._ruled = True
            return None
        self.route_log.decide(ruling.source, ruling.reason, ruling.score, ruling.threshold)
        return self._run(ruling.source)

    @property
    def _place(self) -> tuple[ScopeVerdict | None, str | None]:
        return self.route_log.scope, self.route_log.choice.profile if self.route_log.choice else None

    def _new_gate(self) -> HardnessGate | CalibratedGate | None:
        router = self._router
        if self._ruled and router:
            self.gate = router.gate(*self._place)
        elif self._hardness is None:
            self.gate = None
        else:
            self.gate = choice_gate(self._hardness) if self._closed else self._gate_of(self._hardness)
        return self.gate

    @property
    def _router(self) -> CalibratedRouter | None:
        """The calibration in use; an answer of a closed set is judged as a choice is."""
        router = self._calibrated
        return replace(router, of_choices=True) if router and self._closed else router

    @property
    def _support(self) -> Support | None:
        """What the samples say of the query, on the device."""
        return self.route_log.choice.support if self.route_log.choice else None

    @property
    def _closed(self) -> bool:
        return bool(self._support and self._support.answers)

    def _shorter(self, error: CrayonError) -> Action | None:
        """Go on without examples where the query does not fit the context beside them."""
        attempt, choice = self._attempt, self.route_log.choice
        if not isinstance(error, PromptTooLongError) or attempt is None or attempt.source is not Source.DEVICE:
            return None
        if choice is None or choice.support is None or not choice.support.turns or self._late():
            return None
        self.route_log.choice = replace(choice, support=choice.support.without_turns())
        return self._run(Source.DEVICE, gated=attempt.gate is not None)

    def _weigh(self, attempt: Attempt, gate: HardnessGate | CalibratedGate, delta: Delta) -> Action:
        if (delta.text or delta.calls) and not delta.signals and not gate.tokens:
            # An engine without signals cannot be judged: its answer counts as it is.
            attempt.gate = None
            attempt.held.append(delta)
            return self._show(attempt.released())
        attempt.hold(delta, self._clock)
        for signal in delta.signals:
            gate.push(signal)
        return self._judged(attempt, gate)

    def _judged(self, attempt: Attempt, gate: HardnessGate | CalibratedGate) -> Action:
        if gate.verdict is Verdict.HOLD:
            return self._read()
        attempt.gate = None
        self.route_log.holdback_ms = attempt.held_ms(self._clock)
        threshold = gate.threshold
        if gate.verdict is Verdict.ESCALATE:
            self._discard()
            self.route_log.decide(Source.SERVER, Reason.UNSURE, gate.score, threshold, gate)
            return self._run(Source.SERVER)
        if self.route_log.scope is None:
            self.route_log.decide(Source.DEVICE, Reason.CONFIDENT, gate.score, threshold, gate)
        return self._show(attempt.released())

    def _discard(self) -> None:
        """Forget the running attempt; the caller never saw its text."""
        if self._attempt is not None and self._attempt.source is Source.DEVICE:
            self.route_log.discarded_tokens += self._attempt.tokens
        self._attempt = None

    # -- steps

    def _embed(self) -> Action:
        return Embed(question(self.call.messages), self.deadline)

    def _run(self, source: Source, *, gated: bool = False) -> Action:
        if source is Source.DEVICE and self._choosing and not self._late():
            self._waiting = gated
            return self._embed()
        now = self._clock()
        if self._late():
            return Fail(self._final(source, DeadlineExceededError("the deadline passed before the first token")))
        first_by = None
        if source is Source.SERVER and self._may_stand_in(Source.DEVICE) and self.deadline is not None:
            first_by = now + FIRST_TOKEN_SHARE * (self.deadline - now)
        # A blend belongs to the device's pool; a server gets one only if it alone may answer and the caller named it.
        blend = self.route_log.choice.blend if self.route_log.choice else self.call.blend
        if source is Source.SERVER and not (self.call.allowed.sources == (source,) and self._named):
            blend = None
        self._attempts += 1
        gate = self._new_gate() if gated else None
        request_id = self.route_log.request_id
        # The device sees the original; a server, what was let through.
        given = self.call.screened if source is Source.SERVER and self.call.screened else self.call
        support = self._support if source is Source.DEVICE else None
        shared = support.shared(given.messages) if support else 0
        request = GenerateRequest(
            messages=support.before(given.messages) if support else given.messages,
            sampling=_unpenalised(given.sampling) if support else given.sampling,
            blend=blend,
            deadline=self.deadline,
            request_id=request_id if self._attempts == 1 else f"{request_id}-{self._attempts}",
            signals=gate is not None,
            constraint=self.call.constraint,
            tools=self.call.tools,
            logit_bias=self.call.logit_bias,
            top_logprobs=self.call.top_logprobs,
            prefix=Prefix(shared, support.folder) if support and shared else None,
        )
        self._attempt = Attempt(source, request, gate, first_by, closed=bool(support and support.answers))
        if source is Source.SERVER and self.call.screened and self.call.screened.originals:
            self._attempt.restore(self.call.screened.originals)
        return Generate(source, request, support)

    def _running(self) -> Attempt:
        if self._attempt is None:
            raise EngineError("an event came while nothing was running")
        return self._attempt

    def _read(self) -> Read:
        first_by = self._attempt.first_by if self._attempt else None
        return Read(self.deadline if first_by is None else first_by)

    def _show(self, said: Delta) -> Action:
        self._logprobs += said.logprobs
        if not (said.text or said.reasoning or said.calls or said.logprobs):
            return self._read() if self._finished is None else self._done(self._finished)
        if self._ttft is None:
            self._ttft = self._clock() - self._t0
        if said.text:
            self._text.append(said.text)
        if said.reasoning:
            self._reasoning.append(said.reasoning)
        self._calls += said.calls
        return Emit(said.text, self._running().source, said.reasoning, said.calls, said.logprobs)

    def _finish(self, attempt: Attempt, event: Finished) -> Action:
        if attempt.gate is None:
            self._finished = event
            return self._show(attempt.rest())
        if attempt.gate.finish() is Verdict.RELEASE:
            self._finished = event
        return self._judged(attempt, attempt.gate)

    def _done(self, finished: Finished) -> Action:
        route, attempt = self.route, self._attempt
        if route is None or attempt is None:
            return Fail(EngineError("the turn ended without an answer"))
        total = self._clock() - self._t0
        return Done(
            Completion(
                text=self.text,
                reasoning="".join(self._reasoning),
                tool_calls=tuple(self._calls),
                route=route,
                model=attempt.started.model if attempt.started else "",
                finish_reason=finished.finish_reason,
                usage=finished.usage,
                timings=finished.timings,
                ttft_ms=1000.0 * (total if self._ttft is None else self._ttft),
                total_ms=1000.0 * total,
                probability=attempt.probability,
                document=self.call.form.read(self.text, finished.finish_reason) if self.call.form else None,
                withheld=attempt.mean_withheld,
                logprobs=tuple(self._logprobs),
            )
        )

    # -- failures

    def _late(self) -> bool:
        return self.deadline is not None and self._clock() >= self.deadline

    def _may_stand_in(self, other: Source) -> bool:
        return other in self.call.allowed.sources and other not in self.route_log.failures

    def _may_fall_back(self, source: Source, error: CrayonError) -> bool:
        if self._late():
            return False
        if source is Source.SERVER:
            return self._may_stand_in(Source.DEVICE)
        return is_devices_own(error) and self._may_stand_in(Source.SERVER)

    def _final(self, source: Source, error: CrayonError) -> CrayonError:
        """Return the error to raise; its partial text is exactly what the caller was shown."""
        self.route_log.explain(error)
        if isinstance(error, DeadlineExceededError | ServerInterruptedError):
            error.partial = self.text
        elif self._seen and source is Source.SERVER and not isinstance(error, EngineClosedError):
            broken = ServerInterruptedError(f"the server broke off its answer: {error}", partial=self.text)
            broken.__cause__ = error
            return broken
        return error


@dataclass(slots=True)
class Attempt:
    """One request at one engine. `first_by`: when its first token must be there for it to go on."""

    source: Source
    request: GenerateRequest
    gate: HardnessGate | CalibratedGate | None = None
    first_by: float | None = None
    first_at: float | None = None
    started: Started | None = None
    held: list[Delta] = field(default_factory=list)
    tokens: int = 0
    originals: Mapping[str, str] | None = None  # of placeholders in what a server was sent
    restorers: tuple[Restorer, ...] = ()  # of the text and of what was thought
    closed: bool = False  # whether the answer is one of a closed set
    probability: float | None = None  # of that answer
    signals: int = 0  # tokens that the model chose
    withheld: float = 0.0  # of their probability, in all

    def see(self, delta: Delta) -> None:
        """Count a piece's tokens and signals."""
        self.tokens += delta.tokens
        self.signals += len(delta.signals)
        self.withheld += sum(signal.withheld for signal in delta.signals)

    @property
    def mean_withheld(self) -> float | None:
        """How much of its probability the model gave to what the constraint did not allow, where that is known."""
        known = self.request.constraint is not None and self.source is Source.DEVICE and self.signals > 0
        return self.withheld / self.signals if known else None

    def hold(self, delta: Delta, clock: Callable[[], float]) -> None:
        """Keep a piece back until the gate has decided."""
        if self.first_at is None and delta.signals:
            self.first_at = clock()
        self.held.append(delta)

    def released(self) -> Delta:
        """Return what was held back as one piece, without signals."""
        return Delta(
            "".join(delta.text for delta in self.held),
            tokens=sum(delta.tokens for delta in self.held),
            reasoning="".join(delta.reasoning for delta in self.held),
            calls=tuple(call for delta in self.held for call in delta.calls),
            logprobs=tuple(one for delta in self.held for one in delta.logprobs),
        )

    def restore(self, originals: Mapping[str, str]) -> None:
        """Put originals back in place of their placeholders from now on."""
        self.originals = originals
        self.restorers = (Restorer(originals), Restorer(originals))

    def restored(self, delta: Delta) -> Delta:
        """Return a piece with the originals in its text, what was thought, and its calls."""
        if self.originals is None:
            return delta
        text, reasoning = self.restorers
        calls = tuple(replace(c, arguments=restored_json(c.arguments, self.originals)) for c in delta.calls)
        return replace(delta, text=text.push(delta.text), reasoning=reasoning.push(delta.reasoning), calls=calls)

    def rest(self) -> Delta:
        """Return what the originals' placeholders were still waited for."""
        text, reasoning = (restorer.finish() for restorer in self.restorers) if self.restorers else ("", "")
        return Delta(text, tokens=0, reasoning=reasoning)

    def held_ms(self, clock: Callable[[], float]) -> float:
        """Return for how long the first token has been held back."""
        return 0.0 if self.first_at is None else 1000.0 * (clock() - self.first_at)


def _unpenalised(sampling: Sampling) -> Sampling:
    """Return the sampling of an answer after examples, which says what they say: no penalty that nobody asked for."""
    return sampling if sampling.repeat_penalty is not None else replace(sampling, repeat_penalty=1.0)
