"""Customising from the SDK, and what a customisation does to a query's way."""

from __future__ import annotations

import asyncio
import json
import logging

import numpy as np
import pytest
from custom_fakes import Device, about, asked, make_pool
from sdk_fakes import SURE, UNSURE, Fake, FakeServer, answer

from crayon import (
    AdapterError,
    AsyncCrayon,
    Blend,
    Crayon,
    InvalidRequestError,
    PrivacyError,
    Reason,
    Scope,
    ServerUnavailableError,
    Source,
)
from crayon.customising.store import CustomizationStore

COLOUR, NUMBER, BOTH = "what colour is the sky", "what number is this", "the colour of a number"
ELSEWHERE = "tell me a story"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "customizations"


@pytest.fixture
def store(folder):
    """Holds `one` (colours), `two` (colours and numbers)."""
    with Crayon(Device("small"), customizations_dir=folder) as client:
        client.customize("one", asked("colour"), check=False)
        client.customize("two", [*asked("colour", 40), *asked("number", 32)], check=False)
    return CustomizationStore(folder)


def make(sdk, store, device=None, server=None, **options):
    device = device or Device("small", [answer("a b", SURE)])
    return device, sdk.make(device, server, customizations_dir=store.folder, **options)


def large():
    return FakeServer("large", [answer("from the server")])


def test_customize_makes_keeps_and_lists(sdk, folder):
    client = sdk.make(Device("small"), customizations_dir=folder)
    seen = []
    found = sdk.call(client.customize("mine", about("colour"), ready=seen.append))
    assert (seen[0].name, seen[0].material, seen[0].profiles[0].centre) == (
        found.name,
        found.material,
        found.profiles[0].centre,
    )
    assert [profile.name for profile in found.profiles] == ["colour"]
    assert found.expectation.metric == "accuracy"
    assert found.expectation.samples == 8
    assert sdk.call(client.customizations()) == (found,)
    assert CustomizationStore(folder).load("mine") == found
    assert len(CustomizationStore(folder).samples("mine")) == 8


def test_a_taken_name_is_kept_and_nothing_is_computed(sdk, store):
    device, client = make(sdk, store)
    with pytest.raises(InvalidRequestError, match="'one' is taken"):
        sdk.call(client.customize("one", about("number")))
    assert device.raw == []
    found = sdk.call(client.customize("one", about("number"), replace=True, check=False))
    assert found.profiles[0].name == "number"


def test_samples_from_a_file(sdk, folder, tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in about("number")))
    client = sdk.make(Device("small"), customizations_dir=folder)
    for given in (path, str(path)):
        found = sdk.call(client.customize("mine", given, check=False, replace=True))
        assert (found.samples, found.profiles[0].name) == (8, "number")


def test_samples_go_to_no_other_machine(sdk, folder):
    remote = FakeServer("elsewhere")
    for client, error in (
        (sdk.make(remote, customizations_dir=folder), PrivacyError),
        (sdk.make(None, FakeServer("large"), customizations_dir=folder), InvalidRequestError),
    ):
        with pytest.raises(error, match="never leave the device"):
            sdk.call(client.customize("mine", about("colour")))
    assert (remote.encoded, remote.scored, remote.requests) == ([], [], [])
    assert not folder.exists()


def test_only_the_device_sees_the_samples_whatever_the_mode(sdk, folder):
    device, server = Device("small"), FakeServer("large")
    client = sdk.make(device, server, mode="only_on_server", customizations_dir=folder)
    sdk.call(client.customize("mine", about("colour")))
    assert (server.encoded, server.scored, server.requests) == ([], [], [])
    assert len(device.scored) == 24, "under the base, under the blend, and with examples"


def test_a_query_in_a_profile_is_answered_under_its_weights(sdk, store):
    server = large()
    device, client = make(sdk, store, server=server, customization="two")
    for query, name, weights in ((COLOUR, "colour", (1.0, 0.0)), (NUMBER, "number", (0.0, 1.0))):
        got = sdk.call(client.ask(query))
        route = got.route
        assert (route.source, route.reason, route.scope) == (Source.DEVICE, Reason.IN_SCOPE, name)
        assert (route.customization, route.profile, route.switched_from) == ("two", name, None)
        assert route.blend == device.requests[-1].blend == Blend(device.pools[0].id, weights)
        assert route.score >= route.threshold
    assert server.requests == []
    assert len(device.raw) == 2, "each query is embedded once"
    assert device.encoded == []


def test_a_query_outside_goes_to_the_server_without_weights(sdk, store):
    server = large()
    _, client = make(sdk, store, server=server, customization="two")
    route = sdk.call(client.ask(ELSEWHERE)).route
    assert (route.source, route.reason) == (Source.SERVER, Reason.OUT_OF_SCOPE)
    assert route.scope in {"colour", "number"}
    assert (route.customization, route.profile, route.blend) == (None, None, None)
    assert server.requests[0].blend is None


@pytest.mark.parametrize("options", [{}, {"private": True}, {"mode": "only_on_device"}])
def test_a_query_outside_that_must_stay_gets_the_plain_base(sdk, store, options):
    device, client = make(sdk, store, server=large() if options else None, customization="two", **options)
    route = sdk.call(client.ask(ELSEWHERE)).route
    assert (route.source, route.customization, route.profile, route.blend) == (Source.DEVICE, "two", "base", None)
    assert device.requests[0].blend is None
    assert sdk.call(client.ask(NUMBER)).route.profile == "number"
    assert device.requests[1].blend.weights == (0.0, 1.0)


def test_a_customisation_named_in_the_call_always_applies(sdk, store):
    server = large()
    device, client = make(sdk, store, server=server)
    assert sdk.call(client.ask(COLOUR)).route.customization is None
    route = sdk.call(client.ask(ELSEWHERE, blend="one")).route
    assert (route.source, route.reason, route.customization) == (Source.DEVICE, Reason.CONFIDENT, "one")
    assert (route.profile, route.blend.weights) == ("colour", (1.0, 0.0))
    assert device.raw == [], "with one profile there is nothing to choose"
    assert sdk.call(client.ask(NUMBER, blend="two")).route.profile == "number"
    assert sdk.call(client.ask(ELSEWHERE, blend="two")).route.blend is not None
    assert server.requests == []


def test_the_hardness_gate_still_holds_a_named_customisation(sdk, store):
    server = large()
    device, client = make(sdk, store, Device("small", [answer("who knows what this is", UNSURE)]), server)
    route = sdk.call(client.ask(NUMBER, blend="two")).route
    assert (route.source, route.reason, route.profile) == (Source.SERVER, Reason.UNSURE, None)
    assert device.requests[0].blend is not None
    assert server.requests[0].blend is None


def test_base_and_weights_in_the_call_go_before_the_customisation(sdk, store):
    device, client = make(sdk, store, customization="two")
    route = sdk.call(client.ask(COLOUR, blend="base")).route
    assert (route.blend, route.customization, route.profile) == (None, None, None)
    own = Blend(device.pools[0].id, (0.25, 0.5))
    route = sdk.call(client.ask(COLOUR, blend=own)).route
    assert (route.blend, route.customization) == (own, None)
    assert device.raw == []


def test_a_conversation_stays_with_its_profile_and_says_when_it_leaves(sdk, store):
    _, client = make(sdk, store, customization="two")
    chat = client.chat()
    assert chat.profile is None
    routes = [sdk.call(chat.ask(text)).route for text in (NUMBER, BOTH, COLOUR, BOTH, ELSEWHERE)]
    assert [route.profile for route in routes] == ["number", "number", "colour", "colour", "base"]
    assert [route.switched_from for route in routes] == [None, None, "number", None, "colour"]
    assert chat.profile == "base"
    chat.clear()
    assert chat.profile is None
    alone = sdk.call(client.ask(BOTH, last_profile="colour")).route
    assert (alone.profile, alone.switched_from) == ("colour", None)


def test_an_answer_of_the_server_leaves_the_conversation_in_its_profile(sdk, store):
    _, client = make(sdk, store, server=large(), customization="two")
    chat = client.chat()
    sdk.call(chat.ask(NUMBER))
    assert sdk.call(chat.ask(ELSEWHERE)).route.source is Source.SERVER
    assert chat.profile == "number"


def test_a_device_that_stands_in_for_the_server_chooses_then(sdk, store):
    server = FakeServer("large", [ServerUnavailableError("away")])
    device, client = make(sdk, store, server=server, customization="two", mode="prefer_on_server")
    route = sdk.call(client.ask(NUMBER)).route
    assert (route.source, route.reason, route.profile) == (Source.DEVICE, Reason.SERVER_FAILED, "number")
    assert device.requests[0].blend.weights == (0.0, 1.0)
    assert server.requests[0].blend is None


def test_an_embedding_that_fails_leaves_the_server(sdk, store):
    from crayon import EngineError

    server = large()
    _, client = make(sdk, store, Device("small", encode_error=EngineError("broken")), server, customization="two")
    assert sdk.call(client.ask(NUMBER)).route.reason is Reason.DEVICE_FAILED
    assert sdk.call(client.ask(NUMBER, blend="two")).route.reason is Reason.DEVICE_FAILED
    with pytest.raises(EngineError, match="broken"):
        sdk.call(client.ask(NUMBER, private=True))


def test_weights_go_to_a_server_only_if_named_and_alone(sdk, store):
    server = large()
    device, client = make(sdk, store, server=server, customization="one", mode="only_on_server")
    sdk.call(client.ask(COLOUR))
    route = sdk.call(client.ask(ELSEWHERE, blend="one")).route
    assert [request.blend and request.blend.weights for request in server.requests] == [None, (1.0, 0.0)]
    assert (route.customization, route.profile) == ("one", "colour")
    with pytest.raises(InvalidRequestError, match="several profiles, and only the device can choose"):
        sdk.call(client.ask(COLOUR, blend="two"))
    assert device.raw == device.requests == []


def test_scopes_of_the_caller_and_profiles_are_judged_by_one_embedding(sdk, store):
    stories = Scope("stories", [f"tell me a story of kind {i}" for i in range(9)])
    server = large()
    device, client = make(sdk, store, server=server, customization="one", scopes=[stories])
    own = sdk.call(client.ask(COLOUR)).route
    assert (own.reason, own.scope, own.profile) == (Reason.IN_SCOPE, "colour", "colour")
    assert [len(request.texts) for request in device.raw] == [1]
    assert len(device.encoded) == 1, "the scope's examples, once"
    far = sdk.call(client.ask("zzz qqq")).route
    assert far.reason is Reason.OUT_OF_SCOPE
    sdk.call(client.ask(COLOUR, blend="one"))
    assert len(device.raw) == 2


def test_scores_are_under_the_weights_that_an_answer_would_have(sdk, store):
    device, client = make(sdk, store, customization="two")
    sdk.call(client.score(NUMBER, ["a", "b"]))
    sdk.call(client.score(ELSEWHERE, ["a", "b"]))
    sdk.call(client.score(ELSEWHERE, ["a", "b"], blend="one"))
    sdk.call(client.score(NUMBER, ["a", "b"], blend="base"))
    weights = [request.blend and request.blend.weights for request in device.scored]
    assert weights == [(0.0, 1.0), None, (1.0, 0.0), None]
    assert len(device.raw) == 2


def test_a_replaced_customisation_is_used_from_then_on(sdk, store):
    _, client = make(sdk, store, customization="one")
    assert sdk.call(client.ask(NUMBER)).route.profile == "base"
    sdk.call(client.customize("one", asked("number"), check=False, replace=True))
    assert sdk.call(client.ask(NUMBER)).route.profile == "number"
    store.delete("one")
    with pytest.raises(InvalidRequestError, match=r"customization: 'one' is unknown; there are two"):
        sdk.call(client.ask(NUMBER))


def test_an_export_is_used_by_its_path_and_one_of_few_samples_for_everything(sdk, store, tmp_path):
    device, client = make(sdk, store, customization=store.folder / "two" / "customization.json")
    assert sdk.call(client.ask(NUMBER)).route.profile == "number"
    sdk.call(client.customize("few", asked("number", 2), check=False))
    store.export("few", tmp_path / "few.json")
    device, client = make(sdk, store, customization=tmp_path / "few.json", server=large())
    route = sdk.call(client.ask(ELSEWHERE)).route
    assert (route.profile, route.blend.weights) == ("number", (0.0, 1.0))
    assert device.raw == []


def test_a_customisation_for_another_pool_says_which(sdk, store):
    _, client = make(sdk, store, Device("small", pools=(make_pool(seed=1),)), customization="two")
    with pytest.raises(
        AdapterError, match=r"customisation 'two': pool tiny-0@\w+ is not loaded \(loaded: tiny-0@\w+\)"
    ):
        sdk.call(client.ask(NUMBER))


def test_unknown_and_damaged_customisations_are_told_apart(sdk, store, caplog):
    for options in ({"customization": "none"}, {"customization": "../one"}, {"customization": 3}):
        with pytest.raises(InvalidRequestError, match="customization"):
            make(sdk, store, **options)
    with pytest.raises(InvalidRequestError, match="customization: is applied on the device"):
        sdk.make(None, large(), customization="one", customizations_dir=store.folder)
    _, client = make(sdk, store)
    for blend in ("none", "a/b", 3):
        with pytest.raises(InvalidRequestError, match="blend"):
            sdk.call(client.ask("hi", blend=blend))
    with pytest.raises(InvalidRequestError, match="last_profile"):
        sdk.call(client.ask("hi", last_profile=3))
    (store.folder / "one" / "customization.json").write_text("{")
    with pytest.raises(AdapterError, match=r"customization\.json"):
        sdk.call(client.ask("hi", blend="one"))
    with caplog.at_level(logging.WARNING):
        assert [found.name for found in sdk.call(client.customizations())] == ["two"]
    assert "customisation one is left out" in caplog.text


def test_no_member_fits_and_the_base_answers_in_scope(sdk, folder):
    device = Device("small", [answer("a b", SURE)])
    client = sdk.make(device, large(), customizations_dir=folder)
    texts = [f"tell me a story of kind {i}" for i in range(8)]
    row = np.zeros(16)
    row[9] = 1.0
    device.encode_raw = shifted(device, row)
    found = sdk.call(client.customize("mine", texts))
    assert not found.fits
    assert "no sample has an answer" in found.note
    client = sdk.make(device, large(), customizations_dir=folder, customization="mine")
    route = sdk.call(client.ask("tell me a story")).route
    assert (route.source, route.reason, route.profile) == (Source.DEVICE, Reason.IN_SCOPE, found.profiles[0].name)
    assert route.blend is None


def shifted(device, row):
    """States near one direction that no member's key is near to."""
    real = device.encode_raw

    def encode_raw(request):
        future = real(request)
        states = future.result().states
        states -= states.mean(axis=1, keepdims=True)
        states[:] = 0.05 * states + row + 5.0
        return future

    return encode_raw


def test_an_engine_without_signs_of_a_pool_answers_as_before(sdk, store):
    got = sdk.call(sdk.make(Fake("plain"), customizations_dir=store.folder).ask("hi"))
    assert (got.route.customization, got.route.profile) == (None, None)


async def test_a_cancelled_task_stops_customising(folder):
    started, device = asyncio.Event(), Device("small")
    loop = asyncio.get_running_loop()

    def progress(*_):
        loop.call_soon_threadsafe(started.set)

    real = device.score

    def score(request, *, ended):
        import time

        time.sleep(0.05)
        return real(request, ended=ended)

    device.score = score
    async with AsyncCrayon(device, customizations_dir=folder) as client:
        task = asyncio.create_task(client.customize("mine", about("colour", 24), progress=progress))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)
        count = len(device.scored)
        await asyncio.sleep(0.2)
        assert len(device.scored) == count < 48
