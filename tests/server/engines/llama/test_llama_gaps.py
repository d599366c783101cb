"""A step is one graph: its rows stand in the order of their sequences, and short gaps are bridged."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import write_model

from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.server.engines.llama.batch import MAX_GAP, call_of, decode, fill, gaps
from crayon.server.scheduler import NanoBatch, Resource, Row

if TYPE_CHECKING:
    from pathlib import Path


def test_short_gaps_are_bridged_and_long_ones_stay() -> None:
    assert gaps([0, 1, 4, 4, 5, 5 + MAX_GAP + 2], 100) == [2, 3]
    assert gaps([7, 9], 1) == [8]
    assert gaps([7, 10, 12], 1) == [11]
    assert gaps([], 5) == gaps([3], 5) == []


@given(st.lists(st.integers(0, 40), max_size=20).map(sorted), st.integers(0, 12))
def test_bridges_are_between_the_others_and_fit(seqs: list[int], room: int) -> None:
    missing = gaps(seqs, room)
    assert len(missing) <= room
    assert missing == sorted(set(missing) - set(seqs))
    assert all(min(seqs) < seq < max(seqs) for seq in missing)


@pytest.mark.parametrize("unified", [False, True])
def test_a_bridge_leaves_what_others_hold_as_it_was(tmp_path: Path, *, unified: bool) -> None:
    written: list[list[tuple[int, int]]] = []

    class Watched(Batch):
        def clear(self) -> None:
            super().clear()
            written.append([])

        def add(self, tokens: Any, position: int, sequences: Any, logits: Any = "none") -> range:
            written[-1].append((sequences, len(tokens)))
            return super().add(tokens, position, sequences, logits)

    with (
        closing(Model(write_model(tmp_path / "tiny.gguf"))) as model,
        closing(Context(model, n_ctx=1024, n_batch=256, n_seq_max=4, kv_unified=unified)) as context,
    ):
        batch = Watched(256)
        runner: Any = SimpleNamespace(
            batch=batch, context=context, decode=lambda: context.decode(batch), bridges=not unified
        )
        tasks: Any = {name: SimpleNamespace(steps=0, tokens=lambda row: [5] * row.tokens) for name in "abc"}
        # As planned: answers first, whatever their sequences.
        nano = (
            NanoBatch("", Resource.DECODE, (Row("a", 3, 0, 1, 1), Row("b", 0, 0, 1, 1))),
            NanoBatch("", Resource.PREFILL, (Row("c", 1, 0, 5, 1),)),
        )
        context.decode(_rows(context, seq=2, count=3))
        held = context.save(2)
        call = call_of(runner, nano, tasks, set())
        fill(call)
        decode(call)
        bridge = [] if unified else [(2, 1)]
        assert written[-1] == [(0, 1), (1, 5), *bridge, (3, 1)]
        assert [row.request for row in call.rows] == ["b", "c", "a"]
        assert [context.length(seq) for seq in range(4)] == [1, 5, 3, 1]
        assert context.save(2) == held
        for span, row in zip(call.spans, call.rows, strict=True):
            assert len(span) == row.tokens
            assert context.logits(span[-1]).shape == (model.n_vocab,)
        # A sequence whose cells are all used cannot be bridged.
        context.decode(_rows(context, seq=2, count=256 - 3))
        later = (NanoBatch("", Resource.DECODE, (Row("a", 3, 1, 1, 1), Row("c", 1, 5, 1, 1))),)
        call = call_of(runner, later, tasks, set())
        fill(call)
        decode(call)
        assert written[-1] == [(1, 1), (3, 1)]


def _rows(context: Context, seq: int, count: int) -> Batch:
    batch = Batch(256)
    batch.add([7] * count, context.length(seq), seq)
    return batch
