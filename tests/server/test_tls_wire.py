"""TLS over real connections: who is trusted, who is let in, and certificates that change while the server runs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from serving_tools import LONG, PATIENCE, ScriptedEngine, Serving, ask
from tls_tools import Authority, server_files

from crayon.client import RemoteEngine
from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Finished, Started
from crayon.errors import ConfigError, UnauthenticatedError
from crayon.server.certificates import TlsFiles
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import check_access

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "alice-0123456789abcdef"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "clients")


def works(address: str, **access: object) -> bool:
    """Whether a client gets in; if not, the handshake was all that it saw of the server."""
    with closing(RemoteEngine(address, **access)) as remote:  # type: ignore[arg-type] # as the test says
        status = remote.check(PATIENCE)
        assert status.serving == status.reachable, status.problem
        return status.serving


def test_a_client_trusts_who_its_authority_vouches_for(authority: Authority, tmp_path: Path) -> None:
    with Serving(EchoEngine, tls=server_files(authority)) as running:
        assert works(running.address, ca_file=authority.file)
        assert works(f"localhost:{running.port}", ca_file=authority.file)
        assert not works(running.address, ca_file=Authority(tmp_path, "wrong").file)
        assert not works(running.address, tls=True)
        assert not works(running.address)
        with closing(RemoteEngine(running.address, ca_file=authority.file)) as remote:
            assert isinstance(list(remote.generate(ask()))[-1], Finished)
            assert remote.check(PATIENCE).serving


def test_a_server_whose_certificate_has_expired_is_not_trusted(authority: Authority) -> None:
    with Serving(EchoEngine, tls=server_files(authority, expired=True)) as running:
        assert not works(running.address, ca_file=authority.file)


def test_without_a_client_certificate_of_the_right_authority_nobody_gets_in(
    authority: Authority, clients: Authority, tmp_path: Path
) -> None:
    engine = ScriptedEngine(Started("1", "scripted"), Finished(FinishReason.STOP, Usage(1, 1), Timings()))
    with Serving(lambda: engine, tls=server_files(authority, client_ca=clients.file)) as running:
        good, expired = clients.issue("good"), clients.issue("expired", expired=True)
        wrong = Authority(tmp_path, "wrong").issue("wrong")
        for cert, key in (wrong, expired):
            assert not works(running.address, ca_file=authority.file, client_cert=cert, client_key=key)
        assert not works(running.address, ca_file=authority.file)
        access = {"ca_file": authority.file, "client_cert": good[0], "client_key": good[1]}
        assert works(running.address, **access)
        with closing(RemoteEngine(running.address, **access)) as remote:  # type: ignore[arg-type] # as above
            list(remote.generate(ask()))
    assert [request.client for request in engine.asked] == ["certificate:good"]


def test_a_token_is_wanted_besides_a_certificate(authority: Authority, clients: Authority, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"alice:{TOKEN}\n")
    engine = ScriptedEngine(Started("1", "scripted"), Finished(FinishReason.STOP, Usage(1, 1), Timings()))
    files = server_files(authority, client_ca=clients.file)
    with Serving(lambda: engine, tls=files, tokens_file=tokens) as running:
        cert, key = clients.issue("good")
        with (
            closing(RemoteEngine(running.address, ca_file=authority.file, client_cert=cert, client_key=key)) as remote,
            pytest.raises(UnauthenticatedError),
        ):
            remote.models()
        assert not works(running.address, ca_file=authority.file, token=TOKEN)
        with closing(
            RemoteEngine(running.address, ca_file=authority.file, client_cert=cert, client_key=key, token=TOKEN)
        ) as remote:
            list(remote.generate(ask()))
    assert [request.client for request in engine.asked] == ["token:alice"]


def test_certificates_are_replaced_while_the_server_runs(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = server_files(authority)
    engine = EchoEngine(delay=0.01, context_tokens=8192)
    with Serving(lambda: engine, tls=files) as running:
        old = RemoteEngine(running.address, ca_file=authority.file)
        stream = old.generate(ask(LONG, max_tokens=60))
        assert isinstance(next(stream), Started)
        # A half-written file: the old certificate serves on.
        good = files.cert.read_bytes()
        files.cert.write_bytes(good[: len(good) // 2])
        assert works(running.address, ca_file=authority.file)
        assert "the certificates stay as they were" in caplog.text
        successor = Authority(tmp_path, "successor")
        server_files(successor)
        assert works(running.address, ca_file=successor.file)
        assert not works(running.address, ca_file=authority.file)
        # Connections that stand are not touched.
        assert isinstance(list(stream)[-1], Finished)
        old.close()


def test_many_handshakes_while_certificates_change_neither_hang_nor_fail(authority: Authority) -> None:
    with Serving(EchoEngine, tls=server_files(authority)) as running:
        results: list[bool] = []

        def knock() -> None:
            for _ in range(5):
                results.append(works(running.address, ca_file=authority.file))  # noqa: PERF401 - each at its time

        threads = [threading.Thread(target=knock) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            server_files(authority)
        for thread in threads:
            thread.join(PATIENCE)
        assert results == [True] * 20


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(authority: Authority, version: ssl.TLSVersion) -> None:
    with Serving(EchoEngine, tls=server_files(authority)) as running:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = context.maximum_version = version
        refused: Any = contextlib.nullcontext()
        if version is ssl.TLSVersion.TLSv1_1:
            refused = pytest.raises(ssl.SSLError, match=r"UNEXPECTED_EOF|ALERT_PROTOCOL")  # from the server
        with (
            socket.create_connection(("127.0.0.1", running.port), PATIENCE) as plain,
            refused,
            context.wrap_socket(plain, server_hostname="localhost") as spoken,
        ):
            assert spoken.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


def test_files_that_cannot_be_used_are_refused_at_the_start(authority: Authority, tmp_path: Path) -> None:
    files = server_files(authority)
    stranger = Authority(tmp_path, "stranger").issue("stranger", "localhost")

    def problem(**change: Path) -> str:
        names = {"cert": files.cert, "key": files.key, "client_ca": None, **change}
        with pytest.raises(ConfigError) as caught:
            check_access(ServeConfig(tls=TlsFiles(**names)))
        return str(caught.value)

    assert "belong together" in problem(key=stranger[1])
    assert "cannot read" in problem(cert=tmp_path / "absent")
    assert "holds no certificates" in problem(client_ca=files.key)
    files.key.chmod(0o644)
    assert "chmod 600" in problem()
    with pytest.raises(ConfigError, match="tls_cert: a socket file"):
        ServeConfig(host="unix:/tmp/s", tls=files)
    ServeConfig(host="0.0.0.0", tls=files, tokens_file=tmp_path / "tokens")
    ServeConfig(host="0.0.0.0", tls=TlsFiles(cert=files.cert, key=files.key, client_ca=authority.file))
    with pytest.raises(ConfigError, match="could use this server"):
        ServeConfig(host="0.0.0.0", tls=files)


def test_a_clients_files_that_cannot_be_used_are_refused_at_once(authority: Authority) -> None:
    cert, key = authority.issue("client")
    for access, problem in (
        ({"ca_file": key}, "ca_file: .* holds no certificates"),
        ({"client_cert": cert}, "client_cert: and client_key go together"),
        ({"client_cert": key, "client_key": key}, "belong together"),
        ({"token": TOKEN, "token_file": key}, "exclude each other"),
    ):
        with pytest.raises(ConfigError, match=problem):
            RemoteEngine("127.0.0.1:1", **access)  # type: ignore[arg-type] # as the test says
    with pytest.raises(ConfigError, match="a socket file is on this machine"):
        RemoteEngine("unix:/tmp/s", tls=True)
