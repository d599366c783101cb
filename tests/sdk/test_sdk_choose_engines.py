"""Choosing with real engines: the device's on a small random model, and a server over gRPC."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from serving_tools import ScriptedEngine, Serving, until
from tiny_chat import CLOSE, write_model
from tiny_pool import shared_pool

from crayon import AsyncCrayon, Blend, Crayon, Hardness, PromptTooLongError, Reason, Source
from crayon.client.remote import RemoteEngine
from crayon.device import DeviceEngine
from crayon.engine import GENERATE, ScoreRequest
from crayon.errors import ServerRejectedError
from crayon.messages import Message
from crayon.sdk.call.choosing import listed
from crayon.server.engines.echo import EchoEngine

QUESTION = "is water wet or dry"
CHOICES = ["on fire", "wet"]
LABELS = ["the", "the other", "inn"]


def score_request(text, choices, **more):
    return ScoreRequest(messages=(Message("user", text),), continuations=tuple(choices), **more)


# -- over gRPC


@pytest.fixture(scope="module")
def address():
    with Serving(lambda: EchoEngine(name="large")) as running:
        yield running.address


def test_a_server_chooses_over_grpc_and_the_bytes_are_counted(sdk, address):
    client = sdk.make(EchoEngine(name="small"), address, hardness=Hardness(choice_margin=1.0))
    got = sdk.call(client.choose(QUESTION, ["on fire", "wet"]))
    # The server sees the options, so that the echo knows every word of them; "wet" is the shorter text.
    assert got.probabilities == pytest.approx([1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))])
    assert (got.text, got.model, got.route.server) == ("wet", "large", address)
    assert (got.route.source, got.route.reason, got.route.threshold) == (Source.SERVER, Reason.UNSURE, 1.0)
    remote = RemoteEngine(address)
    # The second attempt of a call has "-2" after its id of 32 characters.
    sent = score_request(listed(QUESTION, CHOICES), CHOICES, request_id="r" * 34)
    assert got.route.bytes_sent == remote.request_bytes(sent)
    remote.close()
    sdk.call_or_value(client.close())


def test_a_server_that_cannot_score_leaves_the_choice_to_the_device(sdk):
    refusing = ScriptedEngine(
        error=ServerRejectedError("cannot score"), raise_at_once=True, capabilities=frozenset({GENERATE})
    )
    with Serving(lambda: refusing) as running:
        client = sdk.make(EchoEngine(name="small"), running.address, mode="prefer_on_server")
        got = sdk.call(client.choose(QUESTION, CHOICES))
        sdk.call_or_value(client.close())
    assert (got.text, got.model, got.route.reason) == ("wet", "small", Reason.SERVER_FAILED)
    assert got.route.fallback_error


def test_a_server_that_is_not_there_leaves_the_choice_to_the_device(sdk, tmp_path):
    client = sdk.make(EchoEngine(name="small"), f"unix:{tmp_path}/nobody", mode="prefer_on_server")
    got = sdk.call(client.choose(QUESTION, CHOICES, timeout=5.0))
    sdk.call_or_value(client.close())
    assert (got.text, got.route.reason, got.route.source) == ("wet", Reason.SERVER_FAILED, Source.DEVICE)


def test_a_choice_too_long_for_the_server_is_named(sdk):
    with Serving(lambda: EchoEngine(context_tokens=8)) as running:
        client = sdk.make(None, running.address)
        with pytest.raises(PromptTooLongError):
            sdk.call(client.choose(QUESTION, CHOICES))
        sdk.call_or_value(client.close())


@pytest.mark.parametrize("remote", [False, True])
def test_cancelling_the_task_frees_the_slot(remote):
    slow = EchoEngine(delay=60.0)

    async def run(server):
        async with AsyncCrayon(None if remote else slow, server) as client:
            task = asyncio.create_task(client.choose(QUESTION, CHOICES))
            await asyncio.to_thread(until, lambda: slow.running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, lambda: slow.running == 0)

    if remote:
        with Serving(lambda: slow) as running:
            asyncio.run(run(running.address))
    else:
        asyncio.run(run(None))
        slow.close()


# -- on the device


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")
    with DeviceEngine(path, n_ctx=256, n_batch=64, threads=1, pools=[shared_pool(path)]) as engine:
        yield engine


@pytest.mark.parametrize("blended", [False, True])
def test_the_device_compares_what_its_engine_scores(sdk, device, blended):
    blend = Blend(device.pools[0].id, (1.0, 0.5, 0.0)) if blended else None
    got = sdk.call(sdk.make(device).choose("what is it", LABELS, blend=blend))
    scores = device.score(score_request("what is it", LABELS, blend=blend), ended=blended).result(120).scores
    values = np.array([score.total for score in scores])
    assert got.index == int(np.argmax(values))
    assert np.log(got.probabilities) - np.log(got.probabilities[0]) == pytest.approx(values - values[0], abs=4 * CLOSE)
    assert (got.model, got.route.blend) == ("tiny-chat", blend)


def test_a_choice_that_does_not_fit_the_device_is_named(sdk, device):
    with pytest.raises(PromptTooLongError) as caught:
        sdk.call(sdk.make(device).choose("what is it", ["a", "xyz " * 400]))
    assert caught.value.field == "choices[1]"


def test_choices_and_answers_share_a_client(device):
    client = Crayon(device, max_tokens=4)
    first = client.choose("what is it", LABELS)
    client.ask("what is it")
    assert client.choose("what is it", LABELS).probabilities == pytest.approx(first.probabilities, abs=CLOSE)
