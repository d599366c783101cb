"""What is written here is read by the gguf package, and by llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np
import pytest
import tiny_chat
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_tools import TARGETS, independent_pool, lora, shared_pool
from tiny_pool import independent_pool as chat_independent_pool
from tiny_pool import shared_pool as chat_pool

from crayon.adapters import AdapterImage, LoraTensors, MemoryFile, Target, blend, blend_vector, gguf_bytes
from crayon.errors import AdapterError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

FloatType = Literal["f32", "f16"]
FLOATS = pytest.mark.parametrize("kind", ["f32", "f16"])
TOKENS = [1, 40, 41, 60, 7, 99, 120]


def read(data: bytes | memoryview) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and metadata, as the gguf package reads them."""
    with MemoryFile(data) as file:
        reader = gguf.GGUFReader(file.path)
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        fields = {name: field.contents() for name, field in reader.fields.items()}
        del reader  # it maps the file
    return tensors, fields


def llama_scale(fields: dict[str, Any], rank: int) -> float:
    """The factor that llama.cpp multiplies B @ A by."""
    alpha = float(fields["adapter.lora.alpha"])
    return alpha / rank if alpha else 1.0


@FLOATS
def test_an_image_holds_the_blend(kind: FloatType) -> None:
    pool = shared_pool()
    weights = [0.5, 0.25, -0.5]
    tensors, fields = read(AdapterImage.of(pool, b_type=kind, a_type=kind).fill(blend_vector(pool, weights)))
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.type"] == "lora"
    assert set(tensors) == {f"{target.name}.lora_{side}" for target in TARGETS for side in "ab"}
    expected = blend(pool, weights)
    for name, (a, b) in expected.tensors.items():
        assert tensors[f"{name}.lora_a"] == pytest.approx(a, rel=1e-3, abs=1e-4)
        assert tensors[f"{name}.lora_b"] == pytest.approx(b, rel=1e-3, abs=1e-3)
        assert tensors[f"{name}.lora_b"].dtype == (np.float32 if kind == "f32" else np.float16)
        assert llama_scale(fields, a.shape[0]) == pytest.approx(expected.scale)


def test_an_image_can_be_filled_again_and_only_b_changes() -> None:
    pool = shared_pool()
    image = AdapterImage.of(pool)
    first = bytes(image.fill(pool.b[0]))
    second = bytes(image.fill(pool.b[1]))
    assert first != second
    assert bytes(image.fill(pool.b[0])) == first
    assert len(first) == len(second) == len(image)
    with pytest.raises(TypeError):
        image.fill(pool.b[0])[0] = 1


@FLOATS
@settings(max_examples=30, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    rank=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_shapes_are_laid_out_as_they_should(
    kind: FloatType, sides: list[tuple[int, int]], rank: int, seed: int
) -> None:
    """Those too whose bytes are no multiple of the alignment, so that B lies in several pieces."""
    rng = np.random.default_rng(seed)
    targets = [Target(f"blk.{i}.x.weight", *side) for i, side in enumerate(sides)]
    a = {t.name: rng.standard_normal((rank, t.inputs)).astype(np.float32) for t in targets}
    vector = rng.standard_normal(sum(t.outputs for t in targets) * rank).astype(np.float32)
    tensors, _ = read(AdapterImage("llama", targets, rank, a, alpha=1.0, b_type=kind).fill(vector))
    joined = np.concatenate([tensors[f"{t.name}.lora_b"].ravel() for t in targets])
    assert np.array_equal(joined, vector.astype(joined.dtype))
    assert all(np.array_equal(tensors[f"{t.name}.lora_a"], a[t.name]) for t in targets)


def test_what_does_not_fit_an_image_is_refused() -> None:
    pool = shared_pool()
    image, half = AdapterImage.of(pool), AdapterImage.of(pool, b_type="f16")
    vector = np.array(pool.b[0])
    with pytest.raises(AdapterError, match=r"shape \(32,\), expected \(33,\)"):
        image.fill(vector[1:])
    for bad in (np.nan, np.inf, -np.inf):
        vector[3] = bad
        with pytest.raises(AdapterError, match="not finite"):
            image.fill(vector)
    vector[3] = -70_000.0
    image.fill(vector)
    with pytest.raises(AdapterError, match="too large"):
        half.fill(vector)
    with pytest.raises(AdapterError, match="independent"):
        AdapterImage.of(independent_pool())
    with pytest.raises(AdapterError, match="A is missing"):
        AdapterImage("llama", TARGETS, 3, {}, alpha=1.0)
    with pytest.raises(AdapterError, match=r"A is \(2, 10\)"):
        AdapterImage("llama", TARGETS, 3, {name: a[:2] for name, a in pool.a.items()}, alpha=1.0)


@FLOATS
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.25, -0.5, 0.0])
def test_any_adapter_keeps_what_it_adds(kind: FloatType, scale: float) -> None:
    rng = np.random.default_rng(0)
    # Another rank for each matrix.
    mixed = {**lora(rng, 2, targets=TARGETS[:1]).tensors, **lora(rng, 5, targets=TARGETS[1:]).tensors}
    adapter = LoraTensors(mixed, scale)
    tensors, fields = read(gguf_bytes(adapter, "qwen2", b_type=kind, a_type=kind))
    assert fields["general.architecture"] == "qwen2"
    for name, (a, _) in adapter.tensors.items():
        first, second = (tensors[f"{name}.lora_{side}"].astype(np.float64) for side in "ab")
        assert llama_scale(fields, a.shape[0]) * second @ first == pytest.approx(adapter.delta(name), abs=2e-2)


def test_numbers_too_large_for_float16_are_refused() -> None:
    big = LoraTensors({"x": (np.full((1, 2), 1e5, np.float32), np.ones((2, 1), np.float32))})
    gguf_bytes(big, "llama")
    with pytest.raises(AdapterError, match="x: holds numbers that are not finite or too large for f16"):
        gguf_bytes(big, "llama", a_type="f16")


# -- in llama.cpp


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write_model(tmp_path_factory.mktemp("image") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    with Model(model_path) as model:
        yield model


def logits(model: Model, data: bytes | memoryview | None, scale: float = 1.0) -> NDArray[np.float32]:
    """The logits after a few tokens, under an adapter of these bytes, which are gone when it runs."""
    with Context(model, n_ctx=64, threads=1) as context:
        adapter: Adapter | None = None
        if data is not None:
            with MemoryFile(data) as file:
                adapter = Adapter(model, file.path)
            context.set_adapters([(adapter, scale)])
        batch = Batch(64)
        row = batch.add(TOKENS, 0, 0, "last")[-1]
        context.decode(batch)
        found = context.logits(row).copy()
        if adapter is not None:
            adapter.close()
        return found


def by_gguf_package(path: Path, adapter: LoraTensors) -> bytes:
    """The adapter as the gguf package writes it, its scale inside B."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    for name, (a, b) in adapter.tensors.items():
        writer.add_tensor(f"{name}.lora_a", np.array(a))
        writer.add_tensor(f"{name}.lora_b", np.asarray(b * adapter.scale, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_llama_runs_the_image_as_the_same_adapter_of_the_gguf_package(
    model: Model, model_path: Path, tmp_path: Path
) -> None:
    pool = chat_pool(model_path)
    weights = [0.5, 0.25, 0.25]
    base = logits(model, None)
    expected = logits(model, by_gguf_package(tmp_path / "expected.gguf", blend(pool, weights)))
    assert np.abs(expected - base).max() > 1.0
    image = AdapterImage.of(pool).fill(blend_vector(pool, weights))
    assert logits(model, image) == pytest.approx(expected, abs=1e-3)
    assert logits(model, gguf_bytes(blend(pool, weights), "llama")) == pytest.approx(expected, abs=1e-3)
    assert logits(model, image, scale=0.0) == pytest.approx(base, abs=1e-4)


def test_llama_runs_float16_images_nearly_alike(model: Model, model_path: Path) -> None:
    pool = chat_pool(model_path)
    vector = blend_vector(pool, [1.0, 0.0, 0.0])
    exact = logits(model, AdapterImage.of(pool).fill(vector))
    half = logits(model, AdapterImage.of(pool, b_type="f16", a_type="f16").fill(vector))
    assert half == pytest.approx(exact, abs=0.05)


def test_llama_runs_independent_blends_of_mixed_ranks(model: Model, model_path: Path, tmp_path: Path) -> None:
    pool = chat_independent_pool(model_path)
    made = blend(pool, [0.75, -0.5])
    expected = logits(model, by_gguf_package(tmp_path / "expected.gguf", made))
    assert np.abs(expected - logits(model, None)).max() > 1.0
    assert logits(model, gguf_bytes(made, "llama")) == pytest.approx(expected, abs=1e-3)


def test_llama_gives_the_base_under_a_blend_of_zero(model: Model, model_path: Path) -> None:
    base = logits(model, None)
    for pool in (chat_pool(model_path), chat_independent_pool(model_path)):
        nothing = blend(pool, [0.0] * len(pool))
        assert logits(model, gguf_bytes(nothing, "llama")) == pytest.approx(base, abs=1e-4)


def test_many_blends_live_side_by_side(model: Model, model_path: Path) -> None:
    """An image is filled again while adapters made from it are in use."""
    pool = chat_pool(model_path)
    image = AdapterImage.of(pool)
    alone = [logits(model, image.fill(pool.b[k])) for k in range(3)]
    adapters = []
    for k in range(3):
        with MemoryFile(image.fill(pool.b[k])) as file:
            adapters.append(Adapter(model, file.path))
    for k in (2, 0, 1):
        with Context(model, n_ctx=64, threads=1) as context:
            context.set_adapters([(adapters[k], 1.0)])
            batch = Batch(64)
            row = batch.add(TOKENS, 0, 0, "last")[-1]
            context.decode(batch)
            assert context.logits(row) == pytest.approx(alone[k], abs=1e-4)
    for adapter in adapters:
        adapter.close()
