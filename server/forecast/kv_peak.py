"""How full the cache gets if answers end when they are predicted to.

A request that holds h tokens and gets r more holds h + t after t steps, and nothing after step r. Between two ends
everybody grows, so the cache is fullest at an end, and only ends are looked at.

A prompt that is not computed yet counts in full and its answer is taken to begin at once, so a long wait in
prefill is not foreseen: callers who know of it add it to the remaining tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def _sorted(held: ArrayLike, remaining: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, in order of their ends, each request's end, tokens held now, and the tokens of all at its end."""
    ends = np.asarray(remaining, dtype=np.int64)
    order = np.argsort(ends, kind="stable")
    ends, now = ends[order], np.asarray(held, dtype=np.int64)[order]
    # Of two that end together the first counts both, and its sum is the right one and the larger.
    return ends, now, np.cumsum(now[::-1])[::-1] + np.arange(len(ends), 0, -1) * ends


class KvForecast:
    """Says of one candidate after the other whether the cache has room for it.

    Args:
        capacity: tokens that the cache can hold.
        held, remaining: of each running request the tokens in the cache (a prompt in full) and those to come.
    """

    def __init__(self, capacity: int, held: ArrayLike = (), remaining: ArrayLike = ()) -> None:
        self.capacity = capacity
        self._ends, self._held, self._used = _sorted(held, remaining)
        self.peak = int(self._used.max(initial=0))
        """Most tokens in the cache at any step from now on."""

    def peak_with(self, prompt: int, remaining: int) -> int:
        """Return what the peak would be with one more request."""
        at, own = self._place(prompt, remaining)
        earlier = (self._used[:at] + self._ends[:at]).max(initial=-prompt) + prompt
        return max(self.peak, own, int(earlier))

    def fits(self, prompt: int, remaining: int) -> bool:
        """Whether the peak stays within the capacity with one more request."""
        return self.peak_with(prompt, remaining) <= self.capacity

    def add(self, prompt: int, remaining: int) -> None:
        """Count one more request, whether it fits or not."""
        at, own = self._place(prompt, remaining)
        self._used[:at] += self._ends[:at] + prompt
        self._ends = np.insert(self._ends, at, remaining)
        self._held = np.insert(self._held, at, prompt)
        self._used = np.insert(self._used, at, own)
        self.peak = int(self._used.max())

    def _place(self, prompt: int, remaining: int) -> tuple[int, int]:
        """Return how many end before a request would, and the tokens of all, its own included, at its end."""
        at = int(self._ends.searchsorted(remaining))
        alive = len(self._ends) - at + 1
        return at, int(self._held[at:].sum()) + prompt + alive * remaining
