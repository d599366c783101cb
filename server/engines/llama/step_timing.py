"""The engine's books: what ran, what it cost, what the next steps will cost, and whether the machine is slow."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crayon.errors import fault_report
from crayon.server.cost.breakdown import spent
from crayon.server.cost.fit import fitting
from crayon.server.cost.step_cost import shape_of
from crayon.server.engines.llama.counters import Counters

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from crayon.server.cost.breakdown import TimeSpent
    from crayon.server.cost.fit import Fitted
    from crayon.server.cost.online import LiveCost
    from crayon.server.engines.llama.batch import EngineCall
    from crayon.server.scheduler import StepLimits

logger = logging.getLogger("crayon.server.llama")

_SLOW, _FAST = 2.0, 1.4
"""From this many times the usual time on, and more where predictions are off, a machine counts as slow; below the other
no longer."""
_SPELL_S = 1.0
"""Seconds in runners for which it has to be so; a burst of short calls is no spell."""
_TELL_ERROR_EVERY = 16  # looks; it takes a sort
_ALIKE, _SHORT_S = 8, 0.02
"""Of calls of one size, one after the other and shorter than so many seconds, one of so many is looked at: answers
alone teach little, and the look takes a hundredth of such a call."""


class StepTiming:
    """Kept by the loop's thread alone.

    Args:
        limits: limits of a step.
        cost: learns from what is written down here.
        shared_cells: whether attention runs over all used cells of the cache.
    """

    def __init__(self, limits: StepLimits, cost: LiveCost, *, shared_cells: bool = False) -> None:
        self.cost = cost
        self.counters = Counters()
        self._limits = limits
        self._shared_cells = shared_cells
        self._blends: dict[int, str] = {}
        """By runner, what it computed with last."""
        self._slow = False
        self._otherwise = 0.0
        """Seconds for which the machine has not been as `_slow` says."""
        self._kind = (0, 0, 0)
        """Tokens, rows and switches of the last call."""
        self._alike = 0
        """Calls of this kind since the first."""
        self._spent: TimeSpent | None = None
        """What the last call that was looked at went for; those like it are taken to be no different."""
        self._looks = 0
        self._untold = 0.0
        """Seconds of calls since that one."""
        self._fitting: Generator[None, None, Fitted] | None = None

    def computed(self, calls: Sequence[EngineCall], seconds: float, beside: float, cells: int, *, whole: bool) -> None:
        """Write down calls that ran at the same time.

        Args:
            calls: what ran.
            seconds: how long, together.
            beside: the part of it in which the next step was planned.
            cells: used cells of the cache before the step.
            whole: whether all of it was computed; what was aborted or failed teaches nothing.
        """
        self.counters.computed(seconds, beside, len(calls))
        switches = sum(self._switched(call) for call in calls)
        self.counters.switched += switches
        if len(calls) != 1 or not whole or calls[0].encode:
            return  # of calls at the same time nobody knows which took how long
        kind = (calls[0].tokens, len(calls[0].rows), switches)
        self._alike = self._alike + 1 if kind == self._kind else 0
        self._kind = kind
        self._untold += seconds
        if self._spent is not None and seconds < _SHORT_S and self._alike % _ALIKE:
            self.counters.explain(self._spent)
            return
        shape = shape_of(calls[0].rows, switches, cells + calls[0].tokens if self._shared_cells else None)
        cost = self.cost.cost
        if cost is not None:
            self._spent = spent(shape, cost, self._limits.max_tokens)
            self.counters.explain(self._spent)
        self.cost.observed(shape, seconds)
        self._tell(self._untold)
        self._untold = 0.0

    def settle(self) -> None:
        """Between two steps: begin a fit if it is time, go on with it for a piece, and at its end believe it."""
        if self._fitting is None:
            samples = self.cost.due()
            if samples:
                self._fitting = fitting(samples, folds=0)
            return
        try:
            next(self._fitting)
        except StopIteration as end:
            self._fitting = None
            self.cost.fitted(end.value)
            self.counters.cost_fits = self.cost.fits
        except Exception as fault:  # noqa: BLE001 - an engine whose cost cannot be fitted runs as well
            self._fitting = None
            logger.error("the cost of a step could not be fitted: %s", fault_report(fault))

    def _switched(self, call: EngineCall) -> bool:
        """Whether a call changed its runner's adapters."""
        if call.encode:
            return False
        blend, runner = call.tasks[0].entry.group[0], id(call.runner)
        before = self._blends.get(runner, "")
        self._blends[runner] = blend
        return before != blend

    def _tell(self, seconds: float) -> None:
        """Say how well the cost predicts; log where a slow spell begins and where it ends."""
        factor = self.counters.slowdown = self.cost.factor
        self._looks += 1
        if self._looks % _TELL_ERROR_EVERY == 0:
            self.counters.cost_error = self.cost.error
            self.counters.line_error = self.cost.line_error
        changed = factor < _FAST if self._slow else factor >= _SLOW and self._sure(factor)
        self._otherwise = self._otherwise + seconds if changed else 0.0
        if self._otherwise < _SPELL_S:
            return
        self._slow, self._otherwise = not self._slow, 0.0
        if self._slow:
            self.counters.slow_spells += 1
            logger.warning(
                "steps take %.1f times as long as they should: something else may be using the cores; "
                "estimates follow until it is over",
                factor,
            )
        else:
            logger.warning("steps take about as long as they should again")

    def _sure(self, factor: float) -> bool:
        """Whether a machine that is so slow is slower than predictions are wrong."""
        error = self.cost.error
        return error is not None and factor >= _SLOW * (1 + error)
