"""The wire's figures: tokens and messages a second, what joining adds to a token's way, what the service costs."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.client import RemoteEngine
from crayon.engine import EncodeRequest, deadline_after
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.lab.bench.serving.processes import Child
from crayon.lab.bench.wire.engines import DIRECT, USED
from crayon.lab.bench.wire.load import read
from crayon.machine import inspect_machine
from crayon.models import resolve
from crayon.models.prepared import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crayon.lab.bench.wire.load import Load

OFFERED = 25_000  # tokens a second, of all streams together, while the way of each token is measured
PACED_SECONDS = 4.0  # at least, so that the start does not count
ECHO_WORDS = "over and over again"
MODEL_WORDS = "please tell me what you know about the sea and the ships that sail on it " * 2
CONTEXT = 1024
DIRECT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """What is measured.

    Args:
        engine: "echo", at full speed and at a given pace, or "llama_cpp", against itself without a wire.
        streams: answers at once.
        tokens: tokens of each answer.
        runs: repetitions; medians are shown.
        model: the model of llama_cpp; its prepared file where there is one.
        models_dir: where models lie; None: the usual place.
    """

    engine: str = "echo"
    streams: int = 64
    tokens: int = 1000
    runs: int = 3
    model: str = "smollm2-135m-instruct"
    models_dir: Path | None = None


def bench_wire(options: WireOptions, progress: Callable[[str], None] = lambda _: None) -> BenchReport:
    """Measure with a server process and this one as its client.

    Raises:
        ServerUnavailableError: the server process does not start.
        CrayonError: whatever it says.
    """
    report = BenchReport("wire")
    if options.engine == "llama_cpp":
        _model(report, options, progress)
    else:
        _full_speed(report, options, progress)
        _paced(report, options, progress)
    return report


def _full_speed(report: BenchReport, options: WireOptions, progress: Callable[[str], None]) -> None:
    workload = f"echo at full speed, {options.streams} streams of {options.tokens} tokens"
    with _subject(engine="echo", streams=options.streams) as server:
        _read(server, options, ECHO_WORDS)  # the first calls import and connect
        loads = []
        for run in range(options.runs):
            progress(f"{workload}: run {run + 1} of {options.runs}")
            loads.append(_read(server, options, ECHO_WORDS))
    _rates(report, workload, loads)


def _paced(report: BenchReport, options: WireOptions, progress: Callable[[str], None]) -> None:
    seconds = max(PACED_SECONDS, options.streams * options.tokens / OFFERED)
    tokens = int(OFFERED * seconds / options.streams)
    workload = f"{OFFERED} tokens/s offered, {options.streams} streams"
    with _subject(engine="paced", streams=options.streams, step_seconds=options.streams / OFFERED) as server:
        read(server.address, options.streams, 100, ECHO_WORDS, stamped=True)
        loads = []
        for run in range(options.runs):
            progress(f"{workload}: run {run + 1} of {options.runs}")
            server.used()
            load = read(server.address, options.streams, tokens, ECHO_WORDS, stamped=True)
            loads.append((load, server.used()))
    _rates(report, workload, loads)
    note = "from the engine's push to the server's write"
    report.rows += [
        BenchRow.median("coalesce_p50_ms", "ms", [used[1] for _, used in loads], workload=workload, note=note),
        BenchRow.median("coalesce_p99_ms", "ms", [used[2] for _, used in loads], workload=workload, note=note),
    ]
    arrived = [float(np.percentile(load.ages, 99)) for load, _ in loads]
    note = "from the engine's push to the client's read"
    report.rows.append(BenchRow.median("arrival_p99_ms", "ms", arrived, workload=workload, note=note))


def _rates(report: BenchReport, workload: str, loads: list[tuple[Load, list[float]]]) -> None:
    def row(metric: str, unit: str, values: list[float]) -> BenchRow:
        return BenchRow.median(metric, unit, values, workload=workload)

    report.rows += [
        row("tokens_per_s", "1/s", [load.tokens / load.seconds for load, _ in loads]),
        row("messages_per_s", "1/s", [load.messages / load.seconds for load, _ in loads]),
        row("server_cores", "cores", [used[0] / load.seconds for load, used in loads]),
        row("client_cores", "cores", [load.cpu_seconds / load.seconds for load, _ in loads]),
    ]


def _model(report: BenchReport, options: WireOptions, progress: Callable[[str], None]) -> None:
    local = resolve(options.model, models_dir=options.models_dir)
    prepared = describe(local, options.models_dir)
    path = prepared.path if prepared is not None and prepared.path is not None else local.path
    report.models[options.model] = path.name
    cores = inspect_machine().usable_cores
    workload = f"llama_cpp, {options.streams} streams of {options.tokens} tokens"
    direct, loads = [], []
    with _subject(engine="llama_cpp", streams=options.streams, model=str(path), context=CONTEXT) as server:
        _read(server, options, MODEL_WORDS)
        for run in range(options.runs):
            progress(f"{workload}: pair {run + 1} of {options.runs}")
            # In turn, the second first in every other pair: a machine that gets slower favours neither.
            if run % 2:
                direct.append(server.direct(MODEL_WORDS, options))
                loads.append(_read(server, options, MODEL_WORDS))
            else:
                loads.append(_read(server, options, MODEL_WORDS))
                direct.append(server.direct(MODEL_WORDS, options))
    _rates(report, workload, loads)
    report.rows.append(BenchRow.median("direct_tokens_per_s", "1/s", direct, workload=workload, against="no wire"))
    both, alone = [], []
    for (load, _), rate in zip(loads, direct, strict=True):
        ratio = load.tokens / load.seconds / rate
        both.append(1.0 - ratio)
        alone.append(1.0 - ratio / (1.0 - load.cpu_seconds / load.seconds / cores))
    report.rows += [
        BenchRow.median(
            "service_overhead_share",
            "share",
            alone,
            workload=workload,
            against="the engine driven directly",
            note="without the CPU that the client used on these cores",
        ),
        BenchRow.median(
            "service_and_client_overhead_share",
            "share",
            both,
            workload=workload,
            against="the engine driven directly",
            note="the client on the same cores",
        ),
    ]


class _Server:
    """The server process, as its client sees it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._engine = RemoteEngine(address, timeout=DIRECT_SECONDS)
        self._cpu = 0.0

    def used(self) -> list[float]:
        """Return CPU seconds and percentiles 50, 99 and 100 of waits (ms) since the last call."""
        cpu, *waits = self._ask(USED)
        before, self._cpu = self._cpu, cpu
        return [cpu - before, *waits]

    def direct(self, words: str, options: WireOptions) -> float:
        """Return tokens a second of the engine without a wire."""
        seconds, tokens = self._ask(DIRECT, str(options.streams), str(options.tokens), words)
        return tokens / seconds

    def close(self) -> None:
        """Disconnect."""
        self._engine.close()

    def _ask(self, *texts: str) -> list[float]:
        request = EncodeRequest(texts=texts, deadline=deadline_after(DIRECT_SECONDS))
        return [float(value) for value in self._engine.encode(request).result(DIRECT_SECONDS).vectors[0]]


def _read(server: _Server, options: WireOptions, words: str) -> tuple[Load, list[float]]:
    server.used()
    load = read(server.address, options.streams, options.tokens, words)
    return load, server.used()


@contextmanager
def _subject(**options: Any) -> Iterator[_Server]:
    with tempfile.TemporaryDirectory(prefix="crayon-bench-") as folder:
        ready = Path(folder) / "address"
        command = [sys.executable, "-P", "-m", "crayon.lab.bench.wire.subject"]
        child = Child("the server", [*command, json.dumps({**options, "ready_file": str(ready)})])
        try:
            child.wait_ready(ready.exists)
            server = _Server(ready.read_text(encoding="utf-8"))
            try:
                yield server
            finally:
                server.close()
        finally:
            child.stop()
