"""A long run of mixed traffic against a server of its own: nothing is lost, and its memory stays where it was."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.lab.bench.serving.processes import Child
from crayon.lab.bench.soak_attackers import Attackers
from crayon.lab.bench.soak_traffic import Counts, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_GROWTH_MIB = 32.0
WARM_UP_SHARE = 0.2
SLOTS = 8
CLIENTS = 24
"""Three times as many as slots: with the echo engine, which has no queue, many are refused."""
SEED = 7
MOST_SLOWER = 3.0
"""With attackers the slowest hundredth of the others' requests may take so many times as long as without."""
_OUTCOMES = ("sent", "answered", "refused", "cancelled", "deadline", "lost")
_SAMPLE_S = 0.5
_TELL_S = 60.0
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """What is soaked, and how long.

    Args:
        minutes: of traffic, the warm-up included.
        model: what `crayon serve --model` gets; None is the echo engine.
        attackers: whether strangers attack in the second half of the time. Every client has a token of its own then.
    """

    minutes: float
    model: str | None = None
    attackers: bool = False


@dataclass(slots=True)
class Soak:
    """The report, and whether it is as it should be."""

    report: BenchReport
    problems: tuple[str, ...]


def bench_soak(options: SoakOptions, progress: Callable[[str], None]) -> Soak:
    """Start a server on loopback, keep it busy, and watch its memory.

    Growth is the most it held after the warm-up, the first fifth of the time, over what it held at the warm-up's end.

    Raises:
        ServerUnavailableError: the server could not be started.
    """
    halves = [Counts(), Counts()] if options.attackers else [Counts()]
    tokens = [secrets.token_hex(16) for _ in range(CLIENTS + 1)] if options.attackers else []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crayon-soak-")))
        ready_file = folder / "address"
        if tokens:
            lines = "".join(f"client-{i}:{token}\n" for i, token in enumerate(tokens))
            _tokens_file(folder).touch(mode=0o600)
            _tokens_file(folder).write_text(lines, encoding="utf-8")
        child = Child("crayon", command(options, ready_file))
        stack.callback(child.stop)
        child.wait_ready(ready_file.exists)
        address = ready_file.read_text(encoding="utf-8").strip()
        samples = asyncio.run(_drive(address, child.pid, 60.0 * options.minutes, halves, tokens, progress))
    return _judge(options, halves, samples)


def command(options: SoakOptions, ready_file: Path) -> list[str]:
    """Return the server's command line."""
    line = [sys.executable, "-P", "-m", "crayon", "serve", "--port", "0", "--slots", str(SLOTS)]
    if options.model is None:
        line += ["--engine", "echo", "--echo-delay", "0.005"]
    else:
        line += ["--model", options.model, "--no-tune", "--ctx", str(SLOTS * 1024)]
    if options.attackers:
        line += ["--tokens-file", str(_tokens_file(ready_file.parent))]
    return [*line, "--ready-file", str(ready_file), "--drain-seconds", "5", "--exit-on-stdin-eof"]


def _tokens_file(folder: Path) -> Path:
    return folder / "tokens"


async def _drive(
    address: str,
    pid: int,
    seconds: float,
    halves: Sequence[Counts],
    tokens: Sequence[str],
    progress: Callable[[str], None],
) -> list[tuple[float, float]]:
    """Return (share of the time, MiB held by the server) while clients ask; in the second half others attack."""
    counts = halves[0]
    traffic, server = Traffic(address, SEED, counts, tokens), psutil.Process(pid)
    asking = asyncio.create_task(traffic.run(CLIENTS))
    attackers = Attackers(address, tokens[-1], SEED) if tokens else None
    attacking: asyncio.Task[None] | None = None
    samples: list[tuple[float, float]] = []
    begun = told = time.monotonic()
    while (spent := time.monotonic() - begun) < seconds and not asking.done():
        held = server.memory_info().rss / _MIB
        samples.append((spent / seconds, held))
        if attackers is not None and attacking is None and spent >= seconds / 2:
            counts = halves[1]
            traffic.count_in(counts)
            attacking = asyncio.create_task(attackers.run())
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            progress(f"{spent / 60:.0f} min: {counts.sent} sent, {counts.lost} lost, {held:.0f} MiB")
        await asyncio.sleep(min(_SAMPLE_S, seconds / 20))
    traffic.stop()
    await asking
    if attackers is not None and attacking is not None:
        attackers.stop()
        await attacking
    samples.append((1.0, server.memory_info().rss / _MIB))
    return samples


def _judge(options: SoakOptions, halves: Sequence[Counts], samples: list[tuple[float, float]]) -> Soak:
    counts = sum_of(halves)
    growth = growth_mib(samples)
    workload = f"{options.minutes:g} min, {CLIENTS} clients, {SLOTS} slots"
    percentiles = _percentiles(counts)
    figures = [
        *((name, getattr(counts, name), "") for name in _OUTCOMES),
        ("p50_ms", percentiles[49], "ms"),
        ("p99_ms", percentiles[98], "ms"),
        ("rss_growth_mib", growth, "MiB"),
    ]
    slower = 0.0
    if options.attackers:
        alone, beside = (_percentiles(half)[98] for half in halves)
        slower = beside / alone if alone else 0.0
        figures += [("p99_ms_alone", alone, "ms"), ("p99_ms_attacked", beside, "ms"), ("p99_ratio", slower, "ratio")]
    report = BenchReport("soak")
    lost = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.failures.items()))
    notes = {"lost": lost or None, "rss_growth_mib": f"from {_warm(samples)[-1]:.0f} MiB; at most {MOST_GROWTH_MIB:g}"}
    model = options.model or "echo"
    for name, value, unit in figures:
        row = BenchRow.median(name, unit, [float(value)], model=model, workload=workload, note=notes.get(name))
        report.rows.append(row)
    problems = []
    if counts.lost:
        problems.append(f"{counts.lost} of {counts.sent} requests were lost: {lost}")
    if not counts.answered:
        problems.append("no request was answered")
    if growth > MOST_GROWTH_MIB:
        problems.append(f"the server grew by {growth:.0f} MiB after the warm-up, more than {MOST_GROWTH_MIB:g}")
    if slower > MOST_SLOWER:
        problems.append(f"with attackers the slowest requests took {slower:.1f} times as long, not {MOST_SLOWER:g}")
    return Soak(report, tuple(problems))


def sum_of(halves: Sequence[Counts]) -> Counts:
    """Return counts added up."""
    whole = Counts(**{name: sum(getattr(half, name) for half in halves) for name in _OUTCOMES})
    for half in halves:
        whole.seconds += half.seconds
        whole.failures += half.failures
    return whole


def _percentiles(counts: Counts) -> list[float]:
    """Return the 99 percentiles of how long answered requests took, ms."""
    found = sorted(1000 * seconds for seconds in counts.seconds) or [0.0]
    return statistics.quantiles(found, n=100, method="inclusive") if len(found) > 1 else found * 99


def growth_mib(samples: list[tuple[float, float]]) -> float:
    """Return by how much the most after the warm-up exceeds the last reading of the warm-up, 0 at least."""
    later = [held for share, held in samples if share > WARM_UP_SHARE]
    return max(0.0, max(later, default=0.0) - _warm(samples)[-1])


def _warm(samples: list[tuple[float, float]]) -> list[float]:
    return [held for share, held in samples if share <= WARM_UP_SHARE] or [samples[0][1]]
