"""Blends as folders that vLLM reads, and their life, without vLLM."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import tiny_chat
import tiny_pool

from crayon.adapters.blend import blend as blend_tensors
from crayon.adapters.formats.matrices import BaseShapes
from crayon.adapters.formats.peft_folder import read_peft
from crayon.completion import Blend
from crayon.errors import AdapterError, AdapterMismatchError, ConfigError, EngineClosedError, InvalidRequestError
from crayon.server.engines.vllm.adapters import Adapters
from crayon.server.engines.vllm.lora_folder import RANKS, rank_needed, shapes_of, write_blend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.server.engines.vllm.adapters import Lora


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def shapes(model: Path) -> BaseShapes:
    return BaseShapes.read(model)


@pytest.fixture(scope="module", params=["shared", "independent"])
def pool(request: pytest.FixtureRequest, model: Path) -> Pool:
    return tiny_pool.shared_pool(model) if request.param == "shared" else tiny_pool.independent_pool(model)


@pytest.fixture
def forgotten() -> list[Lora]:
    return []


@pytest.fixture
def adapters(pool: Pool, shapes: BaseShapes, forgotten: list[Lora]) -> Iterator[Adapters]:
    adapters = Adapters([pool], shapes, max_rank=16, capacity=2, forget=forgotten.append)
    yield adapters
    adapters.close()


def of(pool: Pool, *weights: float) -> Blend:
    return Blend(pool.id, (*weights, *[0.0] * (len(pool) - len(weights))))


def test_a_blend_is_written_as_it_is(pool: Pool, shapes: BaseShapes, tmp_path: Path) -> None:
    weights = [0.7, -0.2, 0.1][: len(pool)]
    write_blend(pool, weights, tmp_path / "blend", shapes, 16)
    found, wanted = read_peft(tmp_path / "blend", shapes), blend_tensors(pool, weights)
    assert set(found.tensors) == set(wanted.tensors)
    for name in wanted.tensors:
        assert found.delta(name) == pytest.approx(wanted.delta(name), abs=1e-5)
    assert len({len(a) for a, _ in found.tensors.values()}) == 1  # vLLM knows one rank


def test_a_blend_of_too_many_ranks_is_cut_down(model: Path, shapes: BaseShapes, tmp_path: Path) -> None:
    pool = tiny_pool.independent_pool(model, (8, 8))
    write_blend(pool, [0.5, 0.5], tmp_path / "blend", shapes, 8)
    assert read_peft(tmp_path / "blend", shapes).rank == 8


def test_the_rank_is_the_least_that_vllm_takes(model: Path, pool: Pool, tmp_path: Path) -> None:
    assert rank_needed([pool], []) == 8
    assert rank_needed([], []) == RANKS[0]
    assert rank_needed([tiny_pool.independent_pool(model, (300, 400))], []) == RANKS[-1]
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 100, "lora_alpha": 1}')
    assert rank_needed([pool], [tmp_path]) == 128
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 600, "lora_alpha": 1}')
    with pytest.raises(AdapterError, match="600"):
        rank_needed([], [tmp_path])


def test_a_blend_is_made_once_and_held(adapters: Adapters, pool: Pool, forgotten: list[Lora]) -> None:
    first = adapters.hold(of(pool, 1.0))
    assert adapters.hold(of(pool, 1.0)) is first
    others = [adapters.hold(of(pool, 0.1 * i)) for i in range(1, 5)]
    for other in others:
        adapters.give_back(other)
    assert first.folder.is_dir()  # held twice
    assert adapters.loaded == 2
    assert first not in forgotten
    assert not any(other.folder.exists() for other in forgotten)
    adapters.give_back(first)
    adapters.give_back(first)
    last = adapters.hold(of(pool, 0.9))
    assert last.number > max(other.number for other in others)


def test_a_number_is_never_used_again(adapters: Adapters, pool: Pool) -> None:
    seen = set()
    for i in range(1, 8):
        lora = adapters.hold(of(pool, 0.1 * i))
        seen.add(lora.number)
        adapters.give_back(lora)
    again = adapters.hold(of(pool, 0.1))
    assert again.number not in seen


def test_threads_that_want_the_same_blend_make_it_once(adapters: Adapters, pool: Pool) -> None:
    gate = threading.Barrier(8)

    def one(_: int) -> Lora:
        gate.wait()
        return adapters.hold(of(pool, 0.3))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(8)))
    assert len(set(map(id, found))) == 1
    assert found[0].leases == 8


def test_a_blend_that_vllm_refused_is_made_anew(adapters: Adapters, pool: Pool, forgotten: list[Lora]) -> None:
    bad = adapters.hold(of(pool, 0.3))
    adapters.drop(bad)
    assert forgotten == [bad]
    assert adapters.hold(of(pool, 0.3)).number != bad.number
    adapters.give_back(bad)


def test_blends_are_checked(adapters: Adapters, pool: Pool) -> None:
    assert adapters.normal(of(pool, 0.0)) is None
    with pytest.raises(AdapterError, match="no pool"):
        adapters.normal(Blend("other@1", (1.0,)))
    with pytest.raises(AdapterError, match="members"):
        adapters.normal(Blend(pool.id, (1.0,) * 9))
    with pytest.raises(InvalidRequestError):
        adapters.normal(of(pool, 9.0))


def test_closing_leaves_nothing(adapters: Adapters, pool: Pool) -> None:
    lora = adapters.hold(of(pool, 0.3))
    assert oct(lora.folder.parent.stat().st_mode)[-3:] == "700"
    adapters.close()
    adapters.close()
    assert not lora.folder.parent.exists()
    with pytest.raises(EngineClosedError):
        adapters.hold(of(pool, 0.3))


def test_a_pool_for_another_model_is_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        shapes_of(tmp_path, [pool])
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4, "model_type": "llama", "num_hidden_layers": 9}')
    with pytest.raises(AdapterMismatchError, match="9"):
        shapes_of(tmp_path, [pool])
