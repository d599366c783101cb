"""The life of a server: binding, loading, draining, dying."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving_tools import LONG, PATIENCE, Serving, ask, server_process, until

from crayon.client import Breaker, RemoteEngine
from crayon.engine import Delta, Finished, Started
from crayon.errors import ConfigError, ModelFileError, ServerInterruptedError, ServerUnavailableError
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import SERVICE, serve

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.engine import Engine

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE).status)


def test_not_serving_while_loading_then_serving() -> None:
    gate = threading.Event()

    def load() -> Engine:
        assert gate.wait(PATIENCE)
        return EchoEngine()

    with Serving(load, wait=False) as running:
        try:
            assert [health(running.address, name) for name in ("", SERVICE)] == [NOT_SERVING] * 2
            remote = RemoteEngine(running.address)
            status = remote.check(PATIENCE)
            assert (status.reachable, status.serving) == (True, False)
            assert "loading" in status.problem
            with pytest.raises(ServerUnavailableError, match="still loading"):
                list(remote.generate(ask()))
        finally:
            gate.set()
        running.wait_loaded()
        assert [health(running.address, name) for name in ("", SERVICE)] == [SERVING] * 2
        assert isinstance(list(remote.generate(ask()))[-1], Finished)
        remote.close()


def test_reflection_lists_the_service() -> None:
    with Serving(EchoEngine) as running, grpc.insecure_channel(running.address) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"crayon.v1.InferenceService", "grpc.health.v1.Health"} <= set(services)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_named(host: str) -> None:
    with Serving(EchoEngine) as running:
        config = ServeConfig(host=host, port=running.port)
        with pytest.raises(ConfigError, match=rf"port: cannot listen on 127.0.0.1:{running.port}: .*in use"):
            asyncio.run(serve(config, EchoEngine))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "myhost", "example.org"])
def test_off_loopback_is_refused_with_the_way_out(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^host: .* plain text; .* listen on 127\.0\.0\.1"):
        ServeConfig(host=host)


def test_a_socket_file_works(tmp_path: Path) -> None:
    host = f"unix:{tmp_path / 's'}"
    with Serving(EchoEngine, host=host) as running:
        assert running.address == host
        remote = RemoteEngine(host)
        assert isinstance(list(remote.generate(ask()))[-1], Finished)
        remote.close()
    with pytest.raises(ConfigError, match="cannot write to"):
        asyncio.run(serve(ServeConfig(host="unix:/nowhere/at/all/s"), EchoEngine))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"port": 70000}, "port"),
        ({"drain_seconds": -1.0}, "drain_seconds"),
        ({"default_deadline": 0.0}, "default_deadline"),
        ({"max_message_bytes": 1}, "max_message_bytes"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeConfig(**settings)  # type: ignore[arg-type] # on purpose
    assert caught.value.key == key


def test_an_engine_that_cannot_be_loaded_ends_the_server() -> None:
    def load() -> Engine:
        raise ModelFileError("truncated")

    with pytest.raises(ModelFileError, match="truncated"):
        asyncio.run(serve(ServeConfig(port=0), load))


async def test_cancelling_serve_closes_the_engine() -> None:
    engine = EchoEngine()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(ServeConfig(port=0), lambda: engine, on_ready=ready.set_result))
    await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine._closed


def test_stopping_lets_answers_end_and_takes_no_more() -> None:
    engine = EchoEngine(delay=0.02, context_tokens=8192)
    with Serving(lambda: engine, drain_seconds=PATIENCE) as running:
        remote = RemoteEngine(running.address, breaker=Breaker(failures=100))
        stream = remote.generate(ask("one two three four five " * 10))
        assert isinstance(next(stream), Started)
        running.begin_stop()
        until(lambda: not remote.check(1.0).serving)
        late = RemoteEngine(running.address)
        with pytest.raises(ServerUnavailableError):
            list(late.generate(ask()))
        assert isinstance(list(stream)[-1], Finished)
        running.stop()
        remote.close()
        late.close()


def test_what_outlasts_the_drain_is_told_so() -> None:
    engine = EchoEngine(delay=0.05, context_tokens=8192)
    with Serving(lambda: engine, drain_seconds=0.1) as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask(LONG))
        assert isinstance(next(stream), Started)
        running.stop()
        with pytest.raises(ServerInterruptedError, match="the echo engine was closed") as caught:
            list(stream)
        assert LONG.startswith(caught.value.partial)
        assert caught.value.partial
        remote.close()


def test_a_health_watch_does_not_hold_the_server_up() -> None:
    with Serving(EchoEngine, drain_seconds=600.0) as running, grpc.insecure_channel(running.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(watch).status == SERVING
        running.begin_stop()
        assert next(watch).status == NOT_SERVING
        running.stop()
        watch.cancel()


def test_stopping_while_loading_waits_for_no_load_and_closes_what_comes_of_it() -> None:
    gate = threading.Event()
    engine = EchoEngine()

    def load() -> Engine:
        assert gate.wait(PATIENCE)
        return engine

    with Serving(load, wait=False, drain_seconds=600.0) as running:
        assert running.address
        running.stop()
    assert not engine._closed
    gate.set()
    until(lambda: engine._closed)


# -- as a process


def test_sigterm_drains_and_exits_0(tmp_path: Path) -> None:
    with server_process(tmp_path, "--port", "0", "--echo-delay", "0.02") as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask("one two three four five " * 10))
        assert isinstance(next(stream), Started)
        running.signal(signal.SIGTERM)
        assert isinstance(list(stream)[-1], Finished)
        code, said = running.end()
        assert code == 0, said
        assert f"serving on {running.address}" in said
        assert "1 running request" in said
        assert not running.ready_file.exists()
        assert "Traceback" not in said
        remote.close()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with server_process(tmp_path, "--port", "0", "--echo-delay", "0.02", "--drain-seconds", "600") as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask(LONG))
        next(stream)
        running.signal(signal.SIGINT)
        until(lambda: not running.ready_file.exists())
        running.signal(signal.SIGINT)
        code, said = running.end()
        assert code == -signal.SIGINT, said
        with pytest.raises(ServerInterruptedError):
            list(stream)
        remote.close()


def test_killed_during_an_answer_the_client_keeps_the_start(tmp_path: Path) -> None:
    with server_process(tmp_path, "--port", "0", "--echo-delay", "0.02") as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask(LONG))
        assert isinstance(next(stream), Started)
        first = next(stream)
        assert isinstance(first, Delta)
        running.signal(signal.SIGKILL)
        with pytest.raises(ServerInterruptedError, match="broke off") as caught:
            list(stream)
        assert caught.value.partial.startswith(first.text)
        assert LONG.startswith(caught.value.partial)
        remote.close()


def test_killed_before_the_first_token_it_is_unavailable(tmp_path: Path) -> None:
    with server_process(tmp_path, "--port", "0", "--echo-delay", "600") as running:
        remote = RemoteEngine(running.address)
        stream = remote.generate(ask())
        # The next answer on the same connection shows that the request is with the engine, or about to be.
        assert remote.models()
        assert stream.get(timeout=0.0) is None
        running.signal(signal.SIGKILL)
        with pytest.raises(ServerUnavailableError):
            list(stream)
        remote.close()


def test_the_command_names_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [
            sys.executable,
            "-c",
            "from crayon.cli import main; main()",
            "serve",
            "--engine",
            "echo",
            "--port",
            port,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
