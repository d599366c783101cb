"""The next token of many answers at once: their logits are read in place, and signals only where they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.llama.signals import likeliest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.engine import TokenSignal
    from crayon.llama.context import Context
    from crayon.server.engines.llama_task import GenerateTask


class Sampled(NamedTuple):
    """What came of a step: ids of the requests whose answers ended, and the tasks that failed."""

    ended: list[str]
    failed: list[tuple[GenerateTask, Exception]]


class _Row(NamedTuple):
    """A task, its row of logits, and its token where it was drawn already."""

    task: GenerateTask
    row: int
    token: int | None = None


def sample_rows(context: Context, rows: Iterable[tuple[GenerateTask, int]]) -> Sampled:
    """Give each task its next token, from its row of logits of the context's last batch.

    Does what `task.sample(context, row)` does for one after the other; an error of one leaves the others alone. The
    logits are read in place if the rows are given in the batch's order.
    """
    found = Sampled([], [])
    measured: list[_Row] = []
    plain: list[_Row] = []
    for task, row in rows:
        try:
            if not task.greedy:
                token = task.draw(context, row)
                if task.wanted.signals:
                    measured.append(_Row(task, row, token))
                else:
                    _take(found, task, token, None)
            else:
                (measured if task.wanted.signals else plain).append(_Row(task, row))
        except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
            found.failed.append((task, error))
    _together(context, measured, found, signals=True)
    _together(context, plain, found, signals=False)
    return found


def _together(context: Context, rows: list[_Row], found: Sampled, *, signals: bool) -> None:
    """Do the rows in one pass; where that fails, one by one, to learn whose fault it is."""
    if not rows:
        return
    drawn: list[tuple[int, TokenSignal]] | list[tuple[int, None]]
    try:
        logits = context.logit_rows([one.row for one in rows])
        if signals:
            drawn = rows[0].task.meter.measure_rows(logits, [one.token for one in rows])
        else:
            drawn = [(token, None) for token in likeliest(logits)]
    except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
        if len(rows) == 1:
            found.failed.append((rows[0].task, error))
            return
        for one in rows:
            _together(context, [one], found, signals=signals)
        return
    for one, (token, signal) in zip(rows, drawn, strict=True):
        _take(found, one.task, token, signal)


def _take(found: Sampled, task: GenerateTask, token: int, signal: TokenSignal | None) -> None:
    try:
        if task.take(token, signal):
            found.ended.append(task.request.id)
    except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
        found.failed.append((task, error))
