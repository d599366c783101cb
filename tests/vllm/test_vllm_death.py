"""vLLM that breaks down, runs full or does not start: statuses, and a server that says NOT_SERVING."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_tools import Serving, until
from vllm_tools import engine_on

from crayon.client import RemoteEngine
from crayon.engine import GenerateRequest, Started
from crayon.errors import CrayonError, EngineError, OverloadedError, ServerError
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.vllm.errors import of_request, out_of_memory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def ask(tokens: int = 400) -> GenerateRequest:
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(messages=(Message("user", "Tell me"),), sampling=sampling)


def health(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    return int(answer.status)


def test_a_killed_engine_is_told_to_everybody(folder: Path) -> None:
    made: list[Any] = []
    threads = set(threading.enumerate())

    def make() -> Any:
        before = set(psutil.Process().children(recursive=True))
        made.append(engine_on(folder))
        made.append(set(psutil.Process().children(recursive=True)) - before)
        return made[0]

    with Serving(make) as serving:
        engine, children = made
        told: list[CrayonError] = []
        engine.on_failure(told.append)
        remote = RemoteEngine(serving.address)
        assert health(serving.address) == health_pb2.HealthCheckResponse.SERVING
        stream = remote.generate(ask())
        assert isinstance(next(stream), Started)
        for child in children:
            if "EngineCore" in " ".join(child.cmdline()) or child.name().startswith("VLLM"):
                os.kill(child.pid, signal.SIGKILL)
        with pytest.raises((EngineError, ServerError)):
            list(stream)
        until(lambda: health(serving.address) == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert len(told) == 1
        with pytest.raises((EngineError, ServerError)):
            list(remote.generate(ask(2)))
        with pytest.raises(EngineError, match="started again"):
            engine.generate(ask(2))
        late: list[CrayonError] = []
        engine.on_failure(late.append)
        assert len(late) == 1
        remote.close()
    assert not [each for each in set(threading.enumerate()) - threads if each.name.startswith("crayon-vllm")]


def test_who_is_out_of_memory_is_told_so() -> None:
    assert out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(ValueError("no such model"))
    assert "no memory left" in str(of_request(RuntimeError("CUDA out of memory")))
    # Words of vLLM's may quote a prompt.
    assert "secret" not in str(of_request(ValueError("secret")))


def test_too_little_memory_at_the_start_is_named(folder: Path) -> None:
    with pytest.raises(EngineError, match="kv_cache_memory_bytes"):
        engine_on(folder, more={"kv_cache_memory_bytes": 1 << 10})


def test_a_full_queue_refuses_and_says_when_to_come_back(folder: Path) -> None:
    with engine_on(folder, slots=1, max_queue=2) as engine:
        running = engine.generate(ask())
        next(running)
        waiting = [engine.generate(ask(2)) for _ in range(2)]
        with pytest.raises(OverloadedError) as caught:
            engine.generate(ask(2))
        assert caught.value.retry_after > 0
        running.cancel()
        for stream in waiting:
            list(stream)
