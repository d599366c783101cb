"""A KV cache without a model, that counts the cells that sequences share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from crayon.device.slots import KvSlot


class FakeMemory:
    """A KV cache that remembers what each cell was computed from: key and token."""

    def __init__(self, *, partial: bool = True) -> None:
        self.partial = partial  # whether a part of a sequence can be removed or copied
        self.held: dict[int, list[tuple[Hashable, int]]] = {}
        self.cells: dict[int, list[int]] = {}
        self.cleared = self.wiped = 0
        self._new = itertools.count()

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        assert end == -1
        if start and not self.partial:
            return False
        self.held[sequence] = self.held.get(sequence, [])[:start]
        self.cells[sequence] = self.cells.get(sequence, [])[:start]
        return True

    def clear(self, *, wipe: bool = False) -> None:
        self.wiped += wipe
        assert not any(self.held.values()), "only an empty cache is started afresh"
        self.cleared += 1

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        assert start == 0
        assert not self.held.get(target), "the target of a copy must be empty"
        assert self.reaches(source, end), "a part that cannot be gone on from"
        self.held[target] = self.held[source][:end]
        self.cells[target] = self.cells[source][:end]

    def reaches(self, sequence: int, end: int) -> bool:
        return self.partial or end == len(self.held.get(sequence, []))

    def compute(self, slot: KvSlot, tokens: Sequence[int]) -> None:
        self.fill(slot, tokens)
        slot.tokens.extend(tokens)

    def fill(self, slot: KvSlot, tokens: Sequence[int]) -> None:
        self.held.setdefault(slot.sequence, []).extend((slot.key, token) for token in tokens)
        self.cells.setdefault(slot.sequence, []).extend(next(self._new) for _ in tokens)

    @property
    def used(self) -> int:
        """Cells in use, each once however many sequences share it."""
        return len({cell for cells in self.cells.values() for cell in cells})
