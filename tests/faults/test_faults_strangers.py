"""Strangers, who have no token and keep no rules of the protocol."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from fault_tools import ECHO, FaultServer, aftermath, remote
from serving_tools import PATIENCE, ask, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fault_tools import Fault

ALICE = "alice-0123456789abcdef"
START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALLS = {"resets": "/crayon.v1.InferenceService/Generate", "health watches": "/grpc.health.v1.Health/Watch"}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in (fields | {"content-type": "application/grpc"}).items()
    )


@pytest.mark.parametrize("what", CALLS)
def test_floods_without_a_token(fault: Callable[..., Fault], tmp_path: Path, what: str) -> None:
    injected = "one connection without a token, as many as it can send, until it is cut off; 20 callers beside it"
    found = fault(f"flood of {what}", injected, "the others: their answers")
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"alice:{ALICE}\n")
    with FaultServer(values=ECHO, tokens=str(tokens)) as server:
        client = remote(server.address, token=ALICE)
        assert list(client.generate(ask("hello there")))
        client.close()
        before = server.census()
        host, port = server.address.rsplit(":", 1)
        client = remote(server.address, token=ALICE)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as stranger:
            stranger.sendall(START + frame(4, 0, 0))
            block, streams = headers(CALLS[what]), iter(range(1, 1 << 30, 2))

            def cut_off() -> bool:
                out = b""
                for stream in (next(streams) for _ in range(100)):
                    out += frame(1, 4, stream, block) + frame(0, 1, stream, b"\0" * 5)
                    if what == "resets":
                        out += frame(3, 0, stream, struct.pack(">I", 8))
                with contextlib.suppress(OSError):
                    stranger.sendall(out)
                    return not stranger.recv(1 << 20)
                return True

            callers = [client.generate(ask("hello there")) for _ in range(10)]
            until(cut_off)
            found.tally.read([*callers, *(client.generate(ask("hello there")) for _ in range(10))])
        client.close()
        assert found.tally.answered == 20
        assert "Traceback" not in server.said()
        aftermath(found, server, before, {"token": ALICE})
