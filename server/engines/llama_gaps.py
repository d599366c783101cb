"""Rows of nothing that keep a step one graph.

Where each sequence has cells of its own, llama.cpp puts only sequences of neighbouring numbers, in rising order, into
one graph (`split_equal`): a step over 1, 2 and 4 is computed as two graphs, and each reads all weights again. So rows
are given in that order, and a short gap is bridged: its sequence computes a token of nothing that is taken out of the
cache again.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A graph more costs about as much as 6 rows without logits (SmolLM2-135M on 2 cores: 10 ms against 1.6).
MAX_GAP = 4


def gaps(seqs: Sequence[int], room: int, most: int = MAX_GAP) -> list[int]:
    """Return the sequences that are missing between `seqs`, in rising order.

    Args:
        seqs: those that are computed, rising; one may stand there more than once.
        room: most rows that may be added; gaps that do not fit stay.
        most: longer gaps stay: another graph is cheaper.
    """
    missing: list[int] = []
    for before, after in itertools.pairwise(seqs):
        between = range(before + 1, after)
        if len(between) <= min(most, room - len(missing)):
            missing += between
    return missing
