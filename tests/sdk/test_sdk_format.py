"""What an answer must look like, through both clients: kept on each side, parsed, streamed, refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace

import pytest
from sdk_fakes import DONE, Fake, FakeServer, answer, delta

from crayon import AnswerFormatError, InvalidRequestError, PrivacyError, ServerRejectedError, Source
from crayon.completion import FinishReason
from crayon.engine import Delta, TokenSignal
from crayon.sdk.call.privacy import Privacy
from crayon.server.engines.echo import EchoEngine


@dataclass
class City:
    name: str
    people: int


@pytest.fixture
def echoes():
    return EchoEngine(name="small"), EchoEngine(name="large")


@pytest.mark.parametrize("mode", ["only_on_device", "only_on_server"])
def test_an_answer_is_an_object_of_the_callers_type_from_either_side(sdk, echoes, mode):
    device, server = echoes
    client = sdk.make(device=device, server=server)
    found = sdk.call(client.ask("Which city?", mode=mode, response_format=City))
    assert isinstance(found.parsed, City)
    assert json.loads(found.text) == {"name": found.parsed.name, "people": found.parsed.people}
    assert found.usage.shown_tokens > 0
    assert pickle.loads(pickle.dumps(found)) == found
    assert sdk.call(client.ask("x", mode=mode, choices=["yes"])).text == "yes"
    assert sdk.call(client.ask("x", mode=mode, regex="[a-c]{3}")).parsed is None
    assert sdk.call(client.ask("x", mode=mode, response_format={"type": "boolean"})).parsed in {True, False}
    plain = sdk.call(client.ask("plain", mode=mode))
    assert (plain.text, plain.parsed, plain.withheld) == ("plain", None, None)
    quiet = sdk.call(client.ask("x", mode=mode, response_format="json", show_format=False))
    assert quiet.usage.shown_tokens == 0


def test_a_conversation_takes_a_form_for_a_turn(sdk, echoes):
    client = sdk.make(device=echoes[0])
    chat = client.chat()
    assert sdk.call(chat.ask("one", choices=["yes"])).text == "yes"
    assert sdk.call(chat.ask("two")).text == "two"
    assert [message.content for message in chat.messages] == ["one", "yes", "two", "two"]


def test_a_stream_says_what_there_is_so_far(sdk):
    pieces = [delta(text) for text in ('{"name"', ': "Os', "lo", '", "people": 7', "}")]
    client = sdk.make(device=Fake("d", [[*pieces, DONE]]))
    stream = client.stream("x", response_format=City)
    assert stream.partial is None
    seen = []
    for _ in pieces:
        sdk.read(stream, limit=1)
        seen.append(stream.partial)
    sdk.read(stream)
    city = {"name": "Oslo", "people": 7}
    assert seen == [{}, {"name": "Os"}, {"name": "Oslo"}, city, city]
    assert stream.completion.parsed == City("Oslo", 7)
    assert client.stream("x").partial is None


def test_a_cut_answer_is_no_object_and_says_what_there_is(sdk):
    cut = replace(DONE, finish_reason=FinishReason.LENGTH)
    client = sdk.make(device=Fake("d", [[delta('{"name": "Os'), cut]]))
    found = sdk.call(client.ask("x", response_format=City))
    with pytest.raises(AnswerFormatError, match="the answer was cut at max_tokens") as caught:
        found.parsed  # noqa: B018 - looking at it is what fails
    assert caught.value.partial == '{"name": "Os'


def test_what_cannot_be_kept_is_refused_before_anybody_is_asked(sdk):
    device, server = Fake("d"), FakeServer("s")
    client = sdk.make(device=device, server=server)
    for given, words in (
        ({"response_format": {"properties": {"x": {"not": {}}}}}, "keyword 'not' at /properties/x"),
        ({"response_format": "json", "regex": "a"}, "regex: cannot be given beside response_format"),
        ({"regex": "("}, "unclosed group"),
        ({"choices": []}, "choices: must hold 1"),
        ({"ignore_eos": True, "regex": "a"}, "ignore_eos: cannot be set beside regex"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            sdk.call(client.ask("x", **given))
    assert device.requests == server.requests == []


def test_an_engine_that_overlooks_a_constraint_is_not_believed(sdk):
    device = Fake("d", [answer("prose")], constrained=False)
    client = sdk.make(device=device)
    with pytest.raises(ServerRejectedError, match="'d' does not know constraints, so choices would be ignored"):
        sdk.call(client.ask("x", choices=["yes"]))
    assert device.streams[0].cancelled


def test_a_server_that_overlooks_it_is_stood_in_for(sdk):
    server = FakeServer("s", [answer("prose")], constrained=False)
    client = sdk.make(device=Fake("d", [answer("yes")]), server=server, mode="prefer_on_server")
    found = sdk.call(client.ask("x", choices=["yes"]))
    assert (found.text, found.route.source, found.route.fallback_from) == ("yes", Source.DEVICE, Source.SERVER)
    assert "does not know constraints" in found.route.fallback_error


def test_the_gate_reads_what_the_model_wanted_to_say_and_the_answer_how_much_of_it_was_withheld(sdk):
    def signal(withheld, logprob):
        return Delta('"', (TokenSignal(logprob, 1.0, 0.1, withheld),), tokens=3)

    sure = Fake("d", [[signal(0.25, -0.1), signal(0.75, -0.1), DONE]])
    server = FakeServer("s", [answer('"large"')])
    client = sdk.make(device=sure, server=server)
    found = sdk.call(client.ask("x", response_format={"type": "string"}))
    assert (found.route.source, found.withheld) == (Source.DEVICE, 0.5)
    unsure = Fake("d", [[signal(0.9, -9.0), DONE]])
    client = sdk.make(device=unsure, server=server)
    found = sdk.call(client.ask("x", response_format={"type": "string"}))
    assert (found.route.source, found.withheld, found.parsed) == (Source.SERVER, None, "large")
    assert found.route.discarded_tokens == 3


def test_what_a_constraint_says_is_looked_at_before_it_is_sent(sdk):
    private = {"enum": ["write to ada@example.com", "do not"]}
    device, server = Fake("d", [answer('"do not"')]), FakeServer("s", [answer('"do not"')])
    client = sdk.make(device=device, server=server, mode="prefer_on_server")
    found = sdk.call(client.ask("x", response_format=private))
    assert (found.route.source, found.route.privacy.found) == (Source.DEVICE, ("email",))
    for action in ("keep", "redact"):  # with a placeholder in it, it would be another constraint
        client = sdk.make(server=server, device=None, privacy=Privacy(action=action))
        with pytest.raises(PrivacyError):
            sdk.call(client.ask("x", choices=["ada@example.com", "no"]))
    assert server.requests == []
    client = sdk.make(server=server, device=None, privacy=Privacy(action="redact"))
    sdk.call(client.ask("write to bob@example.com", response_format={"type": "string"}))
    assert "bob" not in server.requests[0].messages[-1].content
    assert server.requests[0].constraint.text == json.dumps({"type": "string"})
