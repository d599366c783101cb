"""Whether a request's deadline can be met, so that a caller that would wait in vain is told at once.

A wrong refusal is worse than a request that expires, so everything here errs on the side of letting in: answers of
others are as long as the mean of those seen, the answer itself only as long as three of four are at least, of a queue
only the front is looked at, no other client is read more than the request itself (see `reading`), steps are as full as
the engine takes them, the cache is never in the way, and the time that is left is stretched by a margin that grows with
how far off predictions were.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from crayon.server.cost.sizing import Headroom, TokenWork, finish_estimate
from crayon.server.steps.request import Kind

if TYPE_CHECKING:
    from crayon.server.cost.step_cost import StepCost
    from crayon.server.forecast.lengths import Lengths
    from crayon.server.scheduler.state import State
    from crayon.server.steps.limits import StepLimits
    from crayon.server.steps.request import Request

MARGIN = 1.5
"""How many times the time that is left an estimate must exceed, if predictions were exact."""
_ERRORS = 2.0
"""Median errors that the margin is larger by."""
_MOST_AHEAD = 64
_MOST_WORK = 4096
"""Pairs of a waiting and a running request that one estimate may go through: about ten milliseconds."""
_SHORT = 0.25
"""Share of answers that may be shorter than a request's own is taken to be."""


class Late(NamedTuple):
    """Why a deadline cannot be met: seconds from now, and requests ahead that were looked at (0: it alone)."""

    needs: float
    left: float
    ahead: int

    def __str__(self) -> str:
        reason = f"behind {self.ahead} requests it" if self.ahead else "it"
        return f"{reason} would take about {self.needs:.1f} s, and its deadline is in {self.left:.1f} s"


def margin(error: float) -> float:
    """Return by how much the time left is stretched where predictions are off by `error`."""
    return MARGIN + _ERRORS * error


def late_alone(
    request: Request, now: float, limits: StepLimits, cost: StepCost, lengths: Lengths | None, stretch: float
) -> Late | None:
    """Return why a request is too late even if it had the engine to itself; None if it may be done in time.

    Args:
        request: one that waits.
        now: in the clock of its deadline.
        limits: limits of a step.
        cost: what steps cost now.
        lengths: how long answers were; None: nobody knows.
        stretch: how many times the time left counts (`margin`).
    """
    if request.deadline is None:
        return None
    left = request.deadline - now
    needs = finish_estimate(cost, _work(request, lengths, mine=True), [], [], _headroom(limits)).last
    return Late(needs, left, 0) if needs > left * stretch else None


def late_in_queue(
    request: Request, state: State, limits: StepLimits, cost: StepCost, lengths: Lengths | None, stretch: float
) -> Late | None:
    """Return why a waiting request is too late behind those that run and that are admitted before it."""
    if request.deadline is None:
        return None
    left = request.deadline - state.now
    mine = _work(request, lengths, mine=True)
    between = _Between(request, mine.prompt, limits.max_tokens)
    running = [between(item, _work(item, lengths)) for held in (state.running, state.spilled) for item in held.values()]
    most = min(_MOST_AHEAD, _MOST_WORK // (len(running) + 1))
    ahead = []
    for item in islice(state.waiting.in_turn(), most):
        if item is request:
            break
        if not item.cancelled:
            ahead.append(between(item, _work(item, lengths)))
    if not running and not ahead:
        return None
    needs = finish_estimate(cost, mine, running, ahead, _headroom(limits)).last
    return Late(needs, left, len(running) + len(ahead)) if needs > left * stretch else None


class _Between:
    """Cuts what others read to what of it is read while one request is."""

    def __init__(self, request: Request, tokens: int, most: int) -> None:
        self._request = request
        self._tokens = tokens
        self._short = request.to_read <= most
        self._most = most
        self._left: dict[tuple[str, bool], int] = {}

    def __call__(self, item: Request, work: TokenWork) -> TokenWork:
        mine = item.client == self._request.client
        if mine and not (self._short and item.to_read > self._most):
            return work
        key = (item.client, mine)
        tokens = min(work.prompt, self._left.get(key, self._tokens))
        self._left[key] = self._left.get(key, self._tokens) - tokens
        return work._replace(prompt=tokens)


def _headroom(limits: StepLimits) -> Headroom:
    return Headroom(batch=limits.max_tokens, max_seqs=limits.max_seqs)


def _work(request: Request, lengths: Lengths | None, *, mine: bool = False) -> TokenWork:
    """Return what is left of a request; of an answer whose length nobody can guess only the next token is certain."""
    if request.kind is not Kind.GENERATE:
        left = max(0, request.prompt + sum(request.branches) - request.computed)
        return TokenWork(left, 1, request.computed)
    most = max(1, request.max_tokens - request.generated)
    guess = None
    if lengths is not None:
        generated, group = request.generated, request.blend
        guess = (
            lengths.at_least(generated, most, _SHORT, group=group)
            if mine
            else lengths.mean(generated, most, group=group)
        )
    reading = 0 if request.generated else max(0, request.prompt - request.computed)
    return TokenWork(reading, min(most, max(1, int(guess or 1))), request.computed)
