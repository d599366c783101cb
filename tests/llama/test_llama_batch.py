from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.llama.batch import Batch

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=6)
ADDITIONS = st.lists(
    st.tuples(
        TOKENS,
        st.integers(0, 100_000),
        st.lists(st.integers(0, 63), min_size=1, max_size=3, unique=True),
        st.sampled_from(["none", "last", "all"]),
    ),
    max_size=6,
)


def rows(batch: Batch) -> list[tuple[int, int, list[int], bool]]:
    """What llama.cpp would read through the structure's pointers."""
    c: Any = batch.struct
    return [
        (c.token[i], c.pos[i], [c.seq_id[i][k] for k in range(c.n_seq_id[i])], bool(c.logits[i]))
        for i in range(c.n_tokens)
    ]


@given(ADDITIONS, ADDITIONS)
def test_the_structure_holds_what_was_added_and_nothing_from_before(before: Any, additions: Any) -> None:
    batch = Batch(64, sequences_per_row=3)
    for addition in before:
        batch.add(*addition)
    batch.clear()
    expected = []
    for tokens, position, sequences, logits in additions:
        found = batch.add(tokens, position, sequences, logits)
        assert list(found) == list(range(len(expected), len(expected) + len(tokens)))
        for i, token in enumerate(tokens):
            wanted = logits == "all" or (logits == "last" and i == len(tokens) - 1)
            expected.append((token, position + i, sequences, wanted))
    assert rows(batch) == expected
    assert batch.room == 64 - len(expected)


def test_one_sequence_can_be_a_bare_number() -> None:
    batch = Batch(4)
    batch.add([5, 6], 10, 3, "last")
    assert rows(batch) == [(5, 10, [3], False), (6, 11, [3], True)]


def test_rows_that_do_not_fit_are_refused_and_leave_the_batch_alone() -> None:
    batch = Batch(4, sequences_per_row=2)
    batch.add([1, 2, 3], 0, 0)
    before = rows(batch)
    with pytest.raises(ValueError, match="2 rows do not fit in 1"):
        batch.add([4, 5], 3, 0)
    for sequences in ((), (0, 1, 2)):
        with pytest.raises(ValueError, match="1 to 2 sequences"):
            batch.add([4], 3, sequences)
    assert rows(batch) == before
    batch.add([4], 3, 0)
    assert batch.room == 0
