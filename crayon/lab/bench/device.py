"""The device runtime beside the bare library, and the prepared file beside its source."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from typing import TYPE_CHECKING

from crayon import Crayon, Hardness, Message, Mode
from crayon.data import load_scope
from crayon.data.texts import background_texts, quality_text
from crayon.device import DeviceEngine
from crayon.device.prepare import TurnBench, compare
from crayon.engine import Finished, GenerateRequest
from crayon.errors import EngineError, ModelError
from crayon.lab.bench.report import BenchReport, BenchRow
from crayon.llama.bare import BareLoop
from crayon.llama.model import Model
from crayon.models import prepared, resolve
from crayon.sampling import Sampling
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crayon.models import LocalModel

PROMPT, ANSWER, BATCH = 512, 128, 512
TOKENS = 12  # of the answers behind the gates: more than are held back
QUERIES = (
    "What are the benefits of drinking water every day?",
    "How can I sleep better at night without pills?",
    "Why is a short walk after lunch good for me?",
    "Give me three ideas for a healthy breakfast.",
    "How do I start exercising when I have little time?",
    "Why should I eat more vegetables?",
    "How often should I take a break from sitting?",
    "What helps against stress in the evening?",
    "Is it healthy to skip breakfast?",
)


def bench_device(
    reference: str,
    *,
    models_dir: Path | None = None,
    runs: int = 7,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure on the file the device runs: the prepared one, or the published one where that is the best here.

    Raises:
        ModelError: the model is absent, or was never prepared for this machine.
    """
    local = resolve(reference, download=False, models_dir=models_dir)
    path = prepared.usable(local, models_dir)
    info = prepared.describe(local, models_dir)
    if info is None or info.stale or (info.path is not None and path is None):
        raise ModelError(f"{local.name} has no prepared file here; run: crayon models prepare {local.name}")
    if path is None:
        report = BenchReport("device", {local.name: local.sha256})
        report.unmeasured.append(
            f"the prepared file beside its source: {local.name} was prepared and the published file is the best here "
            f"(allow more loss: crayon models prepare {local.name} --max-loss 0.05)"
        )
        chosen = local.path.stem
    else:
        report = BenchReport(
            "device", {local.name: local.sha256, f"{local.name} prepared as {info.chosen}": info.sha256}
        )
        chosen = info.chosen
    runs_on = path or local.path
    progress("prefill and decode beside the bare library")
    report.rows += _beside_library(runs_on, chosen, runs)
    if path is not None:
        progress("the prepared file beside its source")
        report.rows += _beside_source(local, path, chosen, runs)
    progress("what the client and the router add")
    report.rows += _client(runs_on, local.name, chosen, runs)
    return report


def _beside_library(path: Path, model: str, runs: int) -> list[BenchRow]:
    """Race the engine's own generation, sampling and signals included, against llama.cpp alone.

    The bare loop runs before and after every answer of ours, and a ratio is taken against the mean of the two: what
    the machine does meanwhile favours neither.
    """
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with (
        DeviceEngine(path, n_ctx=PROMPT + ANSWER + 256, n_batch=BATCH) as engine,
        BareLoop(path, n_ctx=PROMPT + ANSWER + 256, n_batch=BATCH) as bare,
    ):
        first = _generate(engine, 0)  # touches everything once, and tells how long prompt and answer are
        prompt, answer = _computed(first), first.usage.completion_tokens - 1
        bare.run(prompt, answer)
        theirs.append(_per_token(bare.run(prompt, answer), prompt, answer))
        for run in range(1, runs + 1):
            done = _generate(engine, run)
            seconds = (done.timings.prompt_ms / 1000, done.timings.decode_ms / 1000)
            ours.append(_per_token(seconds, _computed(done), done.usage.completion_tokens - 1))
            theirs.append(_per_token(bare.run(prompt, answer), prompt, answer))
    rows = []
    for at, (metric, workload) in enumerate(
        [("prefill_ratio_vs_library", f"{prompt} in"), ("decode_ratio_vs_library", f"{answer} out")]
    ):
        ratios = [(theirs[i][at] + theirs[i + 1][at]) / (2 * mine[at]) for i, mine in enumerate(ours)]
        best = min(row[at] for row in theirs) / min(row[at] for row in ours)
        rows.append(
            BenchRow.median(
                metric,
                "ratio",
                ratios,
                model=model,
                workload=workload,
                against="the same library in a bare loop",
                note=f"best run against best run: {best:.3f}",
            )
        )
    return rows


def _per_token(seconds: tuple[float, float], prompt: int, answer: int) -> tuple[float, float]:
    return seconds[0] / prompt, seconds[1] / answer


def _computed(done: Finished) -> int:
    """Return how many prompt tokens were really computed."""
    return done.usage.prompt_tokens - done.usage.cached_tokens


def _generate(engine: DeviceEngine, run: int) -> Finished:
    # The number comes first, so that no run finds another's prefix; the words fill the prompt to about PROMPT tokens.
    text = f"{1000 + run} stories. " + "Tell me about the sea, the wind and the old harbour. " * ((PROMPT - 60) // 13)
    messages = (Message("system", f"{1000 + run}. You write very long stories."), Message("user", text))
    last = None
    for event in engine.generate(GenerateRequest(messages=messages, sampling=Sampling(max_tokens=ANSWER))):
        last = event
    if not isinstance(last, Finished):
        raise EngineError("the answer did not finish")
    if last.usage.completion_tokens <= ANSWER // 2:
        raise EngineError(f"the answer ended after {last.usage.completion_tokens} tokens, too few to measure decoding")
    return last


def _beside_source(local: LocalModel, path: Path, model: str, runs: int) -> list[BenchRow]:
    with Model(local.path) as base, TurnBench(base, 200, 50) as reference:
        pair = compare(reference, path, model, base.tokenize(quality_text()), runs)
    found = pair.candidate
    against, text = "the published file", "our text"
    return [
        BenchRow(
            "prepared_turn_ratio_vs_source",
            found.turn_ratio,
            "ratio",
            (found.turn_ratio,),
            model,
            "200 in, 50 out",
            against,
            note=f"median of {runs} pairs",
        ),
        BenchRow("prepared_kl", found.kl, "nats", (found.kl,), model, text, against),
        BenchRow(
            "prepared_perplexity_ratio",
            found.perplexity_ratio,
            "ratio",
            (found.perplexity_ratio,),
            model,
            text,
            against,
        ),
    ]


def _client(path: Path, name: str, model: str, runs: int) -> list[BenchRow]:
    """Measure what SDK, router and gates add to the first token."""
    overhead, holdback, encode = [], [], []
    queries = (QUERIES * (runs // len(QUERIES) + 2))[: runs + 1]
    with DeviceEngine(path, name=name, background=background_texts()) as engine, closing(EchoEngine()) as server:
        # No gate at all: only the way through the client is left.
        with Crayon(engine, server, hardness=False) as client:
            for i, query in enumerate(queries):
                started = time.perf_counter()
                stream = client.stream(f"{i}: {query}", max_tokens=TOKENS)
                next(stream)
                seconds = time.perf_counter() - started
                for _ in stream:
                    pass
                timings = stream.completion.timings
                overhead.append(1000 * seconds - timings.prompt_ms - timings.queue_ms)
        scopes = [load_scope("healthy-habits"), load_scope("nature-basics")]
        # Threshold low enough that every answer is released: the wait is measured, not the verdict.
        patient = Hardness(threshold=-20.0, clear_tokens=8, hold_tokens=8)
        with Crayon(engine, server, hardness=patient, scopes=scopes, mode=Mode.PREFER_ON_DEVICE) as client:
            client.load()
            for i, query in enumerate(queries):
                route = client.ask(f"{query} ({i})", max_tokens=TOKENS).route
                if route.encode_ms is not None:
                    encode.append(route.encode_ms)
                if route.holdback_ms is not None:
                    holdback.append(route.holdback_ms)
    rows = [
        BenchRow.median("ttft_overhead_ms", "ms", overhead[1:], model=model, workload="hardness gate off, no scopes")
    ]
    if len(encode) < 2 or len(holdback) < 2:
        raise EngineError("the gates were not passed often enough to measure them")
    tokens = statistics.median(len(query.split()) for query in QUERIES)
    rows.append(BenchRow.median("holdback_ms", "ms", holdback[1:], model=model, workload="8 tokens held back"))
    rows.append(
        BenchRow.median("encode_ms", "ms", encode[1:], model=model, workload=f"queries of about {tokens:.0f} words")
    )
    return rows
