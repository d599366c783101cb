"""Answers in asyncio without a thread each: the same events and the same errors as the remote engine's."""

from __future__ import annotations

import asyncio
import threading

import pytest
from serving_tools import LONG, Serving, ask, until

from crayon.client import RemoteEngine
from crayon.client.events import EventClient
from crayon.completion import Blend
from crayon.engine import Delta, Finished, Started
from crayon.errors import (
    ConfigError,
    DeadlineExceededError,
    PrivacyError,
    PromptTooLongError,
    ServerUnavailableError,
    UnknownModelError,
)
from crayon.server.engines.echo import EchoEngine


async def test_events_are_those_of_the_remote_engine() -> None:
    request = ask("one two three", blend=Blend("pool", (0.5, 0.5)), request_id="r1")
    with Serving(lambda: EchoEngine()) as serving:
        async with EventClient(serving.address) as client:
            first, *deltas, last = [event async for event in client.generate(request)]
        remote = RemoteEngine(serving.address)
        expected = list(remote.generate(request))
        remote.close()
    assert first == expected[0] == Started("r1", "echo", Blend("pool", (0.5, 0.5)))
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "one two three"
    assert isinstance(last, Finished)
    assert isinstance(expected[-1], Finished)
    assert last.usage == expected[-1].usage


async def test_many_answers_come_at_once_without_threads() -> None:
    with Serving(lambda: EchoEngine(delay=0.01)) as serving:
        async with EventClient(serving.address) as client:

            async def tokens() -> int:
                events = [event async for event in client.generate(ask("one two three", max_tokens=9, ignore_eos=True))]
                return sum(len(event.signals) for event in events if isinstance(event, Delta))

            before = {thread.name for thread in threading.enumerate() if thread.name == "crayon-remote"}
            assert await asyncio.gather(*[tokens() for _ in range(30)]) == [9] * 30
            assert {thread.name for thread in threading.enumerate() if thread.name == "crayon-remote"} == before


async def test_leaving_early_frees_the_slot() -> None:
    engine = EchoEngine(delay=0.01, context_tokens=8192)
    with Serving(lambda: engine) as serving:
        async with EventClient(serving.address) as client:
            stream = client.generate(ask(LONG))
            async for _ in stream:
                break
            await stream.aclose()
            await asyncio.to_thread(until, lambda: engine.running == 0)


async def test_failures_keep_their_kind() -> None:
    with Serving(lambda: EchoEngine(context_tokens=8)) as serving:
        async with EventClient(serving.address) as client:
            with pytest.raises(PromptTooLongError) as caught:
                [event async for event in client.generate(ask(LONG))]
            assert caught.value.limit == 7
            with pytest.raises(UnknownModelError):
                [event async for event in client.generate(ask("x", model="other"))]
    with Serving(lambda: EchoEngine(delay=5.0)) as serving:
        async with EventClient(serving.address, timeout=0.2) as client:
            with pytest.raises(DeadlineExceededError):
                [event async for event in client.generate(ask("one two"))]
    async with EventClient(serving.address) as client:
        with pytest.raises(ServerUnavailableError):
            [event async for event in client.generate(ask("one two"))]


async def test_nothing_is_sent_where_it_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        EventClient("example.org:50051")
    client = EventClient("127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        [event async for event in client.generate(ask("x"))]
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    async with client:
        with pytest.raises(PrivacyError):
            [event async for event in client.generate(ask("x"))]
