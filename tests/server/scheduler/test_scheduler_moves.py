"""Answers move together where that saves gaps, and nothing else changes by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import write_model

from crayon.engine import GenerateRequest
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama import loop as llama_loop
from crayon.server.engines.llama.engine import LlamaCppEngine
from crayon.server.scheduler import Kind, KvOp, LinearCost, Request, State, StepLimits, StepOutcome, commit, plan
from crayon.server.scheduler.compaction import book, find_move

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

COST = LinearCost(0.01, 0.001)
CAPS = StepLimits(max_tokens=64, max_seqs=6, kv_capacity=600)


def generate(name: str, prompt: int, answer: int) -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=answer)


def go(state: State, limits: StepLimits = CAPS, ended: frozenset[str] = frozenset()) -> None:
    commit(state, plan(state, limits, COST), StepOutcome(ended=ended))


def test_the_last_answer_closes_the_lowest_gap() -> None:
    state = State()
    for name in "abcd":
        state.add(generate(name, 5, 40))
    go(state)
    assert find_move(state) is None
    go(state, ended=frozenset("b"))
    assert find_move(state) is None, "what it leaves is dropped by the next step"
    go(state)
    move = find_move(state)
    assert move is not None
    assert (move.request, move.seq) == ("d", 1)
    assert move.kv == (KvOp(1, 3, 7), KvOp(3, 3, 0))
    book(state, move)
    assert find_move(state) is None
    step = plan(state, CAPS, COST)
    assert not any(op.seq == 1 for op in step.kv), "what moved is emptied again"
    assert sorted(row.seq for nano in step.nano for row in nano.rows) == [0, 1, 2]


def test_nobody_moves_for_a_sequence_that_is_wanted_or_holds_something_or_for_too_little() -> None:
    state = State()
    for name in "abc":
        state.add(generate(name, 5, 40))
    go(state)
    go(state, ended=frozenset("b"))
    state.add(generate("new", 5, 40))
    assert find_move(state) is None
    state = State()
    keeping = StepLimits(max_tokens=64, max_seqs=6, kv_capacity=600, max_idle_prefixes=1)
    for name in "abc":
        state.add(generate(name, 5, 40))
    go(state, keeping)
    go(state, keeping, ended=frozenset("b"))
    go(state, keeping)
    assert 1 in state.idle
    assert find_move(state) is None
    state = State()
    for name, prompt in zip("abc", (5, 5, 200), strict=True):
        state.add(generate(name, prompt, 9))
    for _ in range(4):
        go(state, StepLimits(max_tokens=300, max_seqs=6, kv_capacity=600))
    go(state, ended=frozenset("b"))
    go(state)
    assert find_move(state) is None, "200 tokens are copied for 3 steps"


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=14),
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_moves_lose_nothing(work: list[tuple[int, int, int]], prefixes: int) -> None:
    limits = StepLimits(max_tokens=32, max_seqs=6, kv_capacity=900, max_idle_prefixes=prefixes)
    state = State()
    for number, (prompt, answer, _) in enumerate(work):
        state.add(generate(str(number), prompt, answer))
    length: dict[int, int] = {}
    steps = 0
    while len(state):
        step = plan(state, limits, COST)
        for op in step.kv:
            _apply(length, op)
        for nano in step.nano:
            for row in nano.rows:
                assert length.get(row.seq, 0) == row.start
                length[row.seq] = row.start + row.tokens
        running = [request for request in state.running.values() if request.generated]
        ended = frozenset(r.id for r in running if r.generated >= work[int(r.id)][2])
        commit(state, step, StepOutcome(ended=ended))
        move = find_move(state)
        if move is not None:
            for op in move.kv:
                _apply(length, op)
            book(state, move)
        assert all(length.get(r.slots[0].seq, 0) == r.computed for r in state.running.values())
        assert all(state.cells.length(r.slots[0].seq) == r.computed for r in state.running.values())
        steps += 1
        assert steps < 2000


def _apply(length: dict[int, int], op: KvOp) -> None:
    kept = min(length.get(op.source, 0), op.keep) if op.source != op.seq else min(length.get(op.seq, 0), op.keep)
    length[op.seq] = kept


def test_who_moves_writes_on_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "tiny.gguf")

    def answers() -> list[str]:
        with LlamaCppEngine(path, n_ctx=2048, n_seq_max=8, threads=1, idle_prefixes=0) as engine:
            streams = [
                engine.generate(
                    GenerateRequest(
                        messages=(Message("user", f"tea and train {n}"),),
                        sampling=Sampling(max_tokens=4 + 9 * (n % 4), ignore_eos=True, temperature=0.7, seed=n),
                    )
                )
                for n in range(8)
            ]
            texts = ["".join(getattr(event, "text", "") for event in stream) for stream in streams]
            moved.append(engine.counters.moved)
        return texts

    moved: list[int] = []
    with_moves = answers()
    monkeypatch.setattr(llama_loop, "find_move", lambda _: None)
    without = answers()
    assert moved[0] > 0
    assert moved[1] == 0
    assert with_moves == without
