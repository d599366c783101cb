"""The options of a call: documented, checked by name, and what a conversation keeps of them."""

from __future__ import annotations

import re

import pytest
from sdk_fakes import Fake, answer

from crayon import CallOptions, Crayon, InvalidRequestError
from crayon.sdk.call.options import SideOptions
from crayon.server.engines.echo import EchoEngine


def test_every_option_is_explained_where_help_shows_it():
    told = set(re.findall(r"\w+", Crayon.ask.__doc__ or ""))
    assert set(CallOptions.__annotations__) - told == set()
    assert set(SideOptions.__annotations__) - set(re.findall(r"\w+", Crayon.choose.__doc__ or "")) == set()


@pytest.mark.parametrize("name", ["ask", "stream", "chat"])
def test_an_unknown_keyword_is_refused_with_those_that_are_near(sdk, name):
    client = sdk.make(EchoEngine())
    with pytest.raises(
        InvalidRequestError, match=r"^tempreature: is unknown; did you mean temperature\? a call takes "
    ):
        sdk.call(getattr(client, name)("hi", tempreature=1.0))


def test_a_client_names_the_keyword_that_it_does_not_know(sdk):
    with pytest.raises(InvalidRequestError, match=r"^top_kk: is unknown; did you mean .*top_k.* sampling takes "):
        sdk.make(EchoEngine(), top_kk=1)


@pytest.mark.parametrize(
    ("name", "arguments"), [("choose", ["x", ["a", "b"]]), ("score", ["x", ["a"]]), ("explain", ["x"])]
)
def test_a_call_that_writes_no_text_refuses_what_only_a_text_needs(sdk, name, arguments):
    client = sdk.make(EchoEngine())
    with pytest.raises(InvalidRequestError, match=r"^temperature: is unknown; this call takes blend, last_profile, "):
        sdk.call(getattr(client, name)(*arguments, temperature=1.0))


def test_a_conversation_keeps_every_option_and_a_turn_may_say_otherwise(sdk):
    device = Fake("small", [answer("one"), answer("two")])
    chat = sdk.make(device, timeout=90.0).chat(timeout=30.0, max_tokens=9, temperature=0.5)
    sdk.call(chat.ask("a"))
    sdk.call(chat.ask("b", max_tokens=3, timeout=None))
    drawn = [(request.sampling.max_tokens, request.sampling.temperature) for request in device.requests]
    assert drawn == [(9, 0.5), (3, 0.5)]


def test_a_turns_format_takes_the_place_of_its_conversations(sdk):
    chat = sdk.make(EchoEngine()).chat(choices=iter(["yes"]))
    said = [sdk.call(chat.ask("x")).text, sdk.call(chat.ask("x")).text, sdk.call(chat.ask("x", regex="no")).text]
    assert said == ["yes", "yes", "no"]


def test_a_conversation_can_begin_in_a_profile(sdk):
    client = sdk.make(Fake("small"))
    assert client.chat(last_profile="travel").profile == "travel"
    with pytest.raises(InvalidRequestError, match="last_profile"):
        client.chat(last_profile=3)


@pytest.mark.parametrize(
    ("options", "field"), [({"timeout": 0}, "timeout"), ({"free": 1}, "free"), ({"regex": "("}, "regex")]
)
def test_a_conversation_checks_its_options_at_once(sdk, options, field):
    with pytest.raises(InvalidRequestError) as caught:
        sdk.make(EchoEngine()).chat(**options)
    assert caught.value.field == field
