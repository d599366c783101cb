"""Which sequence holds which prefix: the device's prefix cache, keyed by blend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class Memory(Protocol):
    """The part of a context that the table moves."""

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        """Forget positions of a sequence."""
        ...

    def clear(self) -> None:
        """Forget every sequence, and fill cells from the first again."""
        ...

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Share positions of a sequence with another."""
        ...


@dataclass(slots=True)
class Slot:
    """One sequence of the KV cache. `tokens` are those computed, under the adapters that `key` stands for."""

    sequence: int
    key: Hashable = None
    tokens: list[int] = field(default_factory=list)
    reserved: int = 0  # cells promised to the job that runs here; 0 when idle
    used_at: int = 0

    @property
    def cells(self) -> int:
        """Cells that this slot may come to hold."""
        return max(self.reserved, len(self.tokens))


class SlotTable:
    """Gives each job a slot with the longest prefix already computed under the same blend.

    KV computed under one blend is wrong under another, so a prefix is only ever shared between equal keys.

    Args:
        memory: where sequences live.
        slots: most jobs at once; idle slots are the prefix cache.
        capacity: cells in all.
    """

    def __init__(self, memory: Memory, *, slots: int, capacity: int) -> None:
        self._memory = memory
        self._slots = [Slot(i) for i in range(slots)]
        self._capacity = capacity
        self._clock = 0

    def acquire(self, key: Hashable, tokens: Sequence[int], reserve: int) -> tuple[Slot, int] | None:
        """Return a slot for `tokens` and how many of them it already holds; None while there is no room.

        At least the last token is left to compute, since its logits are wanted. `reserve` cells are promised: the
        prompt and the longest possible answer.
        """
        idle = [slot for slot in self._slots if not slot.reserved]
        running = sum(slot.reserved for slot in self._slots)
        if not idle or running + reserve > self._capacity:
            return None
        shared = {slot.sequence: self._common(slot, key, tokens) for slot in self._slots}
        source = max(self._slots, key=lambda slot: (shared[slot.sequence], slot.used_at))
        n = shared[source.sequence]
        target = source
        if source.reserved or 2 * n < len(source.tokens):
            # Most of that prefix belongs to another conversation: leave it there and share the common start.
            target = min(idle, key=lambda slot: (bool(slot.tokens), slot.used_at))
        if target is not source:
            self._forget(target)
            if n:
                self._memory.copy(source.sequence, target.sequence, 0, n)
        if len(target.tokens) > n and target is source and not self._memory.remove(target.sequence, n):
            self._forget(target)
            n = 0
        target.key, target.tokens = key, list(tokens[:n])
        target.reserved = max(reserve, 1)
        self._touch(target)
        self._evict(keep=target)
        if not any(slot.tokens for slot in self._slots):
            # llama.cpp goes on behind the last cell used, and attention reads up to the last cell in use: without
            # this, a long prompt in an empty cache computes 8 % slower than it need be.
            self._memory.clear()
        return target, n

    def release(self, slot: Slot) -> None:
        """End a job: what it computed stays as a prefix for the next."""
        slot.reserved = 0
        self._touch(slot)

    def forget(self, slot: Slot) -> None:
        """Drop what a slot holds (after a failed step its cells are unknown)."""
        self._forget(slot)

    def _common(self, slot: Slot, key: Hashable, tokens: Sequence[int]) -> int:
        if slot.key != key:
            return 0
        limit = min(len(slot.tokens), len(tokens) - 1)
        for i in range(limit):
            if slot.tokens[i] != tokens[i]:
                return i
        return max(limit, 0)

    def _evict(self, keep: Slot) -> None:
        """Forget idle prefixes, oldest first, until every promise can be kept."""
        idle = sorted(
            (s for s in self._slots if not s.reserved and s.tokens and s is not keep), key=lambda s: s.used_at
        )
        while idle and sum(slot.cells for slot in self._slots) > self._capacity:
            self._forget(idle.pop(0))

    def _forget(self, slot: Slot) -> None:
        self._memory.remove(slot.sequence)
        slot.tokens = []
        slot.key = None

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock
