"""Cells of the engine's cache, where sequences share those of a common beginning.

A sequence is a chain of parts, each as long as all its holders agree: copying the first tokens of a sequence splits
one part at most and holds on to what is before the cut. A part is counted once, whoever holds it, and is gone with
its last holder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.errors import EngineError

if TYPE_CHECKING:
    from crayon.server.steps.step_plan import KvOp


@dataclass(slots=True)
class Cells:
    """What each sequence holds."""

    used: int = 0
    """Cells in use."""
    _last: dict[int, int] = field(default_factory=dict)
    """The part that each sequence ends with; an empty one has none."""
    # By part. Plain numbers, because a plan copies them to try things out.
    _tokens: dict[int, int] = field(default_factory=dict)
    _parent: dict[int, int] = field(default_factory=dict)
    """The part before it, 0 at the beginning."""
    _holders: dict[int, int] = field(default_factory=dict)
    """Sequences that end with it and parts that follow it."""
    _numbers: int = 0

    def copy(self) -> Cells:
        """Return a copy to try things out on."""
        return Cells(
            self.used,
            self._last.copy(),
            self._tokens.copy(),
            self._parent.copy(),
            self._holders.copy(),
            self._numbers,
        )

    def length(self, seq: int) -> int:
        """Return the tokens that a sequence holds."""
        part, length = self._last.get(seq, 0), 0
        while part:
            length += self._tokens[part]
            part = self._parent[part]
        return length

    def grow(self, seq: int, tokens: int) -> None:
        """Add tokens to a sequence."""
        if not tokens:
            return
        self.used += tokens
        part = self._last.get(seq, 0)
        if part and self._holders[part] == 1:
            self._tokens[part] += tokens
        else:  # the sequence's own hold on its last part becomes that of the new one
            self._last[seq] = self._new(tokens, part, 1)

    def apply(self, op: KvOp) -> None:
        """Do one cache operation.

        Raises:
            EngineError: the source does not hold that many tokens.
        """
        kept = self._ending_at(op.source, op.keep) if op.keep else 0
        if kept:
            self._holders[kept] += 1
        old = self._last.pop(op.seq, 0)
        if kept:
            self._last[op.seq] = kept
        while old:
            self._holders[old] -= 1
            if self._holders[old]:
                break
            self.used -= self._tokens.pop(old)
            del self._holders[old]
            old = self._parent.pop(old)

    def _ending_at(self, seq: int, keep: int) -> int:
        """Return the part that ends after the sequence's first `keep` tokens, at least 1; splits one if need be."""
        part, end = self._last.get(seq, 0), self.length(seq)
        if end < keep:
            raise EngineError(f"sequence {seq} holds {end} tokens, {keep} are wanted")
        while end - self._tokens[part] >= keep:
            end -= self._tokens[part]
            part = self._parent[part]
        if end > keep:
            rest = end - keep
            head = self._new(self._tokens[part] - rest, self._parent[part], 1)
            self._tokens[part], self._parent[part] = rest, head
            return head
        return part

    def _new(self, tokens: int, parent: int, holders: int) -> int:
        self._numbers += 1
        part = self._numbers
        self._tokens[part], self._parent[part], self._holders[part] = tokens, parent, holders
        return part
