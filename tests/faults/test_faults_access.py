"""Callers without the right certificate, or the right token."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from fault_tools import ECHO, FaultServer, Tally, aftermath, first_delta, remote
from serving_tools import LONG, ask, until
from tls_tools import Authority, server_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fault_tools import Fault

ALICE, OTHER = "alice-0123456789abcdef", "other-0123456789abcdef"
TIMES = 5


def knock(found: Fault, server: FaultServer, access: dict[str, Any]) -> None:
    """Try to get in, each time as a client of its own."""
    for _ in range(TIMES):
        client = remote(server.address, connect_timeout=1.0, **access)
        found.tally.read([client.generate(ask("hello there"))])
        client.close()


def files_of(authority: Authority, **how: Any) -> dict[str, str]:
    files = server_files(authority, **how)
    named = {"cert": files.cert, "key": files.key, "client_ca": files.client_ca}
    return {name: str(path) for name, path in named.items() if path is not None}


@pytest.mark.parametrize("which", ["expired", "wrong authority", "absent"])
def test_certificates_of_clients(fault: Callable[..., Fault], tmp_path: Path, which: str) -> None:
    injected = f"{TIMES} clients, with a server that wants certificates of one authority"
    found = fault(f"client certificate: {which}", injected, "`ServerUnavailableError`: the handshake fails")
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    cert, key = clients.issue("good")
    good = {"ca_file": authority.file, "client_cert": cert, "client_key": key}
    issuer = Authority(tmp_path, "wrong") if which == "wrong authority" else clients
    cert, key = issuer.issue("bad", expired=which == "expired")
    bad = good | {"client_cert": cert, "client_key": key}
    if which == "absent":
        bad = {"ca_file": authority.file}
    with FaultServer(values=ECHO, tls=files_of(authority, client_ca=clients.file)) as server:
        assert let_in(server, good)
        before = server.census()
        knock(found, server, bad)
        assert found.tally.statuses == {"ServerUnavailableError": TIMES}
        aftermath(found, server, before, good)


def test_an_expired_certificate_of_the_server(fault: Callable[..., Fault], tmp_path: Path) -> None:
    found = fault(
        "server certificate: expired", f"{TIMES} clients of such a server", "`ServerUnavailableError`: no handshake"
    )
    authority = Authority(tmp_path)
    good = {"ca_file": authority.file}
    with FaultServer(values=ECHO, tls=files_of(authority)) as server:
        assert let_in(server, good)
        before = server.census()
        server_files(authority, expired=True)  # read at the next handshake
        knock(found, server, good)
        assert found.tally.statuses == {"ServerUnavailableError": TIMES}
        server_files(authority)
        aftermath(found, server, before, good)


def let_in(server: FaultServer, access: dict[str, Any]) -> bool:
    client, tally = remote(server.address, **access), Tally()
    tally.read([client.generate(ask("hello there"))])
    client.close()
    return tally.answered == 1


@pytest.mark.parametrize("which", ["wrong", "revoked", "missing"])
def test_tokens(fault: Callable[..., Fault], tmp_path: Path, which: str) -> None:
    injected = f"{TIMES} clients" + (", and one amid an answer; SIGHUP" if which == "revoked" else "")
    seen = "`UnauthenticatedError`" + ("; what runs goes on" if which == "revoked" else "")
    found = fault(f"token: {which}", injected, seen)
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"alice:{ALICE}\nother:{OTHER}\n")
    with FaultServer(values=ECHO, tokens=str(tokens)) as server:
        good = {"token": ALICE}
        assert let_in(server, good)
        assert let_in(server, {"token": OTHER})
        before = server.census()
        if which == "revoked":
            client = remote(server.address, token=OTHER)
            stream = client.generate(ask(LONG[:400]))
            first_delta(stream)
            tokens.write_text(f"alice:{ALICE}\n")
            server.process.send_signal(signal.SIGHUP)
            until(lambda: not let_in(server, {"token": OTHER}))
            found.tally.read([stream])
            client.close()
            assert found.tally.answered == 1
        shown = {"wrong": {"token": "wrong-0123456789abcdef"}, "revoked": {"token": OTHER}, "missing": {}}[which]
        knock(found, server, shown)
        assert found.tally.statuses == {"UnauthenticatedError": TIMES}
        assert ALICE not in server.said()
        assert OTHER not in server.said()
        aftermath(found, server, before, good)
