"""Servers that are killed without a word, with requests in every phase."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from fault_tools import FaultServer, check_client, first_delta, remote
from serving_tools import LONG, PATIENCE, ask, server_process, until

from crayon.engine import EncodeRequest, ScoreRequest
from crayon.errors import ServerUnavailableError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fault_tools import Fault

KILLED = "SIGKILL to `crayon serve --engine echo`, "


def works_again(folder: Path, address: str, client: Any, fault: Fault) -> None:
    """Start a server where the other one was: the same client finds it."""
    folder.mkdir()
    with server_process(folder, "--port", address.rpartition(":")[2]) as second:
        assert second.address == address
        until(lambda: client.check(1.0).serving)  # between two attempts to connect pass up to 2 s
        assert fault.tally.read([client.generate(ask("hello there"))]) == ["hello there"]
    client.close()
    check_client(fault)
    fault.checked.append("a restarted server is found by the same client")


def test_killed_in_prefill(fault: Callable[..., Fault], tmp_path: Path) -> None:
    found = fault("server killed, in prefill", KILLED + "no token out yet", "`ServerUnavailableError` (UNAVAILABLE)")
    with server_process(tmp_path, "--port", "0", "--slots", "64", "--echo-delay", "3600") as first:
        process = psutil.Process(first.process.pid)
        idle = process.num_threads()
        client = remote(first.address, connect_timeout=0.5)
        streams = [client.generate(ask(LONG)) for _ in range(40)]
        score = client.score(ScoreRequest(messages=(Message("user", "a b"),), continuations=("a",)))
        encode = client.encode(EncodeRequest(texts=("a b",)))
        until(lambda: process.num_threads() >= idle + 42)  # the echo engine has one for each request
        first.signal(signal.SIGKILL)
        found.tally.read(streams)
        for future in (score, encode):
            with pytest.raises(ServerUnavailableError):
                future.result(PATIENCE)
            found.tally.status("ServerUnavailableError")
    assert found.tally.statuses == {"ServerUnavailableError": 42}
    works_again(tmp_path / "second", first.address, client, found)


def test_killed_midway(fault: Callable[..., Fault], tmp_path: Path) -> None:
    seen = "`ServerInterruptedError` with the text so far"
    found = fault("server killed, mid-stream", KILLED + "every stream has begun", seen)
    with server_process(tmp_path, "--port", "0", "--slots", "64", "--echo-delay", "0.05") as first:
        client = remote(first.address, connect_timeout=0.5)
        streams = [client.generate(ask(LONG)) for _ in range(40)]
        for stream in streams:
            first_delta(stream)
        first.signal(signal.SIGKILL)
        texts = found.tally.read(streams)
    assert found.tally.statuses == {"ServerInterruptedError": 40}
    assert all(text in LONG for text in texts)
    works_again(tmp_path / "second", first.address, client, found)


def test_killed_with_a_queue(fault: Callable[..., Fault], tmp_path: Path, tiny_path: Path) -> None:
    injected = "SIGKILL to the llama.cpp engine, 1 of 40 runs"
    found = fault(
        "server killed, queued", injected, "`ServerUnavailableError` (queued), `ServerInterruptedError` (begun)"
    )
    values = {"n_ctx": 512, "n_seq_max": 1, "threads": 1}
    with FaultServer(tiny=str(tiny_path), values=values) as first:
        client = remote(first.address, connect_timeout=0.5)
        first.command(mode="hangs")
        streams = [client.generate(ask("the tea", max_tokens=100, ignore_eos=True)) for _ in range(40)]
        until(lambda: first.census()["rpcs"] == 40)
        first.process.kill()
        found.tally.read(streams)
    assert sum(found.tally.statuses.values()) == 40
    assert set(found.tally.statuses) <= {"ServerUnavailableError", "ServerInterruptedError"}
    assert found.tally.statuses["ServerUnavailableError"] >= 39
    works_again(tmp_path / "second", first.address, client, found)
