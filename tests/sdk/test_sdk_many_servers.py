"""Several servers behind `Crayon` and `AsyncCrayon`: turns, failover, and what status tells of each."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack

import pytest
from serving_tools import PATIENCE, Serving, server_process, until

from crayon import InvalidRequestError, Source
from crayon.client import RemoteEngine
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
        remote = RemoteEngine(f"{slow.address},{well.address}", timeout=PATIENCE)
        stack.callback(remote.close)

        def kill():
            until(lambda: any(each.running for each in remote.endpoints() if each.address == slow.address))
            slow.signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        client = client_of(sdk, remote)
        # One of the two begins at the slow server.
        for _ in range(2):
            stream = client.stream("one two")
            sdk.read(stream)
            assert stream.text == "one two"
            assert stream.completion.route.fallback_from is None
        killer.join(PATIENCE)
        assert {each.address: each.failures for each in remote.endpoints()} == {slow.address: 1, well.address: 0}
        sdk.call_or_value(client.close())


def test_what_is_no_list_of_addresses_is_refused(sdk):
    for wrong in ([], [1], [""], 5):
        with pytest.raises(InvalidRequestError, match="server"):
            client_of(sdk, wrong)
