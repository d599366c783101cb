from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_kinds import write_kind

from crayon.errors import AbortedError, EngineClosedError, EngineError, InvalidRequestError, KvFullError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TEXTS = ([3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [31, 0, 30], [5], [6, 6, 6, 6, 6, 6, 6, 6])
CLOSE = 5e-3  # keys and values are float16, and summed in another order; another text differs by 0.1 and more


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with Context(tiny, n_ctx=256, n_batch=64, n_seq_max=8, threads=1) as context:
        yield context


def decode(context: Context, tokens: Sequence[int], sequence: int = 0, start: int | None = None) -> NDArray[np.float32]:
    """The logits after the last of `tokens`, put at the end of a sequence."""
    batch = Batch(64)
    row = batch.add(tokens, context.length(sequence) if start is None else start, sequence, "last")[-1]
    context.decode(batch)
    return context.logits(row).copy()


def alone(model: Model, tokens: Sequence[int]) -> NDArray[np.float32]:
    with Context(model, n_ctx=64, threads=1) as context:
        return decode(context, tokens)


def test_texts_differ_by_far_more_than_the_tolerance(tiny: Model) -> None:
    rows = [alone(tiny, text) for text in (*TEXTS, [3, 1, 4, 1, 5, 8], [7, 7, 1, 8])]
    gaps = [np.abs(a - b).max() for i, a in enumerate(rows) for b in rows[:i]]
    assert min(gaps) > 20 * CLOSE


# -- reading


def test_logits_of_rows_that_lie_together_are_read_without_a_copy(context: Context) -> None:
    batch = Batch(64)
    wanted = []
    for i, text in enumerate(TEXTS):
        rows = batch.add(text, 0, i, ("last", "all", "none", "last", "all")[i])
        wanted += {0: [rows[-1]], 1: list(rows), 2: [], 3: [rows[-1]], 4: list(rows)}[i]
    context.decode(batch)
    each = np.stack([context.logits(row) for row in wanted])
    together = context.logit_rows(wanted)
    assert np.array_equal(together, each)
    assert together.base is not None
    assert np.shares_memory(together, context.logits(wanted[0]))
    assert np.shares_memory(context.logit_rows(wanted[2:5]), context.logits(wanted[2]))
    for order in (wanted[::-1], wanted[::2], [wanted[3], wanted[3]]):
        apart = context.logit_rows(order)
        assert np.array_equal(apart, np.stack([context.logits(row) for row in order]))
        assert not np.shares_memory(apart, context.logits(wanted[0]))
    assert context.logit_rows([]).shape == (0, 32)


def test_a_row_without_logits_among_others_is_refused(context: Context) -> None:
    batch = Batch(64)
    rows = batch.add(TEXTS[0], 0, 0, "last")
    context.decode(batch)
    with pytest.raises(EngineError, match="has no logits"):
        context.logit_rows([rows[-1], rows[0]])


# -- many sequences


def test_sequences_decoded_together_get_the_logits_they_get_alone(tiny: Model, context: Context) -> None:
    batch = Batch(64)
    last = [batch.add(text, 0, i, "last")[-1] for i, text in enumerate(TEXTS)]
    context.decode(batch)
    for row, text in zip(last, TEXTS, strict=True):
        assert context.logits(row) == pytest.approx(alone(tiny, text), abs=CLOSE)


def test_sequences_of_unlike_length_go_on_together(tiny: Model, context: Context) -> None:
    batch = Batch(64)
    for i, text in enumerate(TEXTS):
        batch.add(text[:-1], 0, i)
    context.decode(batch)
    batch.clear()
    rows = [batch.add(text[-1:], len(text) - 1, i, "last")[0] for i, text in enumerate(TEXTS)]
    context.decode(batch)
    for row, text in zip(rows, TEXTS, strict=True):
        assert context.logits(row) == pytest.approx(alone(tiny, text), abs=CLOSE)


def test_a_row_of_two_sequences_is_read_once_for_both(tiny: Model, context: Context) -> None:
    batch = Batch(64, sequences_per_row=2)
    batch.add([3, 1, 4], 0, (0, 1))
    context.decode(batch)
    assert context.length(0) == context.length(1) == 3
    assert decode(context, [1, 5], 0) == pytest.approx(alone(tiny, [3, 1, 4, 1, 5]), abs=CLOSE)
    assert decode(context, [9], 1) == pytest.approx(alone(tiny, [3, 1, 4, 9]), abs=CLOSE)


def test_only_rows_that_ask_have_logits(tiny: Model, context: Context) -> None:
    batch = Batch(64)
    batch.add([3, 1, 4], 0, 0, "last")
    batch.add([2, 7], 0, 1, "all")
    batch.add([8], 0, 2)
    context.decode(batch)
    for row in (2, 3, 4):
        assert context.logits(row).shape == (tiny.n_vocab,)
    for row in (0, 1, 5, 6):
        with pytest.raises(EngineError, match=f"row {row} "):
            context.logits(row)
    with pytest.raises(EngineError, match="no embedding"):
        context.embedding(2)


def test_more_sequences_than_rows_in_a_batch(tiny: Model) -> None:
    with Context(tiny, n_ctx=256, n_batch=8, n_seq_max=20, n_outputs_max=4, threads=1) as context:
        assert decode(context, TEXTS[0], 19) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)


@pytest.mark.parametrize("name", ["n_ctx", "n_batch", "n_seq_max", "threads"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused_by_name(tiny: Model, name: str, size: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name}: must be at least 1"):
        Context(tiny, **{"n_ctx": 64, name: size})  # type: ignore[arg-type]  # the names are parameters


# -- the KV cache


def test_removing_the_end_of_a_sequence_goes_back_in_time(tiny: Model, context: Context) -> None:
    decode(context, [3, 1, 4, 1, 5, 9])
    assert context.remove(0, 3)
    assert context.length(0) == 3
    assert decode(context, [2, 6]) == pytest.approx(alone(tiny, [3, 1, 4, 2, 6]), abs=CLOSE)


def test_removing_a_sequence_leaves_the_others(tiny: Model, context: Context) -> None:
    decode(context, [3, 1, 4], 0)
    decode(context, [2, 7], 1)
    assert context.remove(0)
    assert (context.length(0), context.length(1)) == (0, 2)
    assert decode(context, [1], 1) == pytest.approx(alone(tiny, [2, 7, 1]), abs=CLOSE)


def test_a_copied_prefix_serves_two_continuations(tiny: Model, context: Context) -> None:
    decode(context, [3, 1, 4, 1, 5], 0)
    context.copy(0, 1, 0, 3)
    assert (context.length(0), context.length(1)) == (5, 3)
    assert decode(context, [9], 1) == pytest.approx(alone(tiny, [3, 1, 4, 9]), abs=CLOSE)
    assert context.remove(0)
    assert decode(context, [2], 1) == pytest.approx(alone(tiny, [3, 1, 4, 9, 2]), abs=CLOSE)


def test_copies_take_no_cells(tiny: Model) -> None:
    with Context(tiny, n_ctx=256, n_seq_max=4, threads=1) as context:
        for start in range(0, 250, 50):
            decode(context, [7] * 50, 0, start)
        for sequence in (1, 2, 3):
            context.copy(0, sequence)
        decode(context, [1, 2], 3)
        assert [context.length(i) for i in range(4)] == [250, 250, 250, 252]


def test_any_start_of_a_sequence_can_be_gone_on_from(context: Context) -> None:
    decode(context, [3, 1, 4, 1, 5], 0)
    assert [context.reaches(0, end) for end in (0, 1, 4, 5, 6)] == [True, True, True, True, False]
    assert [context.reaches(1, end) for end in (0, 1)] == [True, False]


@pytest.mark.parametrize(("kind", "reached"), [("gemma2", [39, 40]), ("mamba", [40]), ("jamba", [40])])
@pytest.mark.parametrize("unified", [True, False])
def test_what_cannot_be_gone_on_from_is_neither_cut_nor_copied(
    tmp_path: Path, kind: str, reached: list[int], unified: bool
) -> None:
    with (
        Model(write_kind(tmp_path / f"{kind}.gguf", kind)) as model,
        Context(model, n_ctx=128, n_batch=64, n_seq_max=2, threads=1, kv_unified=unified) as context,
    ):
        for token in range(40):  # one by one, so that the window's cells are written over
            decode(context, [token])
        ends = [end for end in range(1, 41) if context.reaches(0, end)]
        assert set(reached) <= set(ends)
        assert kind == "gemma2" or ends == reached
        for end in set(range(1, 41)) - set(ends):
            with pytest.raises(EngineError, match="used whole"):
                context.copy(0, 1, 0, end)
            with pytest.raises(EngineError, match="used whole"):
                context.cut(0, end)
        context.copy(0, 1, 0, 40)
        assert decode(context, [7], 1) == pytest.approx(decode(context, [7]), abs=CLOSE)


def test_keep_forgets_all_but_one(tiny: Model, context: Context) -> None:
    for sequence, text in enumerate(TEXTS):
        decode(context, text, sequence)
    context.keep(1)
    assert [context.length(i) for i in range(len(TEXTS))] == [0, len(TEXTS[1]), 0, 0, 0]
    assert decode(context, [2], 1) == pytest.approx(alone(tiny, [*TEXTS[1], 2]), abs=CLOSE)


def test_clear_forgets_every_sequence(tiny: Model, context: Context) -> None:
    decode(context, TEXTS[0], 0)
    decode(context, TEXTS[1], 1)
    context.clear()
    assert (context.length(0), context.length(1)) == (0, 0)
    assert decode(context, TEXTS[1], 0) == pytest.approx(alone(tiny, TEXTS[1]), abs=CLOSE)


def test_a_full_cache_refuses_the_batch_and_stays_usable(tiny: Model) -> None:
    with Context(tiny, n_ctx=256, n_batch=64, n_seq_max=2, threads=1) as context:
        for start in range(0, 240, 40):
            decode(context, [7] * 40, 0, start)
        with pytest.raises(KvFullError, match="no room for 17 more"):
            decode(context, [1] * 17, 1)
        assert (context.length(0), context.length(1)) == (240, 0)
        assert decode(context, TEXTS[0], 1) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)
        assert context.remove(0)
        decode(context, [1] * 17, 0)
        assert context.length(0) == 17


def test_a_batch_that_skips_a_position_is_an_error_that_says_why(context: Context) -> None:
    decode(context, [3, 1], 0)
    with pytest.raises(EngineError, match="inconsistent sequence positions"):
        decode(context, [4], 0, start=7)
    assert context.length(0) == 2


def test_an_empty_batch_is_an_error(context: Context) -> None:
    with pytest.raises(EngineError, match="code -1"):
        context.decode(Batch(4))


# -- state


def test_a_restored_sequence_goes_on_as_if_it_had_stayed(tiny: Model, context: Context) -> None:
    decode(context, TEXTS[0], 0)
    decode(context, TEXTS[1], 1)
    state = context.save(0)
    assert context.remove(0)
    context.restore(5, state)
    assert context.length(5) == len(TEXTS[0])
    expected = alone(tiny, [*TEXTS[0], 2])
    assert decode(context, [2], 5) == pytest.approx(expected, abs=CLOSE)
    with Context(tiny, n_ctx=64, threads=1) as other:
        other.restore(0, state)
        assert decode(other, [2], 0) == pytest.approx(expected, abs=CLOSE)
    assert decode(context, [2], 1) == pytest.approx(alone(tiny, [*TEXTS[1], 2]), abs=CLOSE)


def test_bytes_that_are_no_state_are_refused(tiny: Model, context: Context) -> None:
    decode(context, TEXTS[0], 0)
    state = context.save(0)
    for wrong in (b"\xff" * 64, state[: len(state) // 2], state[:9], b""):
        with pytest.raises(EngineError, match="sequence 3"):
            context.restore(3, wrong)
    assert decode(context, [2], 0) == pytest.approx(alone(tiny, [*TEXTS[0], 2]), abs=CLOSE)


def test_a_state_that_does_not_fit_is_refused(tiny: Model) -> None:
    with Context(tiny, n_ctx=512, n_batch=512, threads=1) as large:
        batch = Batch(300)
        batch.add([7] * 300, 0, 0)
        large.decode(batch)
        state = large.save(0)
    with Context(tiny, n_ctx=256, threads=1) as small:
        with pytest.raises(EngineError, match="cannot be restored"):
            small.restore(0, state)
        assert decode(small, TEXTS[0], 0, 0) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)


# -- abort


def test_an_abort_ends_the_next_step_until_it_is_cleared(tiny: Model, context: Context) -> None:
    context.abort()
    for _ in range(2):
        with pytest.raises(AbortedError):
            decode(context, TEXTS[0])
    context.clear_abort()
    assert context.remove(0)
    assert decode(context, TEXTS[0]) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)


def test_an_abort_from_another_thread_reaches_a_loop_of_steps(context: Context) -> None:
    running, aborted = threading.Event(), threading.Event()

    def work() -> None:
        try:
            while True:
                context.remove(0)
                decode(context, [7] * 60)
                running.set()
        except AbortedError:
            aborted.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(30)
    context.abort()
    thread.join(30)
    assert aborted.is_set()


# -- hidden states


def test_final_states_come_for_rows_that_ask(tiny: Model) -> None:
    with Context(tiny, n_ctx=64, n_seq_max=2, threads=1, embeddings=True) as context:
        batch = Batch(8)
        batch.add(TEXTS[0], 0, 0, "all")
        context.decode(batch)
        together = [context.embedding(row).copy() for row in range(len(TEXTS[0]))]
        context.clear()
        for at, token in enumerate(TEXTS[0]):
            batch.clear()
            batch.add([token], at, 1, "last")
            context.decode(batch)
            assert context.embedding(0) == pytest.approx(together[at], abs=CLOSE)
            assert context.embedding(0).shape == (tiny.n_embd,)


def rms_norm(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The tiny model's output norm, whose weights are all 1."""
    return np.asarray(rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5), np.float32)


@pytest.mark.parametrize("stop", [False, True])
def test_the_tap_reads_the_states_that_the_final_ones_are_made_of(tiny: Model, stop: bool) -> None:
    with Context(tiny, n_ctx=64, threads=1, embeddings=True) as plain:
        batch = Batch(8)
        batch.add(TEXTS[0], 0, 0, "all")
        plain.decode(batch)
        final = np.stack([plain.embedding(row) for row in range(len(TEXTS[0]))])
    tap = Tap("l_out-0", tiny.n_embd, stop=stop)
    with Context(tiny, n_ctx=64, threads=1, tap=tap) as context:
        context.decode(batch)
        states = tap.take()
        assert states.shape == final.shape
        assert rms_norm(states) == pytest.approx(final, abs=1e-4)
        assert len(tap.take()) == 0
        if not stop:  # the graph went on to its end: the logits are those without a tap
            assert context.logits(len(TEXTS[0]) - 1) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)


def test_a_stopped_tap_can_be_used_again(tiny: Model) -> None:
    tap = Tap("l_out-0", tiny.n_embd, stop=True)
    with Context(tiny, n_ctx=64, n_seq_max=2, threads=1, tap=tap) as context:
        found = []
        for _ in range(3):
            context.clear()
            batch = Batch(8)
            batch.add(TEXTS[0], 0, 0, "all")
            context.decode(batch)
            found.append(tap.take())
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])


def test_a_tensor_that_the_graph_lacks_gives_no_rows(tiny: Model) -> None:
    tap = Tap("l_out-99", tiny.n_embd, stop=True)
    with Context(tiny, n_ctx=64, threads=1, tap=tap) as context:
        assert decode(context, TEXTS[0]) == pytest.approx(alone(tiny, TEXTS[0]), abs=CLOSE)
        assert tap.take().shape == (0, tiny.n_embd)


# -- adapters


def test_adapters_apply_by_scale_and_go_again(tiny: Model, tiny_path: Path) -> None:
    with (
        Adapter(tiny, tiny_path.parent / "first.gguf") as first,
        Adapter(tiny, tiny_path.parent / "second.gguf") as second,
        Context(tiny, n_ctx=64, threads=1) as context,
    ):

        def logits(*adapters: tuple[Adapter, float]) -> NDArray[np.float32]:
            context.clear()
            context.set_adapters(adapters)
            return decode(context, TEXTS[0])

        base = logits()
        one, two = logits((first, 1.0)) - base, logits((second, 1.0)) - base
        assert np.abs(one).max() > 0.1
        assert logits((first, 0.5), (second, -2.0)) - base == pytest.approx(0.5 * one - 2.0 * two, abs=1e-4)
        assert np.array_equal(logits((first, 0.0)), base)
        assert np.array_equal(logits(), base)


# -- life


def test_use_after_close_is_an_error_and_closing_twice_is_not(tiny: Model) -> None:
    context = Context(tiny, n_ctx=64, threads=1)
    decode(context, [1])
    context.close()
    context.close()
    batch = Batch(4)
    batch.add([1], 0, 0, "last")
    uses: list[Callable[[], object]] = [
        lambda: context.decode(batch),
        lambda: context.logits(0),
        lambda: context.embedding(0),
        lambda: context.remove(0),
        lambda: context.copy(0, 1),
        lambda: context.keep(0),
        lambda: context.length(0),
        context.clear,
        lambda: context.save(0),
        lambda: context.restore(0, b"x"),
        lambda: context.handle,
    ]
    for use in uses:
        with pytest.raises(EngineClosedError, match="context is closed"):
            use()
    context.abort()  # may come late from another thread
    context.clear_abort()


def test_few_rows_take_the_threads_that_neighbours_leave_and_many_take_all(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crayon.contention import Contention

    left = 1
    monkeypatch.setattr(Contention, "threads", lambda _, most: min(left, most))
    with Context(tiny, n_ctx=256, n_batch=64, threads=2) as context:

        def threads_of(rows: int) -> tuple[int, int]:
            decode(context, [1] * rows)
            n_threads, n_threads_batch = context._api.llama_n_threads, context._api.llama_n_threads_batch
            return n_threads(context.handle), n_threads_batch(context.handle)

        assert threads_of(1) == (1, 1)
        assert threads_of(40) == (2, 2)
        assert threads_of(2) == (1, 1)
        left = 2
        assert threads_of(1) == (2, 2)
        left = 8
        assert threads_of(1) == (2, 2), "never more than it was made with"
