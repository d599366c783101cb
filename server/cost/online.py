"""What a running engine believes a step costs: a straight line at first, all the terms once it has seen enough.

A `StepCost` from a search is believed at once, and followed by a `Slowdown`. Without one the terms are fitted to the
calls that ran; until then, and for the rate that callers are told, there is the `LinearCost`. Fitting takes as long as
several steps, so it is not done here: `due` hands out what to fit, from time to time, and `fitted` takes the result,
whenever it comes. How far off predictions were is kept for calls that came after the terms they were made with.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from crayon.server.cost.model import ALONE, DecodeLoad, LinearCost
from crayon.server.cost.sizing import Mix, batch_for
from crayon.server.cost.slowdown import Slowdown
from crayon.server.cost.step_cost import MOST_TOKENS, StepCost, StepShape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.server.cost.fit import Fitted, Sample

_FIRST_FIT = 64
"""Calls before the first fit; from then on as many as there were before, up to `_REFIT`: the first ones are few."""
_REFIT = 1024
_WIDE = 4
"""The largest call seen has to have this many times the tokens of the smallest, or no slope can be told."""
_BEYOND = 2
"""Terms that were fitted while serving are trusted up to this many times the largest call seen."""
_JUDGED = 256
_ENOUGH = 64
"""Later calls that say how far off the cost is; fewer say nothing."""
CLOSE = 0.25
_RECENT = 1 / 16
"""Weight of the latest call in how much longer calls take that read prompts beside answers."""
_MOST_BESIDE = 4.0
_ANCHORS = 64


class LiveCost:
    """A `CostModel` that learns all terms of a call's cost.

    Args:
        known: terms that were measured on this machine.
        shared_cells: whether attention runs over all used cells of the cache, as where llama.cpp's is unified.
        most: tokens that the engine takes in one step.
    """

    def __init__(self, known: StepCost | None = None, *, shared_cells: bool = False, most: int = MOST_TOKENS) -> None:
        if known is not None and not any(known.terms().values()):
            known = None  # a record that says nothing: no ratio of it could ever be learnt from
        self._line = LinearCost()
        self._slowdown = None if known is None else Slowdown(known, tuple(_grid()))
        self._measured = known is not None
        self._shared = shared_cells
        self._most = most
        self._first: deque[Sample] = deque(maxlen=_REFIT)
        self._kinds: dict[tuple[int, ...], StepShape] = {}
        self._largest, self._smallest = 0, MOST_TOKENS
        self._calls = 0
        self._next = _FIRST_FIT
        self._errors: deque[float] = deque(maxlen=_JUDGED)
        self._line_errors: deque[float] = deque(maxlen=_JUDGED)
        self._typical = StepShape(1, 0, 1)
        self._beside = 1.0
        """How many times as long as predicted calls take that read a piece of a prompt beside answers: llama.cpp cuts
        rows of unequal length into several graphs, and the terms are mostly fitted to other calls."""
        self.fits = 0
        """How often the terms were fitted."""

    # -- what is believed

    @property
    def cost(self) -> StepCost | None:
        """The terms on an undisturbed machine; None while there is the line only."""
        return None if self._slowdown is None else self._slowdown.cost

    @property
    def now(self) -> StepCost | None:
        """The terms on the machine as it is now."""
        return None if self._slowdown is None else self._slowdown.cost.scaled(self._slowdown.factor)

    @property
    def factor(self) -> float:
        """How many times as long calls take now as they should."""
        return 1.0 if self._slowdown is None else self._slowdown.factor

    @property
    def per_token(self) -> float:
        """Seconds of one more token, in any call."""
        return self._line.per_token

    @property
    def error(self) -> float | None:
        """Median of the relative errors of the last predictions; None while there are too few."""
        return _median(self._errors)

    @property
    def line_error(self) -> float | None:
        """The same, had the straight line predicted these calls."""
        return _median(self._line_errors)

    @property
    def confident(self) -> bool:
        """Whether predictions have been close for long enough to refuse somebody for them."""
        error = self.error
        return error is not None and error < CLOSE

    def seconds(self, tokens: int, batches: int = 1) -> float:
        """Return the time for `tokens` tokens in `batches` engine calls of the mix of the last one."""
        if self._slowdown is None:
            return self._line.seconds(tokens, batches)
        return self._slowdown.factor * self._slowdown.cost.in_calls(batches).seconds(self._typical.resized(tokens))

    def tokens_within(self, seconds: float, batches: int = 1, load: DecodeLoad = ALONE) -> int:
        """Return how many tokens fit into `seconds`, those `load` included; never fewer than the ridge."""
        if self._slowdown is None:
            return self._line.tokens_within(seconds, batches)
        context = load.decodes * load.cells if self._shared else load.context
        switches = batches if batches > 1 else 0
        mix = Mix(StepShape(load.decodes, context, load.decodes, switches), load.cells if self._shared else None)
        most = self._most if self._measured else min(self._most, max(_BEYOND * self._largest, _FIRST_FIT))
        cost, target = self._slowdown.cost, seconds / (self._slowdown.factor * max(self._beside, 1.0))
        if batches > 1:
            cost = cost.in_calls(batches)
        if cost.seconds(mix.resized(most)) <= target:
            return most  # the usual case, and much the quickest to find out
        return batch_for(cost, target, mix, most)

    def stretch(self, context: int) -> float:
        """Return how many times as long a token takes that attends to `context` others as one that attends to none."""
        if self._slowdown is None or not self._slowdown.cost.per_token:
            return self._line.stretch(context)
        return 1.0 + context * self._slowdown.cost.per_context / self._slowdown.cost.per_token

    # -- learning

    def observed(self, shape: StepShape, seconds: float) -> None:
        """Learn from a call that ran undisturbed to its end."""
        if not (seconds > 0 and shape.tokens > 0):
            return
        self._calls += 1
        self._largest, self._smallest = max(self._largest, shape.tokens), min(self._smallest, shape.tokens)
        self._typical = shape._replace(switches=0)
        if self._slowdown is None:
            self._first.append((shape, seconds))
        else:
            expected = self._slowdown.seconds(shape)
            self._errors.append(abs(expected / seconds - 1))
            if 1 < shape.outputs < shape.tokens and expected > 0:
                self._beside += _RECENT * (min(seconds / expected, _MOST_BESIDE) - self._beside)
            self._line_errors.append(abs(self._line.seconds(shape.tokens) / seconds - 1))
            self._slowdown.observed(shape, seconds)
        self._line = self._line.observed(shape.tokens, seconds)
        kind = (*(number.bit_length() for number in shape[:3]), shape.switches)
        self._kinds.pop(kind, None)
        self._kinds[kind] = shape
        if len(self._kinds) > _ANCHORS:
            del self._kinds[next(iter(self._kinds))]

    def due(self) -> list[Sample] | None:
        """Return what the terms should be fitted to now, None if it is not time; each is handed out once."""
        if self._calls < self._next:
            return None
        if self._slowdown is None and self._largest < _WIDE * self._smallest:
            self._next = self._calls + _FIRST_FIT // 4
            return None
        self._next = self._calls + min(self._calls, _REFIT)
        return list(self._first) if self._slowdown is None else self._slowdown.remembered()

    def fitted(self, found: Fitted) -> None:
        """Believe these terms from now on."""
        self.fits += 1
        anchors = None if self._measured else tuple(self._kinds.values())
        if self._slowdown is not None:
            self._slowdown.adopt(found.cost, anchors)
            return
        self._slowdown = Slowdown(found.cost, anchors or ())
        for shape, seconds in self._first:
            self._slowdown.observed(shape, seconds)
        self._first.clear()


def _median(errors: deque[float]) -> float | None:
    return sorted(errors)[len(errors) // 2] if len(errors) >= _ENOUGH else None


def _grid() -> Iterator[StepShape]:
    """Yield calls of all sizes and depths, for which measured terms are kept until others are seen."""
    for size in range(0, 11, 2):
        for depth in (64, 1024):
            for switches in (0, 1):
                yield StepShape(2**size, depth * 2**size, min(2**size, 16), switches)
