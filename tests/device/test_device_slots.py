from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from slot_memory import FakeMemory

from crayon.device.slots import KvSlot, SlotTable

CAPACITY, SLOTS, PINS = 24, 3, (7, 9)


class SlotMachine(RuleBasedStateMachine):
    """Jobs come, compute some of what they were promised, make prefixes resident, fail or end, in any order."""

    partial = True

    def __init__(self) -> None:
        super().__init__()
        self.memory = FakeMemory(partial=self.partial)
        self.table = SlotTable(self.memory, slots=SLOTS, capacity=CAPACITY, pins=PINS)
        self.jobs: list[tuple[KvSlot, list[int], int]] = []  # slot, wanted tokens, promised cells

    @rule(
        key=st.sampled_from([None, "a", "b"]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        extra=st.integers(1, 8),
    )
    def ask(self, key: str | None, tokens: list[int], extra: int) -> None:
        self.acquire(key, tokens, extra)

    def acquire(self, key: Any, tokens: list[int], extra: int) -> None:
        reserve = len(tokens) + extra
        found = self.table.acquire(key, tokens, reserve)
        running = sum(promised for _, _, promised in self.jobs)
        if found is None:
            # What is resident keeps nobody waiting: without it there would have been no room either.
            assert len(self.jobs) == SLOTS or running + reserve > CAPACITY
            return
        slot, cached = found
        assert all(slot is not busy for busy, _, _ in self.jobs), "a busy slot was given away"
        assert slot.key == key
        assert slot.tokens == tokens[:cached]
        assert cached < len(tokens), "the last token's logits are wanted"
        self.jobs.append((slot, tokens[cached:], reserve))

    @precondition(lambda self: any(pin.tokens for pin in self.table._pins))
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=3), extra=st.integers(1, 8))
    def ask_after_a_shared_prefix(self, data: st.DataObject, more: list[int], extra: int) -> None:
        pin = data.draw(st.sampled_from([pin for pin in self.table._pins if pin.tokens]))
        self.acquire(pin.key, [*pin.tokens, *more], extra)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), n=st.integers(1, 12))
    def compute(self, data: st.DataObject, n: int) -> None:
        slot, rest, promised = data.draw(st.sampled_from(self.jobs))
        take = rest[:n]
        del rest[:n]
        own = [2] * max(0, min(n - len(take), promised - len(slot.tokens) - len(take)))  # the answer
        self.memory.compute(slot, [*take, *own])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), n=st.integers(1, 12))
    def keep(self, data: st.DataObject, n: int) -> None:
        slot, _, _ = data.draw(st.sampled_from(self.jobs))
        if n > len(slot.tokens):
            return
        pin = self.table.keep(slot, n)
        if pin is not None:
            assert (pin.key, pin.tokens) == (slot.key, slot.tokens[:n])
            assert self.table.pinned(slot.key, slot.tokens[:n]) is pin

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), n=st.integers(1, 11), damaged=st.booleans())
    def restore(self, data: st.DataObject, n: int, damaged: bool) -> None:
        slot, rest, _ = data.draw(st.sampled_from(self.jobs))
        wanted = [*slot.tokens, *rest]
        if not rest or not len(slot.tokens) < n < len(wanted):
            return
        key = slot.key
        pin = self.table.place(slot, wanted[:n])
        if pin is None:
            return
        assert slot.key == key
        if damaged:
            self.table.drop(pin)
        else:
            self.memory.fill(pin, wanted[:n])
            self.table.take(slot, pin)
        rest[:] = wanted[len(slot.tokens) :]

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
        for slot in (*self.table._slots, *self.table._pins):
            assert self.memory.held.get(slot.sequence, []) == [(slot.key, token) for token in slot.tokens]

    @invariant()
    def shared_cells_are_those_of_the_pin(self) -> None:
        for slot in self.table._slots:
            if slot.pin is not None:
                n = min(slot.shared, len(slot.tokens))
                assert self.memory.cells[slot.sequence][:n] == self.memory.cells[slot.pin.sequence][:n]

    @invariant()
    def every_promise_can_be_kept(self) -> None:
        # Each job may still grow to its promise, beyond all cells in use now.
        growth = sum(promised - len(slot.tokens) for slot, _, promised in self.jobs)
        assert self.memory.used + growth <= CAPACITY
        assert self.table._held() <= CAPACITY


class WholeSlotMachine(SlotMachine):
    """The same with a memory that cannot be cut, as a recurrent model's."""

    partial = False


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWholeSlotMachine = WholeSlotMachine.TestCase
TestWholeSlotMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def table(memory: FakeMemory) -> SlotTable:
    return SlotTable(memory, slots=SLOTS, capacity=100)


def run(table: SlotTable, memory: FakeMemory, key: Any, tokens: list[int]) -> tuple[KvSlot, int]:
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


def acquired(table: SlotTable, key: str, tokens: list[int], reserve: int) -> tuple[KvSlot, int]:
    found = table.acquire(key, tokens, reserve)
    assert found is not None
    return found


# -- resident prefixes


def shared_by_two(memory: FakeMemory, capacity: int) -> tuple[SlotTable, list[int]]:
    """A pin of ten tokens that two running jobs share, and a newer one of as many that nobody uses."""
    table = SlotTable(memory, slots=4, capacity=capacity, pins=PINS)
    prefix = list(range(10))
    first, _ = acquired(table, "x", [*prefix, 11], 12)
    memory.compute(first, [*prefix, 11])
    table.keep(first, 10)
    _, cached = acquired(table, "x", [*prefix, 12], 12)
    assert cached == 10
    other, _ = acquired(table, "y", [*prefix, 11], 12)
    memory.compute(other, [*prefix, 11])
    table.keep(other, 10)
    table.release(other)
    assert table._held() == 10 + 2 + 2 + 10 + 1
    return table, prefix


def test_cells_that_jobs_share_are_promised_once(memory: FakeMemory) -> None:
    table, prefix = shared_by_two(memory, capacity=30)
    assert table.acquire("z", [1], 17) is None  # the two may come to hold 14
    assert table.acquire("z", [1], 16) is not None
    assert table.pinned("x", prefix) is not None, "both jobs still need its cells"
    assert table.pinned("y", prefix) is None
    assert table._held() == 30


def test_a_shared_prefix_outlives_the_conversations_after_it(table: SlotTable, memory: FakeMemory) -> None:
    prefix = [7, 8, 9]
    table = SlotTable(memory, slots=2, capacity=100, pins=PINS)
    slot, _ = acquired(table, "a", [*prefix, 1], 6)
    memory.compute(slot, [*prefix, 1])
    table.keep(slot, 3)
    table.release(slot)
    for i in range(4):
        run(table, memory, "b", [i, i, i, i])
    assert acquired(table, "a", [*prefix, 2, 3], 6)[1] == 3


def test_a_question_after_a_shared_prefix_leaves_other_conversations_as_they_are(memory: FakeMemory) -> None:
    table = SlotTable(memory, slots=3, capacity=100, pins=PINS)
    prefix = [7, 8, 9, 7, 8, 9]
    slot, _ = acquired(table, "a", [*prefix, 1, 1], 10)
    memory.compute(slot, [*prefix, 1, 1])
    table.keep(slot, len(prefix))
    table.release(slot)
    other, cached = run(table, memory, "a", [*prefix, 2])
    assert other is not slot
    assert cached == len(prefix)
    assert run(table, memory, "a", [*prefix, 1, 1, 3])[1] == len(prefix) + 2


def test_the_oldest_resident_prefix_gives_way_to_a_new_one(memory: FakeMemory) -> None:
    table = SlotTable(memory, slots=4, capacity=100, pins=PINS)
    for key in ("a", "b", "c"):
        slot, _ = acquired(table, key, [1, 2, 3, 4], 5)
        memory.compute(slot, [1, 2, 3, 4])
        assert table.keep(slot, 3) is not None
        table.release(slot)
    assert [table.pinned(key, [1, 2, 3]) is not None for key in ("a", "b", "c")] == [False, True, True]


def test_a_prefix_that_running_jobs_share_does_not_give_way_to_a_new_one(memory: FakeMemory) -> None:
    table, prefix = shared_by_two(memory, capacity=36)
    slot, _ = acquired(table, "z", [1, 2, 3], 8)
    memory.compute(slot, [1, 2, 3])
    assert table.keep(slot, 2) is not None
    assert table.pinned("x", prefix) is not None
    assert table.pinned("y", prefix) is None


def test_a_resident_prefix_never_keeps_a_job_waiting(memory: FakeMemory) -> None:
    table = SlotTable(memory, slots=3, capacity=20, pins=PINS)
    slot, _ = acquired(table, "a", [1] * 10 + [2], 12)
    memory.compute(slot, [1] * 10 + [2])
    table.keep(slot, 10)
    table.release(slot)
    for tokens in ([1] * 10 + [3], [1] * 4 + [3], [5, 6]):
        found, _ = acquired(table, "a", tokens, 20)
        table.release(found)


def test_a_slot_that_cannot_be_cut_makes_no_part_resident() -> None:
    memory = FakeMemory(partial=False)
    table = SlotTable(memory, slots=2, capacity=100, pins=PINS)
    slot, _ = acquired(table, "a", [1, 2, 3, 4], 6)
    memory.compute(slot, [1, 2, 3])
    assert table.keep(slot, 2) is None
    assert table.keep(slot, 3) is not None
    memory.compute(slot, [4, 9])
    table.release(slot)
    again, cached = acquired(table, "a", [1, 2, 3, 5], 6)
    assert cached == 3
    assert memory.held[again.sequence] == [("a", 1), ("a", 2), ("a", 3)]
