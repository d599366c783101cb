"""The part of `crayon demo` in which a user's samples customise the device: the same questions before and after."""

from __future__ import annotations

import shutil
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.cli.customize.weights import expectation_lines, weight_lines
from crayon.cli.shared import console
from crayon.completion import FinishReason
from crayon.errors import CrayonError
from crayon.lab.eval.matching import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.completion import Completion
    from crayon.customising.customization import Customization
    from crayon.data.demo_script import DemoTask
    from crayon.device import DeviceEngine

# For one step: the first customising on a model reads some hundred everyday texts, slowly on a busy machine.
PATIENCE_S = 600.0
WIDTH = 110  # of the table where no terminal says how wide it is, and at most


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One question, the answer that is right, and what the device said before and after it was customised."""

    question: str
    wanted: str
    before: Completion
    after: Completion


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What became of the user's task; `seconds` is how long customising took.

    `server`: how many questions the server, shown all answers, chooses rightly; None where it was not asked.
    """

    customization: Customization
    seconds: float
    rows: tuple[TaskRow, ...]
    server: int | None = None


def is_right(answer: Completion, wanted: str) -> bool:
    """Whether an answer is the wanted one, letter case, punctuation and articles aside."""
    return normalise(answer.text) == normalise(wanted)


def tokens_per_s(answers: Sequence[Completion]) -> float:
    """Return the decoding rate over all answers; steps that only found the end of an answer count too."""
    steps = sum(a.usage.completion_tokens - (a.finish_reason is FinishReason.LENGTH) for a in answers)
    seconds = sum(a.timings.decode_ms for a in answers) / 1000.0
    return steps / seconds if seconds > 0.0 else 0.0


def task_section(engine: DeviceEngine, server: str, task: DemoTask, *, show: bool) -> dict[str, Any]:
    """Run the section and return it as plain JSON values; where the device cannot be customised, say why.

    Raises:
        CrayonError: the device does not answer.
    """
    why = _left_out(engine) if task.pooled else None
    if why is None:
        return task_json(run_task(engine, server, task, show=show))
    if show:
        _print(f"left out: {why}")
    return {"left_out": why}


def run_task(engine: DeviceEngine, server: str, task: DemoTask, *, show: bool) -> TaskOutcome:
    """Ask, customise in a folder that is removed again, and ask the same once more.

    The client knows the server and is private: nothing may go there, and the bytes that did are counted.

    Raises:
        CrayonError: the device cannot do it.
    """
    from crayon.sdk import Crayon

    asked = [question for question, _ in task.questions]
    with (
        tempfile.TemporaryDirectory(prefix="crayon-demo-") as folder,
        Crayon(
            device=engine,
            server=server,
            private=True,
            timeout=PATIENCE_S,
            max_tokens=task.max_tokens,
            customizations_dir=folder,
        ) as client,
    ):
        if show:
            for line in _introduction(task, engine.models()[0].name):
                _print(line, "dim")
        before = [client.ask(question) for question in asked]
        begun = time.monotonic()
        made = client.customize(task.name, task.samples)
        seconds = time.monotonic() - begun
        table = _Table(task)
        if show:
            print()
            for line in (*weight_lines(made), *expectation_lines(made)):
                for part in textwrap.wrap(line, WIDTH - 4, subsequent_indent="    ", drop_whitespace=False) or [""]:
                    _print(part.rstrip())
            _print(f"weighed, checked and ready in {seconds:.1f} s", "bold")
            print()
            table.head()
        rows = []
        for (question, wanted), first in zip(task.questions, before, strict=True):
            rows.append(TaskRow(question, wanted, first, client.ask(question, blend=task.name)))
            if show:
                table.row(rows[-1])
    theirs = None if task.pooled else _server_right(server, task)
    outcome = TaskOutcome(made, seconds, tuple(rows), theirs)
    if show:
        print()
        for line in _sums(outcome):
            _print(line)
    return outcome


def _server_right(server: str, task: DemoTask) -> int | None:
    """Return how often the server is right that is shown all answers, and no samples; None where it is away."""
    from crayon.sdk import Crayon

    try:
        with Crayon(server=server, mode="only_on_server", timeout=PATIENCE_S) as client:
            chosen = [client.choose(question, task.labels).text for question, _ in task.questions]
    except CrayonError as error:
        console.warning(f"the server is not compared: {error}")
        return None
    return sum(said == wanted for said, (_, wanted) in zip(chosen, task.questions, strict=True))


def task_json(outcome: TaskOutcome) -> dict[str, Any]:
    """Return the outcome as plain JSON values."""
    found = outcome.customization
    rows = outcome.rows
    return {
        "device": found.base,
        "pool": found.pool_id,
        "samples": found.samples,
        "seconds": round(outcome.seconds, 3),
        "profiles": [dict(zip(found.members, profile.weights, strict=True)) for profile in found.profiles],
        "evidence": [list(profile.evidence.kinds) for profile in found.profiles],
        "questions": [
            {"question": row.question, "wanted": row.wanted, "before": row.before.text, "after": row.after.text}
            for row in rows
        ],
        "right": {
            "before": _right(rows, "before"),
            "after": _right(rows, "after"),
            **({} if outcome.server is None else {"server": outcome.server}),
        },
        "tokens_per_s": {
            "before": round(tokens_per_s([row.before for row in rows]), 1),
            "after": round(tokens_per_s([row.after for row in rows]), 1),
        },
        "bytes_sent": _bytes_sent(rows),
    }


def _left_out(engine: DeviceEngine) -> str | None:
    pools = engine.pools
    if not pools:
        return f"no adapter pool comes with Crayon for {engine.models()[0].name}"
    if pools[0].manifest.encoder is None:
        return f"the adapter pool {pools[0].id} has no keys to compare samples with"
    return None


def _introduction(task: DemoTask, model: str) -> list[str]:
    question, answer = task.samples[0]
    return [
        f'{len(task.samples)} samples, such as "{question}" -> {answer}, are weighed on this device:',
        "adapters that were trained before, the samples as examples, and a classifier of the questions. Nothing is",
        f"trained. {len(task.questions)} other questions are asked before and after; {model} answers.",
    ]


def _sums(outcome: TaskOutcome) -> list[str]:
    rows = outcome.rows
    return [
        f"right, word for word: {_right(rows, 'before')} of {len(rows)} before, {_right(rows, 'after')} after",
        *([] if outcome.server is None else [f"the larger model of the server, shown all answers: {outcome.server}"]),
        _price(rows),
        f"{_bytes_sent(rows):,} bytes left the device, samples and questions included",
    ]


def _price(rows: Sequence[TaskRow]) -> str:
    before, after = (tokens_per_s([getattr(row, when) for row in rows]) for when in ("before", "after"))
    if all(row.after.probability is not None for row in rows):
        seconds = sum(row.after.total_ms for row in rows) / 1000.0 / max(len(rows), 1)
        return f"price: {seconds:.2f} s a question, in which every answer of the set is weighed"
    share = f" ({after / before:.2f}x)" if before and after else ""
    return f"price: {before:.0f} tokens/s before, {after:.0f} after{share}"


def _right(rows: Sequence[TaskRow], when: str) -> int:
    return sum(is_right(getattr(row, when), row.wanted) for row in rows)


def _bytes_sent(rows: Sequence[TaskRow]) -> int:
    return sum(row.before.route.bytes_sent + row.after.route.bytes_sent for row in rows)


class _Table:
    """Shows rows as they come, in columns as wide as the task and the terminal need."""

    def __init__(self, task: DemoTask) -> None:
        columns = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
        label = max(len(wanted) for _, wanted in task.questions)
        question = max(len(question) for question, _ in task.questions)
        # Indent, and two spaces between columns; what is left is for question and first answer.
        room = max(40, min(columns, WIDTH) - 2 - 6 - 2 * label)
        question = min(question, room * 3 // 5)
        self._widths = (question, room - question, label, label)

    def head(self) -> None:
        self._show(("question", "before", "after", "wanted"), "dim")

    def row(self, row: TaskRow) -> None:
        cells = (row.question, row.before.text, row.after.text, row.wanted)
        self._show(cells, *(("green",) if is_right(row.after, row.wanted) else ()))

    def _show(self, cells: tuple[str, ...], *styles: str) -> None:
        cut = [_cut(cell, width) for cell, width in zip(cells, self._widths, strict=True)]
        _print("  ".join(cut).rstrip(), *styles)


def _cut(text: str, width: int) -> str:
    # A model may say anything, also what has no width; a cell is one line of visible characters.
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return (line if len(line) <= width else f"{line[: width - 3].rstrip()}...").ljust(width)


def _print(line: str, *styles: str) -> None:
    safe = console.safe(f"  {line}", sys.stdout)
    print(console.paint(safe, *styles, stream=sys.stdout) if styles else safe, flush=True)
