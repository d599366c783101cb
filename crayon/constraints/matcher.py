"""What one answer may go on with, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llguidance import LLExecutor, LLMatcher
    from numpy.typing import NDArray


class Matcher:
    """The state of one answer under a constraint. `take` each token of it; not thread-safe.

    Args:
        matcher: llguidance's, at the beginning of an answer.
        n_vocab: tokens of the model.
        executor: gives what computes for several answers at the same time.
    """

    def __init__(self, matcher: LLMatcher, n_vocab: int, executor: Callable[[], LLExecutor]) -> None:
        self._matcher = matcher
        self._executor = executor
        self._n_vocab = n_vocab
        self._bits: NDArray[np.uint8] | None = None  # one bit a token; of this state
        self._mask: NDArray[np.bool_] | None = None
        self._check()

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return self._matcher.is_stopped()

    @property
    def accepts(self) -> bool:
        """Whether the answer is complete, though more may follow."""
        return self._matcher.is_accepting()

    def allows(self, token: int) -> bool:
        """Whether a token may come next; the model's end only where the answer is complete."""
        if self._mask is not None:
            return bool(self._mask[token])
        return self._matcher.validate_tokens([token]) == 1

    def mask(self) -> NDArray[np.bool_]:
        """Return which tokens may come next, shape (n_vocab,); not to be changed.

        Raises:
            EngineError: none may, or the constraint costs too much here.
        """
        if self._mask is None:
            if self._bits is None:
                fill([self])
            if self._bits is None:
                raise EngineError("the constraint was not looked at")
            self._mask = np.unpackbits(self._bits, count=self._n_vocab, bitorder="little").view(np.bool_)
            self._check()
            if not self._mask.any():
                raise EngineError("the constraint allows nothing that the model has tokens for")
        return self._mask

    def take(self, tokens: Sequence[int]) -> None:
        """Go on with these tokens.

        Raises:
            EngineError: one of them is not allowed, or the constraint costs too much here.
        """
        self._bits = self._mask = None
        if not self._matcher.consume_tokens(list(tokens)):
            self._check()
            raise EngineError("a token was taken that the constraint does not allow")

    def forced(self) -> list[int]:
        """Return the tokens that have to follow, as the model's own tokenizer would write them; `take` them."""
        return [] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def _check(self) -> None:
        if self._matcher.is_error():
            said = " ".join(self._matcher.get_error().split())[:200]
            raise EngineError(f"the constraint cannot be kept any further: {said}")

    def _row(self) -> NDArray[np.uint8]:
        words = -(-self._n_vocab // 32)
        self._bits = np.zeros(4 * words, np.uint8)
        return self._bits


PARALLEL = 4
"""Answers from which on several threads are quicker than it takes to wake them."""


def fill(matchers: Sequence[Matcher]) -> None:
    """Find out what may come next in answers of one model, in several at the same time."""
    todo = [each for each in matchers if each._bits is None]
    if len(todo) < PARALLEL:
        for each in todo:
            row = each._row()
            each._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        return
    size = todo[0]._row().nbytes
    rows: NDArray[np.uint8] = np.zeros((len(todo), size), np.uint8)
    pairs = [(each._matcher, i) for i, each in enumerate(todo)]
    todo[0]._executor().unsafe_compute_mask_ptr(pairs, rows.ctypes.data, size, len(todo))
    for each, row in zip(todo, rows, strict=True):
        each._bits = row
