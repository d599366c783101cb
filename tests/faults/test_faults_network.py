"""Connections that are cut, frozen, slowed, or come back late; clients that vanish."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from fault_proxy import Proxy
from fault_server import hurried
from fault_tools import ECHO, HURRY, FaultServer, aftermath, check_client, first_delta, remote, warmed
from serving_tools import LONG, PATIENCE, ask, until

from crayon.client import channel
from crayon.engine import deadline_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from fault_tools import Fault

WORDS = "one two three four five " * 8


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients notice within a second what they notice within 30 otherwise."""
    options = channel.channel_options
    monkeypatch.setattr(channel, "channel_options", lambda timeout, **more: hurried(options(timeout, **more), HURRY))


def test_cut(fault: Callable[..., Fault], echo: FaultServer) -> None:
    found = fault(
        "TCP cut", "a proxy resets the connection of 50 streams", "`ServerInterruptedError` with the text so far"
    )
    before = echo.census()
    with Proxy(echo.address) as proxy:
        client = remote(proxy.address)
        streams = [client.generate(ask(LONG)) for _ in range(50)]
        for stream in streams:
            first_delta(stream)
        proxy.cut()
        found.tally.read(streams)
        assert found.tally.statuses == {"ServerInterruptedError": 50}
        assert found.tally.read([client.generate(ask("hello there"))]) == ["hello there"]
        assert proxy.links == 2
        client.close()
    aftermath(found, echo, before)


def test_frozen_until_noticed(fault: Callable[..., Fault], hurried_echo: FaultServer, quick_pings: None) -> None:
    injected = f"a proxy passes nothing on, for ever; pings {HURRY} times as often as else"
    seen = "`ServerInterruptedError` once a ping is not answered"
    found = fault("TCP frozen for good", injected, seen)
    before = hurried_echo.census()
    with Proxy(hurried_echo.address) as proxy:
        client = remote(proxy.address)
        streams = [client.generate(ask(LONG)) for _ in range(20)]
        for stream in streams:
            first_delta(stream)
        proxy.freeze()
        found.tally.read(streams, 20.0)  # and not when gRPC is at the end of its own patience, a minute
        assert found.tally.statuses == {"ServerInterruptedError": 20}
        # The server has noticed, too, though nobody has told it.
        until(lambda: not hurried_echo.census()["requests"])
        client.close()
    aftermath(found, hurried_echo, before)


def test_frozen_in_a_long_silence(fault: Callable[..., Fault], quick_pings: None) -> None:
    """A long prefill sends nothing, and gRPC by itself grows tired of pings that no data follows."""
    injected = f"as above, after 3 s in which nothing was sent; pings {HURRY} times as often as else"
    seen = "`ServerUnavailableError` once a ping is not answered"
    found = fault("TCP frozen for good, in prefill", injected, seen)
    with FaultServer(values=ECHO | {"delay": 3600.0}, hurry=HURRY) as server:
        with Proxy(server.address) as proxy:
            client = remote(proxy.address)
            streams = [client.generate(ask(LONG)) for _ in range(20)]
            until(lambda: server.census()["requests"] == 20)
            time.sleep(3.0)
            proxy.refuse = True
            proxy.freeze()
            found.tally.read(streams, 20.0)
            assert found.tally.statuses == {"ServerUnavailableError": 20}
            until(lambda: not server.census()["requests"])
            client.close()
        check_client(found)
        found.checked.append("no request is left")


def test_frozen_and_thawed(fault: Callable[..., Fault], echo: FaultServer) -> None:
    found = fault("TCP frozen for 0.2 s", "a proxy passes nothing on for 0.2 s", "nothing: answers, whole and once")
    before = echo.census()
    with Proxy(echo.address) as proxy:
        client = remote(proxy.address)
        streams = [client.generate(ask(WORDS)) for _ in range(20)]
        for stream in streams:
            first_delta(stream)
        proxy.freeze()
        time.sleep(0.2)  # less than a ping's patience: this is about nothing being lost or doubled
        proxy.thaw()
        texts = found.tally.read(streams)
        client.close()
    assert found.tally.answered == 20
    assert all(WORDS.endswith(text) for text in texts)
    aftermath(found, echo, before)


@pytest.mark.long
def test_frozen_for_30_seconds(fault: Callable[..., Fault]) -> None:
    injected = "a proxy passes nothing on for 30 s; the real pings, every 20 s (client) and 30 s (server)"
    found = fault("TCP frozen for 30 s", injected, "`ServerInterruptedError` after 30 s, or late answers")
    with FaultServer(values={"delay": 0.05, "context_tokens": 8192}) as server:
        before = warmed(server).census()
        with Proxy(server.address) as proxy:
            client = remote(proxy.address, timeout=120.0)
            streams = [client.generate(ask(LONG, max_tokens=1000)) for _ in range(20)]
            for stream in streams:
                first_delta(stream)
            proxy.freeze()
            time.sleep(30.0)
            proxy.thaw()
            found.tally.read(streams, 150.0)
            assert set(found.tally.statuses) <= {"ServerInterruptedError"}
            found.tally.read([client.generate(ask("hello there"))])
            client.close()
        aftermath(found, server, before)


def test_trickle(fault: Callable[..., Fault], echo: FaultServer) -> None:
    injected = "a proxy passes on a byte a second; deadline of 3 s"
    found = fault("TCP at a byte a second", injected, "`DeadlineExceededError` with the text so far; others are served")
    before = echo.census()
    with Proxy(echo.address) as proxy:
        slow, fast = remote(proxy.address), remote(echo.address)
        streams = [slow.generate(ask(LONG, deadline=deadline_after(3.0))) for _ in range(20)]
        for stream in streams:
            first_delta(stream)
        proxy.slow(1.0)
        others = [fast.generate(ask(WORDS)) for _ in range(20)]
        assert found.tally.read(others) == [WORDS] * 20
        found.tally.read(streams)
        slow.close()
        fast.close()
    assert found.tally.statuses == {"DeadlineExceededError": 20}
    aftermath(found, echo, before)


def test_the_old_connection_comes_back_after_a_new_one(
    fault: Callable[..., Fault], hurried_echo: FaultServer, quick_pings: None
) -> None:
    injected = "a connection is frozen until the client has made another and asks again under the same ids, then thawed"
    found = fault("reordered reconnect", injected, "`ServerInterruptedError`, then whole answers, once")
    before = hurried_echo.census()
    with Proxy(hurried_echo.address) as proxy:
        client = remote(proxy.address)
        ids = [f"the-same-{n}" for n in range(10)]
        old = [client.generate(ask(LONG, request_id=name)) for name in ids]
        for stream in old:
            first_delta(stream)
        proxy.freeze()
        found.tally.read(old)
        assert found.tally.statuses == {"ServerInterruptedError": 10}
        new = [client.generate(ask(WORDS, request_id=name)) for name in ids]
        for stream in new:
            first_delta(stream)
        assert proxy.links == 2
        proxy.thaw()
        texts = found.tally.read(new)
        client.close()
    assert found.tally.answered == 10
    assert all(WORDS.endswith(text) and len(text) > len(WORDS) / 2 for text in texts)
    aftermath(found, hurried_echo, before)


VANISHES = """
import sys
sys.path[:0] = sys.argv[2:]
from fault_tools import first_delta, remote
from serving_tools import LONG, ask

client = remote(sys.argv[1])
streams = [client.generate(ask(LONG)) for _ in range(200)]
for stream in streams:
    first_delta(stream)
print("begun", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_half_of_the_clients_vanish(fault: Callable[..., Fault], echo: FaultServer) -> None:
    found = fault("client vanishes", "SIGKILL to the client of 200 of 400 streams", "the others: their answers")
    before = echo.census()
    command = [sys.executable, "-c", VANISHES, echo.address, *sys.path[:3]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline().strip() == "begun"
        client = remote(echo.address)
        streams = [client.generate(ask(WORDS)) for _ in range(200)]
        for stream in streams[:20]:
            first_delta(stream)
        assert echo.census()["requests"] > 200
        doomed.send_signal(signal.SIGKILL)
        doomed.wait(PATIENCE)
        found.tally.read(streams)
    client.close()
    assert found.tally.answered == 200
    aftermath(found, echo, before)
