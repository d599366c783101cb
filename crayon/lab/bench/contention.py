"""Writing on a busy machine: the device, the server, and both at once, beside neighbours that burn a core each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

from crayon.config import child_environment
from crayon.device import DeviceEngine
from crayon.engine import Finished, GenerateRequest
from crayon.errors import EngineError
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.messages import Message
from crayon.models import prepared, resolve
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crayon.engine import Engine

NEIGHBOURS = (0, 1, 2)
ANSWER = 48
N_CTX = 1024
# Of a side that writes while the other does: so long that starting together does not count.
LONG_ANSWER = 256
# After a neighbour came or left, before anything is measured: what watches has to have seen it.
SETTLE_S = 0.5
# libgomp's own default, which a bare llama.cpp has.
DEFAULT_SPINS = "300000"
BURN = "while True: pass"


def bench_contention(
    reference: str,
    served: str,
    server: Engine,
    *,
    models_dir: Path | None = None,
    runs: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure decode rates of device and server beside 0, 1 and 2 busy neighbours, and of both at once.

    Args:
        reference: the device's model.
        served: the server's model.
        server: runs in another process, with nobody else to serve.
        models_dir: where models are.
        runs: rounds; in each, everything is measured once, in turn.
        progress: takes lines about what is measured.

    Raises:
        ModelError: a model is absent.
    """
    local, other = (resolve(name, download=False, models_dir=models_dir) for name in (reference, served))
    path = prepared.usable(local, models_dir) or local.path
    rates: dict[tuple[str, int], list[float]] = {}
    both: list[float] = []
    with ExitStack() as stack:
        device = stack.enter_context(DeviceEngine(path, n_ctx=N_CTX))
        bare = stack.enter_context(_Bare(path))
        sides: dict[str, Callable[[], float]] = {
            "device": lambda: _rate(device, ANSWER),
            "bare": lambda: bare.rate(ANSWER),
            "server": lambda: _rate(server, ANSWER),
        }
        for run in sides.values():
            run()  # touches everything once
        for number in range(runs):
            for count in NEIGHBOURS:
                progress(f"round {number + 1} of {runs}: {count} neighbours")
                with neighbours(count):
                    time.sleep(SETTLE_S)
                    for name, run in sides.items():
                        rates.setdefault((name, count), []).append(run())
            progress(f"round {number + 1} of {runs}: device and server at once")
            both.append(_at_once(device, server, rates["device", 0][-1], rates["server", 0][-1]))
    report = BenchReport("contention", {local.name: local.sha256, other.name: other.sha256})
    report.rows = _rows(rates, both, local.name, other.name)
    return report


def _rows(rates: dict[tuple[str, int], list[float]], both: list[float], device: str, server: str) -> list[BenchRow]:
    rows = []
    workload = f"{ANSWER} out"
    for (name, count), found in rates.items():
        metric = {"device": "device_tokens_s", "server": "server_tokens_s", "bare": "bare_tokens_s"}[name]
        model = server if name == "server" else device
        rows.append(BenchRow.median(metric, "tokens/s", found, model=model, workload=f"{workload}, {_words(count)}"))
    for name, model in (("device", device), ("server", server)):
        for count in NEIGHBOURS[1:]:
            pairs = zip(rates[name, count], rates[name, 0], strict=True)
            rows.append(
                BenchRow.median(
                    f"{name}_busy{count}_ratio", "ratio", [busy / idle for busy, idle in pairs],
                    model=model, workload=f"{workload}, {_words(count)}", against="the same, idle",
                )
            )  # fmt: skip
    for count in NEIGHBOURS:
        pairs = zip(rates["device", count], rates["bare", count], strict=True)
        rows.append(
            BenchRow.median(
                "idle_ratio" if not count else f"busy{count}_ratio_vs_library", "ratio",
                [ours / theirs for ours, theirs in pairs],
                model=device, workload=f"{workload}, {_words(count)}", against="llama.cpp in a bare loop, as it comes",
            )
        )  # fmt: skip
    rows.append(
        BenchRow.median(
            "both_ratio", "ratio", both,
            model=f"{device} and {server}", workload="each writing", against="the sum when they take turns",
            note="share of each side's idle rate, added up: taking turns gives 1",
        )
    )  # fmt: skip
    return rows


def _words(count: int) -> str:
    return "idle" if not count else "1 neighbour" if count == 1 else f"{count} neighbours"


def _rate(engine: Engine, tokens: int, started: threading.Event | None = None) -> float:
    """Return tokens a second of an answer, after its first token; `started` is set with that."""
    last = None
    # A new text each time: nothing is remembered from the last.
    messages = (Message("user", f"{time.monotonic_ns()}: tell me a very long story about the sea."),)
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    for event in engine.generate(GenerateRequest(messages=messages, sampling=sampling)):
        if isinstance(event, Finished):
            last = event
        elif started is not None:
            started.set()
    if last is None or last.usage.completion_tokens < 4 or not last.timings.decode_ms:
        raise EngineError("the answer ended too early to measure")
    return (last.usage.completion_tokens - 1) * 1000 / last.timings.decode_ms


def _at_once(device: Engine, server: Engine, device_idle: float, server_idle: float) -> float:
    """Return the shares of their idle rates that both sides reach while the other writes, added up."""
    shares: dict[str, float] = {}
    ends = threading.Event()

    def serve() -> None:
        try:
            while not ends.is_set():
                shares["server"] = _rate(server, LONG_ANSWER, begun) / server_idle
        finally:
            begun.set()

    begun = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        begun.wait()
        time.sleep(SETTLE_S)
        shares["device"] = statistics.median(_rate(device, LONG_ANSWER) / device_idle for _ in range(3))
    finally:
        ends.set()
        thread.join()
    return shares["device"] + shares["server"]


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep `count` cores busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]  # noqa: S603 - fixed
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class _Bare:
    """llama.cpp alone in a process of its own, with the waiting that it comes with."""

    def __init__(self, path: Path) -> None:
        environment = {**child_environment(), "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", DEFAULT_SPINS)}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "crayon.lab.bench.bare_worker", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def rate(self, tokens: int) -> float:
        """Return tokens a second of writing so many."""
        if self._process.stdin is None or self._process.stdout is None:
            raise EngineError("the bare loop has no pipes")
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise EngineError("the bare loop ended")
        return tokens / float(json.loads(said))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
