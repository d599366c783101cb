"""How many tokens a step may have: what readers of answers wait for, against what prompts wait for.

While answers are being written, a step is as long as the pause between their tokens. Two rules keep it within
`limits.step_seconds`:

- `late_share` is 0: every step is. Prompts are read in pieces that fit beside the answers, and each piece pays for the
  engine's work that comes once a call.
- `late_share` is more: that share of the steps may be longer. Prompts that do not fit beside the answers are held back
  until one is due, and are then read together and whole: the 95th percentile of the pauses is kept with 0.05, and the
  engine works in large pieces. Two exceptions: a prompt too long for any one step is read in pieces that fit, since
  nobody should see one pause of seconds for it; and where a prompt would not be read within `first_seconds` of its
  arrival, the next step is long whatever the share, because then more arrives than can be read in time, and large
  steps are what gets through most.

What may be late is kept as a credit in the state: a step within the bound earns `late_share`, a longer one costs 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crayon.server.cost.model import DecodeLoad

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from crayon.server.cost.model import CostModel
    from crayon.server.scheduler.draft import Draft
    from crayon.server.scheduler.state import State
    from crayon.server.steps.request import Request
    from crayon.server.steps.step_plan import Group

# Long steps that may be saved up, so that two prompts which come soon after each other need not wait.
MOST_CREDIT = 2.0
# Tokens of a long prompt in a step, at least: one would hardly get on. Deep in a prompt each is as long as a step: at a
# depth of 4,000 one of 8 answers took 5.4 times as long with 4 of them as without, 3.7 times with 2, 2.2 times with 1
# (SmolLM2-135M, 2 cores of a Xeon; llama.cpp attends to less than 64 tokens of a sequence one by one).
SHORTEST_PIECE = 2
_ROUNDING = 1e-9


class TokenBudget(NamedTuple):
    """Most tokens of the step, and the state's credit after it."""

    tokens: int
    credit: float


def budget(
    draft: Draft, state: State, groups: Collection[Group], reading: Sequence[Request], cost: CostModel
) -> TokenBudget:
    """Return what a step of these groups may have.

    Args:
        draft: holds the requests that run.
        state: who runs, and what was saved up.
        groups: those of the step.
        reading: their requests that are still read, in the order in which the step reads them.
        cost: how long steps take.
    """
    limits, credit = draft.limits, state.credit
    if limits.step_seconds is None:
        return TokenBudget(limits.max_tokens, credit)
    held = [request.computed for request in draft.generating if request.generated]
    decoding = len(held)
    if not decoding:
        return TokenBudget(limits.max_tokens, credit)
    if decoding == len(draft.running):  # nobody reads, so it does not matter how much could be read
        return TokenBudget(
            limits.max_tokens, min(MOST_CREDIT, credit + limits.late_share) if limits.late_share else credit
        )
    load = DecodeLoad(decoding, sum(held) + decoding, draft.used)
    within = min(cost.tokens_within(limits.step_seconds, len(groups) * limits.parts, load), limits.max_tokens)
    if within < limits.max_tokens:
        within = min(limits.max_tokens, max(within - within % limits.tile, limits.min_tokens, decoding + 1))
    if not limits.late_share:
        return TokenBudget(within, credit)
    earned = min(MOST_CREDIT, credit + limits.late_share)
    writing = sum(1 for request in draft.generating if request.generated and request.group in groups)
    lengths = [request.unread for request in reading]
    # By all that there was to read: of a long prompt that is nearly read the rest is read in pieces, too.
    long = writing + max((request.to_read for request in reading), default=0) > limits.max_tokens
    if not writing or (writing + sum(lengths) <= within and not long):
        return TokenBudget(within, earned)
    whole = writing
    for length in lengths:  # in the order in which they are read
        if whole + length > limits.max_tokens:
            break
        whole += length
    overdue = False
    if limits.first_seconds is not None:
        latest = state.now + cost.seconds(whole, len(groups)) - limits.first_seconds
        overdue = _waited(reading, latest, limits.max_tokens - writing)
    if overdue or (credit > 1.0 - _ROUNDING and not long):
        return TokenBudget(limits.max_tokens if long else whole, max(0.0, credit - 1.0))
    if not long:
        return TokenBudget(writing, earned)
    # The further a long prompt is read, the more its tokens attend to.
    piece = max(int((within - writing) / cost.stretch(reading[0].computed)), SHORTEST_PIECE)
    return TokenBudget(min(writing + piece, within), earned)


def _waited(reading: Iterable[Request], since: float, most: int) -> bool:
    """Whether a prompt that fits one step has waited since then, or longer."""
    return any(request.to_read <= most and request.arrival <= since for request in reading)
