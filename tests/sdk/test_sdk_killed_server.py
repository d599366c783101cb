"""What docs/explanation/routing.md says under "Fallback", with real servers: killed, deaf, refused, back again."""

from __future__ import annotations

import signal
import socket
import threading

import pytest
from hand_clock import HandClock
from serving_tools import PATIENCE, server_process, until

from crayon import Budget, Reason, ServerInterruptedError, ServerUnavailableError, Source
from crayon.client import Breaker
from crayon.client.remote import RemoteEngine
from crayon.sdk.budget.store import BudgetStore
from crayon.server.engines.echo import EchoEngine

WORDS = "word " * 500
NEVER = "3600"


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def device():
    engine = EchoEngine(name="small")
    yield engine
    engine.close()


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def client_of(sdk, device, address, **options):
    return sdk.make(device, address, **{"hardness": False, "timeout": PATIENCE, "mode": "prefer_on_server", **options})


def kill_once_begun(stream, server):
    """Kill the server when it was asked and has shown nothing."""

    def kill():
        until(lambda: stream._stream is not None)
        server.signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def test_killed_before_its_first_token_the_device_answers(sdk, device, tmp_path):
    with server_process(tmp_path, "--echo-delay", NEVER) as server:
        client = client_of(sdk, device, server.address, budget=Budget(tokens_per_day=10_000))
        stream = client.stream("one two three", max_tokens=50)
        killer = kill_once_begun(stream, server)
        pieces = sdk.read(stream)
        killer.join(PATIENCE)
    assert {piece.source for piece in pieces} == {Source.DEVICE}
    route = stream.completion.route
    assert (stream.text, route.reason, route.fallback_from) == ("one two three", Reason.SERVER_FAILED, Source.SERVER)
    assert route.fallback_error
    assert route.bytes_sent > 0
    assert BudgetStore().read().tokens == 0, "nothing had come back"
    sdk.call_or_value(client.close())


def test_killed_before_its_first_token_with_nobody_to_stand_in_is_the_error(sdk, tmp_path):
    with server_process(tmp_path, "--echo-delay", NEVER) as server:
        client = client_of(sdk, None, server.address)
        stream = client.stream("one two three")
        killer = kill_once_begun(stream, server)
        with pytest.raises((ServerUnavailableError, ServerInterruptedError)) as caught:
            sdk.read(stream)
        killer.join(PATIENCE)
    assert getattr(caught.value, "partial", "") == stream.text == ""
    sdk.call_or_value(client.close())


@pytest.mark.parametrize("mode", ["prefer_on_server", "only_on_server"])
def test_killed_after_its_first_token_is_an_error_with_the_partial_text_and_no_switch(sdk, device, tmp_path, mode):
    with server_process(tmp_path, "--echo-delay", "0.2") as server:
        client = client_of(sdk, device, server.address, mode=mode, budget=Budget(tokens_per_day=10_000))
        stream = client.stream(WORDS, max_tokens=500)
        shown = sdk.read(stream, limit=2)
        server.signal(signal.SIGKILL)
        with pytest.raises(ServerInterruptedError) as caught:
            sdk.read(stream)
    assert caught.value.partial == stream.text
    assert stream.text.startswith("".join(map(str, shown)))
    assert {piece.source for piece in shown} == {Source.SERVER}
    assert device.running == 0
    words = len(stream.text.split())
    sdk.shut_stream(stream)
    assert BudgetStore().read().tokens == len(WORDS) // 4 + words
    sdk.call_or_value(client.close())


def test_a_refused_connection_falls_back_and_costs_nothing(sdk, device):
    client = client_of(sdk, device, f"127.0.0.1:{closed_port()}", budget=Budget(tokens_per_day=10_000))
    route = sdk.call(client.ask("hi")).route
    assert (route.source, route.reason, route.fallback_from) == (Source.DEVICE, Reason.SERVER_FAILED, Source.SERVER)
    assert (BudgetStore().read().tokens, BudgetStore().read().queries) == (0, "k")
    with pytest.raises(ServerUnavailableError):
        sdk.call(client.ask("hi", mode="only_on_server"))
    assert BudgetStore().read().tokens == 0
    sdk.call_or_value(client.close())


def test_a_server_that_shows_no_token_in_time_is_given_up_for_the_device(sdk, device, tmp_path):
    with server_process(tmp_path, "--echo-delay", NEVER) as server:
        client = client_of(sdk, device, server.address)
        # Opened and connected first, so that the time is the server's.
        until(lambda: client._core.engines.open(Source.SERVER).check(5.0).serving)
        got = sdk.call(client.ask("hi", timeout=4.0))
        assert (got.text, got.route.reason) == ("hi", Reason.SERVER_FAILED)
        assert "first token in time" in got.route.fallback_error
        measured = sdk.call_or_value(client.status()).measured
        assert measured.server_loss == 1.0
        sdk.call_or_value(client.close())


def test_the_breaker_opens_is_seen_and_closes_when_the_server_is_back(sdk, device, tmp_path):
    clock, port = HandClock(), closed_port()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with server_process(tmp_path / "first", "--port", str(port)) as server:
        remote = RemoteEngine(server.address, breaker=Breaker(failures=3, cooldown=5.0, clock=clock))
        client = client_of(sdk, device, remote)
        assert sdk.call(client.ask("hi")).route.source is Source.SERVER
        server.signal(signal.SIGKILL)
        server.process.wait(PATIENCE)
    failed = []
    while sdk.call_or_value(client.status()).breaker.state == "closed":
        failed.append(sdk.call(client.ask("hi")).route.reason)
    # The kill may have been noticed at the end of the first answer already.
    assert 2 <= len(failed) <= 3
    assert set(failed) == {Reason.SERVER_FAILED}
    breaker = sdk.call_or_value(client.status()).breaker
    assert (breaker.state, breaker.failures, breaker.retry_after_s) == ("open", 3, 5.0)
    away = sdk.call(client.ask("hi")).route
    assert (away.source, away.reason, away.bytes_sent) == (Source.DEVICE, Reason.SERVER_AWAY, 0)
    with server_process(tmp_path / "second", "--port", str(port)):
        until(lambda: remote.check(1.0).serving)
        assert sdk.call(client.ask("hi")).route.reason is Reason.SERVER_AWAY, "it is left alone for its time"
        clock.now += 5.0
        assert sdk.call_or_value(client.status()).breaker.state == "half_open"
        back = sdk.call(client.ask("hi")).route
        assert (back.source, back.reason) == (Source.SERVER, Reason.MODE)
        breaker = sdk.call_or_value(client.status()).breaker
        assert (breaker.state, breaker.failures, breaker.retry_after_s) == ("closed", 0, 0.0)
    sdk.call_or_value(client.close())
    remote.close()
