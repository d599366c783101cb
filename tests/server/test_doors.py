"""Connections that flood or only take up descriptors are shut, and nobody else's."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from serving_tools import PATIENCE, Serving, until

from crayon.client import RemoteEngine
from crayon.server import doors, watches
from crayon.server.doors import MOST_REFUSED, Doors
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "alice-0123456789abcdef"


class Shut:
    """Stands in for the system: remembers whose connections were to be ended."""

    def __init__(self) -> None:
        self.peers: list[set[tuple[str, int]]] = []
        self.now = 0.0

    def __call__(self, peers: set[tuple[str, int]]) -> None:
        self.peers.append(peers)

    def doors(self, most: int = 100) -> Doors:
        return Doors(lambda: self.now, self, most)


def test_a_connection_that_is_refused_too_often_within_a_second_is_shut() -> None:
    shut = Shut()
    watched = shut.doors()
    for _ in range(MOST_REFUSED):
        watched.refused("ipv4:10.0.0.1:7")
        watched.refused("ipv6:%5B::1%5D:8")
    assert not shut.peers
    watched.refused("ipv4:10.0.0.1:7")
    assert shut.peers == [{("10.0.0.1", 7)}]
    shut.now = 1.0
    watched.refused("ipv6:%5B::1%5D:8")
    assert len(shut.peers) == 1, "a new second begins anew"


@given(st.integers(10, 200), st.integers(0, 200), st.integers(0, 200))
def test_only_the_silent_are_shut_and_only_where_there_are_too_many(most: int, silent: int, known: int) -> None:
    shut = Shut()
    watched = shut.doors(most)
    speaking = [("10.0.0.1", port) for port in range(known)]
    for host, port in speaking:
        watched.admitted(f"ipv4:{host}:{port}")
    strangers = [("10.0.0.2", port) for port in range(silent)]
    watched.look([*speaking, *strangers])
    ended = set().union(*shut.peers)
    assert not ended & set(speaking)
    if silent + known <= 0.6 * most:
        assert not ended
    else:
        assert len(ended) == min(silent, silent + known - int(0.4 * most))


def test_the_oldest_of_the_silent_go_first() -> None:
    shut = Shut()
    watched = shut.doors(10)
    watched.look([("a", port) for port in range(4)])
    shut.now = 1.0
    watched.look([("a", port) for port in range(9)])
    assert shut.peers == [
        {("a", 0), ("a", 1), ("a", 2), ("a", 3), next(iter(shut.peers[0] - {("a", n) for n in range(4)}))}
    ]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "content-type": "application/grpc",
    }
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in (fields | {"te": "trailers"}).items()
    )


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"alice:{TOKEN}\n")
    return path


@pytest.mark.parametrize("path", ["/crayon.v1.InferenceService/ListModels", "/grpc.health.v1.Health/Watch"])
def test_a_stranger_that_floods_loses_its_connection_and_nobody_else_does(tokens: Path, path: str) -> None:
    with (
        Serving(EchoEngine, tokens_file=tokens) as running,
        contextlib.closing(RemoteEngine(running.address, token=TOKEN)) as remote,
    ):
        assert remote.models()
        host, port = running.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as stranger:
            stranger.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
            block = headers(path)

            def ended() -> bool:
                try:
                    for stream in range(ended.next, ended.next + 200, 2):
                        reset = frame(3, 0, stream, struct.pack(">I", 8)) if "Watch" not in path else b""
                        stranger.sendall(frame(1, 4, stream, block) + frame(0, 1, stream, b"\0" * 5) + reset)
                    ended.next += 200
                    return not stranger.recv(1 << 20)
                except OSError:
                    return True

            ended.next = 1  # type: ignore[attr-defined]  # the number of the next stream
            until(ended)
        assert remote.models()


def test_watches_of_one_address_are_bounded_and_a_closed_one_makes_room() -> None:
    with Serving(EchoEngine) as running, grpc.insecure_channel(running.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        open_ = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE) for _ in range(watches.MOST_OF_ONE)]
        for watch in open_:
            next(watch)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        open_[0].cancel()

        def again() -> bool:
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            with contextlib.suppress(grpc.RpcError):
                return next(watch) is not None
            return False

        until(again)


def test_a_real_connection_is_found_by_its_peer_and_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as mine:
        mine.connect(listening.getsockname())
        theirs, peer = listening.accept()
        with theirs:
            assert (listening.getsockname()[1], peer) in set(doors._connections())
            doors._shut({peer})
            mine.settimeout(PATIENCE)
            assert mine.recv(1) == b""
