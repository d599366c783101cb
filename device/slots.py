"""Which sequence holds which prefix: the device's prefix cache, keyed by blend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path


class Memory(Protocol):
    """The part of a context that the table moves."""

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        """Forget positions of a sequence."""
        ...

    def clear(self, *, wipe: bool = False) -> None:
        """Forget every sequence, and fill cells from the first again; with `wipe` nothing is left in them."""
        ...

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Share positions of a sequence with another."""
        ...

    def reaches(self, sequence: int, end: int) -> bool:
        """Tell whether the first `end` positions of a sequence can be gone on from without the others."""
        ...


@dataclass(slots=True, eq=False)
class KvSlot:
    """One sequence of the KV cache. `tokens` are those computed, under the adapters that `key` stands for."""

    sequence: int
    key: Hashable = None
    tokens: list[int] = field(default_factory=list)
    reserved: int = 0  # cells promised to the job that runs here; 0 when idle
    used_at: int = 0
    pin: KvSlot | None = None  # the resident prefix whose cells its first `shared` tokens lie in
    shared: int = 0
    file: Path | None = None  # where a resident prefix is kept between runs

    @property
    def cells(self) -> int:
        """Cells of its own that this slot may come to hold."""
        return max(self.reserved, len(self.tokens)) - self.shared


class SlotTable:
    """Gives each job a slot with the longest prefix already computed under the same blend.

    KV computed under one blend is wrong under another, so a prefix is only ever shared between equal keys.

    A prefix that many jobs share is pinned: it has a sequence of its own, so that it outlives the conversations that
    began with it, and goes last when cells are needed. Cells that a pin and slots share are counted once.

    Args:
        memory: where sequences live.
        slots: most jobs at once, in sequences 0, 1, ...; idle slots are the prefix cache.
        capacity: cells in all.
        pins: sequences of resident prefixes.
    """

    def __init__(self, memory: Memory, *, slots: int, capacity: int, pins: Sequence[int] = ()) -> None:
        self._memory = memory
        self._slots = [KvSlot(i) for i in range(slots)]
        self._pins = [KvSlot(i) for i in pins]
        self._capacity = capacity
        self._clock = 0
        self._spoilt = False

    def acquire(self, key: Hashable, tokens: Sequence[int], reserve: int) -> tuple[KvSlot, int] | None:
        """Return a slot for `tokens` and how many of them it already holds; None while there is no room.

        At least the last token is left to compute, since its logits are wanted. `reserve` cells are promised: the
        prompt and the longest possible answer.
        """
        idle = [slot for slot in self._slots if not slot.reserved]
        if not idle or (self._spoilt and len(idle) < len(self._slots)):
            return None
        if self._spoilt:
            for slot in (*self._slots, *self._pins):
                self._forget(slot)
            self._memory.clear(wipe=True)
            self._spoilt = False
        source, n = self._source(key, tokens)
        pin, shared = self._pinned_part(source, n)
        if self._promised({pin: shared} if pin is not None else {}) + reserve - shared > self._capacity:
            return None
        if source is not None and source in idle and 2 * (n - shared) >= len(source.tokens) - shared:
            target = source
        else:
            # Most of that prefix belongs to another conversation: leave it there and share the common start.
            target = min(idle, key=lambda slot: (bool(slot.tokens), slot.used_at))
        if target is not source:
            self._forget(target)
            if source is not None:
                self._memory.copy(source.sequence, target.sequence, 0, n)
        elif len(target.tokens) > n and not self._memory.remove(target.sequence, n):
            self._forget(target)
            return self.acquire(key, tokens, reserve)
        if pin is not None:
            self._touch(pin)
        target.pin, target.shared = pin, shared
        target.key, target.tokens = key, list(tokens[:n])
        target.reserved = max(reserve, 1)
        self._touch(target)
        self._evict(keep=target)
        self._restart()
        return target, n

    def release(self, slot: KvSlot) -> None:
        """End a job: what it computed stays as a prefix for the next."""
        slot.reserved = 0
        self._touch(slot)

    def forget(self, slot: KvSlot) -> None:
        """Drop what a slot holds (after a failed step its cells are unknown)."""
        self._forget(slot)

    def spoil(self, slot: KvSlot) -> None:
        """Drop what a slot holds, which is no numbers; the memory is wiped before another job begins."""
        self._forget(slot)
        self._spoilt = True

    # -- resident prefixes

    def pinned(self, key: Hashable, tokens: Sequence[int]) -> KvSlot | None:
        """Return the pin that holds exactly these tokens under a key."""
        wanted = list(tokens)
        return next((pin for pin in self._pins if pin.tokens and pin.key == key and pin.tokens == wanted), None)

    def keep(self, slot: KvSlot, n: int) -> KvSlot | None:
        """Make the first `n` tokens of a running slot resident; return the pin, None where that cannot be."""
        known = self.pinned(slot.key, slot.tokens[:n])
        if known is not None:
            self._touch(known)
            return known
        if not self._memory.reaches(slot.sequence, n):
            return None
        pin = self._free_pin(slot)
        if pin is not None:
            self._memory.copy(slot.sequence, pin.sequence, 0, n)
            self._share(slot, pin, slot.tokens[:n])
        return pin

    def place(self, slot: KvSlot, tokens: Sequence[int]) -> KvSlot | None:
        """Return a pin with cells for `tokens`, to be filled from elsewhere; None where there cannot be one.

        The running `slot` forgets what it held, and its cells for these tokens are lent to the pin: `take` shares them
        once they are filled, `drop` gives them back.
        """
        pin = self._free_pin(slot)
        if pin is not None:
            key = slot.key
            self._forget(slot)
            slot.key = key
            self._share(slot, pin, tokens)
        return pin

    def take(self, slot: KvSlot, pin: KvSlot) -> None:
        """Let a slot begin with a pin that `place` gave it."""
        self._memory.copy(pin.sequence, slot.sequence, 0, len(pin.tokens))
        slot.tokens = list(pin.tokens)

    def drop(self, pin: KvSlot) -> None:
        """Forget a resident prefix; slots that share its cells hold them alone from now on."""
        for slot in self._slots:
            if slot.pin is pin:
                slot.pin, slot.shared = None, 0
        self._forget(pin)
        pin.file = None

    def _share(self, slot: KvSlot, pin: KvSlot, tokens: Sequence[int]) -> None:
        pin.key, pin.tokens, pin.file = slot.key, list(tokens), None
        slot.pin, slot.shared = pin, len(tokens)
        self._touch(pin)
        self._evict(keep=slot)

    def _free_pin(self, slot: KvSlot) -> KvSlot | None:
        """Return an empty pin to which a running slot can lend cells without breaking a promise."""
        if slot.pin is not None and self._promised({slot.pin: -slot.shared}) + slot.shared > self._capacity:
            return None  # cells of another pin would be counted twice
        for pin in sorted(self._pins, key=lambda pin: (bool(pin.tokens), pin.used_at)):
            if self._claimed(pin) <= len(pin.tokens) and pin is not slot.pin:
                self.drop(pin)
                return pin
        return None

    # -- cells

    def _source(self, key: Hashable, tokens: Sequence[int]) -> tuple[KvSlot | None, int]:
        """Return the sequence that holds the longest usable start of `tokens`, and how many of them."""
        found = [(self._common(slot, key, tokens), slot.used_at, slot) for slot in (*self._slots, *self._pins)]
        for n, _, slot in sorted(found, key=lambda item: item[:2], reverse=True):
            if n and (n == len(slot.tokens) or self._memory.reaches(slot.sequence, n)):
                return slot, n
        return None, 0

    def _pinned_part(self, source: KvSlot | None, n: int) -> tuple[KvSlot | None, int]:
        """Return the pin whose cells the first of `n` tokens of a source lie in, and how many they are."""
        if source is None or source in self._pins:
            return source, n
        return source.pin, min(n, source.shared)

    def _common(self, slot: KvSlot, key: Hashable, tokens: Sequence[int]) -> int:
        if slot.key != key:
            return 0
        limit = min(len(slot.tokens), len(tokens) - 1)
        for i in range(limit):
            if slot.tokens[i] != tokens[i]:
                return i
        return max(limit, 0)

    def _claimed(self, pin: KvSlot) -> int:
        """Return how many cells running slots count on in a pin, one that several share once for each."""
        return sum(slot.shared for slot in self._slots if slot.reserved and slot.pin is pin)

    def _promised(self, more: dict[KvSlot, int]) -> int:
        """Return the most cells that running jobs may come to hold; `more` are further claims on pins."""
        pins = sum(min(len(pin.tokens), self._claimed(pin) + more.get(pin, 0)) for pin in self._pins)
        return pins + sum(slot.cells for slot in self._slots if slot.reserved)

    def _evict(self, keep: KvSlot) -> None:
        """Forget idle prefixes, then pins, oldest first, until every promise can be kept."""
        idle = sorted(
            (s for s in self._slots if not s.reserved and s.tokens and s is not keep), key=lambda s: s.used_at
        )
        while idle and self._held() > self._capacity:
            self._forget(idle.pop(0))
        for pin in sorted(self._pins, key=lambda pin: pin.used_at):
            if self._held() <= self._capacity:
                return
            if self._claimed(pin) < len(pin.tokens):  # else its cells stay in use without it
                self.drop(pin)

    def _held(self) -> int:
        return sum(slot.cells for slot in (*self._slots, *self._pins))

    def _restart(self) -> None:
        if not any(slot.tokens for slot in (*self._slots, *self._pins)):
            # llama.cpp goes on behind the last cell used, and attention reads up to the last cell in use: without
            # this, a long prompt in an empty cache computes 8 % slower than it need be.
            self._memory.clear()

    def _forget(self, slot: KvSlot) -> None:
        self._memory.remove(slot.sequence)
        slot.key, slot.tokens = None, []
        slot.pin, slot.shared = None, 0

    def _touch(self, slot: KvSlot) -> None:
        self._clock += 1
        slot.used_at = self._clock
