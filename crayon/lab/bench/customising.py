"""What customising costs on any model: until it may be used, in front of an answer, and at the first one of a run."""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crayon import Crayon
from crayon.completion import Blend
from crayon.customising.customise import customise
from crayon.customising.device_calls import DeviceCalls, some_pool
from crayon.customising.evidence import Evidence
from crayon.customising.sample import as_samples, closed_answers
from crayon.customising.store import CustomizationStore
from crayon.customising.weighing import CLASSES, MODEL
from crayon.lab.bench.report import BenchRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.device import DeviceEngine

PATIENCE_S = 600.0
WRITTEN = 48
# Customising is slow and opening a model slower; a few runs tell.
MOST_RUNS = 5
NAME, WRITING = "bench", "bench-writing"
# What reaches a small bicycle workshop. Each text begins with a number, so that no run finds what another computed.
LETTERS = (
    ("the chain jumps whenever I stand up on the pedals, could somebody have a look?", "repair"),
    ("do you still have the grey pannier bags that were in the window, and what are they?", "sale"),
    ("until when can I drop in on Saturday before the market?", "opening hours"),
    ("I paid for two tubes, the bill says three, and I would like the rest back.", "bill"),
    ("my rear brake has squealed since the rain on Sunday and hardly holds on the hill.", "repair"),
    ("I am after a helmet for a six year old, in green if there is one.", "sale"),
    ("are you in the shop over the holidays, or is it shut?", "opening hours"),
    ("the invoice for my sister's wheel still has her old address on it.", "bill"),
    ("a spoke broke on the way to work and the wheel wobbles now.", "repair"),
    ("which lights would you sell somebody who rides home through the forest?", "sale"),
    ("is anybody there before eight in the morning?", "opening hours"),
    ("can I pay for last week's service in two parts?", "bill"),
    ("the gears will not go into the smallest one since the bike fell over.", "repair"),
    ("how much would a used folding bike be with you?", "sale"),
    ("do you close for lunch on weekdays?", "opening hours"),
    ("why does the bill list an hour of work when I waited ten minutes?", "bill"),
)
QUESTIONS = (
    "the saddle slides down a little further every day, what would mending it be?",
    "would you lay a pair of winter gloves aside for me until Friday?",
    "will you be open on the first of May?",
    "I was charged for a bell that I never got.",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured: opens the device anew each time, and what rows call its model."""

    open_engine: Callable[[], DeviceEngine]
    model: str
    runs: int


def bench_customising(
    setup: Setup, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[BenchRow], list[str]]:
    """Return the rows, and what could not be measured and why."""
    few = replace(setup, runs=min(setup.runs, MOST_RUNS))
    with setup.open_engine() as engine:
        progress("customising with examples and answers")
        rows = _customise(engine, few)
        progress("answers with examples in place, beside none")
        rows += _answers(engine, setup)
    progress("first answers of a run")
    restart = _restart(few)
    if restart is None:
        return rows, ["restart_ratio: the device kept nothing of the examples on disk"]
    return [*rows, restart], []


def letters(run: int) -> list[tuple[str, str]]:
    """Return 16 samples with 4 answers; other texts for each run."""
    return [(f"No. {1000 * run + 7 * i + 3}: {text}", answer) for i, (text, answer) in enumerate(LETTERS)]


def question(number: int) -> str:
    """Return a question like the samples; another text for each number."""
    return f"No. {number}: {QUESTIONS[number % len(QUESTIONS)]}"


def _customise(engine: DeviceEngine, setup: Setup) -> list[BenchRow]:
    usable, checked = [], []
    with tempfile.TemporaryDirectory() as folder, Crayon(engine, hardness=False, customizations_dir=folder) as client:
        for run in range(setup.runs + 1):
            ready: list[float] = []
            stamp = functools.partial(_stamp, ready)
            started = time.perf_counter()
            client.customize(NAME, letters(run), replace=True, timeout=PATIENCE_S, ready=stamp)
            checked.append(time.perf_counter() - started)
            usable.append(ready[0] - started)
    about = f"{len(LETTERS)} samples of {len(closed_answers(as_samples(letters(0))))} answers"
    # The first of each warms up; the background's states are computed once on a machine and kept.
    notes = ("embedding, classifier, and the first stage of the check", "until the check has ended and all is kept")
    return [
        BenchRow.median(metric, "s", runs[1:], model=setup.model, workload=about, note=note)
        for metric, runs, note in zip(
            ("customize_usable_s", "customize_checked_s"), (usable, checked), notes, strict=True
        )
    ]


def _stamp(times: list[float], _: object) -> None:
    times.append(time.perf_counter())


def _keep(engine: DeviceEngine, folder: Path, run: int = 0) -> Blend | None:
    """Keep a customisation in which all takes part that can, whatever a check would say; return its blend.

    Beside it stands one of the same examples without a closed set, so that answers are written behind them.
    """
    draft = customise(DeviceCalls(engine, patience=PATIENCE_S), NAME, as_samples(letters(run)))
    everyone = tuple(range(len(draft.samples)))
    evidence = Evidence(
        examples=everyone,
        answers=closed_answers(draft.samples),
        labelled=everyone,
        model=MODEL,
        classes=CLASSES[0],
    )
    pool = some_pool(engine)
    reader = None if pool is None else pool.reader
    first = draft.customization.profiles[0]
    weights = tuple(float(k == reader) for k in range(len(first.weights)))
    profile = replace(first, weights=weights, evidence=evidence, samples=len(draft.samples))
    open_profile = replace(profile, evidence=Evidence(examples=everyone))
    for name, one in ((NAME, profile), (WRITING, open_profile)):
        made = replace(draft.customization, name=name, profiles=(one,))
        CustomizationStore(folder).save(made, draft.samples, draft.vectors)
    return None if pool is None or reader is None else Blend(pool.id, weights)


def _answers(engine: DeviceEngine, setup: Setup) -> list[BenchRow]:
    """Ask plainly and customised by turns."""
    free_ms, closed_ms, ratios = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Crayon(engine, hardness=False, customizations_dir=folder, timeout=PATIENCE_S, temperature=0.0) as client,
    ):
        blend = _keep(engine, Path(folder))
        ask = functools.partial(client.ask, max_tokens=WRITTEN, ignore_eos=True)
        for run in range(setup.runs + 1):
            plain = ask(question(4 * run), blend="base")
            closed = client.ask(question(4 * run + 1), blend=NAME)
            free = ask(question(4 * run + 2), blend=WRITING)
            # What a blend costs is measured elsewhere: here, the same weights without examples stand beside it.
            bare = plain if blend is None else ask(question(4 * run + 3), blend=blend)
            free_ms.append(free.ttft_ms - plain.ttft_ms)
            closed_ms.append(closed.ttft_ms - plain.ttft_ms)
            ratios.append(free.tokens_per_s / bare.tokens_per_s)
    shown = f"{len(LETTERS)} examples in place"
    against = "no examples" if blend is None else "no examples, the reader's weights too"
    row = functools.partial(BenchRow.median, model=setup.model)
    # The first computes the examples.
    return [
        row(
            "first_token_added_ms",
            "ms",
            free_ms[1:],
            workload=f"a written answer, {shown}",
            against="the plain base's first token",
            note="embedding included",
        ),
        row(
            "closed_answer_added_ms",
            "ms",
            closed_ms[1:],
            workload=f"one of {len({answer for _, answer in LETTERS})} answers, complete, {shown}",
            against="the plain base's first token",
            note="embedding included",
        ),
        row(
            "decode_ratio_examples",
            "ratio",
            ratios[1:],
            workload=f"{WRITTEN} out, {shown}",
            against=against,
        ),
    ]


def _restart(setup: Setup) -> BenchRow | None:
    """Return how long the first answer with kept examples takes, over computing them; None where none are kept."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(setup.runs):
            place = Path(folder) / str(run)
            with setup.open_engine() as engine:
                _keep(engine, place, run)
            before = _files(place)
            computed = _first_ms(setup, place, 2 * run)
            if _files(place) == before:
                return None
            ratios.append(_first_ms(setup, place, 2 * run + 1) / computed)
    return BenchRow.median(
        "restart_ratio",
        "ratio",
        ratios,
        model=setup.model,
        workload=f"the first answer of a run, {len(LETTERS)} examples kept on disk",
        against="computing the examples",
        note="time with kept examples over time without: lower is better",
    )


def _first_ms(setup: Setup, folder: Path, number: int) -> float:
    """Return how long the first customised answer of a new engine takes; the model has been read before."""
    with (
        setup.open_engine() as engine,
        Crayon(engine, hardness=False, customizations_dir=folder, timeout=PATIENCE_S, temperature=0.0) as client,
    ):
        client.ask("Good morning!", blend="base", max_tokens=1)
        client.encode("Good morning!")
        return client.ask(question(number), blend=NAME).ttft_ms


def _files(folder: Path) -> list[Path]:
    return sorted((folder / NAME).iterdir())
