"""Engines that raise, stop, hang, or run out of room."""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest
from fault_server import SECRET, STUCK
from fault_tools import FaultServer, aftermath, check_client, first_delta, remote, warmed
from prefix_tools import near
from serving_tools import LONG, PATIENCE, ask, until
from tiny_chat import write_model
from tiny_kinds import write_kind

from crayon.engine import EncodeRequest, ScoreRequest, deadline_after
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fault_tools import Fault

    from crayon.client import RemoteEngine
    from crayon.engine import Stream

INTERNAL = "`ServerError` (INTERNAL) with an incident's id and no word of what was raised"


@pytest.mark.parametrize(
    ("mode", "status"),
    [("raises", "ServerError"), ("breaks", "ServerInterruptedError"), ("ends early", "ServerInterruptedError")],
)
def test_raises(fault: Callable[..., Fault], echo: FaultServer, mode: str, status: str) -> None:
    found = fault(f"engine {mode}", "20 times, in `generate` or after its first token", f"`{status}` (INTERNAL)")
    before = echo.census()
    client = remote(echo.address)
    echo.command(mode=mode)
    found.tally.read([client.generate(ask()) for _ in range(20)])
    echo.command(mode="")
    client.close()
    assert found.tally.statuses == {status: 20}
    assert SECRET not in echo.said()
    aftermath(found, echo, before)


@pytest.mark.parametrize("mode", ["hangs", "hangs midway"])
def test_hangs_beyond_the_callers_deadline(fault: Callable[..., Fault], echo: FaultServer, mode: str) -> None:
    injected = "it gives nothing more, and knows no deadline; the callers' is 1 s"
    found = fault(f"engine {mode}", injected, "`DeadlineExceededError`")
    before = echo.census()
    client = remote(echo.address)
    echo.command(mode=mode)
    found.tally.read([client.generate(ask(deadline=deadline_after(1.0))) for _ in range(20)])
    futures = [
        client.score(
            ScoreRequest(messages=(Message("user", "a b"),), continuations=("a",), deadline=deadline_after(1.0))
        ),
        client.encode(EncodeRequest(texts=("a b",), deadline=deadline_after(1.0))),
    ]
    wait(futures, PATIENCE)
    for future in futures:
        found.tally.status(type(future.exception(0)).__name__)
    echo.command(mode="")
    client.close()
    assert found.tally.statuses == {"DeadlineExceededError": 22}
    aftermath(found, echo, before)


def test_hangs_with_no_deadline_and_the_server_is_stopped(fault: Callable[..., Fault]) -> None:
    """The server's own deadline ends what the caller's does not; a hung engine does not keep the process."""
    injected = "it knows no deadline, the caller sets none, the server's is 1 s; then SIGTERM"
    found = fault("engine hangs, no deadline", injected, "`DeadlineExceededError`; the server exits")
    config = {"default_deadline": 1.0, "drain_seconds": 0.1}
    with FaultServer(config=config, grace=0.2, close=0.5) as server:
        server.command(mode="hangs midway")
        statuses = bare_calls(server.address, 5)
        for status in statuses:
            found.tally.status(status)
        assert statuses == ["DEADLINE_EXCEEDED"] * 5
        until(lambda: server.census()["rpcs"] == 0)
        server.process.terminate()
        assert server.end() == STUCK
        assert "does not close" in server.said()
    check_client(found)
    found.checked.append("the process ends by itself")


def bare_calls(address: str, count: int) -> list[str]:
    """Ask with no deadline at all, which our own clients never do."""
    import grpc

    from crayon.v1 import inference_pb2 as pb
    from crayon.v1.inference_pb2_grpc import InferenceServiceStub

    def code_of(call: Any) -> str:
        try:
            list(call)
        except grpc.RpcError:
            return str(call.code().name)
        return "OK"

    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hello")])
    with grpc.insecure_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        calls: list[Any] = [stub.Generate(message) for _ in range(count)]
        return [code_of(call) for call in calls]


# -- llama.cpp


def begin(client: RemoteEngine, max_tokens: int) -> list[Stream]:
    """Let 4 requests run and 4 wait; all at once, the queue's bound for one client would refuse some."""
    wanted = [ask(f"the tea {n}", max_tokens=max_tokens, ignore_eos=True) for n in range(8)]
    running = [client.generate(request) for request in wanted[:4]]
    first_delta(running[0])
    return running + [client.generate(request) for request in wanted[4:]]


def test_a_step_that_raises(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    injected = "a call to llama.cpp fails once, with up to 4 of 8 requests in it"
    found = fault("llama.cpp: a step raises", injected, INTERNAL)
    before = tiny.census()
    client = remote(tiny.address)
    streams = begin(client, 200)
    tiny.command(mode="raises")
    found.tally.read(streams)
    client.close()
    assert set(found.tally.statuses) <= {"ServerError", "ServerInterruptedError"}
    assert 1 <= sum(found.tally.statuses.values()) <= 4
    assert SECRET not in tiny.said()
    aftermath(found, tiny, before)


def test_a_step_without_room(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    injected = "a call to llama.cpp says once that the KV cache has no room, with up to 4 of 8 requests in it"
    seen = "nothing: answers, for the call is computed in two"
    found = fault("llama.cpp: the KV cache has no room for a step", injected, seen)
    before = tiny.census()
    client = remote(tiny.address)
    streams = begin(client, 200)
    tiny.command(mode="kv full")
    found.tally.read(streams)
    client.close()
    assert "it is computed in two" in tiny.said()
    assert found.tally.answered == 8
    aftermath(found, tiny, before)


def test_logits_that_are_no_numbers(fault: Callable[..., Fault], tmp_path: Path) -> None:
    """A damaged model, of which one letter's weights are nan: what is asked without it is answered as ever."""
    injected = "a model whose weights of one letter are nan; 4 of 8 requests hold it"
    found = fault("llama.cpp: logits are no numbers", injected, INTERNAL)
    path = write_model(tmp_path / "spoilt.gguf", spoilt="~")
    with FaultServer(tiny=str(path), values={"n_ctx": 512, "n_seq_max": 4, "threads": 1, "n_batch": 64}) as server:
        warmed(server)
        before = server.census()
        client = remote(server.address)
        wanted = [ask(f"the {'~' if n % 2 else 'tea'} {n}", max_tokens=20, ignore_eos=True) for n in range(8)]
        found.tally.read([client.generate(request) for request in wanted])
        client.close()
        assert found.tally.statuses == {"ServerInterruptedError": 4} or found.tally.statuses == {"ServerError": 4}
        assert found.tally.answered == 4
        aftermath(found, server, before)


@pytest.mark.parametrize("kind", ["mamba", "gemma2"])
def test_a_memory_that_cannot_be_cut(fault: Callable[..., Fault], tmp_path: Path, kind: str) -> None:
    """What others asked before is no part of an answer: the same 6 prompts, which begin alike, in another order."""
    injected = "24 scores of prompts that begin alike, by a model whose memory cannot be cut"
    found = fault(f"llama.cpp: prefixes, {kind}", injected, "nothing: the same scores, whoever asked what before")
    path = write_kind(tmp_path / f"{kind}.gguf", kind)
    with FaultServer(tiny=str(path), values={"n_ctx": 2048, "n_seq_max": 4, "threads": 1, "n_batch": 64}) as server:
        warmed(server)
        before = server.census()
        client = remote(server.address)
        scores: dict[int, list[float]] = {}
        for turn in range(4):
            for n in range(6):
                which = (n * (2 * turn + 1) + turn) % 6 if turn % 2 else n
                request = ScoreRequest(
                    messages=(Message("user", "the tea in the other train " * 2 + "is " * which),),
                    continuations=("the", "an other", "in the train"),
                )
                result = client.score(request).result(PATIENCE)
                own = [value for score in result.scores for value in score.token_logprobs]
                assert near(own, scores.setdefault(which, own)), (turn, which)
                found.tally.answer()
        # What scores leave is emptied with the next step.
        found.tally.read([client.generate(ask("the tea", max_tokens=3, ignore_eos=True))])
        client.close()
        assert len(scores) == 6
        aftermath(found, server, before)


def test_out_of_cells(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    injected = "8 requests for 350 tokens each over 512 cells; 2 that can never fit"
    found = fault(
        "KV cache too small", injected, "answers, some spilled meanwhile; `PromptTooLongError` for what cannot fit"
    )
    before = tiny.census()
    client = remote(tiny.address)
    found.tally.read(begin(client, 350))
    found.tally.read([client.generate(ask("tea " * 2000)) for _ in range(2)])
    client.close()
    assert found.tally.answered == 8
    assert found.tally.statuses == {"PromptTooLongError": 2}
    aftermath(found, tiny, before)


def test_llama_cpp_stands_still(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    injected = "a call to llama.cpp does not return; deadlines of 1 s; then it does"
    found = fault("llama.cpp hangs", injected, "`DeadlineExceededError`")
    before = tiny.census()
    client = remote(tiny.address)
    tiny.command(mode="hangs")
    streams = [client.generate(ask(f"the tea {n}", deadline=deadline_after(1.0))) for n in range(6)]
    found.tally.read(streams)
    tiny.command(mode="")
    client.close()
    assert found.tally.statuses == {"DeadlineExceededError": 6}
    aftermath(found, tiny, before)


def test_callers_of_llama_cpp_leave(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    """Waiting, reading and writing: whatever they are at, they leave nothing."""
    found = fault(
        "callers of llama.cpp leave", "half of 100 requests are cancelled, at every stage", "`CancelledError`"
    )
    before = tiny.census()
    client = remote(tiny.address)
    for n in range(10):
        streams = [client.generate(ask("tea " * (5 * m + 1), max_tokens=40, ignore_eos=True)) for m in range(10)]
        if n % 2:
            first_delta(streams[0])
        for stream in streams[n % 2 :: 2]:
            stream.cancel()
        found.tally.read(streams)
    client.close()
    # Some had their last word already when they were cancelled.
    cancelled = found.tally.statuses["CancelledError"]
    assert 0 < cancelled <= 50
    assert found.tally.answered + found.tally.statuses["OverloadedError"] + cancelled == 100
    aftermath(found, tiny, before)


def test_a_flood_of_20_times_the_queue(fault: Callable[..., Fault], tiny: FaultServer) -> None:
    found = fault(
        "queue flooded",
        "400 requests at once; 4 run and 16 wait at most",
        "`OverloadedError` at once, with a time to wait",
    )
    before = tiny.census()
    client = remote(tiny.address)
    found.tally.read([client.generate(ask(LONG[:200], max_tokens=20, ignore_eos=True)) for _ in range(400)])
    client.close()
    assert found.tally.answered >= 8
    assert set(found.tally.statuses) == {"OverloadedError"}
    aftermath(found, tiny, before)
