"""A context whose sequences hold as many tokens as a measurement wants, filled without computing each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from crayon.llama.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.llama.batch import Logits
    from crayon.llama.context import Context
    from crayon.server.steps.step_plan import Row

_STRIDE = 7919  # a prime: neighbouring tokens are far apart in the vocabulary


class Filled:
    """A context, and how many tokens each of its sequences holds.

    Only the first sequence is computed; the others are its saved state, loaded into cells of their own, as different
    requests would fill them. What a call adds is removed after it.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._batch = Batch(context.n_batch)
        self._depths: dict[int, int] = {}

    def fill(self, sequences: int, depth: int) -> None:
        """Let the first `sequences` sequences hold `depth` tokens each, and no other hold any."""
        context = self.context
        for sequence in [seq for seq in self._depths if seq >= sequences or (seq and self._depths[seq] != depth)]:
            context.remove(sequence)
            del self._depths[sequence]
        if sequences < 1:
            return
        have = self._depths.get(0, 0)
        if have > depth:
            context.remove(0, depth)
        for start in range(have, depth, context.n_batch):
            self._decode([(0, start, min(context.n_batch, depth - start), 0)])
        self._depths[0] = depth
        missing = [seq for seq in range(1, sequences) if seq not in self._depths]
        if missing and depth:
            state = context.save(0)
            for sequence in missing:
                context.restore(sequence, state)
        self._depths.update(dict.fromkeys(missing, depth))

    def run(self, rows: Sequence[Row]) -> float:
        """Compute rows and return the seconds it took; the cache is then as before."""
        begun = time.perf_counter()
        self._decode([(row.seq, row.start, row.tokens, row.logits) for row in rows])
        seconds = time.perf_counter() - begun
        for row in rows:
            self.context.remove(row.seq, row.start)
        return seconds

    def _decode(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        batch, vocabulary = self._batch, self.context.model.n_vocab
        batch.clear()
        for sequence, start, tokens, logits in rows:
            wanted: Logits = "none" if not logits else "all" if logits == tokens else "last"
            ids = [(_STRIDE * (start + i) + sequence) % vocabulary for i in range(tokens)]
            batch.add(ids, start, sequence, wanted)
        self.context.decode(batch)
