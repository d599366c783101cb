from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crayon.device.slots import Slot, SlotTable

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

CAPACITY, SLOTS = 24, 3


class FakeMemory:
    """A KV cache that remembers what each cell was computed from: key and token."""

    def __init__(self, *, partial: bool = True) -> None:
        self.partial = partial  # whether a part of a sequence can be removed
        self.held: dict[int, list[tuple[Hashable, int]]] = {}
        self.cleared = 0

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        assert end == -1
        if start and not self.partial:
            return False
        self.held[sequence] = self.held.get(sequence, [])[:start]
        return True

    def clear(self) -> None:
        assert not any(self.held.values()), "only an empty cache is started afresh"
        self.cleared += 1

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        assert start == 0
        assert not self.held.get(target), "the target of a copy must be empty"
        self.held[target] = self.held[source][:end]

    def compute(self, slot: Slot, tokens: Sequence[int]) -> None:
        self.held.setdefault(slot.sequence, []).extend((slot.key, token) for token in tokens)
        slot.tokens.extend(tokens)


class SlotMachine(RuleBasedStateMachine):
    """Jobs come, compute some of what they were promised, fail or end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = FakeMemory()
        self.table = SlotTable(self.memory, slots=SLOTS, capacity=CAPACITY)
        self.jobs: list[tuple[Slot, list[int], int]] = []  # slot, wanted tokens, promised cells

    @rule(
        key=st.sampled_from([None, "a", "b"]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        extra=st.integers(1, 8),
    )
    def acquire(self, key: str | None, tokens: list[int], extra: int) -> None:
        reserve = len(tokens) + extra
        found = self.table.acquire(key, tokens, reserve)
        running = sum(promised for _, _, promised in self.jobs)
        if found is None:
            assert len(self.jobs) == SLOTS or running + reserve > CAPACITY
            return
        slot, cached = found
        assert all(slot is not busy for busy, _, _ in self.jobs), "a busy slot was given away"
        assert slot.key == key
        assert slot.tokens == tokens[:cached]
        assert cached < len(tokens), "the last token's logits are wanted"
        self.jobs.append((slot, tokens[cached:], reserve))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), n=st.integers(1, 12))
    def compute(self, data: st.DataObject, n: int) -> None:
        slot, rest, promised = data.draw(st.sampled_from(self.jobs))
        take = rest[:n]
        del rest[:n]
        own = [2] * max(0, min(n - len(take), promised - len(slot.tokens) - len(take)))  # the answer
        self.memory.compute(slot, [*take, *own])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), failed=st.booleans())
    def end(self, data: st.DataObject, failed: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        self.jobs.remove(job)
        if failed:
            self.table.forget(job[0])
        self.table.release(job[0])

    @invariant()
    def memory_holds_what_the_table_says_computed_under_its_key(self) -> None:
        for slot in self.table._slots:
            assert self.memory.held.get(slot.sequence, []) == [(slot.key, token) for token in slot.tokens]

    @invariant()
    def every_promise_can_be_kept(self) -> None:
        promised = {slot.sequence: cells for slot, _, cells in self.jobs}
        needed = sum(
            max(promised.get(slot.sequence, 0), len(self.memory.held.get(slot.sequence, [])))
            for slot in self.table._slots
        )
        assert needed <= CAPACITY


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def table(memory: FakeMemory) -> SlotTable:
    return SlotTable(memory, slots=SLOTS, capacity=100)


def run(table: SlotTable, memory: FakeMemory, key: Any, tokens: list[int]) -> tuple[Slot, int]:
    """A whole job; returns its slot and how much of it was cached."""
    found = table.acquire(key, tokens, len(tokens) + 2)
    assert found is not None
    slot, cached = found
    memory.compute(slot, tokens[cached:])
    table.release(slot)
    return slot, cached


def test_a_conversation_goes_on_in_its_slot(table: SlotTable, memory: FakeMemory) -> None:
    first, cached = run(table, memory, None, [1, 2, 3])
    assert cached == 0
    again, cached = run(table, memory, None, [1, 2, 3, 4, 5])
    assert (again, cached) == (first, 3)


def test_the_same_prompt_computes_its_last_token_again(table: SlotTable, memory: FakeMemory) -> None:
    run(table, memory, None, [1, 2, 3])
    assert run(table, memory, None, [1, 2, 3])[1] == 2


def test_a_prefix_is_never_shared_between_blends(table: SlotTable, memory: FakeMemory) -> None:
    run(table, memory, "a", [1, 2, 3, 4])
    assert run(table, memory, "b", [1, 2, 3, 4])[1] == 0
    assert run(table, memory, None, [1, 2, 3, 4])[1] == 0
    assert run(table, memory, "a", [1, 2, 3, 4])[1] == 3


def test_a_common_start_is_shared_and_the_longer_conversation_stays(table: SlotTable, memory: FakeMemory) -> None:
    long, _ = run(table, memory, None, [9, 9, 1, 2, 3, 4, 5, 6])
    other, cached = run(table, memory, None, [9, 9, 7, 7])
    assert other is not long
    assert cached == 2
    assert run(table, memory, None, [9, 9, 1, 2, 3, 4, 5, 6, 7])[1] == 8


def test_a_running_jobs_prefix_is_shared_without_taking_its_slot(table: SlotTable, memory: FakeMemory) -> None:
    found = table.acquire(None, [1, 2, 3, 4], 10)
    assert found is not None
    memory.compute(found[0], [1, 2, 3])
    slot, cached = run(table, memory, None, [1, 2, 3, 4, 5])
    assert slot is not found[0]
    assert cached == 3


def test_memory_that_cannot_remove_a_part_starts_again() -> None:
    memory = FakeMemory(partial=False)
    table = SlotTable(memory, slots=1, capacity=100)
    run(table, memory, None, [1, 2, 3, 4])
    assert run(table, memory, None, [1, 2, 3, 9])[1] == 0
    assert memory.held[0] == [(None, token) for token in (1, 2, 3, 9)]


def test_the_oldest_idle_prefix_makes_room(memory: FakeMemory) -> None:
    table = SlotTable(memory, slots=3, capacity=19)
    run(table, memory, None, [1] * 6)
    run(table, memory, None, [2] * 6)
    run(table, memory, None, [3] * 6)  # 8 promised: the ones have to go
    assert [len(memory.held[i]) for i in range(3)].count(0) == 1
    assert run(table, memory, None, [2] * 6)[1] == 5


def test_there_is_no_room_beyond_the_promises(table: SlotTable) -> None:
    assert table.acquire(None, [1], 60) is not None
    assert table.acquire(None, [1], 41) is None
    assert table.acquire(None, [1], 40) is not None
    assert table.acquire(None, [1], 1) is None


def test_an_emptied_cache_is_filled_from_the_first_cell_again() -> None:
    memory = FakeMemory()
    table = SlotTable(memory, slots=2, capacity=10)
    first, _ = acquired(table, "a", [1, 2, 3, 4], 8)
    memory.compute(first, [1, 2, 3, 4])
    table.release(first)
    assert memory.cleared == 1
    second, _ = acquired(table, "b", [5, 6, 7], 9)  # leaves no room for the first one's prefix
    assert memory.cleared == 2
    memory.compute(second, [5, 6, 7])
    table.release(second)
    table.release(acquired(table, "b", [5, 6, 7, 8], 6)[0])  # goes on from the prefix
    assert memory.cleared == 2


def acquired(table: SlotTable, key: str, tokens: list[int], reserve: int) -> tuple[Slot, int]:
    found = table.acquire(key, tokens, reserve)
    assert found is not None
    return found
