"""Which samples a prompt shows, and how samples are dealt out so that each is answered without seeing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.customising.sample import answer_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.customising.sample import Sample

# More examples cost every question's attention; from 16 on they gain little on train tasks.
MAX_EXAMPLES = 16
# Of the context: what is left is for the conversation and its answer.
CONTEXT_SHARE = 0.25
FOLDS = 4
# So many samples that are no examples judge them as they will be used; with fewer, folds do.
MIN_OUTSIDE = 8


def choose_examples(
    samples: Sequence[Sample],
    numbers: Sequence[int],
    fits: Callable[[tuple[int, ...]], bool],
    *,
    most: int = MAX_EXAMPLES,
) -> tuple[int, ...]:
    """Return the samples that a prompt shows: of each answer by turns, in the order they were given.

    Args:
        samples: all of them.
        numbers: those of one profile that have an answer.
        fits: whether so many fit the context; fewer are taken until they do.
        most: at most so many.
    """
    key, waiting = answer_key(samples), dict[str, list[int]]()
    for number in numbers:
        waiting.setdefault(key(samples[number].answer or ""), []).append(number)
    rounds: list[int] = []
    while len(rounds) < most and any(waiting.values()):
        rounds += [left.pop(0) for left in waiting.values() if left]
    chosen = tuple(rounds[:most])
    while chosen and not fits(tuple(sorted(chosen))):
        chosen = chosen[: len(chosen) * 3 // 4]
    return tuple(sorted(chosen))


def shown_to(cases: Sequence[int], examples: Sequence[int]) -> list[tuple[int, ...]]:
    """Return for each case, a sample, the examples that its prompt shows when it is judged: never itself.

    Cases that are examples are dealt out to `FOLDS` folds, one after the other, and each fold is shown the examples of
    the others. Cases in the order of `by_answer` lose about as many examples of each answer; else a fold could be shown
    none of its own.
    """
    chosen = set(examples)
    own = [case for case in cases if case in chosen]
    folds = {case: i % min(FOLDS, max(len(own), 1)) for i, case in enumerate(own)}
    shown: list[tuple[int, ...]] = []
    for case in cases:
        fold = folds.get(case)
        shown.append(tuple(number for number in examples if fold is None or folds.get(number) != fold))
    return shown


def judged_by(numbers: Sequence[int], examples: Sequence[int]) -> list[int]:
    """Return the samples that examples are judged on: those that are none, if there are enough."""
    outside = [number for number in numbers if number not in set(examples)]
    return outside if len(outside) >= MIN_OUTSIDE else list(numbers)
