"""Real pools on the device: each user's blend is his own, whatever else was computed before or beside it."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from device_tools import Answer, ask, steady_answers
from tiny_chat import CLOSE, write_model
from tiny_pool import independent_pool, shared_pool

from crayon.adapters import find
from crayon.adapters.pool import TENSORS
from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.engine import BLEND, GenerateRequest, ScoreRequest
from crayon.errors import AdapterError, AdapterMismatchError, ConfigError, EngineClosedError, InvalidRequestError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crayon.adapters import Pool

OPTIONS = ("Paris", "something else", "漢字")
PROMPT = "Tell me about the river and the town that lies beside it, please."


@pytest.fixture(scope="module")
def pool(tiny_chat_path: Path) -> Pool:
    return shared_pool(tiny_chat_path, 3)


@pytest.fixture(scope="module")
def mixed(tiny_chat_path: Path) -> Pool:
    return independent_pool(tiny_chat_path)


@pytest.fixture
def blends(pool: Pool, mixed: Pool) -> list[Blend | None]:
    ours = [Blend(pool.id, weights) for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.4, 0.3, -0.5))]
    return [None, *ours, Blend(mixed.id, (0.5, 0.5))]


def scores(engine: DeviceEngine, blend: Blend | None, prompt: str = PROMPT) -> list[float]:
    request = ScoreRequest(messages=(Message("user", prompt),), continuations=OPTIONS, blend=blend)
    return [value for score in engine.score(request).result(120).scores for value in score.token_logprobs]


def test_one_users_blend_never_sees_anothers_cache(
    tiny: Callable[..., DeviceEngine], pool: Pool, mixed: Pool, blends: list[Blend | None]
) -> None:
    alone = {blend: scores(tiny(pools=(pool, mixed)), blend) for blend in blends}
    for one, other in itertools.combinations(alone.values(), 2):
        assert np.abs(np.subtract(one, other)).max() > 20 * CLOSE
    engine = tiny(pools=(pool, mixed))
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 1, 3, 0, 4)):
        for i in order:
            Answer(engine, ask(PROMPT, max_tokens=3, blend=blends[i]))
            assert scores(engine, blends[i]) == pytest.approx(alone[blends[i]], abs=CLOSE)
    # At the same time, too.
    streams = [engine.generate(ask(PROMPT, max_tokens=12, blend=blend)) for blend in blends]
    futures = [
        engine.score(ScoreRequest(messages=(Message("user", PROMPT),), continuations=OPTIONS, blend=blend))
        for blend in blends
    ]
    for blend, future in zip(blends, futures, strict=True):
        found = [value for score in future.result(120).scores for value in score.token_logprobs]
        assert found == pytest.approx(alone[blend], abs=CLOSE)
    for stream in streams:
        list(stream)


def test_the_blend_is_swapped_within_a_running_conversation(
    tiny: Callable[..., DeviceEngine], pool: Pool, blends: list[Blend | None]
) -> None:
    engine = tiny(pools=(pool,))
    messages: tuple[Message, ...] = ()
    last = dict.fromkeys(blends[:4], 0)
    for turn, i in enumerate((0, 1, 0, 2, 2, 1, 3)):
        blend = blends[i]
        messages = (*messages, Message("user", f"Turn {turn}: and then?"))
        request = GenerateRequest(messages=messages, sampling=Sampling(max_tokens=8, temperature=0.0), blend=blend)
        answer = Answer(engine, request)
        fresh = Answer(tiny(pools=(pool,)), request)
        for mine, other in zip(answer.signals, fresh.signals, strict=False):
            if min(mine.margin, other.margin) < 0.05:  # a near tie: another order of summation may go another way
                break
            assert mine.logprob == pytest.approx(other.logprob, abs=CLOSE)
        assert answer.started.blend == blend
        cached = answer.finished.usage.cached_tokens
        # What this very blend has read before is not read again; what another has read is.
        assert (cached > 0) is (last[blend] > 0)
        assert cached <= last[blend]
        messages = (*messages, Message("assistant", answer.text))
        last[blend] = answer.finished.usage.total_tokens


def test_weights_of_zero_are_the_base_and_share_its_cache(tiny: Callable[..., DeviceEngine], pool: Pool) -> None:
    engine = tiny(pools=(pool,))
    zero = Blend(pool.id, (0.0, 0.0, -0.0))
    (text, base), *_ = steady_answers(engine, 1).items()
    blended = Answer(engine, ask(text, max_tokens=8, blend=zero))
    assert blended.text == base.text
    assert blended.finished.usage.cached_tokens == base.finished.usage.prompt_tokens - 1
    assert blended.started.blend == zero
    assert engine._blends is not None
    assert engine._blends.loaded == 0


def test_many_blends_are_cached_and_freed_under_load(tiny: Callable[..., DeviceEngine], pool: Pool) -> None:
    engine = tiny(pools=(pool,))
    assert engine._blends is not None
    blends = [Blend(pool.id, (0.05 * i, 1.0 - 0.05 * i, 0.2)) for i in range(20)]
    prompts = [f"Tell me of number {i}, please." for i in range(len(blends))]
    expected = [scores(tiny(pools=(pool,)), blend, prompt) for blend, prompt in zip(blends, prompts, strict=True)]
    for _ in range(2):
        requests = [
            ScoreRequest(messages=(Message("user", prompt),), continuations=OPTIONS, blend=blend)
            for blend, prompt in zip(blends, prompts, strict=True)
        ]
        streams = [engine.generate(ask(f"Go on, {i}!", max_tokens=20, blend=blends[-i])) for i in range(6)]
        streams[0].cancel()
        futures = [engine.score(request) for request in requests]
        for future, alone in zip(futures, expected, strict=True):
            found = [value for score in future.result(120).scores for value in score.token_logprobs]
            assert found == pytest.approx(alone, abs=CLOSE)
        for stream in streams[1:]:
            list(stream)
    scores(engine, None)
    scores(engine, Blend(pool.id, (0.0, 0.0, 1.0)))
    assert engine._blends.loaded <= 8
    assert not any(loaded.leases for loaded in engine._blends._table.values())


def test_a_job_that_ends_early_gives_its_blend_back(tiny: Callable[..., DeviceEngine], pool: Pool) -> None:
    engine = tiny(pools=(pool,))
    blend = Blend(pool.id, (1.0, 0.0, 0.0))
    assert engine._blends is not None
    for _ in range(3):
        with engine.generate(ask("hello", max_tokens=400, blend=blend)) as stream:
            next(stream)
    scores(engine, None)  # waits its turn behind those that were cancelled
    assert [loaded.leases for loaded in engine._blends._table.values()] == [0]
    running = engine.generate(ask("hello", max_tokens=400, blend=blend))
    next(running)
    engine.close()
    with pytest.raises(EngineClosedError):
        list(running)


def test_a_blend_that_llama_cpp_cannot_load_fails_alone(
    tiny: Callable[..., DeviceEngine], tiny_chat_path: Path, pool: Pool
) -> None:
    # It says that it was made for this file, and its matrices are those of another.
    wrong = shared_pool(tiny_chat_path, 2, seed=5)
    engine = tiny(pools=(pool, wrong))
    blends = engine._blends
    assert blends is not None
    blends._bytes = lambda *_: b"not an adapter"  # type: ignore[method-assign]  # as a damaged image would be
    with pytest.raises(AdapterError, match=r"a blend of pool tiny-5@.* cannot be loaded"):
        list(engine.generate(ask("hello", blend=Blend(wrong.id, (1.0, 0.0)))))
    with pytest.raises(AdapterError, match=r"cannot be loaded"):
        scores(engine, Blend(wrong.id, (1.0, 0.0)))
    assert Answer(engine, ask("hello", max_tokens=2)).finished.usage.completion_tokens == 2


def test_pools_are_told_and_those_of_another_base_are_refused_by_name(
    tiny: Callable[..., DeviceEngine], tiny_chat_path: Path, tmp_path: Path, pool: Pool
) -> None:
    engine = tiny(pools=(pool,))
    assert engine.pools == (pool,)
    assert BLEND in engine.models()[0].capabilities
    assert engine.models()[0].source_sha256 == pool.manifest.base.source_sha256  # hashed, since nobody said it
    assert tiny().pools == ()
    assert BLEND not in tiny().models()[0].capabilities
    other = write_model(tmp_path / "other.gguf", seed=1)
    with pytest.raises(AdapterMismatchError, match=r"made for tiny-chat .*, not for other"):
        DeviceEngine(other, pools=(pool,), threads=1)
    with pytest.raises(AdapterMismatchError, match="not for tiny-chat"):
        tiny(pools=(pool,), source_sha256="ab" * 32)
    with pytest.raises(ConfigError, match="pools"):
        tiny(pools=(pool,), adapters=lambda _: [])


@pytest.mark.parametrize(
    ("blend", "kind", "message"),
    [
        (Blend("mine", (1.0,)), AdapterError, "there is no pool 'mine'"),
        (Blend("POOL", (1.0,)), AdapterError, "has 3 members, but the blend has 1 weights"),
        (Blend("POOL", (5.0, 0.0, 0.0)), InvalidRequestError, r"blend\.weights"),
    ],
)
def test_blends_that_fit_no_pool_are_refused_at_once(
    tiny: Callable[..., DeviceEngine], pool: Pool, blend: Blend, kind: type[Exception], message: str
) -> None:
    engine = tiny(pools=(pool,))
    wanted = Blend(pool.id if blend.pool_id == "POOL" else blend.pool_id, blend.weights)
    with pytest.raises(kind, match=message):
        engine.generate(ask("hello", blend=wanted))
    with pytest.raises(kind, match=message):
        scores(engine, wanted)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool) -> Path:
    """The folder of shipped pools: one for another model, one for this one."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr("crayon.device.opening.shipped_pools_dir", lambda: folder)
    monkeypatch.setattr(find, "shipped_pools_dir", lambda: folder)
    shared_pool(folder, 1, seed=9, sha256="cd" * 32).save(folder / "another")
    pool.save(folder / "ours")
    return folder


def opened(path: Path, **values: Any) -> DeviceEngine:
    return DeviceEngine.open(str(path), n_ctx=256, threads=1, **values)


def test_opening_takes_the_pool_that_is_shipped_for_the_model(
    tiny_chat_path: Path, shipped: Path, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tiny_chat_path) as engine:
        assert BLEND in engine.models()[0].capabilities
        assert scores(engine, None)
        assert engine._blends is None  # it is read at its first use
        assert scores(engine, Blend(pool.id, (1.0, 0.0, 0.0))) != scores(engine, None)
        assert [one.id for one in engine.pools] == [pool.id]
    with opened(tiny_chat_path, pools=["auto", pool]) as engine:
        assert [one.id for one in engine.pools] == [pool.id]
    with opened(tiny_chat_path, pools=None) as engine:
        assert engine.pools == ()
    (shipped / "ours" / TENSORS).write_bytes(b"damaged")
    with opened(tiny_chat_path) as engine:  # it answers without
        assert engine.pools == ()
    assert "ours" in caplog.text
    shutil.rmtree(shipped)
    with opened(tiny_chat_path) as engine:
        assert engine.pools == ()


def test_opening_takes_pools_by_name_by_folder_and_as_they_are(
    tiny_chat_path: Path, shipped: Path, pool: Pool, mixed: Pool, tmp_path: Path
) -> None:
    mixed.save(tmp_path / "mixed")
    with opened(tiny_chat_path, pools=["ours", tmp_path / "mixed"]) as engine:
        assert [one.id for one in engine.pools] == [pool.id, mixed.id]
    with opened(tiny_chat_path, pools=(mixed,)) as engine:
        assert engine.pools == (mixed,)
    with pytest.raises(AdapterMismatchError, match="not for tiny-chat"):
        opened(tiny_chat_path, pools=["another"])
    with pytest.raises(AdapterError, match="no such folder"):
        opened(tiny_chat_path, pools=[tmp_path / "none"])
    with pytest.raises(InvalidRequestError, match=r"\['ours'\]"):
        opened(tiny_chat_path, pools="ours")
