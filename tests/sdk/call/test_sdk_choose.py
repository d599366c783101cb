"""Choosing among given texts: what is compared, where it is decided, and what happens when something fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from custom_fakes import Device, asked
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_fakes import COLOURS, USAGE, Async, Fake, FakeServer, Hang, State, Sync
from serving_tools import until

from crayon import (
    AsyncCrayon,
    Blend,
    Crayon,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    Hardness,
    InvalidRequestError,
    OverloadedError,
    PrivacyError,
    PromptTooLongError,
    Reason,
    Scope,
    ServerRejectedError,
    ServerUnavailableError,
    Source,
)
from crayon.engine import ContinuationScore, ScoreResult
from crayon.sdk.call.choosing import listed

SCOPE = Scope("colours", COLOURS)
INSIDE, OUTSIDE = "which colour is a crow", "how do magnets work"
CHOICES = ["yes", "no", "maybe"]
FIRST, SECOND, EVEN = (-1.0, -3.0, -4.0), (-3.0, -1.0, -4.0), (-2.0, -2.0, -2.0)
STRICT = Hardness(choice_margin=0.5)


class Scripted:
    """Scores by script: numbers (one token a text), errors raised at once, (error,) later, `Hang`; the last again."""

    def score(self, request, *, ended=False):
        self.scored.append(request)
        self.ended.append(ended)
        step = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        future = Future()
        self.futures.append(future)
        if isinstance(step, CrayonError):
            raise step
        if isinstance(step, tuple) and isinstance(step[0], Exception):
            threading.Thread(target=future.set_exception, args=step).start()
        elif step is not Hang:
            scores = tuple(ContinuationScore(row if isinstance(row, tuple) else (row,)) for row in step)
            future.set_result(ScoreResult(scores, USAGE, self.name))
        return future


@dataclass
class Chooser(Scripted, Fake):
    """A device without pools."""

    rows: list = field(default_factory=lambda: [FIRST])
    ended: list = field(default_factory=list)
    futures: list = field(default_factory=list)


@dataclass
class PoolChooser(Scripted, Device):
    """A device that blends, and tells how likely an answer ends."""

    rows: list = field(default_factory=lambda: [FIRST])
    ended: list = field(default_factory=list)
    futures: list = field(default_factory=list)


@dataclass
class ChoosingServer(Scripted, FakeServer):
    rows: list = field(default_factory=lambda: [SECOND])
    ended: list = field(default_factory=list)
    futures: list = field(default_factory=list)

    def score(self, request):
        return super().score(request)


def both(*rows, server=(SECOND,)):
    return Chooser("small", rows=list(rows or (FIRST,))), ChoosingServer("large", rows=list(server))


def choose(sdk, client, messages="is it so", choices=CHOICES, **options):
    return sdk.call(client.choose(messages, choices, **options))


# -- what comes back


def test_the_likeliest_text_comes_back_with_the_softmax_over_all(sdk):
    device, server = both()
    got = choose(sdk, sdk.make(device, server))
    total = sum(math.exp(value) for value in FIRST)
    assert (got.text, str(got), got.index, got.model) == ("yes", "yes", 0, "small")
    assert got.probabilities == pytest.approx([math.exp(value) / total for value in FIRST])
    assert sum(got.probabilities) == pytest.approx(1.0)
    assert got.margin == pytest.approx(got.probabilities[0] - got.probabilities[1])
    assert got.total_ms > 0
    route = got.route
    assert (route.source, route.reason, route.score, route.threshold) == (Source.DEVICE, Reason.MODE, None, None)
    assert (route.bytes_sent, route.discarded_tokens, route.holdback_ms, route.encode_ms) == (0, 0, None, None)
    assert (server.scored, server.requests, device.requests) == ([], [], [])


def test_of_equally_likely_texts_the_first_is_taken(sdk):
    got = choose(sdk, sdk.make(both(EVEN)[0]))
    assert (got.index, got.margin, got.route.reason) == (0, 0.0, Reason.NO_SERVER)


def test_a_text_is_returned_as_it_was_given(sdk):
    got = choose(sdk, sdk.make(both(SECOND)[0]), choices=(text for text in [" a", " b\n", "c"]))
    assert got.text == " b\n"


def test_very_unlikely_texts_are_still_told_apart(sdk):
    got = choose(sdk, sdk.make(both((-1001.0, -1000.0, -math.inf))[0]))
    assert got.index == 1
    assert got.probabilities == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0.0])


# -- what each side sees


def test_the_device_sees_the_plain_question_and_the_server_the_options_after_it(sdk):
    history = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "is it so"},
    ]
    device, server = both()
    client = sdk.make(device, server)
    choose(sdk, client, history, mode="only_on_device")
    got = choose(sdk, client, history, mode="only_on_server")
    told = "is it so\n\nOptions:\n- yes\n- no\n- maybe\n\nAnswer with one of the options, and nothing else."
    assert [message.content for message in device.scored[0].messages] == ["be brief", "hi", "hello", "is it so"]
    assert [message.content for message in server.scored[0].messages] == ["be brief", "hi", "hello", told]
    assert [message.role for message in server.scored[0].messages] == ["system", "user", "assistant", "user"]
    assert device.scored[0].continuations == server.scored[0].continuations == tuple(CHOICES)
    assert (got.text, got.model, got.route.server) == ("no", "large", "server.test:1")
    assert got.route.bytes_sent == len("be brief" + "hi" + "hello" + told)


# -- how texts are compared


@pytest.mark.parametrize("blend", [None, "base", "zero"])
def test_the_plain_base_is_compared_without_the_end(sdk, blend):
    device = PoolChooser("small")
    pool_id = device.pools[0].id
    choose(sdk, sdk.make(device), blend=Blend(pool_id, (0.0, 0.0)) if blend == "zero" else blend)
    assert device.ended == [False]


def test_under_a_blend_the_end_of_the_answer_counts(sdk):
    # "red" alone is likelier than "red wine", until its end is asked for.
    device = PoolChooser("small", rows=[((-1.0, -5.0), (-1.0, -2.0, -0.1))])
    blend = Blend(device.pools[0].id, (1.0, 0.0))
    got = choose(sdk, sdk.make(device), choices=["red", "red wine"], blend=blend)
    assert (got.text, device.ended, device.scored[0].blend) == ("red wine", [True], blend)
    assert got.probabilities[1] == pytest.approx(1 / (1 + math.exp(-6.0 + 3.1)))
    assert got.route.blend == blend


@pytest.mark.parametrize("blended", [False, True])
def test_long_texts_are_compared_per_token_and_their_end_does_not_count(sdk, blended):
    end = (-9.0,) if blended else ()
    device = PoolChooser(
        "small", rows=[((-2.0, *end), (-1.0, -1.0, -1.0))] if not blended else [((-2.0, -9.0), (-1.0,) * 3)]
    )
    choices = ["one two three four", "one two three four five six seven"]
    blend = Blend(device.pools[0].id, (1.0, 0.0)) if blended else None
    got = choose(sdk, sdk.make(device), choices=choices, blend=blend)
    assert got.index == 1
    assert got.probabilities[1] == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_an_engine_that_cannot_tell_the_end_gives_plain_scores_under_a_blend_too(sdk):
    blend = Blend("pool", (1.0,))
    device, server = both()
    client = sdk.make(device, server)
    assert choose(sdk, client, blend=blend).text == "yes"
    assert choose(sdk, client, blend=blend, mode="only_on_server").text == "no"
    assert device.scored[0].blend == server.scored[0].blend == blend
    assert device.ended == server.ended == [False]


# -- customisations


@pytest.fixture
def folder(tmp_path):
    """Holds `two` (colours and numbers)."""
    folder = tmp_path / "customizations"
    with Crayon(Device("small"), customizations_dir=folder) as client:
        client.customize("two", [*asked("colour", 40), *asked("number", 32)], check=False)
    return folder


def test_the_profile_of_the_query_chooses_under_its_weights(sdk, folder):
    device, server = PoolChooser("small", rows=[((-1.0, -1.0),) * 3]), ChoosingServer("large")
    client = sdk.make(device, server, customization="two", customizations_dir=folder)
    route = choose(sdk, client, "what number is this", last_profile="colour").route
    assert (route.reason, route.customization, route.profile, route.scope) == (
        Reason.IN_SCOPE,
        "two",
        "number",
        "number",
    )
    assert (route.switched_from, route.blend) == ("colour", Blend(device.pools[0].id, (0.0, 1.0)))
    assert device.ended == [True]
    assert len(device.raw) == 1
    assert server.scored == []
    outside = choose(sdk, client, "tell me a story").route
    assert (outside.source, outside.reason, outside.blend) == (Source.SERVER, Reason.OUT_OF_SCOPE, None)
    assert server.scored[0].blend is None


def test_a_query_outside_that_must_stay_is_chosen_by_the_plain_base(sdk, folder):
    device, server = PoolChooser("small"), ChoosingServer("large")
    client = sdk.make(device, server, customization="two", customizations_dir=folder)
    route = choose(sdk, client, "tell me a story", private=True).route
    assert (route.source, route.profile, route.blend) == (Source.DEVICE, "base", None)
    assert device.ended == [False]


def test_a_customisation_named_in_the_call_always_applies(sdk, folder):
    device, server = PoolChooser("small", rows=[((-1.0, -1.0),) * 3]), ChoosingServer("large")
    route = choose(sdk, sdk.make(device, server, customizations_dir=folder), "what number is this", blend="two").route
    assert (route.source, route.reason, route.profile) == (Source.DEVICE, Reason.MODE, "number")


# -- the gates


def test_queries_in_scope_stay_and_others_leave_before_anything_is_scored(sdk):
    device, server = both()
    client = sdk.make(device, server, scopes=[SCOPE])
    inside, outside = choose(sdk, client, INSIDE).route, choose(sdk, client, OUTSIDE).route
    assert (inside.source, inside.reason, inside.scope) == (Source.DEVICE, Reason.IN_SCOPE, "colours")
    assert inside.score >= inside.threshold
    assert (outside.source, outside.reason, outside.scope) == (Source.SERVER, Reason.OUT_OF_SCOPE, "colours")
    assert outside.score < outside.threshold
    assert outside.encode_ms > 0
    assert len(device.scored) == len(server.scored) == 1
    assert device.encoded[-1].texts == (OUTSIDE,), "the question is judged without its options"


@pytest.mark.parametrize("scopes", [[], [SCOPE]])
def test_a_close_choice_goes_to_the_server_if_a_margin_is_set(sdk, scopes):
    device, server = both(EVEN)
    got = choose(sdk, sdk.make(device, server, scopes=scopes, hardness=STRICT), INSIDE)
    route = got.route
    assert (got.text, route.source, route.reason) == ("no", Source.SERVER, Reason.UNSURE)
    assert (route.score, route.threshold) == (0.0, 0.5)
    assert (route.discarded_tokens, route.holdback_ms, route.fallback_from) == (0, None, None)
    assert route.bytes_sent > 0


def test_a_clear_choice_stays(sdk):
    device, server = both()
    client = sdk.make(device, server, hardness=STRICT)
    got = choose(sdk, client)
    assert (got.text, got.route.source, got.route.reason) == ("yes", Source.DEVICE, Reason.CONFIDENT)
    assert got.route.score == pytest.approx(got.margin)
    assert got.route.threshold == 0.5
    inside = choose(sdk, sdk.make(device, server, hardness=STRICT, scopes=[SCOPE]), INSIDE).route
    assert inside.reason is Reason.IN_SCOPE
    assert inside.threshold != 0.5, "the scope's"


def test_a_margin_at_the_threshold_is_enough(sdk):
    device, server = both(EVEN)
    assert choose(sdk, sdk.make(device, server, hardness=Hardness(choice_margin=0.0))).route.source is Source.DEVICE


@pytest.mark.parametrize("hardness", [None, False, Hardness(threshold=0.0)])
def test_without_a_margin_every_choice_is_let_go(sdk, hardness):
    device, server = both(EVEN)
    route = choose(sdk, sdk.make(device, server, hardness=hardness)).route
    assert (route.source, route.reason, route.score) == (Source.DEVICE, Reason.MODE, None)
    assert server.scored == []


def test_where_only_the_device_may_choose_no_margin_matters(sdk):
    device, server = both(EVEN)
    client = sdk.make(device, server, hardness=STRICT)
    assert choose(sdk, client, private=True).route.reason is Reason.PRIVATE
    assert choose(sdk, client, mode="only_on_device").route.reason is Reason.MODE
    server.breaker = State("open")
    assert choose(sdk, client).route.reason is Reason.SERVER_AWAY
    assert server.scored == []


def test_modes_without_a_device_or_preferring_the_server(sdk):
    device, server = both()
    assert choose(sdk, sdk.make(None, server)).route.reason is Reason.NO_DEVICE
    route = choose(sdk, sdk.make(device, server, mode="prefer_on_server")).route
    assert (route.source, route.reason) == (Source.SERVER, Reason.MODE)
    assert device.scored == []


# -- failures


SERVER_FAILURES = [
    pytest.param(lambda: ServerUnavailableError("gone"), id="unavailable"),
    pytest.param(lambda: ServerRejectedError("cannot score"), id="rejected"),
    pytest.param(lambda: OverloadedError("full"), id="overloaded"),
    pytest.param(lambda: DeadlineExceededError("its own deadline"), id="deadline"),
    pytest.param(lambda: EngineError("bug"), id="engine"),
]


@pytest.mark.parametrize("error", SERVER_FAILURES)
@pytest.mark.parametrize("how", ["at once", "later"])
def test_the_devices_choice_stands_in_for_a_failed_server_and_is_not_made_twice(sdk, error, how):
    device, server = both(EVEN, server=[error() if how == "at once" else (error(),)])
    got = choose(sdk, sdk.make(device, server, hardness=STRICT))
    route = got.route
    assert (got.text, got.model, got.margin) == ("yes", "small", 0.0)
    assert (route.source, route.reason, route.fallback_from) == (Source.DEVICE, Reason.SERVER_FAILED, Source.SERVER)
    assert route.fallback_error == str(error())
    assert (route.score, route.threshold) == (0.0, 0.5), "why the server was asked"
    assert (route.bytes_sent > 0) == (how == "later")
    assert len(device.scored) == 1


@pytest.mark.parametrize("options", [{"mode": "prefer_on_server"}, {"scopes": [SCOPE]}])
def test_a_device_that_was_not_asked_yet_chooses_when_the_server_failed(sdk, options):
    device, server = both(EVEN, server=[(ServerUnavailableError("gone"),)])
    got = choose(sdk, sdk.make(device, server, hardness=STRICT, **options), OUTSIDE)
    assert (got.text, got.route.reason, len(device.scored)) == ("yes", Reason.SERVER_FAILED, 1)


def test_the_server_has_half_of_the_time_while_the_device_can_stand_in(sdk):
    device, server = both(EVEN, server=[Hang])
    got = choose(sdk, sdk.make(device, server, hardness=STRICT), timeout=1.0)
    assert (got.text, got.route.reason, got.route.fallback_from) == ("yes", Reason.SERVER_FAILED, Source.SERVER)
    assert server.futures[0].cancelled()


def test_one_deadline_for_all(sdk):
    device, server = both(server=[Hang])
    client = sdk.make(device, server)
    with pytest.raises(DeadlineExceededError):
        choose(sdk, client, mode="only_on_server", timeout=0.05)
    assert server.futures[0].cancelled()
    choose(sdk, client, timeout=math.inf)
    assert device.scored[0].deadline is None
    device.rows = [Hang]
    with pytest.raises(DeadlineExceededError) as caught:
        choose(sdk, client, timeout=0.05)
    assert caught.value.partial == ""
    assert device.futures[-1].cancelled()
    assert len(server.scored) == 1


@pytest.mark.parametrize(
    "error",
    [PromptTooLongError(9, 8), EngineError("crash"), OverloadedError("full")],
    ids=["too long", "crash", "full"],
)
@pytest.mark.parametrize("how", ["at once", "later"])
def test_a_device_that_fails_hands_over_where_that_is_allowed(sdk, error, how):
    device, server = both(error if how == "at once" else (error,))
    client = sdk.make(device, server)
    got = choose(sdk, client)
    assert (got.text, got.route.reason, got.route.fallback_from) == ("no", Reason.DEVICE_FAILED, Source.DEVICE)
    server.scored.clear()
    for options in ({"private": True}, {"mode": "only_on_device"}):
        with pytest.raises(type(error)):
            choose(sdk, client, **options)
    assert server.scored == []


def test_both_fail_and_the_last_error_tells_of_the_first(sdk):
    device, server = both((EngineError("crash"),), server=[(ServerUnavailableError("gone"),)])
    with pytest.raises(ServerUnavailableError) as caught:
        choose(sdk, sdk.make(device, server))
    assert caught.value.__notes__ == ["before that the device failed: crash"]


@pytest.mark.parametrize("error", [InvalidRequestError("model", "is wrong"), EngineClosedError("closed")])
def test_what_is_wrong_or_closed_is_not_handed_over(sdk, error):
    device, server = both(error)
    with pytest.raises(type(error)):
        choose(sdk, sdk.make(device, server))
    assert server.scored == []


@pytest.mark.parametrize(
    "row",
    [(-1.0, -2.0), (math.nan, -1.0, -2.0), (math.inf, -1.0, -2.0), (-math.inf,) * 3, ((), (-1.0,), (-1.0,))],
    ids=["too few", "nan", "inf", "impossible", "empty"],
)
def test_unusable_scores_are_a_failure_of_the_engine(sdk, row):
    device, server = both(row)
    client = sdk.make(device, server)
    assert choose(sdk, client).route.reason is Reason.DEVICE_FAILED
    with pytest.raises(EngineError, match="the engine"):
        choose(sdk, client, private=True)


def test_an_engine_with_a_bug_is_told_and_does_not_hang(sdk):
    device, _ = both((ZeroDivisionError("bug"),))
    with pytest.raises(EngineError, match=r"ZeroDivisionError\('bug'\)"):
        choose(sdk, sdk.make(device))


# -- wrong arguments


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        ("yes", "choices"),
        (None, "choices"),
        (7, "choices"),
        ([], "choices"),
        (["yes"], "choices"),
        (["yes", 7], "choices[1]"),
        (["yes", ""], "choices[1]"),
        ([" \n", "yes"], "choices[0]"),
        (["yes", "no", "yes"], "choices[2]"),
        (["yes", "no", " no "], "choices[2]"),
        (["yes", "\ud800"], "choices[1]"),
        ([str(i) for i in range(101)], "choices[100]"),
    ],
)
def test_wrong_choices_are_named_and_nothing_is_asked(sdk, choices, field):
    device, server = both()
    with pytest.raises(InvalidRequestError) as caught:
        choose(sdk, sdk.make(device, server), choices=choices)
    assert caught.value.field == field
    assert (device.scored, server.scored) == ([], [])


def test_a_hundred_choices_are_taken(sdk):
    device, _ = both(tuple(-float(i) for i in range(100, 0, -1)))
    assert choose(sdk, sdk.make(device), choices=map(str, range(100))).text == "99"


@pytest.mark.parametrize("source", list(Source))
def test_a_choice_that_does_not_fit_is_named_as_a_choice(sdk, source):
    error = PromptTooLongError(9, 8, "continuations[2]")
    device, server = both((error,), server=[InvalidRequestError("continuations", "makes a request of 9 bytes")])
    with pytest.raises(InvalidRequestError) as caught:
        choose(sdk, sdk.make(device, server, mode=f"only_on_{source}"))
    assert caught.value.field == ("choices[2]" if source is Source.DEVICE else "choices")
    assert isinstance(caught.value, PromptTooLongError) == (source is Source.DEVICE)


def test_a_closed_client_chooses_nothing(sdk):
    client = sdk.make(both()[0])
    sdk.call_or_value(client.close())
    with pytest.raises(EngineClosedError):
        choose(sdk, client)


# -- privacy


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(["prefer_on_device", "only_on_device", "prefer_on_server", "only_on_server"]),
    client_private=st.booleans(),
    call_private=st.sampled_from([True, False, None]),
    device_row=st.sampled_from([FIRST, EVEN, EngineError("crash"), (PromptTooLongError(9, 8),)]),
    scoped=st.booleans(),
    question=st.sampled_from([INSIDE, OUTSIDE]),
    with_device=st.booleans(),
    style=st.sampled_from([Sync, Async]),
)
def test_a_private_choice_never_reaches_the_server(
    mode, client_private, call_private, device_row, scoped, question, with_device, style
):
    device, server = both(device_row)
    sdk = style()
    try:
        client = sdk.make(
            device if with_device else None,
            server,
            private=client_private,
            mode=mode,
            hardness=STRICT,
            scopes=[SCOPE] if scoped else [],
        )
        got = None
        with contextlib.suppress(PrivacyError, EngineError, PromptTooLongError, InvalidRequestError):
            got = choose(sdk, client, question, private=call_private)
    finally:
        sdk.shut()
    if client_private or call_private:
        assert (server.scored, server.encoded, server.requests) == ([], [], [])
        assert got is None or (got.route.source, got.route.bytes_sent) == (Source.DEVICE, 0)
    elif mode == "only_on_server":
        assert got is not None
        assert got.route.source is Source.SERVER
        assert server.scored


def test_a_flag_that_is_no_boolean_is_refused(sdk):
    device, server = both()
    with pytest.raises(InvalidRequestError, match="private"):
        choose(sdk, sdk.make(device, server, mode="only_on_server"), private="no")
    assert server.scored == []


def test_neither_question_nor_choices_are_logged(sdk, caplog):
    caplog.set_level(logging.DEBUG)
    device, server = both(EVEN)
    choose(sdk, sdk.make(device, server, hardness=STRICT), "my secret", ["Zanzibar", "Timbuktu", "Atlantis"])
    assert "request " in caplog.text
    assert not [word for word in ("secret", "Zanzibar", "Timbuktu") if word in caplog.text]


# -- asyncio


@pytest.mark.parametrize("mode", ["only_on_device", "only_on_server"])
def test_cancelling_the_task_frees_the_engine(mode):
    async def run():
        device, server = both(Hang, server=[Hang])
        engine = device if mode == "only_on_device" else server
        async with AsyncCrayon(device, server) as client:
            task = asyncio.create_task(client.choose("hi", CHOICES, mode=mode))
            await asyncio.to_thread(until, lambda: bool(engine.futures))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert engine.futures[0].cancelled()

    asyncio.run(run())


def test_many_choices_at_once_on_one_client():
    async def run():
        device, server = both()
        async with AsyncCrayon(device, server, hardness=STRICT) as client:
            got = await asyncio.gather(*(client.choose(f"q{i}", CHOICES) for i in range(8)))
        assert [each.text for each in got] == ["yes"] * 8

    asyncio.run(run())


# -- the text function


def test_the_list_holds_each_option_on_a_line_of_its_own():
    assert listed("Which?", ["a", "b"]) == (
        "Which?\n\nOptions:\n- a\n- b\n\nAnswer with one of the options, and nothing else."
    )
