"""The next token of many answers at once: their logits are read in place, and signals only where they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.constraints.matcher import fill
from crayon.llama.signals import likeliest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crayon.engine import TokenSignal
    from crayon.llama.sampler import LogitRows
    from crayon.server.engines.llama.tasks import GenerateTask


class Sampled(NamedTuple):
    """What came of a step: ids of the requests whose answers ended, and the tasks that failed.

    `forced`: how many tokens follow the next one of a request, whatever the model thinks, where there are any.
    """

    ended: list[str]
    failed: list[tuple[GenerateTask, Exception]]
    forced: dict[str, int]


class _Row(NamedTuple):
    """A task, its row of logits, and its token where it was drawn already."""

    task: GenerateTask
    row: int
    token: int | None = None


def sample_rows(context: LogitRows, rows: Iterable[tuple[GenerateTask, int]]) -> Sampled:
    """Give each task its next token, from its row of logits of the context's last batch.

    Does what `task.sample(context, row)` does for one after the other; an error of one leaves the others alone. The
    logits are read in place if the rows are given in the batch's order.
    """
    found = Sampled([], [], {})
    alone: list[tuple[GenerateTask, int]] = []
    measured: list[_Row] = []
    plain: list[_Row] = []
    for task, row in rows:
        try:
            if task.rule is not None or task.request.top_logprobs is not None:
                alone.append((task, row))
            elif not task.greedy:
                token = task.draw(context, row)
                if task.request.signals:
                    measured.append(_Row(task, row, token))
                else:
                    _take(found, task, token, None)
            else:
                (measured if task.request.signals else plain).append(_Row(task, row))
        except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
            found.failed.append((task, error))
    _together(context, measured, found, signals=True)
    _together(context, plain, found, signals=False)
    _one_by_one(context, alone, found)
    return found


def _one_by_one(context: LogitRows, rows: list[tuple[GenerateTask, int]], found: Sampled) -> None:
    """Draw the tokens of answers under constraints or with log-probabilities.

    What all constraints allow is found out at the same time.
    """
    fill([task.rule for task, row in rows if task.rule is not None and task.needs_mask(context, row)])
    for task, row in rows:
        try:
            token, signal = task.pick(context, row)
        except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
            found.failed.append((task, error))
        else:
            _take(found, task, token, signal)


def _together(context: LogitRows, rows: list[_Row], found: Sampled, *, signals: bool) -> None:
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
            found.ended.append(task.entry.id)
        if task.forced:
            found.forced[task.entry.id] = task.forced
    except Exception as error:  # noqa: BLE001 - its batch mates are not to suffer
        found.failed.append((task, error))
