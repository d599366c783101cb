"""Where a query goes when something fails, and what the caller is told."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import numpy as np
import pytest
from sdk_fakes import COLOURS, DONE, UNSURE, Fake, FakeServer, Hang, State, answer, delta

from crayon import (
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    Reason,
    Scope,
    ServerInterruptedError,
    ServerRejectedError,
    ServerUnavailableError,
    Source,
)
from crayon.engine import Delta

SCOPE = Scope("colours", COLOURS)
NO_ANSWER = answer("no no no no", UNSURE)

SERVER_FAILURES = [
    pytest.param(lambda: ServerUnavailableError("gone"), id="unavailable"),
    pytest.param(lambda: ServerRejectedError("wrong token"), id="rejected"),
    pytest.param(lambda: ServerInterruptedError("reset", "half"), id="interrupted"),
    pytest.param(lambda: OverloadedError("full"), id="overloaded"),
    pytest.param(lambda: EngineError("bug"), id="engine"),
    pytest.param(lambda: DeadlineExceededError("its own deadline"), id="deadline"),
    pytest.param(lambda: CancelledError("by the server"), id="cancelled"),
    pytest.param(lambda: PromptTooLongError(9, 8), id="too-long"),
]


# -- the server fails before its first token


@pytest.mark.parametrize("error", SERVER_FAILURES)
@pytest.mark.parametrize("how", ["at once", "before Started", "after Started", "after an empty delta"])
def test_any_server_failure_before_its_first_token_falls_back_to_the_device(sdk, error, how):
    scripts = {
        "at once": error(),
        "before Started": ["silent", error()],
        "after Started": [error()],
        "after an empty delta": [Delta(""), error()],
    }
    device = Fake("small", [NO_ANSWER, answer("best I can")])
    server = FakeServer("large", [scripts[how]])
    got = sdk.call(sdk.make(device, server).ask("hi"))
    assert (got.text, got.model) == ("best I can", "small")
    route = got.route
    assert (route.source, route.reason) == (Source.DEVICE, Reason.SERVER_FAILED)
    assert (route.fallback_from, route.fallback_error) == (Source.SERVER, str(error()))
    assert route.score == pytest.approx(UNSURE)  # why the server was asked
    assert route.bytes_sent == (0 if how == "at once" else 2)
    assert route.discarded_tokens >= 1
    assert route.server is None
    assert len(device.requests) == 2


def test_preferring_the_server_falls_back_to_an_ungated_device(sdk):
    device = Fake("small", [answer("wild guess", UNSURE)])
    server = FakeServer("large", [ServerUnavailableError("gone")])
    route = sdk.call(sdk.make(device, server, mode="prefer_on_server").ask("hi")).route
    assert (route.source, route.reason, route.fallback_from) == (Source.DEVICE, Reason.SERVER_FAILED, Source.SERVER)
    assert (route.score, route.discarded_tokens) == (None, 0)


def test_out_of_scope_and_server_gone_is_answered_on_the_device(sdk):
    device, server = Fake("small"), FakeServer("large", [ServerUnavailableError("gone")])
    route = sdk.call(sdk.make(device, server, scopes=[SCOPE]).ask("how do magnets work")).route
    assert (route.reason, route.scope) == (Reason.SERVER_FAILED, "colours")
    assert route.score < route.threshold


@pytest.mark.parametrize("error", SERVER_FAILURES)
def test_on_the_server_only_its_failure_is_the_callers(sdk, error):
    device, server = Fake("small"), FakeServer("large", [[error()]])
    with pytest.raises(CrayonError) as caught:
        sdk.call(sdk.make(device, server, mode="only_on_server").ask("hi"))
    assert type(caught.value) is type(error())
    assert str(caught.value) == str(error())
    assert getattr(caught.value, "partial", "") == ""
    assert device.requests == []


def test_both_fail_and_the_last_error_tells_of_the_first(sdk):
    device = Fake("small", [NO_ANSWER, [EngineError("no memory")]])
    server = FakeServer("large", [[ServerUnavailableError("gone")]])
    with pytest.raises(EngineError, match="no memory") as caught:
        sdk.call(sdk.make(device, server).ask("hi"))
    assert caught.value.__notes__ == ["before that the server failed: gone"]


def test_a_silent_server_is_given_up_early_enough_for_the_device(sdk):
    device, server = Fake("small", [NO_ANSWER, answer("in time")]), FakeServer("large", [[Hang]])
    got = sdk.call(sdk.make(device, server).ask("hi", timeout=1.0))
    assert (got.text, got.route.reason) == ("in time", Reason.SERVER_FAILED)
    assert "first token in time" in got.route.fallback_error
    assert server.streams[0].cancelled


# -- after the first token


@pytest.mark.parametrize("error", [e for e in SERVER_FAILURES if e.id != "deadline"])
def test_a_server_that_breaks_off_is_an_error_with_the_partial_text_and_no_switch(sdk, error):
    device = Fake("small")
    server = FakeServer("large", [[delta("half an"), delta(" answer"), error()]])
    stream = sdk.make(device, server, mode="prefer_on_server").stream("hi")
    assert [str(piece) for piece in sdk.read(stream, limit=2)] == ["half an", " answer"]
    with pytest.raises(ServerInterruptedError) as caught:
        sdk.read(stream)
    assert caught.value.partial == "half an answer" == stream.text
    assert device.requests == []
    with pytest.raises(ServerInterruptedError):
        stream.completion  # noqa: B018 # the access is what is tested
    assert sdk.read(stream) == []


def test_a_stream_that_ends_without_finishing_is_an_interruption(sdk):
    server = FakeServer("large", [[delta("half"), "end"]])
    with pytest.raises(ServerInterruptedError, match="without finishing") as caught:
        sdk.call(sdk.make(None, server).ask("hi"))
    assert caught.value.partial == "half"


def test_a_device_that_breaks_off_after_its_text_was_shown_is_an_error(sdk):
    device = Fake("small", [[*answer("a b c d e")[:-1], EngineError("crash")]])
    server = FakeServer("large")
    with pytest.raises(EngineError, match="crash"):
        sdk.call(sdk.make(device, server).ask("hi"))
    assert server.requests == []


# -- the device fails


@pytest.mark.parametrize(
    "error", [PromptTooLongError(9, 8), EngineError("crash"), OverloadedError("full")], ids=["long", "engine", "full"]
)
@pytest.mark.parametrize("how", ["at once", "while held"])
def test_a_device_that_cannot_take_the_prompt_hands_over_to_the_server(sdk, error, how):
    device = Fake("small", [error if how == "at once" else [delta("held"), error]])
    server = FakeServer("large", [answer("from the server")])
    got = sdk.call(sdk.make(device, server).ask("hi"))
    route = got.route
    assert (got.text, route.source, route.reason) == ("from the server", Source.SERVER, Reason.DEVICE_FAILED)
    assert (route.fallback_from, route.fallback_error) == (Source.DEVICE, str(error))
    assert route.discarded_tokens == (0 if how == "at once" else 1)


@pytest.mark.parametrize("options", [{"private": True}, {"mode": "only_on_device"}])
def test_a_prompt_too_long_for_the_only_side_allowed_is_the_error(sdk, options):
    device, server = Fake("small", [PromptTooLongError(9, 8)]), FakeServer("large")
    with pytest.raises(PromptTooLongError):
        sdk.call(sdk.make(device, server).ask("hi", **options))
    assert server.requests == []


def test_a_wrong_request_is_not_passed_on(sdk):
    device, server = Fake("small", [InvalidRequestError("model", "is unknown")]), FakeServer("large")
    with pytest.raises(InvalidRequestError, match="model"):
        sdk.call(sdk.make(device, server).ask("hi"))
    assert server.requests == []


def test_device_and_then_server_fail(sdk):
    device = Fake("small", [PromptTooLongError(9, 8)])
    server = FakeServer("large", [[ServerUnavailableError("gone")]])
    with pytest.raises(ServerUnavailableError) as caught:
        sdk.call(sdk.make(device, server).ask("hi"))
    assert "the device failed" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [EngineError("crash"), PromptTooLongError(9, 8, "texts[0]")])
def test_a_query_that_cannot_be_embedded_goes_to_the_server(sdk, error):
    device, server = Fake("small"), FakeServer("large", [answer("from the server")])
    client = sdk.make(device, server, scopes=[SCOPE])
    sdk.call(client.ask("which colour is a crow"))
    device.encode_error = error
    route = sdk.call(client.ask("which colour is a crow")).route
    assert (route.source, route.reason, route.fallback_from) == (Source.SERVER, Reason.DEVICE_FAILED, Source.DEVICE)


def test_an_unusable_embedding_goes_to_the_server(sdk):
    device, server = Fake("small"), FakeServer("large", [answer("from the server")])
    client = sdk.make(device, server, scopes=[SCOPE])
    sdk.call(client.ask("which colour is a crow"))
    device.vectors = lambda _: np.full(16, math.nan)
    route = sdk.call(client.ask("which colour is a crow")).route
    assert (route.reason, route.source) == (Reason.DEVICE_FAILED, Source.SERVER)
    assert "not finite" in route.fallback_error


def test_examples_that_look_alike_to_the_device_are_the_callers_error(sdk):
    device, server = Fake("small", vectors=lambda _: np.ones(16)), FakeServer("large")
    with pytest.raises(InvalidRequestError, match="at least 8 different"):
        sdk.call(sdk.make(device, server, scopes=[SCOPE]).ask("which colour is a crow"))
    assert server.requests == []


# -- the breaker


@pytest.mark.parametrize("mode", ["prefer_on_device", "prefer_on_server"])
def test_a_server_known_to_be_away_is_not_asked(sdk, mode):
    device = Fake("small", [answer("as well as I can", UNSURE)])
    server = FakeServer("large", breaker=State("open"))
    route = sdk.call(sdk.make(device, server, mode=mode).ask("hi")).route
    assert (route.source, route.reason, route.fallback_from) == (Source.DEVICE, Reason.SERVER_AWAY, None)
    assert server.requests == []


@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_a_breaker_that_is_not_open_lets_pass(sdk, state):
    device, server = Fake("small"), FakeServer("large", breaker=State(state))
    assert sdk.call(sdk.make(device, server, mode="prefer_on_server").ask("hi")).route.source is Source.SERVER


def test_on_the_server_only_a_server_away_is_the_error(sdk):
    device, server = Fake("small"), FakeServer("large", breaker=State("open"))
    with pytest.raises(ServerUnavailableError):
        sdk.call(sdk.make(device, server, mode="only_on_server").ask("hi"))
    assert device.requests == server.requests == []


# -- deadlines


def test_a_deadline_in_mid_answer_carries_what_was_shown(sdk):
    device = Fake("small", [[delta("so"), delta(" far"), Hang]])
    with pytest.raises(DeadlineExceededError) as caught:
        sdk.call(sdk.make(device).ask("hi", timeout=0.3))
    assert caught.value.partial == "so far"
    assert device.streams[0].cancelled


def test_the_engines_own_deadline_error_carries_what_was_shown(sdk):
    device = Fake("small", [[delta("so"), DeadlineExceededError("mine", "something else")]])
    with pytest.raises(DeadlineExceededError) as caught:
        sdk.call(sdk.make(device).ask("hi"))
    assert caught.value.partial == "so"


def test_held_back_text_is_not_in_a_deadline_error(sdk):
    device, server = Fake("small", [[delta("held"), Hang]]), FakeServer("large")
    with pytest.raises(DeadlineExceededError) as caught:
        sdk.call(sdk.make(device, server).ask("hi", timeout=0.3))
    assert caught.value.partial == ""
    assert server.requests == []


def test_a_deadline_while_embedding(sdk):
    device, server = Fake("small", vectors=Hang), FakeServer("large")
    with pytest.raises(DeadlineExceededError):
        sdk.call(sdk.make(device, server, scopes=[SCOPE]).ask("which colour is a crow", timeout=0.2))
    assert device.requests == server.requests == []


@pytest.mark.parametrize("timeout", [math.inf, 5])
def test_the_engine_gets_the_callers_deadline(sdk, timeout):
    device = Fake("small")
    before = time.monotonic()
    sdk.call(sdk.make(device).ask("hi", timeout=timeout))
    deadline = device.requests[0].deadline
    assert deadline is None if timeout == math.inf else before + 5 <= deadline <= time.monotonic() + 5


# -- cancelling


def test_closing_a_stream_cancels_it_and_the_rest_is_gone(sdk):
    device = Fake("small", [[delta("one"), Hang]])
    stream = sdk.make(device).stream("hi")
    sdk.read(stream, limit=1)
    sdk.shut_stream(stream)
    sdk.shut_stream(stream)
    assert device.streams[0].cancelled
    assert sdk.read(stream) == []
    with pytest.raises(CancelledError):
        stream.completion  # noqa: B018 # the access is what is tested


def test_closing_a_stream_that_never_ran_asks_nobody(sdk):
    device = Fake("small")
    stream = sdk.make(device).stream("hi")
    sdk.shut_stream(stream)
    assert sdk.read(stream) == []
    assert device.requests == []


def test_a_dropped_stream_frees_the_engine(sdk):
    device = Fake("small", [[delta("one"), Hang]])
    stream = sdk.make(device).stream("hi")
    sdk.read(stream, limit=1)
    del stream
    assert device.streams[0].cancelled


def test_completion_before_the_end_says_so(sdk):
    with pytest.raises(InvalidRequestError, match="last piece"):
        sdk.make(Fake("small")).stream("hi").completion  # noqa: B018 # the access is what is tested


def test_closing_from_another_thread_ends_a_blocked_reader_without_falling_back():
    from crayon import Crayon

    device, server = Fake("small"), FakeServer("large", [[Hang]])
    stream = Crayon(device, server, mode="prefer_on_server").stream("hi")
    caught = []

    def read():
        try:
            list(stream)
        except CrayonError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    while not server.streams:
        time.sleep(0.001)
    stream.close()
    reader.join(10)
    assert [type(error) for error in caught] == [CancelledError]
    assert device.requests == []


async def until(condition):
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never happened")


async def test_cancelling_the_task_cancels_the_generation():
    from crayon import AsyncCrayon

    device = Fake("small", [[delta("one"), Hang]])
    task = asyncio.create_task(AsyncCrayon(device).ask("hi"))
    await until(lambda: device.streams)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert device.streams[0].cancelled


async def test_cancelling_the_task_while_embedding_asks_nobody():
    from crayon import AsyncCrayon

    device, server = Fake("small"), FakeServer("large")
    client = AsyncCrayon(device, server, scopes=[SCOPE])
    await client.load()
    device.vectors = Hang
    task = asyncio.create_task(client.ask("which colour is a crow"))
    await until(lambda: len(device.encoded) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert device.requests == server.requests == []


# -- closing the client


def test_a_closed_client_refuses_and_leaves_given_engines_open(sdk):
    device = Fake("small")
    client = sdk.make(device)
    sdk.call_or_value(client.close())
    sdk.call_or_value(client.close())
    for call in (lambda: client.ask("hi"), lambda: client.score("hi", ["a"]), lambda: client.encode("hi")):
        with pytest.raises(EngineClosedError):
            sdk.call(call())
    with pytest.raises(EngineClosedError):
        client.stream("hi")
    assert device.closed == 0


def test_an_engine_that_closes_is_not_a_reason_to_ask_the_server(sdk):
    device, server = Fake("small", [[EngineClosedError("closed")]]), FakeServer("large")
    with pytest.raises(EngineClosedError):
        sdk.call(sdk.make(device, server).ask("hi"))
    assert server.requests == []


def test_the_last_error_of_an_unfinished_stream_is_kept(sdk):
    stream = sdk.make(Fake("small", [[DONE]])).stream("hi")
    assert sdk.read(stream) == []
    assert stream.ended
    assert stream.completion.text == ""
