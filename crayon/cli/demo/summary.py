"""What `crayon demo` saw, question by question and in sum."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.cli.shared.report import completion_json
from crayon.completion import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.completion import Completion
    from crayon.errors import CrayonError

PLAIN_WIDTH = 110  # where no terminal says how wide it is
OTHER_COLUMNS = 61  # what the table needs beside the questions

LEGEND = (
    "Score: the question's likeness to the closest scope's examples; where the device was unsure, the mean "
    "log-probability of its first tokens. At or above the limit the device answers."
)


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """What became of one question: an answer, or the error that it ended with."""

    group: str
    question: str
    completion: Completion | None = None
    error: CrayonError | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of questions, medians by source, and the bytes of request that left the device in all."""

    questions: int
    by_source: dict[str, int]
    fallbacks: int
    failed: int
    device_share: float | None
    median_ttft_ms: dict[str, float]
    median_tokens_per_s: dict[str, float]
    bytes_sent: int


def totals(outcomes: Sequence[QuestionOutcome]) -> Totals:
    """Return the sums over what was answered; a source that answered nothing has no medians."""
    answers = [outcome.completion for outcome in outcomes if outcome.completion is not None]
    by_source = {source.value: [a for a in answers if a.route.source is source] for source in Source}
    return Totals(
        questions=len(outcomes),
        by_source={source: len(found) for source, found in by_source.items()},
        fallbacks=sum(answer.route.fallback_from is not None for answer in answers),
        failed=len(outcomes) - len(answers),
        device_share=len(by_source[Source.DEVICE.value]) / len(answers) if answers else None,
        median_ttft_ms=_medians(by_source, "ttft_ms"),
        median_tokens_per_s=_medians(by_source, "tokens_per_s"),
        bytes_sent=sum(answer.route.bytes_sent for answer in answers),
    )


def summary_json(outcomes: Sequence[QuestionOutcome]) -> dict[str, Any]:
    """Return questions and totals as plain JSON values."""
    questions = [
        {
            "group": outcome.group,
            "question": outcome.question,
            "completion": completion_json(outcome.completion) if outcome.completion else None,
            "error": {"type": type(outcome.error).__name__, "message": str(outcome.error)} if outcome.error else None,
        }
        for outcome in outcomes
    ]
    return {"questions": questions, "summary": dataclasses.asdict(totals(outcomes))}


def print_summary(outcomes: Sequence[QuestionOutcome]) -> None:
    """Print a table with a line a question, and the totals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    room = max(20, console.width - OTHER_COLUMNS)
    table.add_column("Question", max_width=room, no_wrap=True, overflow="ellipsis")
    table.add_column("By", no_wrap=True)
    table.add_column("Why", no_wrap=True)
    for title in ("Score", "Limit", "First", "Tok/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for i, outcome in enumerate(outcomes):
        if i and outcome.group != outcomes[i - 1].group:
            table.add_section()
        table.add_row(*(Text(cell) for cell in _row(outcome)))
    console.print(table)
    console.print(f"\n{LEGEND}\n", style="dim", markup=False)
    for line in _lines(totals(outcomes)):
        console.print(line, markup=False, soft_wrap=True)


def _row(outcome: QuestionOutcome) -> tuple[str, ...]:
    answer = outcome.completion
    if answer is None:
        return (outcome.question, "-", "failed", "", "", "", "")
    route = answer.route
    scores = ("" if value is None else f"{value:.2f}" for value in (route.score, route.threshold))
    first, rate = f"{answer.ttft_ms:,.0f} ms", f"{answer.tokens_per_s:.1f}"
    return (outcome.question, str(route.source), route.reason.replace("_", " "), *scores, first, rate)


def _lines(sums: Totals) -> list[str]:
    answered = sums.questions - sums.failed
    lines = []
    if sums.device_share is not None:
        device, server = sums.by_source[Source.DEVICE], sums.by_source[Source.SERVER]
        lines.append(f"{device} of {answered} answered on the device ({sums.device_share:.0%}), {server} by the server")
    if sums.fallbacks:
        lines.append(f"{sums.fallbacks} answered by the other side, since the first one failed")
    if sums.failed:
        lines.append(f"{sums.failed} not answered")
    medians = [f"{source} {value:,.0f} ms" for source, value in sums.median_ttft_ms.items()]
    if medians:
        lines.append(f"median time to first token: {', '.join(medians)}")
    lines.append(f"{sums.bytes_sent:,} bytes of requests left the device")
    return lines


def _medians(by_source: dict[str, list[Completion]], name: str) -> dict[str, float]:
    found = {source: [getattr(answer, name) for answer in answers] for source, answers in by_source.items()}
    return {source: round(statistics.median(values), 3) for source, values in found.items() if values}
