"""Several servers behind `Crayon` and `AsyncCrayon`: turns, failover, and what status tells of each."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest
from serving_tools import PATIENCE, Serving, server_process, until

from crayon import InvalidRequestError, Source
from crayon.server.engines.echo import EchoEngine

NEVER = "3600"


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))


def client_of(sdk, servers):
    return sdk.make(None, servers, hardness=False, timeout=PATIENCE, mode="only_on_server")


@pytest.mark.parametrize("joined", [False, True])
def test_they_take_turns(sdk, joined):
    with Serving(EchoEngine) as first, Serving(EchoEngine) as second:
        addresses = [first.address, second.address]
        client = client_of(sdk, ",".join(addresses) if joined else addresses)
        assert sdk.call_or_value(client.status()).endpoints == ()
        for _ in range(6):
            completion = sdk.call_or_value(client.ask("one two"))
            assert (completion.text, completion.route.source) == ("one two", Source.SERVER)
        status = sdk.call_or_value(client.status())
        assert {each.address: each.sent for each in status.endpoints} == dict.fromkeys(addresses, 3)
        assert {each.health for each in status.endpoints} == {"serving"}
        assert (status.server, status.breaker.state) == (",".join(addresses), "closed")
        sdk.call_or_value(client.close())


def test_killed_before_its_first_token_another_server_answers(sdk, tmp_path):
    with ExitStack() as stack:
        (tmp_path / "slow").mkdir()
        slow = stack.enter_context(server_process(tmp_path / "slow", "--echo-delay", NEVER))
        well = stack.enter_context(Serving(EchoEngine))
        client = client_of(sdk, [slow.address, well.address])
        streams = [client.stream("one two") for _ in range(4)]

        def running():
            found = sdk.call_or_value(client.status()).endpoints
            return {each.address: each.running for each in found}.get(slow.address)

        if sdk.__class__.__name__ == "Sync":
            # Half of them wait there; a stream of AsyncCrayon begins when it is read.
            until(lambda: running() == 2)
        slow.signal(signal.SIGKILL)
        for stream in streams:
            sdk.read(stream)
            assert stream.text == "one two"
            assert stream.completion.route.fallback_from is None
        sdk.call_or_value(client.close())


def test_what_is_no_list_of_addresses_is_refused(sdk):
    for wrong in ([], [1], [""], 5):
        with pytest.raises(InvalidRequestError, match="server"):
            client_of(sdk, wrong)
