"""What HTTP costs against gRPC, on the same server process and engine, and against llama-server on the same file."""

from __future__ import annotations

import http.client
import json
import statistics
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from crayon.errors import ServerError
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.lab.bench.serving.client import TimedRequest, drive
from crayon.lab.bench.serving.http_stream import post_events
from crayon.lab.bench.serving.peers import Peers
from crayon.lab.bench.serving.processes import free_port
from crayon.lab.bench.serving.prompts import PromptMaker
from crayon.lab.bench.serving.systems import HOST, CrayonSystem, LlamaServer, SystemSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from crayon.completion import Blend
    from crayon.lab.bench.serving.client import Run
    from crayon.lab.bench.serving.prompts import Prompt
    from crayon.lab.bench.serving.systems import Connection, System

PATH = "/v1/chat/completions"
CONTEXT = 1024
WARM_ANSWER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What is measured.

    Args:
        model: name, path or reference; prepared, where it is.
        models_dir: where models are kept.
        streams: answers at once, each of them measured.
        prompt, answer: tokens.
        runs: measured repetitions.
        peers: where llama-server is, if it is built.
    """

    model: str
    models_dir: Path | None = None
    streams: tuple[int, ...] = (1, 16)
    prompt: int = 64
    answer: int = 64
    runs: int = 5
    peers: Path | None = None


def bench_gateway(options: GatewayOptions, progress: Callable[[str], None] = lambda _: None) -> BenchReport:
    """Ask one server over gRPC and over HTTP in turn, and llama-server where it is built.

    Raises:
        ModelError: the model cannot be found or read.
        ServerError: a server did not start, or an answer was not what was asked for.
    """
    from crayon.device import opening
    from crayon.llama.model import Model
    from crayon.machine import usable_cores

    found = opening.find(options.model, models_dir=options.models_dir, download=True)
    settings = SystemSettings(slots=max(options.streams), context=CONTEXT, threads=usable_cores())
    report = BenchReport("gateway", {found.name: found.source_sha256})
    peer = Peers.below(options.peers).llama_server
    with Model(found.path, vocab_only=True) as vocabulary, ExitStack() as stack:
        maker = PromptMaker(vocabulary)
        served = stack.enter_context(HttpServed(found.path, settings))
        systems: list[System] = [served.grpc, served]
        if peer.exists():
            systems.append(stack.enter_context(LlamaServer(peer, found.path, settings)))
        else:
            report.unmeasured.append(f"llama-server: {peer} is not built (make peers)")
        for streams in options.streams:
            progress(f"{streams} stream(s): {options.runs} runs of each in turn")
            runs = _in_turn(systems, maker, options, streams)
            report.rows += _rows(found.name, systems, runs, options, streams)
    return report


class HttpServed:
    """`crayon serve --http` on one model file, asked over HTTP; `grpc` is the same process, asked over gRPC."""

    name = "http"

    def __init__(self, path: Path, settings: SystemSettings) -> None:
        self._port = free_port()
        self.settings = settings
        self.grpc = CrayonSystem(path, replace(settings, options=("--http", str(self._port))))
        self._model = ""

    def __enter__(self) -> Self:
        self.grpc.__enter__()
        self._model = served_model(self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self.grpc.__exit__()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Each answer opens a connection of its own, as with llama-server."""
        yield ChatConnection(self._port, self._model)

    def statistics(self) -> Mapping[str, float]:
        """Return nothing: the process is counted where it is asked over gRPC."""
        return {}


class ChatConnection:
    """Chats over HTTP: a chunk with text is a token, and what had none of its own is told by the usage at the end."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model

    async def stream(self, prompt: Prompt, answer: int, blend: Blend | None = None) -> AsyncIterator[int]:
        """Yield the number of tokens of each event that brings some.

        Raises:
            ServerError: it reads another number of prompt tokens, or says that it failed.
        """
        if blend is not None:
            raise ServerError("blends are raced over gRPC")
        body = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "max_tokens": answer,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        told = 0
        async for event in post_events(HOST, self._port, PATH, body):
            if "error" in event:
                raise ServerError(f"the gateway says: {event['error']}")
            if any(choice["delta"].get("content") for choice in event["choices"]):
                told += 1
                yield 1
            elif usage := event.get("usage"):
                if prompt.ids and usage["prompt_tokens"] != len(prompt.ids):
                    raise ServerError(f"{usage['prompt_tokens']} prompt tokens were read instead of {len(prompt.ids)}")
                if usage["completion_tokens"] > told:
                    yield usage["completion_tokens"] - told


def served_model(port: int) -> str:
    """Return the name of the model that answers over HTTP.

    Raises:
        ServerError: nobody does.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=30.0)
    try:
        connection.request("GET", "/v1/models")
        reply = connection.getresponse()
        data = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"nobody answers over HTTP: {error}") from error
    finally:
        connection.close()
    if reply.status != http.HTTPStatus.OK:
        raise ServerError(f"/v1/models answers with status {reply.status}")
    return str(json.loads(data)["data"][0]["id"])


def _in_turn(systems: Sequence[System], maker: PromptMaker, options: GatewayOptions, streams: int) -> list[list[Run]]:
    """Return the runs by system; each has prompts of its own, so that no cache helps, and who begins changes."""
    runs: list[list[Run]] = [[] for _ in systems]
    for turn in range(-1, options.runs):  # the first one warms
        order = range(len(systems)) if turn % 2 == 0 else reversed(range(len(systems)))
        for at in order:
            answer = WARM_ANSWER if turn < 0 else options.answer
            jobs = [TimedRequest(maker.make(max(options.prompt, maker.shortest)), answer) for _ in range(streams)]
            run = drive(systems[at], jobs)
            if turn >= 0:
                runs[at].append(run)
    return runs


def _rows(
    model: str, systems: Sequence[System], runs: Sequence[Sequence[Run]], options: GatewayOptions, streams: int
) -> list[BenchRow]:
    workload = f"{streams} stream(s), {options.prompt} + {options.answer} tokens"
    firsts = [[_first_ms(run) for run in of_one] for of_one in runs]
    rates = [[_decode_rate(run) for run in of_one] for of_one in runs]
    names = ["grpc", *(system.name for system in systems[1:])]
    rows = []
    for name, first, rate in zip(names, firsts, rates, strict=True):
        rows.append(BenchRow.median(f"first_token_{name}", "ms", first, model=model, workload=workload))
        rows.append(BenchRow.median(f"decode_{name}", "tokens/s", rate, model=model, workload=workload))
    for at, name in enumerate(names):
        if name != "http":
            ours = names.index("http")
            waits = [other / own for own, other in zip(firsts[ours], firsts[at], strict=True)]
            speeds = [own / other for own, other in zip(rates[ours], rates[at], strict=True)]
            rows.append(
                BenchRow.median("first_token_ratio", "ratio", waits, model=model, workload=workload, against=name)
            )
            rows.append(BenchRow.median("decode_ratio", "ratio", speeds, model=model, workload=workload, against=name))
    return rows


def _first_ms(run: Run) -> float:
    """Return the median time to the first token of a run's answers, in milliseconds."""
    return 1000.0 * statistics.median(timing.first for timing in run.timings if timing.first is not None)


def _decode_rate(run: Run) -> float:
    """Return tokens a second of all answers together, from the first token of any to the last of all."""
    begin = min(timing.arrivals[0][0] for timing in run.timings)
    end = max(timing.arrivals[-1][0] for timing in run.timings)
    tokens = sum(timing.tokens for timing in run.timings) - 1
    return tokens / (end - begin) if end > begin else 0.0
