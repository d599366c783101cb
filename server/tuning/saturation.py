"""What a server delivers when there is always somebody waiting, from the cost of a call: no engine, only arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from crayon.errors import ConfigError
from crayon.server.cost.step_cost import StepCost, StepShape, attended

if TYPE_CHECKING:
    from crayon.server.tuning.choice import TunedSettings

CELLS = 256
"""llama.cpp attends over its used cells rounded up to this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLoad:
    """What is asked of the server.

    Args:
        prompt, answer: tokens of a typical request.
        blends: different blends among the requests.
        n_ctx: cells of the cache.
        itl_target_s: most seconds between two tokens of an answer.
        longest: tokens that any one request must be able to hold; a split cache that cannot is no choice.
    """

    prompt: int = 200
    answer: int = 50
    blends: int = 1
    n_ctx: int = 8192
    itl_target_s: float = 0.25
    longest: int = 2048

    def __post_init__(self) -> None:
        for key in ("prompt", "answer", "blends", "n_ctx", "longest"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, not {getattr(self, key)}")
        if not self.itl_target_s > 0:
            raise ConfigError("itl_target_s", f"must be more than 0, not {self.itl_target_s}")
        if self.n_ctx < self.tokens:
            raise ConfigError("n_ctx", f"must hold one request of {self.tokens} tokens, not {self.n_ctx}")

    @property
    def tokens(self) -> int:
        """Tokens of a whole request."""
        return self.prompt + self.answer

    @property
    def depth(self) -> int:
        """Tokens that a request which is being answered holds, on average."""
        return self.prompt + self.answer // 2

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


class Steady(NamedTuple):
    """A server that is kept full.

    Args:
        tokens_per_s: tokens read and written a second.
        longest_s: most seconds between two tokens of an answer.
        decoding: answers in each step.
        chunk: prompt tokens in a step that reads.
        share: share of the steps that read.
        groups: blends in each step, an engine call each.
        switches: changes of adapters for each of these calls.
    """

    tokens_per_s: float
    longest_s: float
    decoding: int
    chunk: int
    share: float
    groups: int
    switches: float

    @property
    def alone(self) -> bool:
        """Whether prompts are read in steps without answers, because there is one sequence only."""
        return self.share > 0 and self.decoding == 0


def steady(cost: StepCost, choice: TunedSettings, workload: ExpectedLoad) -> Steady:
    """Return what a choice delivers, without overlap.

    Answers come first and prompts fill the step, as in the scheduler. Of `slots` requests, D are being answered; a
    prompt takes k steps, so that D * k / answer of the steps read one. D is the most for which that share is no more
    than 1 and the requests in both states are no more than `slots`.
    """
    groups = min(workload.blends, choice.max_blends)
    slots = max(1, min(choice.n_seq_max, workload.n_ctx // workload.tokens))
    here = max(1, slots * groups // workload.blends)
    decoding, chunk, share = _mix(choice.n_batch, here, workload)
    turn = max(1, choice.quantum * groups // choice.n_batch)  # steps
    switches = 0.0
    if workload.blends > 1:
        switches = 1.0 if groups > 1 else 1 / turn
    cells = -(-slots * workload.depth // CELLS) * CELLS

    def seconds(answers: int, prompt: int) -> float:
        shape = step_shape(answers, prompt, workload, cells if choice.kv_unified else None)
        calls = groups * min(choice.nano, max(1, shape.tokens // groups))
        part = StepShape(-(-shape.tokens // calls), -(-shape.context // calls), -(-shape.outputs // calls), 0)
        return calls * cost.seconds(part) + groups * switches * cost.per_switch

    reading = seconds(decoding, chunk)
    writing = seconds(max(1, decoding), 0)
    if decoding:
        each = share * reading + (1 - share) * writing
        rate = decoding * workload.tokens / workload.answer / each
        longest = reading
    else:
        each = workload.prompt / chunk * reading + workload.answer * writing
        rate, longest = workload.tokens / each, writing
    # Those whose turn it is not wait for the others' turns.
    waits = (math.ceil(workload.blends / groups) - 1) * turn
    return Steady(rate, longest * (waits + 1), decoding, chunk, share, groups, switches)


def _mix(batch: int, slots: int, workload: ExpectedLoad) -> tuple[int, int, float]:
    """Return answers in a step, prompt tokens of a reading step, and the share of reading steps."""
    for decoding in range(min(slots - 1, batch - 1), 0, -1):
        chunk = min(workload.prompt, batch - decoding)
        share = decoding * workload.prompt / chunk / workload.answer
        if share <= 1 and decoding + share <= slots:
            return decoding, chunk, share
    # One at a time: first its prompt, then its answer.
    chunk = min(workload.prompt, batch)
    reads = workload.prompt / chunk
    return 0, chunk, reads / (reads + workload.answer)


def step_shape(answers: int, prompt: int, workload: ExpectedLoad, cells: int | None) -> StepShape:
    """Return the shape of a step; `cells` are those used of a unified cache, None where it is split."""
    tokens = answers + prompt
    if cells is not None:
        context = tokens * cells
    else:
        context = answers * (workload.depth + 1) + attended(max(0, workload.prompt - prompt) // 2, prompt)
    return StepShape(tokens, context, answers + (1 if prompt else 0))
