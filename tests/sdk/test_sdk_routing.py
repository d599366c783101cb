"""Where a query goes when everything works."""

from __future__ import annotations

import pytest
from sdk_fakes import COLOURS, DONE, SURE, UNSURE, Fake, FakeServer, Hang, answer, delta

from crayon import Blend, Hardness, PrivacyError, Reason, Scope, Source
from crayon.engine import Delta

SCOPE = Scope("colours", COLOURS)


def both(device=None, server=None):
    return device or Fake("small"), server or FakeServer("large", [answer("from the server")])


def test_the_device_answers_when_it_is_sure(sdk):
    device, server = both()
    got = sdk.call(sdk.make(device, server).ask("hi"))
    assert (got.text, got.model, str(got)) == ("hello from here", "small", "hello from here")
    route = got.route
    assert (route.source, route.reason, route.scope) == (Source.DEVICE, Reason.CONFIDENT, None)
    assert route.score == pytest.approx(SURE)
    assert route.threshold == Hardness().threshold
    assert (route.bytes_sent, route.discarded_tokens, route.server) == (0, 0, None)
    assert route.holdback_ms is not None
    assert route.encode_ms is None
    assert server.requests == []
    assert got.usage.completion_tokens == 3
    assert got.total_ms >= got.ttft_ms > 0


def test_the_server_answers_when_the_device_is_unsure_and_nothing_of_its_start_is_shown(sdk):
    device, server = both(Fake("small", [answer("maybe perhaps who knows really", UNSURE)]))
    stream = sdk.make(device, server).stream("hi")
    pieces = sdk.read(stream)
    assert "".join(map(str, pieces)) == "from the server" == stream.completion.text
    assert {piece.source for piece in pieces} == {Source.SERVER}
    route = stream.completion.route
    assert (route.source, route.reason, route.server) == (Source.SERVER, Reason.UNSURE, "server.test:1")
    assert route.score == pytest.approx(UNSURE)
    assert route.score < route.threshold
    assert route.bytes_sent == 2
    assert route.discarded_tokens >= 1
    assert route.fallback_from is None
    assert device.streams[0].cancelled


def test_tokens_are_held_until_the_gate_lets_them_go_and_then_flow(sdk):
    device, server = both(Fake("small", [answer("one two three four five six")]))
    stream = sdk.make(device, server).stream("hi")
    pieces = sdk.read(stream)
    assert [str(piece) for piece in pieces] == ["one two three four", " five", " six"]


def test_at_most_eight_tokens_are_held_by_default(sdk):
    device, server = both(Fake("small", [answer("a b c d e f g h i j", -0.9)]))
    stream = sdk.make(device, server).stream("hi")
    assert str(sdk.read(stream, limit=1)[0]) == "a b c d e f g h"


def test_the_route_is_known_with_the_first_piece(sdk):
    device, server = both(Fake("small", [[delta("one"), Hang]]))
    stream = sdk.make(device, server, hardness=False).stream("hi")
    assert stream.route is None
    assert [str(piece) for piece in sdk.read(stream, limit=1)] == ["one"]
    assert (stream.route.source, stream.route.reason) == (Source.DEVICE, Reason.MODE)
    sdk.shut_stream(stream)


def test_a_gate_that_is_off_lets_everything_pass(sdk):
    device, server = both(Fake("small", [answer("wild guess", UNSURE)]))
    got = sdk.call(sdk.make(device, server, hardness=False).ask("hi"))
    assert (got.text, got.route.reason) == ("wild guess", Reason.MODE)
    assert (got.route.score, got.route.holdback_ms) == (None, None)


def test_own_gate_settings_are_used(sdk):
    device, server = both(Fake("small", [answer("so so so so", UNSURE)]))
    client = sdk.make(device, server, hardness=Hardness(threshold=-4.0, hold_tokens=2))
    got = sdk.call(client.ask("hi"))
    assert (got.route.source, got.route.threshold) == (Source.DEVICE, -4.0)


def test_without_a_server_nothing_is_held_back(sdk):
    device = Fake("small", [[delta("not", UNSURE), Hang]])
    stream = sdk.make(device).stream("hi")
    assert [str(piece) for piece in sdk.read(stream, limit=1)] == ["not"]
    assert stream.route.reason is Reason.NO_SERVER
    sdk.shut_stream(stream)


def test_an_engine_without_signals_is_not_judged(sdk):
    device, server = both(Fake("small", [[Delta("plain"), Delta(" text"), DONE]]))
    got = sdk.call(sdk.make(device, server).ask("hi"))
    assert (got.text, got.route.source, got.route.reason) == ("plain text", Source.DEVICE, Reason.MODE)


def test_an_empty_device_answer_goes_to_the_server(sdk):
    device, server = both(Fake("small", [[DONE]]))
    got = sdk.call(sdk.make(device, server).ask("hi"))
    assert (got.route.source, got.route.reason, got.route.score) == (Source.SERVER, Reason.UNSURE, None)


def test_an_empty_answer_where_only_one_side_may_answer_is_an_empty_completion(sdk):
    got = sdk.call(sdk.make(Fake("small", [[DONE]])).ask("hi"))
    assert (got.text, got.route.reason) == ("", Reason.NO_SERVER)


def test_a_short_answer_is_judged_at_its_end(sdk):
    device, server = both(Fake("small", [answer("ok", -0.9), answer("ok", -1.1)]))
    client = sdk.make(device, server)
    assert sdk.call(client.ask("hi")).route.source is Source.DEVICE
    assert sdk.call(client.ask("hi")).route.source is Source.SERVER


# -- scopes


def test_queries_in_scope_stay_and_others_leave(sdk):
    device, server = both()
    client = sdk.make(device, server, scopes=[SCOPE])
    inside = sdk.call(client.ask("which colour is a crow")).route
    outside = sdk.call(client.ask("how do magnets work")).route
    assert (inside.source, inside.reason, inside.scope) == (Source.DEVICE, Reason.IN_SCOPE, "colours")
    assert inside.score >= inside.threshold
    assert (outside.source, outside.reason, outside.scope) == (Source.SERVER, Reason.OUT_OF_SCOPE, "colours")
    assert outside.score < outside.threshold
    assert outside.encode_ms > 0
    assert (outside.discarded_tokens, outside.holdback_ms) == (0, None)


def test_scopes_are_embedded_once_and_only_the_last_user_message_is_judged(sdk):
    device, server = both()
    client = sdk.make(device, server, scopes=[SCOPE])
    history = [
        {"role": "user", "content": "how do magnets work"},
        {"role": "assistant", "content": "they pull"},
        {"role": "user", "content": "which colour is a crow"},
    ]
    assert sdk.call(client.ask(history)).route.source is Source.DEVICE
    sdk.call(client.ask("which colour is a crow"))
    assert [len(request.texts) for request in device.encoded[1:]] == [1, 1]
    assert device.encoded[1].texts == ("which colour is a crow",)


def test_load_fits_the_scopes_ahead(sdk):
    device, server = both()
    client = sdk.make(device, server, scopes=[SCOPE])
    done = client.load()
    if done is not None:
        sdk.call(done)
    assert len(device.encoded) == 1


def test_in_scope_but_unsure_goes_to_the_server(sdk):
    device, server = both(Fake("small", [answer("hm hm hm hm", UNSURE)]))
    route = sdk.call(sdk.make(device, server, scopes=[SCOPE]).ask("which colour is a crow")).route
    assert (route.source, route.reason, route.scope) == (Source.SERVER, Reason.UNSURE, "colours")
    assert route.score == pytest.approx(UNSURE)


@pytest.mark.parametrize("options", [{"mode": "only_on_device"}, {"private": True}, {"mode": "prefer_on_server"}])
def test_the_scope_gate_is_skipped_where_it_cannot_matter(sdk, options):
    device, server = both()
    sdk.call(sdk.make(device, server, scopes=[SCOPE]).ask("how do magnets work", **options))
    assert device.encoded == []


def test_scopes_by_name(sdk):
    sdk.make(Fake("small"), scopes=["healthy-habits", "nature-basics"])


# -- modes, privacy, blends


@pytest.mark.parametrize(
    ("mode", "source"),
    [
        ("only_on_device", Source.DEVICE),
        ("prefer_on_device", Source.DEVICE),
        ("prefer_on_server", Source.SERVER),
        ("only_on_server", Source.SERVER),
    ],
)
def test_modes(sdk, mode, source):
    device, server = both()
    client = sdk.make(device, server, hardness=False)
    route = sdk.call(client.ask("hi", mode=mode)).route
    assert (route.source, route.reason) == (source, Reason.MODE)
    assert (server.requests == []) == (source is Source.DEVICE)
    again = sdk.make(device, server, mode=mode, hardness=False)
    assert sdk.call(again.ask("hi")).route.source is source


@pytest.mark.parametrize("where", ["client", "call"])
@pytest.mark.parametrize("mode", ["prefer_on_device", "prefer_on_server", "only_on_device"])
def test_private_never_reaches_the_server(sdk, where, mode):
    device, server = both(Fake("small", [answer("who knows what this may be", UNSURE)]))
    client = sdk.make(device, server, scopes=[SCOPE], mode=mode, private=where == "client")
    # A call cannot lift its client's privacy.
    got = sdk.call(client.ask("my secret", private=where == "call"))
    assert (got.route.source, got.route.reason, got.route.bytes_sent) == (Source.DEVICE, Reason.PRIVATE, 0)
    assert server.requests == server.encoded == []


@pytest.mark.parametrize("call", ["ask", "stream", "score"])
def test_private_on_the_server_only_is_refused_before_anything_is_sent(sdk, call):
    device, server = both()
    client = sdk.make(device, server, mode="only_on_server", private=True)
    arguments = ("hi", ["yes"]) if call == "score" else ("hi",)
    with pytest.raises(PrivacyError):
        sdk.call_or_value(getattr(client, call)(*arguments))
    assert server.requests == server.scored == device.requests == []


def test_private_without_a_device_is_refused(sdk):
    server = FakeServer("large")
    client = sdk.make(None, server, private=True)
    with pytest.raises(PrivacyError):
        sdk.call(client.ask("hi"))
    with pytest.raises(PrivacyError):
        sdk.call(client.encode("hi"))
    assert server.requests == server.encoded == []


def test_a_server_alone_answers(sdk):
    route = sdk.call(sdk.make(None, FakeServer("large")).ask("hi")).route
    assert (route.source, route.reason, route.bytes_sent) == (Source.SERVER, Reason.NO_DEVICE, 2)


def test_an_engine_in_this_process_sends_no_bytes(sdk):
    route = sdk.call(sdk.make(None, Fake("large")).ask("hi")).route
    assert (route.source, route.bytes_sent, route.server) == (Source.SERVER, 0, None)


def test_a_blend_is_applied_on_the_device_and_not_sent_to_a_server_that_merely_helps_out(sdk):
    blend = Blend("pool", (0.5, 0.5))
    device, server = both(Fake("small", [answer("sure thing"), answer("no no no no", UNSURE)]))
    client = sdk.make(device, server)
    assert sdk.call(client.ask("hi", blend=blend)).route.blend == blend
    helped = sdk.call(client.ask("hi", blend=blend)).route
    assert (helped.source, helped.blend) == (Source.SERVER, None)
    assert server.requests[0].blend is None
    sdk.call(client.ask("hi", blend=blend, mode="only_on_server"))
    assert server.requests[1].blend == blend


def test_two_attempts_have_different_request_ids(sdk):
    device, server = both(Fake("small", [answer("no no no no", UNSURE)]))
    sdk.call(sdk.make(device, server).ask("hi"))
    assert device.requests[0].request_id != server.requests[0].request_id
    assert server.requests[0].request_id.startswith(device.requests[0].request_id)
