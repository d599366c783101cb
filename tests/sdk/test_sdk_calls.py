"""What a call takes: arguments, defaults, scores, embeddings; and that both clients agree."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sdk_fakes import COLOURS, Fake, FakeServer, Hang, answer, delta

import crayon
from crayon import (
    AsyncCrayon,
    Crayon,
    DeadlineExceededError,
    InvalidRequestError,
    ModelError,
    Sampling,
    Scope,
    Source,
)
from crayon.sampling import SAMPLING_FIELDS
from crayon.sdk.call.options import SamplingOptions

# -- one surface


def public(cls):
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (crayon.Crayon, crayon.AsyncCrayon),
        (crayon.AnswerStream, crayon.AsyncAnswerStream),
        (crayon.Conversation, crayon.AsyncConversation),
    ],
)
def test_sync_and_async_have_the_same_names_and_parameters(one, other):
    assert public(one).keys() == public(other).keys()
    for name in ["__init__", *public(one)]:
        a, b = getattr(one, name), getattr(other, name)
        if not callable(a):
            assert a is b, f"{name}: shared properties are defined once"
            continue
        mine, theirs = inspect.signature(a), inspect.signature(b)
        drop_client = [p for p in mine.parameters.values() if p.name != "client"]
        assert drop_client == [p for p in theirs.parameters.values() if p.name != "client"], name
        assert str(mine.return_annotation) == str(theirs.return_annotation).replace("Async", ""), name


def test_what_is_awaited_is_the_same_list_as_what_blocks():
    waits = {name for name, member in public(AsyncCrayon).items() if inspect.iscoroutinefunction(member)}
    makes = {"customize", "customization", "customizations", "calibrate", "calibration", "forget_calibration"}
    asks = {"ask", "run_tools", "choose", "score", "encode", "count_tokens", "models"}
    assert waits == {*asks, "load", "close", "status", "explain", *makes}


def test_typed_sampling_keywords_are_all_there_are():
    assert tuple(SamplingOptions.__annotations__) == SAMPLING_FIELDS


def test_import_is_light():
    code = "import sys, json, crayon; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    heavy = {"numpy", "grpc", "llama_cpp", "torch", "jinja2", "asyncio", "crayon.sdk", "crayon.device"}
    assert not heavy & set(loaded)


def test_public_names_can_all_be_had():
    assert list(crayon.__all__) == sorted(set(crayon.__all__))
    for name in crayon.__all__:
        assert getattr(crayon, name).__name__ == name
        assert name in dir(crayon)
    with pytest.raises(AttributeError, match="no attribute 'Crayola'"):
        crayon.Crayola  # noqa: B018 # the access is what is tested


# -- arguments


def test_sampling_comes_from_the_call_then_the_client_then_the_contract(sdk):
    device = Fake("small")
    client = sdk.make(device, max_tokens=7, temperature=0.5)
    sdk.call(client.ask("hi", temperature=1.0, stop="\n", seed=None))
    assert device.requests[0].sampling == Sampling(max_tokens=7, temperature=1.0, stop=("\n",))


def test_both_sides_get_the_same_sampling(sdk):
    device, server = Fake("small", [answer("no no no no", -3.0)]), FakeServer("large")
    sdk.call(sdk.make(device, server, max_tokens=9).ask("hi", top_k=3))
    assert device.requests[0].sampling == server.requests[0].sampling == Sampling(max_tokens=9, top_k=3)


def test_a_blend_that_is_none_is_refused_by_name(sdk):
    device = Fake("small")
    with pytest.raises(InvalidRequestError) as caught:
        sdk.call(sdk.make(device).ask("hi", blend="travel"))
    assert caught.value.field == "blend"
    assert not device.requests


def test_system_message_is_a_default(sdk):
    device = Fake("small")
    client = sdk.make(device, system="Be brief.")
    sdk.call(client.ask("hi"))
    sdk.call(client.ask([{"role": "system", "content": "Be long."}, {"role": "user", "content": "hi"}]))
    assert [request.messages[0].content for request in device.requests] == ["Be brief.", "Be long."]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_token": 5}, "max_token"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": math.nan}, "temperature"),
        ({"stop": 5}, "stop"),
        ({"stop": ["\ud800"]}, "stop"),
        ({"mode": "local"}, "mode"),
        ({"private": "no"}, "private"),
        ({"private": 0}, "private"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
    ],
)
@pytest.mark.parametrize("method", ["make", "ask", "stream"])
def test_a_wrong_option_is_named_and_nothing_runs(sdk, options, field, method):
    device, server = Fake("small"), FakeServer("large")

    def use():
        if method == "make":
            return sdk.make(device, server, **options)
        return sdk.call_or_value(getattr(sdk.make(device, server), method)("hi", **options))

    with pytest.raises(InvalidRequestError) as caught:
        use()
    assert caught.value.field == field
    assert device.requests == server.requests == []


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        ((None, None), {}, "device"),
        ((7,), {}, "device"),
        (("",), {}, "device"),
        ((None, object()), {}, "server"),
        ((), {"scopes": ["nonsense"]}, r"scope[nonsense]"),
        ((), {"scopes": "healthy-habits"}, "scopes"),
        ((), {"scopes": [3]}, "scopes[0]"),
        ((), {"scopes": 3}, "scopes"),
        ((), {"scopes": [Scope("a", COLOURS), Scope("a", COLOURS)]}, "scopes"),
        ((), {"hardness": True}, "hardness"),
        ((), {"hardness": -1.0}, "hardness"),
        ((), {"system": 3}, "system"),
        ((), {"private": None}, "private"),
    ],
)
def test_a_client_that_makes_no_sense_is_refused(sdk, arguments, options, field):
    with pytest.raises(InvalidRequestError) as caught:
        sdk.make(*arguments, **options)
    assert caught.value.field == field


@pytest.mark.parametrize("messages", [[], "", [{"role": "wizard", "content": "x"}], None, [{"role": "user"}]])
def test_wrong_messages_are_refused(sdk, messages):
    device = Fake("small")
    with pytest.raises(InvalidRequestError, match="messages"):
        sdk.call(sdk.make(device).ask(messages))
    assert device.requests == []


def test_making_a_client_opens_nothing(sdk):
    sdk.make("no-such-model-anywhere", "localhost:1")


# -- opening


class Opened(Fake):
    """Stands in for the device's engine class."""

    made: list
    error: Exception | None = None

    @classmethod
    def open(cls, reference, **options):
        if cls.error is not None:
            raise cls.error
        engine = cls("opened")
        cls.made.append((reference, options, engine))
        return engine


@pytest.fixture
def opened(monkeypatch):
    import crayon.device

    Opened.made, Opened.error = [], None
    monkeypatch.setattr(crayon.device, "DeviceEngine", Opened)
    return Opened


def test_a_model_reference_is_opened_once_on_first_use_and_closed_with_the_client(sdk, opened):
    client = sdk.make("some-model", device_options={"n_ctx": 512})
    assert opened.made == []
    assert sdk.call(client.ask("hi")).model == "opened"
    sdk.call(client.encode("hi"))
    [(reference, options, engine)] = opened.made
    assert (reference, options) == ("some-model", {"n_ctx": 512})
    sdk.call_or_value(client.close())
    assert engine.closed == 1


def test_a_model_that_there_is_not_is_the_callers_error_even_with_a_server(sdk, opened):
    opened.error = ModelError("no such file")
    server = FakeServer("large")
    with pytest.raises(ModelError, match="no such file"):
        sdk.call(sdk.make("some-model", server).ask("hi"))
    assert server.requests == []


def test_a_device_that_is_only_a_fallback_is_opened_only_then(sdk, opened):
    client = sdk.make("some-model", FakeServer("large", [answer("x"), crayon.ServerUnavailableError("gone")]))
    sdk.call(client.ask("hi", mode="prefer_on_server"))
    assert opened.made == []
    assert sdk.call(client.ask("hi", mode="prefer_on_server")).route.source is Source.DEVICE
    assert len(opened.made) == 1


def test_a_context_manager_closes(opened):
    with Crayon("some-model") as client:
        client.ask("hi")
    assert opened.made[0][2].closed == 1


async def test_an_async_context_manager_closes(opened):
    async with AsyncCrayon("some-model") as client:
        await client.ask("hi")
        async with client.stream("hi") as stream:
            assert [str(piece) async for piece in stream] == ["hello", " from", " here"]
    assert opened.made[0][2].closed == 1


def test_threads_open_one_engine(opened):
    import threading

    client = Crayon("some-model")
    threads = [threading.Thread(target=client.ask, args=("hi",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(opened.made) == 1
    assert len(opened.made[0][2].requests) == 8


# -- score and encode


def test_scores_come_from_the_first_side_allowed(sdk):
    device, server = Fake("small"), FakeServer("large")
    client = sdk.make(device, server)
    got = sdk.call(client.score("hi", ["a", "bbb"]))
    assert [score.total for score in got.scores] == [-1.0, -3.0]
    assert got.model == "small"
    assert sdk.call(client.score("hi", ("a",), mode="only_on_server")).model == "large"
    assert device.scored[0].deadline is not None


@pytest.mark.parametrize("continuations", [[], "text", [""], [3], 3, None, ["\ud800"]])
def test_wrong_continuations_are_refused(sdk, continuations):
    with pytest.raises(InvalidRequestError, match="continuations"):
        sdk.call(sdk.make(Fake("small")).score("hi", continuations))


def test_vectors_come_from_the_device(sdk):
    device, server = Fake("small"), FakeServer("large")
    got = sdk.call(sdk.make(device, server, mode="only_on_server").encode(["a", "b"]))
    assert got.vectors.shape == (2, 16)
    assert got.vectors.dtype == np.float32
    assert server.encoded == []
    assert sdk.call(sdk.make(None, server).encode("a")).model == "large"


def test_private_texts_are_not_sent_to_be_embedded(sdk):
    server = FakeServer("large")
    with pytest.raises(crayon.PrivacyError, match="nothing was sent"):
        sdk.call(sdk.make(None, server).encode("my diary", private=True))
    assert server.encoded == []
    assert sdk.call(sdk.make(Fake("small"), server).encode("my diary", private=True)).model == "small"


@pytest.mark.parametrize("wrong", [5, [], ["a", ""], ["\ud800"], None])
def test_wrong_texts_are_refused(sdk, wrong):
    device = Fake("small")
    with pytest.raises(InvalidRequestError, match="texts"):
        sdk.call(sdk.make(device).encode(wrong))
    assert device.encoded == []


def test_encode_has_a_deadline(sdk):
    device = Fake("small", vectors=Hang)
    with pytest.raises(DeadlineExceededError):
        sdk.call(sdk.make(device).encode("a", timeout=0.05))
    with pytest.raises(InvalidRequestError, match="texts"):
        sdk.call(sdk.make(device).encode([]))


# -- conversations


def say(sdk, chat, text, **options):
    return sdk.call(chat.ask(text, **options))


def contents(chat):
    return [message.content for message in chat.messages]


def test_a_conversation_remembers(sdk):
    device = Fake("small", [answer("one"), answer("two")])
    chat = sdk.make(device).chat(system="Be brief.")
    say(sdk, chat, "first")
    say(sdk, chat, "second")
    assert [m.content for m in device.requests[1].messages] == ["Be brief.", "first", "one", "second"]
    assert contents(chat) == ["Be brief.", "first", "one", "second", "two"]
    assert [m.role for m in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    chat.clear()
    assert contents(chat) == ["Be brief."]


def test_a_conversation_can_go_on_from_a_history(sdk):
    device = Fake("small")
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chat = sdk.make(device).chat(history)
    say(sdk, chat, "c")
    assert [m.content for m in device.requests[0].messages] == ["a", "b", "c"]


def test_a_stream_enters_the_history_at_its_end(sdk):
    chat = sdk.make(Fake("small", [answer("one two")])).chat()
    stream = chat.stream("first")
    sdk.read(stream, limit=1)
    assert contents(chat) == []
    sdk.read(stream)
    assert contents(chat) == ["first", "one two"]


def test_a_failed_or_cancelled_turn_leaves_the_history_as_it_was(sdk):
    device = Fake("small", [answer("one"), [crayon.EngineError("crash")], [delta("half"), Hang], answer("two")])
    chat = sdk.make(device).chat()
    say(sdk, chat, "first")
    before = chat.messages
    with pytest.raises(crayon.EngineError):
        say(sdk, chat, "second")
    assert chat.messages == before
    stream = chat.stream("third")
    sdk.read(stream, limit=1)
    sdk.shut_stream(stream)
    assert chat.messages == before
    with pytest.raises(InvalidRequestError):
        say(sdk, chat, " ")
    assert chat.messages == before
    say(sdk, chat, "fourth")
    assert contents(chat) == ["first", "one", "fourth", "two"]


def test_a_turn_overtaken_by_a_later_one_is_not_recorded(sdk):
    device = Fake("small", [answer("slow answer"), answer("quick")])
    chat = sdk.make(device).chat()
    slow = chat.stream("first")
    sdk.read(slow, limit=1)
    say(sdk, chat, "second")
    sdk.read(slow)
    assert contents(chat) == ["second", "quick"]


def test_one_private_turn_makes_the_whole_conversation_private(sdk):
    device, server = Fake("small"), FakeServer("large")
    chat = sdk.make(device, server, mode="prefer_on_server").chat()
    assert say(sdk, chat, "public").route.source is Source.SERVER
    assert not chat.private
    assert say(sdk, chat, "secret", private=True).route.source is Source.DEVICE
    assert chat.private
    assert say(sdk, chat, "and now", private=False).route.source is Source.DEVICE
    assert len(server.requests) == 1
    chat.clear()
    assert say(sdk, chat, "public again").route.source is Source.SERVER


def test_a_private_turn_that_fails_makes_the_conversation_private_too(sdk):
    device = Fake("small", [[crayon.EngineError("crash")], answer("fine")])
    server = FakeServer("large")
    chat = sdk.make(device, server, mode="prefer_on_server").chat()
    with pytest.raises(crayon.EngineError):
        say(sdk, chat, "secret", private=True)
    assert say(sdk, chat, "next").route.source is Source.DEVICE
    assert server.requests == []


def test_a_conversation_born_private_stays_private(sdk):
    device, server = Fake("small"), FakeServer("large")
    chat = sdk.make(device, server, mode="prefer_on_server").chat(private=True)
    chat.clear()
    say(sdk, chat, "hi", private=False)
    assert server.requests == []


def test_a_conversations_own_defaults(sdk):
    device, server = Fake("small"), FakeServer("large")
    chat = sdk.make(device, server, max_tokens=5).chat(mode="only_on_server", top_k=2)
    say(sdk, chat, "hi", top_p=0.5)
    say(sdk, chat, "hi", mode="only_on_device")
    assert server.requests[0].sampling == Sampling(max_tokens=5, top_k=2, top_p=0.5)
    assert len(device.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        (([{"role": "wizard", "content": "x"}],), {}, "messages[0].role"),
        (([{"role": "system", "content": "a"}],), {"system": "b"}, "system"),
        ((5,), {}, "messages"),
        ((), {"mode": "fast"}, "mode"),
        ((), {"top_kk": 1}, "top_kk"),
        ((), {"private": None}, "private"),
        ((), {"private": "yes"}, "private"),
    ],
)
def test_a_conversation_that_makes_no_sense_is_refused(sdk, arguments, options, field):
    client = sdk.make(Fake("small"))
    with pytest.raises(InvalidRequestError) as caught:
        client.chat(*arguments, **options)
    assert caught.value.field == field


def test_a_turn_is_text(sdk):
    with pytest.raises(InvalidRequestError, match="text"):
        say(sdk, sdk.make(Fake("small")).chat(), [{"role": "user", "content": "x"}])
