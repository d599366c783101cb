"""The turn alone, without engines or time: whatever happens, the promises hold."""

from __future__ import annotations

import pytest
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.completion import Blend, FinishReason, Mode, Reason, Source, Timings, Usage
from crayon.engine import Delta, Finished, Started, TokenSignal
from crayon.errors import (
    CrayonError,
    DeadlineExceededError,
    EngineError,
    PromptTooLongError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.messages import Message
from crayon.router import Hardness, ScopeVerdict, allowed_sources
from crayon.sampling import Sampling
from crayon.sdk.actions import Done, Embed, Emit, Fail, Generate, Read
from crayon.sdk.call.options import Call
from crayon.sdk.query_gate import ChosenProfile
from crayon.sdk.turn import FIRST_TOKEN_SHARE, Turn, _unpenalised

FINISHED = Finished(FinishReason.STOP, Usage(), Timings())


def make(mode=Mode.PREFER_ON_DEVICE, *, private=False, timeout=10.0, away=False, clock=None, **options):
    allowed = allowed_sources(mode, private=private, device=True, server=True, server_away=away)
    call = Call(
        messages=(Message("user", "hi"),),
        allowed=allowed,
        sampling=Sampling(),
        mode=Mode(mode),
        private=private,
        timeout=timeout,
    )
    return Turn(call, clock=clock or HandClock(0.0), request_bytes=lambda _: 7, **options)


def token(text, logprob):
    return Delta(text, (TokenSignal(logprob, 1.0, 0.5),))


def test_the_server_gets_half_of_the_time_to_its_first_token_and_then_all_of_it():
    clock = HandClock(0.0)
    turn = make(Mode.PREFER_ON_SERVER, clock=clock)
    assert turn.begin().request.deadline == 10.0
    assert turn.begun() == Read(10.0 * FIRST_TOKEN_SHARE)
    assert turn.received(Started("id", "large")) == Read(5.0)
    assert turn.received(token("a", -1.0)) == Emit("a", Source.SERVER)
    assert turn.shown() == Read(10.0)


def test_a_server_without_a_stand_in_has_all_the_time():
    turn = make(Mode.ONLY_ON_SERVER)
    turn.begin()
    assert turn.begun() == Read(10.0)


def test_the_fallback_keeps_the_one_deadline():
    clock = HandClock(0.0)
    turn = make(Mode.PREFER_ON_SERVER, clock=clock)
    turn.begin()
    turn.begun()
    clock.now = 5.0
    action = turn.timed_out()
    assert (action.source, action.request.deadline) == (Source.DEVICE, 10.0)
    assert turn.begun() == Read(10.0)


def test_no_fallback_after_the_deadline():
    clock = HandClock(0.0)
    turn = make(Mode.PREFER_ON_SERVER, clock=clock)
    turn.begin()
    turn.begun()
    clock.now = 10.0
    action = turn.failed(ServerUnavailableError("gone"))
    assert isinstance(action, Fail)
    assert isinstance(action.error, ServerUnavailableError)


def test_a_deadline_passed_before_escalating_asks_nobody():
    clock = HandClock(0.0)
    turn = make(clock=clock, hardness=Hardness(hold_tokens=1))
    turn.begin()
    turn.begun()
    clock.now = 9.9
    turn.received(Started("id", "small"))
    clock.now = 10.0
    action = turn.received(token("a", -9.0))
    assert isinstance(action, Fail)
    assert isinstance(action.error, DeadlineExceededError)


def test_an_engine_that_writes_past_the_deadline_is_stopped():
    clock = HandClock(0.0)
    turn = make(Mode.ONLY_ON_DEVICE, clock=clock)
    turn.begin()
    turn.begun()
    turn.received(token("a", -1.0))
    turn.shown()
    clock.now = 11.0
    action = turn.received(token("b", -1.0))
    assert isinstance(action.error, DeadlineExceededError)
    assert action.error.partial == "a"


def test_without_a_timeout_nothing_has_a_deadline():
    turn = make(Mode.PREFER_ON_SERVER, timeout=None)
    assert turn.begin().request.deadline is None
    assert turn.begun() == Read(None)


def test_holdback_is_the_time_from_the_first_token_to_its_release():
    clock = HandClock(0.0)
    turn = make(clock=clock, hardness=Hardness(hold_tokens=2, clear_tokens=2))
    turn.begin()
    turn.begun()
    clock.now = 1.0
    assert turn.received(token("a", -0.1)) == Read(10.0)
    assert turn.route is None
    clock.now = 1.5
    assert turn.received(token("b", -0.1)) == Emit("ab", Source.DEVICE)
    assert turn.route.holdback_ms == pytest.approx(500.0)
    turn.shown()
    clock.now = 2.0
    done = turn.received(FINISHED)
    assert (done.completion.ttft_ms, done.completion.total_ms) == (1500.0, 2000.0)


def test_a_deadline_that_passes_while_the_profile_is_chosen_ends_the_turn():
    clock = HandClock(0.0)
    turn = make(Mode.ONLY_ON_DEVICE, clock=clock, choosing=True)
    assert turn.begin() == Embed("hi", 10.0)
    clock.now = 10.0
    action = turn.embedded(None, 10_000.0, PLAIN)
    assert isinstance(action.error, DeadlineExceededError)
    assert isinstance(make(Mode.ONLY_ON_DEVICE, choosing=True).timed_out().error, DeadlineExceededError)


ERRORS = st.sampled_from(
    [
        lambda: EngineError("crash"),
        lambda: PromptTooLongError(9, 8),
        lambda: ServerUnavailableError("gone"),
        lambda: ServerInterruptedError("reset", "hidden"),
        lambda: DeadlineExceededError("late", "hidden"),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.builds(token, st.sampled_from(["x", "yy", ""]), st.floats(-6.0, 0.0)),
        st.builds(Delta, st.sampled_from(["plain", ""])),
        st.just(FINISHED),
        st.just("timeout"),
        ERRORS,
    ),
    max_size=25,
)


WEIGHED = ChosenProfile("custom", "p", Blend("pool", (0.5,)))
PLAIN = ChosenProfile("custom", "base", None)


def embedding(turn, scoped, choosing):
    """What the device's embedding leads to."""
    assert turn.call.allowed.gated or choosing
    assert turn.route_log.choice is None, "a query is embedded once"
    if scoped == "broken":
        return turn.failed(EngineError("no embedding"))
    inside = scoped != "outside"
    verdict = ScopeVerdict("s", 0.9 if inside else 0.1, 0.5, inside, {"s": 0.5}) if scoped else None
    return turn.embedded(verdict, 1.0, (WEIGHED if inside else PLAIN) if choosing else None)


def reading(turn, clock, action, step):
    """What one read leads to."""
    if step == "timeout":
        clock.now = max(clock.now, action.until)
        return turn.timed_out()
    return turn.failed(step()) if callable(step) else turn.received(step)


def play(turn, clock, steps, starts, scoped, *, choosing=False):
    """Drive a turn through what happens to it; return its last action, the attempts and what was shown."""
    steps, starts = list(steps), list(starts)
    attempts, emitted, held = [], [], 0
    action = turn.begin()
    for _ in range(200):
        clock.now += 0.01
        match action:
            case Embed():
                action = embedding(turn, scoped, choosing)
            case Generate():
                on_device = action.source is Source.DEVICE
                assert action.request.blend == (turn.route_log.choice.blend if choosing and on_device else None)
                assert not emitted, "never a silent switch"
                attempts.append(action.source)
                held = 0
                action = turn.begun() if starts.pop() else turn.failed(ServerUnavailableError("not started"))
            case Read():
                step = steps.pop(0) if steps else FINISHED
                held += isinstance(step, Delta) and bool(step.text)
                action = reading(turn, clock, action, step)
                waits = isinstance(action, Read) and isinstance(step, Delta) and step.text
                assert not waits or held <= 8, "at most eight tokens are held"
            case Emit():
                assert action.text
                assert turn.route is not None
                emitted.append(action)
                action = turn.shown()
            case Done() | Fail():
                return action, attempts, emitted
    return action, attempts, emitted


@settings(max_examples=300)
@given(
    steps=STEPS,
    starts=st.lists(st.booleans(), min_size=4, max_size=4),
    mode=st.sampled_from([Mode.PREFER_ON_DEVICE, Mode.PREFER_ON_SERVER, Mode.ONLY_ON_DEVICE, Mode.ONLY_ON_SERVER]),
    private=st.booleans(),
    scoped=st.sampled_from([None, "inside", "outside", "broken"]),
    gated=st.booleans(),
    choosing=st.booleans(),
)
def test_promises_hold_whatever_happens(steps, starts, mode, private, scoped, gated, choosing):
    if private and mode is Mode.ONLY_ON_SERVER:
        mode = Mode.PREFER_ON_SERVER
    clock = HandClock(0.0)
    hardness = Hardness() if gated else None
    turn = make(mode, private=private, clock=clock, scoped=scoped is not None, choosing=choosing, hardness=hardness)
    action, attempts, emitted = play(turn, clock, steps, starts, scoped, choosing=choosing)
    shown = "".join(piece.text for piece in emitted)
    if mode is Mode.ONLY_ON_DEVICE or private:
        assert Source.SERVER not in attempts
        assert turn.route_log.bytes_sent == 0
    if mode is Mode.ONLY_ON_SERVER:
        assert Source.DEVICE not in attempts
    assert len({piece.source for piece in emitted}) <= 1
    assert isinstance(action, Done | Fail), "every turn ends"
    if isinstance(action, Fail):
        assert isinstance(action.error, CrayonError)
        assert getattr(action.error, "partial", shown) == shown
        return
    check_report(action.completion, attempts, emitted)
    route = action.completion.route
    assert (route.profile is not None) == (choosing and route.source is Source.DEVICE)


def check_report(completion, attempts, emitted):
    route = completion.route
    assert completion.text == "".join(piece.text for piece in emitted)
    assert route.source is attempts[-1]
    assert {piece.source for piece in emitted} <= {route.source}
    assert (route.bytes_sent > 0) <= (Source.SERVER in attempts)
    assert (route.fallback_from is None) == (route.fallback_error is None)
    assert (route.reason in {Reason.SERVER_FAILED, Reason.DEVICE_FAILED}) == (route.fallback_from is not None)
    if route.reason in {Reason.IN_SCOPE, Reason.CONFIDENT}:
        assert route.score >= route.threshold
    if route.reason in {Reason.OUT_OF_SCOPE, Reason.UNSURE} and route.score is not None:
        assert route.score < route.threshold
    if route.discarded_tokens:
        assert Source.DEVICE in attempts[:-1]


def test_an_answer_after_examples_says_what_they_say_without_a_penalty_that_nobody_asked_for():
    assert _unpenalised(Sampling()).repeat_penalty == 1.0
    assert _unpenalised(Sampling(repeat_penalty=1.3)).repeat_penalty == 1.3
