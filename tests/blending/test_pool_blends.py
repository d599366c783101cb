"""Blends loaded into llama.cpp: right ones, kept while used, freed when not."""

from __future__ import annotations

import gc
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_chat import CLOSE, write_model
from tiny_pool import independent_pool, shared_pool

from crayon.adapters.blend import blend as blend_tensors
from crayon.blending import Lease, PoolBlends, check_bases
from crayon.completion import Blend
from crayon.errors import AdapterError, AdapterMismatchError, EngineClosedError, InvalidRequestError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.models.prepared import SOURCE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.adapters import Pool

TOKENS = [1, 30, 41, 52, 63, 74]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="module")
def pool(path: Path) -> Pool:
    return shared_pool(path, 3)


@pytest.fixture(scope="module")
def mixed(path: Path) -> Pool:
    return independent_pool(path)


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with Model(path) as model:
        yield model


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, n_ctx=64, threads=1) as context:
        yield context


def logits(context: Context) -> NDArray[np.float32]:
    batch = Batch(len(TOKENS))
    batch.add(TOKENS, 0, 0, "last")
    context.clear()
    context.decode(batch)
    return context.logits(len(TOKENS) - 1).copy()


def test_a_blend_is_the_weighted_sum_of_its_members(
    path: Path, tmp_path: Path, pool: Pool, mixed: Pool, context: Context, model: Model
) -> None:
    weights = {pool.id: (0.5, -0.25, 1.0), mixed.id: (0.75, -0.5)}
    base = logits(context)
    blends = PoolBlends(model, (pool, mixed), contexts=(context,))
    for one in (pool, mixed):
        with blends(Blend(one.id, weights[one.id])) as adapters:
            context.set_adapters(adapters)
            found = logits(context)
        expected = merged_logits(path, tmp_path / "merged.gguf", one, weights[one.id])
        assert np.abs(found - expected).max() < CLOSE
        assert np.abs(found - base).max() > 20 * CLOSE
    context.set_adapters()
    assert np.array_equal(logits(context), base)
    blends.close()


def merged_logits(path: Path, target: Path, pool: Pool, weights: tuple[float, ...]) -> NDArray[np.float32]:
    """What a model says into whose own weights the sum of the members was written, by way of no adapter at all."""
    import gguf

    data = bytearray(path.read_bytes())
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        changes = [
            weight * pool.member(k).delta(tensor.name)
            for k, weight in enumerate(weights)
            if tensor.name in pool.member(k).tensors
        ]
        if changes:
            raw = (np.asarray(tensor.data) + np.sum(changes, axis=0)).astype(np.float32).tobytes()
            start = int(tensor.data_offset)
            data[start : start + len(raw)] = raw
    target.write_bytes(data)
    with Model(target) as model, Context(model, n_ctx=64, threads=1) as context:
        return logits(context)


def test_weights_that_are_all_zero_are_the_base(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,))
    zero = Blend(pool.id, (0.0, -0.0, 0.0))
    assert blends.normal(zero) is None
    assert len(blends(zero)) == 0
    assert blends.loaded == 0
    one = Blend(pool.id, (0.0, 0.0, 1e-3))
    assert blends.normal(one) == one
    blends.close()


@pytest.mark.parametrize(
    ("pool_id", "weights", "kind", "message"),
    [
        ("other", (1.0,), AdapterError, r"there is no pool 'other' .*there is: 'tiny-0@[0-9a-f]{12}'"),
        ("", (1.0, 0.5), AdapterError, r"has 3 members, but the blend has 2 weights"),
        ("", (1.0,) * 4, AdapterError, r"has 3 members, but the blend has 4 weights"),
        ("", (3.0, 3.0, 3.0), InvalidRequestError, r"blend\.weights"),
        ("", (1e6, 0.0, 0.0), InvalidRequestError, r"blend\.weights"),
    ],
)
def test_a_blend_that_fits_no_pool_is_refused_with_the_reason(
    pool: Pool, model: Model, pool_id: str, weights: tuple[float, ...], kind: type[Exception], message: str
) -> None:
    blends = PoolBlends(model, (pool,))
    for ask in (blends.normal, blends):
        with pytest.raises(kind, match=message):
            ask(Blend(pool_id or pool.id, weights))
    assert blends.loaded == 0
    blends.close()


def test_a_pool_of_another_base_is_refused_by_both_names(model: Model, pool: Pool) -> None:
    sha256 = pool.manifest.base.source_sha256
    assert check_bases((pool,), model, "", "tiny") == sha256  # hashed: nobody knows it
    assert check_bases((), model, "", "tiny") == ""
    assert check_bases((pool,), model, sha256, "tiny") == sha256
    with pytest.raises(AdapterMismatchError, match=r"pool tiny-0@.* made for tiny-chat .*not for other"):
        check_bases((pool,), model, "ab" * 32, "other")


def test_a_prepared_file_says_what_it_was_made_from(model: Model, pool: Pool) -> None:
    model.metadata[SOURCE_KEY] = "ab" * 32
    with pytest.raises(AdapterMismatchError, match="abababababab"):
        check_bases((pool,), model, pool.manifest.base.source_sha256, "prepared")


def test_a_loaded_blend_is_loaded_once(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,))
    one, other = Blend(pool.id, (1.0, 0.0, 0.0)), Blend(pool.id, (0.0, 1.0, 0.0))
    with blends(one) as first, blends(one) as second, blends(other) as third:
        assert first[0] is not third[0]
        assert first[0][0] is second[0][0]
        assert first[0][1] == 1.0
    assert blends.loaded == 2
    blends.close()


def test_what_is_on_lease_or_applied_is_never_freed(pool: Pool, model: Model, context: Context) -> None:
    blends = PoolBlends(model, (pool,), contexts=(context,), capacity=2)
    names = [Blend(pool.id, (0.1 * i, 1.0, 0.0)) for i in range(12)]
    held = blends(names[0])
    with blends(names[1]) as applied:
        context.set_adapters(applied)
        kept = logits(context)
    for name in names[2:]:
        with blends(name):
            pass
        assert blends.loaded <= 3
    assert not held[0][0].closed
    assert not applied[0][0].closed
    assert np.array_equal(logits(context), kept)  # decodes: nothing it applies was freed
    held.release()
    held.release()
    context.set_adapters()
    for name in names[2:]:
        with blends(name) as adapters:
            context.set_adapters(adapters)
            logits(context)
    assert held[0][0].closed
    assert applied[0][0].closed
    assert blends.loaded == 2
    with blends(names[1]) as again:
        context.set_adapters(again)
        assert np.array_equal(logits(context), kept)
    blends.close()


def test_more_leases_than_room_go_back_to_the_room_afterwards(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,), capacity=2)
    with ExitStack() as stack:
        for i in range(6):
            stack.enter_context(blends(Blend(pool.id, (1.0, 0.1 * i, 0.0))))
        assert blends.loaded == 6
    with blends(Blend(pool.id, (0.0, 0.0, 1.0))):
        assert blends.loaded == 2
    blends.close()


def test_the_one_used_longest_ago_goes_first(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,), capacity=2)
    a, b, c = (Blend(pool.id, (float(i == 0), float(i == 1), float(i == 2))) for i in range(3))
    kept = {}
    for name in (a, b, a, c):
        with blends(name) as adapters:
            kept[name] = adapters[0][0]
    assert [kept[name].closed for name in (a, b, c)] == [False, True, False]
    blends.close()


def test_many_threads_and_few_places(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,), capacity=2)
    names = [Blend(pool.id, (1.0, 0.0, 0.1 * i)) for i in range(5)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for i in rng.integers(len(names), size=40):
                with blends(names[i]) as adapters:
                    if adapters[0][0].closed:
                        wrong.append(names[i])
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with blends(Blend(pool.id, (0.0, 1.0, 0.0))):
        assert blends.loaded == 2
    blends.close()


def test_after_closing_nothing_is_loaded_or_given_out(pool: Pool, model: Model) -> None:
    blends = PoolBlends(model, (pool,))
    name = Blend(pool.id, (1.0, 0.0, 0.0))
    lease = blends(name)
    blends.close()
    blends.close()
    assert lease[0][0].closed
    lease.release()
    with pytest.raises(EngineClosedError):
        blends(name)
    del lease
    gc.collect()


def test_a_plain_sequence_becomes_a_lease_that_ends_nothing() -> None:
    lease = Lease()
    assert Lease.of(lease) is lease
    again = Lease.of([])
    again.release()
    assert list(again) == []
    told: list[int] = []
    with Lease((), on_release=lambda: told.append(1)) as held:
        held.release()
    assert told == [1]


def test_the_pools_own_blend_agrees_with_the_image(pool: Pool) -> None:
    lora = blend_tensors(pool, (0.5, 0.5, 0.0))
    for name, (_, b) in lora.tensors.items():
        expected = 0.5 * pool.member(0).delta(name) + 0.5 * pool.member(1).delta(name)
        assert lora.delta(name) == pytest.approx(expected, abs=1e-5)
        assert b.dtype == np.float32
