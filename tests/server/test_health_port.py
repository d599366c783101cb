"""The second port: health and nothing else."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_tools import LONG, PATIENCE, Serving, ask, until

from crayon.client import RemoteEngine
from crayon.errors import ConfigError
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import Server
from crayon.v1 import inference_pb2, inference_pb2_grpc


def status(stub: health_pb2_grpc.HealthStub) -> int:
    return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status)


def test_it_answers_for_health_only() -> None:
    with (
        Serving(EchoEngine, health_port=0) as serving,
        grpc.insecure_channel(serving.health_address) as channel,
    ):
        assert serving.health_address != serving.address
        assert status(health_pb2_grpc.HealthStub(channel)) == health_pb2.HealthCheckResponse.SERVING
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(inference_pb2.ListModelsRequest(), timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            list(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="x" * 5000), timeout=PATIENCE
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_it_says_not_serving_while_answers_are_still_being_written() -> None:
    with (
        Serving(lambda: EchoEngine(delay=0.05), health_port=0, drain_seconds=PATIENCE) as serving,
        grpc.insecure_channel(serving.health_address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        remote = RemoteEngine(serving.address, timeout=PATIENCE)
        stream = remote.generate(ask(LONG))
        assert stream.get(timeout=PATIENCE) is not None
        serving.begin_stop()
        until(lambda: status(stub) == health_pb2.HealthCheckResponse.NOT_SERVING)
        stream.cancel()
        remote.close()


def test_no_port_no_server() -> None:
    with Serving(EchoEngine) as serving:
        assert serving.health_address == ""


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"health_port: cannot listen on 127.0.0.1:{port}"):
            asyncio.run(start(ServeConfig(port=0, health_port=port)))


async def start(config: ServeConfig) -> None:
    await Server(config).start()


@pytest.mark.parametrize(
    "values", [{"health_port": 70000}, {"health_port": 5, "port": 5}, {"health_port": 5, "health_host": "unix:/x"}]
)
def test_what_cannot_be_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="health_"):
        ServeConfig(**values)  # type: ignore[arg-type] # wrong on purpose
