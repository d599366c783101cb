"""Options of `crayon serve` that shape the work of its llama.cpp engine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from crayon.server.prediction import Rule

MOST_NANO_BATCHES = 16


def nano_batches(text: str) -> int:
    """Return N of `--nano-batches N|off`; off is 1.

    Raises:
        BadParameter: it is neither.
    """
    if text == "off":
        return 1
    if text.isascii() and text.isdecimal() and 2 <= int(text) <= MOST_NANO_BATCHES:
        return int(text)
    raise typer.BadParameter(f"must be off, or a number from 2 to {MOST_NANO_BATCHES}, not {text!r}")


class Overlap(StrEnum):
    """Whether prompts are read and answers written at the same time."""

    NONE = "none"
    DUAL = "dual"


class KvCache(StrEnum):
    """How requests divide the cells of the cache."""

    SPLIT = "split"
    UNIFIED = "unified"


QueueOption = Annotated[
    int | None,
    typer.Option(
        "--max-queue",
        min=1,
        help="Most requests that wait; more are refused at once, with the time after which to come back. 256.",
    ),
]
QueueTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-queue-tokens",
        min=1,
        help="Most tokens of the prompts that wait; if not given, four times --ctx, 65,536 at least.",
    ),
]
KvOption = Annotated[
    KvCache | None,
    typer.Option(
        "--kv",
        help="split: each slot has an equal part of --ctx. unified: one request may hold all of it, but steps with "
        "many requests take twice as long.",
    ),
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", min=1, help="Most tokens computed in one step; 512 if not given.")
]
StepOption = Annotated[
    float | None,
    typer.Option("--step-ms", min=0, help="How long a step may delay answers being written; 0: any. 250 if not given."),
]
LateOption = Annotated[
    float | None,
    typer.Option(
        "--late-share",
        min=0,
        max=1,
        help="Share of steps that may be longer than --step-ms, so that prompts are read whole; 0.04 if not given.",
    ),
]
FirstOption = Annotated[
    float | None,
    typer.Option("--first-ms", min=1, help="Steps may be longer where a prompt waits so long; 1500 if not given."),
]
PredictOption = Annotated[
    Rule | None,
    typer.Option(
        "--predict",
        help="Room for an answer in the cache: all it may get (worst), as much as answers seen got (mean, quantile, "
        "paper), or shares of them step by step, which fills the cache best and moves a little; mean if not given.",
    ),
]
SpillOption = Annotated[
    bool | None, typer.Option("--spill/--no-spill", help="Set requests aside where the cache is fuller than predicted.")
]
PrefixOption = Annotated[
    int | None,
    typer.Option("--idle-prefixes", min=0, max=256, help="Finished requests that later ones may begin with."),
]
QuantumOption = Annotated[
    int | None,
    typer.Option("--blend-quantum", min=0, help="Tokens of one blend before the next one's turn; 0: one step."),
]
AheadOption = Annotated[
    bool | None, typer.Option("--plan-ahead/--no-plan-ahead", help="Plan the next step while one is computed.")
]
NanoOption = Annotated[
    int | None,
    typer.Option(
        "--nano-batches",
        metavar="N|off",
        parser=nano_batches,
        help="Engine calls for each step of a blend, at most: answers first, then prompts; off: one for all.",
    ),
]
OverlapOption = Annotated[
    Overlap | None,
    typer.Option("--overlap", help="dual reads prompts and writes answers at once, on cores of their own."),
]
