"""What a cost says about sizes and times: how large a batch may be, and when a request will be done."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from crayon.errors import InvalidRequestError
from crayon.server.cost.step_cost import StepCost, StepShape, attended, most

if TYPE_CHECKING:
    from collections.abc import Sequence


class Mix(NamedTuple):
    """A call that writes a token of each running answer and reads prompts with all others.

    Args:
        decodes: the answers' part.
        prompt: positions that each token of a prompt attends; None: those of a prompt of its own, read from its start.
    """

    decodes: StepShape
    prompt: int | None = None

    def resized(self, tokens: int) -> StepShape:
        """Return the call with `tokens` tokens; with fewer than there are answers, they are left out in proportion."""
        decodes = self.decodes
        read = tokens - decodes.tokens
        if read < 0:
            return decodes.resized(tokens)
        context = attended(0, read) if self.prompt is None else read * self.prompt
        return StepShape(tokens, decodes.context + context, decodes.outputs + bool(read), decodes.switches)


def batch_for(cost: StepCost, target_s: float, mix: Mix, engine: int) -> int:
    """Return the tokens of the largest call within the target, but none below the ridge, where smaller is not faster.

    Args:
        cost: what a call costs.
        target_s: most seconds that the call may take.
        mix: what is in it.
        engine: most tokens that the engine takes.
    """
    ridge = max(1, math.ceil(min(cost.ridge, engine)))
    return max(ridge, most(lambda tokens: cost.seconds(mix.resized(tokens)) <= target_s, engine))


class TokenWork(NamedTuple):
    """A request in tokens: to read still, to write still (as expected), and in the cache already."""

    prompt: int
    answer: int
    cached: int = 0


class Finish(NamedTuple):
    """When a request has its first token and its last, in seconds from now, and after how many steps.

    Infinite if the cache can never hold it.
    """

    first: float
    last: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What the scheduler fills.

    Args:
        batch: tokens a step.
        max_seqs: requests that run at once.
        kv_capacity: tokens that their prompts and answers may take together; None does not care.
        blends: engine calls a step, each with an equal part of the tokens and, if several, a change of adapters.
    """

    batch: int
    max_seqs: int
    kv_capacity: int | None = None
    blends: int = 1

    def __post_init__(self) -> None:
        for name, size in (("batch", self.batch), ("max_seqs", self.max_seqs), ("blends", self.blends)):
            if size < 1:
                raise InvalidRequestError(name, f"must be at least 1, not {size}")


def finish_estimate(
    cost: StepCost, mine: TokenWork, running: Sequence[TokenWork], waiting: Sequence[TokenWork], headroom: Headroom
) -> Finish:
    """Return when `mine` is done if it queues behind `waiting` now and all lengths are as said.

    Goes through the rules of the scheduler for one group (decodes first, then prompts in order), not step by step but
    from change to change, of which there are a few a request. That a client's short prompts overtake its long ones in
    every second step is left out: beside long prompts a short one is done sooner than is said.

    Raises:
        InvalidRequestError: a request has nothing to write.
    """
    if min(work.answer for work in (mine, *running, *waiting)) < 1:
        raise InvalidRequestError("answer", "must be at least 1 token")
    crowd = _Crowd(cost, headroom, running, [*waiting, mine])
    target = crowd.queue[-1]
    while target.answer:
        if not crowd.advance(target):
            return Finish(math.inf, math.inf, crowd.steps)
    return Finish(crowd.first, crowd.now, crowd.steps)


class _Item:
    """A request on its way."""

    __slots__ = ("answer", "cached", "need", "prompt")

    def __init__(self, work: TokenWork) -> None:
        self.prompt, self.answer, self.cached = work
        self.need = sum(work)


class _Crowd:
    """All requests, on a clock."""

    def __init__(
        self, cost: StepCost, headroom: Headroom, running: Sequence[TokenWork], waiting: Sequence[TokenWork]
    ) -> None:
        self.cost = cost
        self.headroom = headroom
        self.active = [_Item(work) for work in running]
        self.queue = deque(_Item(work) for work in waiting)
        self.now = self.first = 0.0
        self.steps = 0

    def advance(self, target: _Item) -> bool:
        """Run the steps until something changes; False if nothing can run."""
        self._admit()
        if not self.active:
            return False
        decoding = [item for item in self.active if not item.prompt]
        reading = [item for item in self.active if item.prompt]
        left = max(self.headroom.batch - len(decoding), 1)
        takes: list[tuple[_Item, int]] = []
        for item in reading:
            if left > 0:
                takes.append((item, min(item.prompt, left)))
                left -= takes[-1][1]
        # Alike are the steps until an answer ends, and those that leave some of the first prompt unread.
        times = min((item.answer for item in decoding), default=takes[0][0].prompt if takes else 1)
        if takes:
            item, take = takes[0]
            times = max(1, min(times, (item.prompt - 1) // take))
        self._spend(decoding, takes, times)
        for item in decoding:
            item.answer -= times
            item.cached += times
        for item, take in takes:
            item.prompt -= times * take
            item.cached += times * take
            if not item.prompt:
                item.answer -= 1  # the prompt's last logits give the first token
                if item is target:
                    self.first = self.now
        self.active = [item for item in self.active if item.answer]
        return True

    def _admit(self) -> None:
        held = sum(item.need for item in self.active)
        while self.queue and len(self.active) < self.headroom.max_seqs:
            held += self.queue[0].need
            if self.headroom.kv_capacity is not None and held > self.headroom.kv_capacity:
                return
            self.active.append(self.queue.popleft())

    def _spend(self, decoding: list[_Item], takes: list[tuple[_Item, int]], times: int) -> None:
        """Let the time of `times` steps pass, of which only the first may end a prompt unless there is one step."""
        tokens = len(decoding) + sum(take for _, take in takes)
        outputs = len(decoding) + sum(item.prompt == take * times for item, take in takes)
        context = sum(item.cached + 1 for item in decoding) + sum(attended(item.cached, take) for item, take in takes)
        growth = len(decoding) + sum(take * take for _, take in takes)
        calls = min(self.headroom.blends, tokens)
        call = StepShape(-(-tokens // calls), 0, 0, int(calls > 1))
        # All but reading and computing is linear, so that a sum will do.
        self.now += times * (calls * self.cost.seconds(call) + self.cost.per_output * outputs)
        self.now += self.cost.per_context * (times * context + times * (times - 1) // 2 * growth)
        self.steps += times
