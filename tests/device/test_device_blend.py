"""One user's blend must never see what was computed under another's."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from device_tools import Answer, ask, steady_answers
from tiny_chat import CLOSE, tiny_shapes, write_adapter

from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.device.slots import SlotTable
from crayon.engine import BLEND, ScoreRequest
from crayon.errors import AdapterError
from crayon.llama.adapter import Adapter
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BLENDS = (None, Blend("pool", (1.0, 0.0)), Blend("pool", (0.0, 1.0)), Blend("pool", (0.5, -0.7)))
OPTIONS = ("Paris", "something else", "漢字")
PROMPT = "Tell me about the river and the town that lies beside it, please."


@pytest.fixture
def blended(tiny_chat_path: Path, tmp_path: Path) -> Iterator[Callable[[], DeviceEngine]]:
    """Makes engines with a pool of two random adapters on all matrices of the small model."""
    files = [write_adapter(tmp_path / f"{i}.gguf", 10 + i, tiny_shapes(), scale=1.5) for i in range(2)]
    with ExitStack() as stack:
        yield lambda: stack.enter_context(with_pool(tiny_chat_path, files))


def with_pool(model_path: Path, files: Sequence[Path]) -> DeviceEngine:
    loaded: list[Adapter] = []

    def resolve(blend: Blend) -> list[tuple[Adapter, float]]:
        if blend.pool_id != "pool":
            raise AdapterError(f"there is no pool {blend.pool_id!r}")
        if not loaded:
            loaded.extend(Adapter(engine._model, path) for path in files)
        return list(zip(loaded, blend.weights, strict=True))

    engine = DeviceEngine(model_path, n_ctx=512, threads=1, adapters=resolve)
    return engine


def scores(engine: DeviceEngine, blend: Blend | None, prompt: str = PROMPT) -> list[float]:
    request = ScoreRequest(messages=(Message("user", prompt),), continuations=OPTIONS, blend=blend)
    return [value for score in engine.score(request).result(120).scores for value in score.token_logprobs]


@pytest.fixture
def alone(blended: Callable[[], DeviceEngine]) -> dict[Blend | None, list[float]]:
    """What each blend says in an engine that has seen no other."""
    return {blend: scores(blended(), blend) for blend in BLENDS}


def test_blends_differ_by_far_more_than_rounding(alone: dict[Blend | None, list[float]]) -> None:
    for one, other in itertools.combinations(alone.values(), 2):
        assert np.abs(np.subtract(one, other)).max() > 20 * CLOSE


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5], ids=str)
def test_no_blend_sees_anothers_cache(
    blended: Callable[[], DeviceEngine], alone: dict[Blend | None, list[float]], order: tuple[int, ...]
) -> None:
    engine = blended()
    for i in (*order, *reversed(order), *order):
        blend = BLENDS[i]
        Answer(engine, ask(PROMPT, max_tokens=3, blend=blend))
        assert scores(engine, blend) == pytest.approx(alone[blend], abs=CLOSE)


def test_blends_at_the_same_time_do_not_mix(
    blended: Callable[[], DeviceEngine], alone: dict[Blend | None, list[float]]
) -> None:
    engine = blended()
    request = [ScoreRequest(messages=(Message("user", PROMPT),), continuations=OPTIONS, blend=b) for b in BLENDS * 2]
    streams = [engine.generate(ask(PROMPT, max_tokens=12, blend=blend)) for blend in BLENDS]
    futures = [engine.score(one) for one in request]
    for blend, future in zip(BLENDS * 2, futures, strict=True):
        found = [value for score in future.result(120).scores for value in score.token_logprobs]
        assert found == pytest.approx(alone[blend], abs=CLOSE)
    for stream in streams:
        list(stream)


def test_greedy_answers_are_those_of_a_fresh_engine(blended: Callable[[], DeviceEngine]) -> None:
    warm = blended()
    for blend in BLENDS:
        for text, expected in steady_answers(blended(), 2, blend=blend).items():
            for other in BLENDS:
                Answer(warm, ask(text, max_tokens=4, blend=other))
            again = Answer(warm, ask(text, max_tokens=8, blend=blend))
            assert again.text == expected.text
            assert again.logprobs == pytest.approx(expected.logprobs, abs=CLOSE)
            assert again.finished.usage.cached_tokens > 0
            assert again.started.blend == blend


def test_the_first_use_of_a_blend_finds_no_cache(blended: Callable[[], DeviceEngine]) -> None:
    engine = blended()
    for blend in BLENDS:
        assert Answer(engine, ask(PROMPT, max_tokens=2, blend=blend)).finished.usage.cached_tokens == 0


def test_a_cache_that_ignores_the_blend_would_be_seen(
    blended: Callable[[], DeviceEngine], alone: dict[Blend | None, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SlotTable.acquire
    monkeypatch.setattr(SlotTable, "acquire", lambda self, key, tokens, reserve: real(self, None, tokens, reserve))
    engine = blended()
    scores(engine, None)
    wrong = scores(engine, BLENDS[1])
    assert np.abs(np.subtract(wrong, alone[BLENDS[1]])).max() > 10 * CLOSE


def test_a_blend_without_a_pool_or_of_another_is_refused(
    tiny: Callable[..., DeviceEngine], blended: Callable[[], DeviceEngine]
) -> None:
    engine = tiny()
    assert BLEND not in engine.models()[0].capabilities
    with pytest.raises(AdapterError, match="no adapter pool is loaded on the device, so pool 'mine'"):
        engine.generate(ask("hello", blend=Blend("mine", (1.0,))))
    pooled = blended()
    assert BLEND in pooled.models()[0].capabilities
    with pytest.raises(AdapterError, match="no pool 'mine'"):
        pooled.generate(ask("hello", blend=Blend("mine", (1.0,))))
    with pytest.raises(AdapterError, match="no pool 'mine'"):
        scores(pooled, Blend("mine", (1.0,)))
    assert Answer(pooled, ask("hello", max_tokens=2)).finished.usage.completion_tokens == 2


@pytest.mark.models
def test_the_real_models_blends_keep_apart(device_model_path: Path, tmp_path: Path) -> None:
    shapes = {
        tensor.name: (int(tensor.shape[1]), int(tensor.shape[0]))
        for tensor in gguf.GGUFReader(device_model_path).tensors
        if tensor.name.endswith(("attn_v.weight", "attn_output.weight"))
    }
    assert len(shapes) == 60
    files = [write_adapter(tmp_path / f"{i}.gguf", i, shapes, scale=0.5) for i in range(2)]
    prompt = "What is the capital of France?"
    alone = {}
    for blend in BLENDS[:3]:
        with with_pool(device_model_path, files) as engine:
            alone[blend] = scores(engine, blend, prompt)
    gaps = [np.abs(np.subtract(alone[a], alone[b])).mean() for a, b in itertools.combinations(alone, 2)]
    with with_pool(device_model_path, files) as engine:
        for blend in (*BLENDS[:3], *BLENDS[2::-1]):
            change = np.abs(np.subtract(scores(engine, blend, prompt), alone[blend])).mean()
            assert change < 0.2 * min(gaps), "a change of rounding only"
