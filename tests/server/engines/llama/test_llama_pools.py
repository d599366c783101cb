"""Pools on the server: only K numbers travel, and every request is computed with its own blend."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from serving_tools import PATIENCE, Serving
from tiny_chat import CLOSE, write_model
from tiny_pool import independent_pool, shared_pool

from crayon.client import RemoteEngine
from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.engine import BLEND, Delta, EncodeRequest, Finished, GenerateRequest, ScoreRequest, Started
from crayon.errors import AdapterError, AdapterMismatchError, EngineClosedError, InvalidRequestError
from crayon.llama.context import Context
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine
from crayon.v1.inference_pb2_grpc import InferenceServiceStub
from crayon.wire.requests import score_request_to_proto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.engine import Engine
    from crayon.llama.batch import Batch

OPTIONS = ("the hat", "two eggs and tea", "漢字", "a")
PROMPT = "Tell me about the other train, please."


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="module")
def pool(tiny_path: Path) -> Pool:
    return shared_pool(tiny_path, 3)


@pytest.fixture(scope="module")
def mixed(tiny_path: Path) -> Pool:
    return independent_pool(tiny_path)


@pytest.fixture(scope="module")
def blends(pool: Pool, mixed: Pool) -> list[Blend | None]:
    ours = [Blend(pool.id, weights) for weights in ((1.0, 0.0, 0.0), (0.0, 0.7, 0.0), (0.4, 0.35, -0.5))]
    return [None, *ours, Blend(mixed.id, (0.5, 0.5)), Blend(pool.id, (0.0, 0.0, 0.0))]


def engine_of(path: Path, *pools: Pool, **values: Any) -> LlamaCppEngine:
    return LlamaCppEngine(
        path, **{"n_ctx": 1024, "n_seq_max": 6, "threads": 1, "n_batch": 64, "pools": pools, **values}
    )


@pytest.fixture
def engine(tiny_path: Path, pool: Pool, mixed: Pool) -> Iterator[LlamaCppEngine]:
    with engine_of(tiny_path, pool, mixed) as engine:
        yield engine


@pytest.fixture
def serving(tiny_path: Path, pool: Pool, mixed: Pool) -> Iterator[Serving]:
    with Serving(lambda: engine_of(tiny_path, pool, mixed)) as running:
        yield running


@pytest.fixture
def remote(serving: Serving) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(serving.address, timeout=PATIENCE)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local(tiny_path: Path, pool: Pool, mixed: Pool, blends: list[Blend | None]) -> list[list[float]]:
    """What each blend says on the device, in an engine of its own."""
    found = []
    for blend in blends:
        with DeviceEngine(tiny_path, n_ctx=256, threads=1, pools=(pool, mixed)) as engine:
            found.append(scores(engine, blend))
    return found


def request_of(blend: Blend | None, prompt: str = PROMPT) -> ScoreRequest:
    return ScoreRequest(messages=(Message("user", prompt),), continuations=OPTIONS, blend=blend)


def flat(result: Any) -> list[float]:
    return [value for score in result.scores for value in score.token_logprobs]


def scores(engine: Engine, blend: Blend | None, prompt: str = PROMPT) -> list[float]:
    return flat(engine.score(request_of(blend, prompt)).result(PATIENCE))


def ask(text: str, blend: Blend | None, max_tokens: int = 16) -> GenerateRequest:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    return GenerateRequest(messages=(Message("user", text),), sampling=sampling, blend=blend)


def test_the_weights_alone_give_the_scores_of_the_local_blend(
    remote: RemoteEngine, local: list[list[float]], blends: list[Blend | None]
) -> None:
    for one, other in itertools.combinations(local[:-1], 2):
        assert np.abs(np.subtract(one, other)).max() > 20 * CLOSE
    for blend, expected in zip(blends, local, strict=True):
        assert scores(remote, blend) == pytest.approx(expected, abs=CLOSE)
    # The request is K numbers and the query, and nothing else.
    blend, base = score_request_to_proto(request_of(blends[3])), score_request_to_proto(request_of(None))
    assert blends[3] is not None
    assert blend.ByteSize() - base.ByteSize() <= len(blends[3].pool_id) + 4 * 3 + 16


def test_requests_of_many_blends_at_once_get_what_each_gets_alone(
    remote: RemoteEngine, local: list[list[float]], blends: list[Blend | None]
) -> None:
    streams = [remote.generate(ask(PROMPT, blend)) for blend in blends]
    futures = [(i, remote.score(request_of(blends[i]))) for i in (0, 1, 2, 3, 4, 5, 3, 1, 4, 0, 2)]
    for i, future in futures:
        assert flat(future.result(PATIENCE)) == pytest.approx(local[i], abs=CLOSE)
    answers = [list(stream) for stream in streams]
    for blend, answer in zip(blends, answers, strict=True):
        assert isinstance(answer[0], Started)
        assert isinstance(answer[-1], Finished)
        alone = list(remote.generate(ask(PROMPT, blend)))
        for mine, other in zip(signals(answer), signals(alone), strict=False):
            if min(mine.margin, other.margin) < 0.05:  # another order of summation may take the other token
                break
            assert mine.logprob == pytest.approx(other.logprob, abs=CLOSE)


def signals(events: list[Any]) -> list[Any]:
    return [signal for event in events if isinstance(event, Delta) for signal in event.signals]


def test_no_engine_call_has_rows_of_another_blend(
    engine: LlamaCppEngine, blends: list[Blend | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = Context.decode, []

    def watched(context: Context, batch: Batch) -> None:
        tasks = engine._loop.queue.current
        names = {task.entry.blend for task in tasks}
        held = {tuple(task.adapters()) for task in tasks}
        calls.append((len(names), held == {context.adapters}, len(tasks), names.pop()))
        decode(context, batch)

    monkeypatch.setattr(Context, "decode", watched)
    with engine._loop.queue.wake:  # the loop sees all of them at once
        streams = [engine.generate(ask(f"{PROMPT} {i}", blends[i % len(blends)])) for i in range(18)]
        futures = [engine.score(request_of(blends[i % len(blends)], f"{i}")) for i in range(6)]
    for stream in streams:
        list(stream)
    for future in futures:
        future.result(PATIENCE)
    assert all(names == 1 and right for names, right, *_ in calls)
    assert len({name for *_, name in calls}) == 5  # the base, asked for in two ways, is one
    assert max(tasks for _, _, tasks, name in calls if not name) > 1  # and shares its calls


def test_more_blends_than_are_kept_and_nobody_holds_one_afterwards(
    engine: LlamaCppEngine, tiny_path: Path, pool: Pool
) -> None:
    blends = [Blend(pool.id, (0.05 * i, 1.0 - 0.05 * i, 0.0)) for i in range(20)]
    with DeviceEngine(tiny_path, n_ctx=256, threads=1, pools=(pool,)) as device:
        expected = [scores(device, blend, f"{i}") for i, blend in enumerate(blends)]
    futures = [engine.score(request_of(blend, f"{i}")) for i, blend in enumerate(blends)]
    streams = [engine.generate(ask("on and on", blend, 200)) for blend in blends[:8]]
    for stream in streams[:4]:
        stream.cancel()
    for future, alone in zip(futures, expected, strict=True):
        assert flat(future.result(PATIENCE)) == pytest.approx(alone, abs=CLOSE)
    for stream in streams[4:]:
        list(stream)
    scores(engine, None)
    assert engine._held.blends is not None
    scores(engine, Blend(pool.id, (0.0, 0.0, 1.0)))
    assert engine._held.blends.loaded <= 8
    assert not any(loaded.leases for loaded in engine._held.blends._table.values())


def test_encoding_between_blends_is_the_base(
    engine: LlamaCppEngine, tiny_path: Path, blends: list[Blend | None]
) -> None:
    with engine_of(tiny_path) as plain:
        expected = plain.encode(EncodeRequest(texts=("two eggs",))).result(PATIENCE).vectors
    scores(engine, blends[1])
    found = engine.encode(EncodeRequest(texts=("two eggs",))).result(PATIENCE).vectors
    assert (found * expected).sum() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("pool_id", "weights", "code", "kind", "message"),
    [
        ("other@0123", (1.0,), "FAILED_PRECONDITION", AdapterError, "there is no pool 'other@0123' .*tiny-0@"),
        ("", (1.0, 0.0), "FAILED_PRECONDITION", AdapterError, "has 3 members, but the blend has 2 weights"),
        ("", (1.0,) * 4, "FAILED_PRECONDITION", AdapterError, "has 3 members, but the blend has 4 weights"),
        ("", (1e6, 0.0, 0.0), "INVALID_ARGUMENT", InvalidRequestError, r"blend\.weights"),
    ],
)
def test_a_refusal_reaches_the_client_with_its_reason(
    serving: Serving,
    remote: RemoteEngine,
    pool: Pool,
    pool_id: str,
    weights: tuple[float, ...],
    code: str,
    kind: type[Exception],
    message: str,
) -> None:
    blend = Blend(pool_id or pool.id, weights)
    with pytest.raises(kind, match=message):
        scores(remote, blend)
    with pytest.raises(kind, match=message):
        list(remote.generate(ask("hello", blend)))
    with grpc.insecure_channel(serving.address) as channel, pytest.raises(grpc.RpcError) as caught:
        InferenceServiceStub(channel).Score(score_request_to_proto(request_of(blend)), timeout=PATIENCE)
    assert caught.value.code().name == code  # type: ignore[attr-defined]  # a call and an error in one
    assert scores(remote, None)


def test_list_models_tells_whether_there_are_pools(
    remote: RemoteEngine, tiny_path: Path, engine: LlamaCppEngine
) -> None:
    assert BLEND in remote.models()[0].capabilities
    assert len(engine.pools) == 2
    with engine_of(tiny_path) as plain:
        assert BLEND not in plain.models()[0].capabilities
        assert plain.pools == ()
        with pytest.raises(AdapterError, match="no adapter pool is loaded on the server"):
            plain.generate(ask("hello", Blend("mine", (1.0,))))


def test_a_pool_of_another_base_is_refused_by_name(tiny_path: Path, tmp_path: Path, pool: Pool) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1)
    with pytest.raises(AdapterMismatchError, match=r"made for tiny-chat .*, not for other"):
        engine_of(other, pool)
    with pytest.raises(AdapterMismatchError, match="not for somebody's"):
        engine_of(tiny_path, pool, source_sha256="ab" * 32, name="somebody's")


def test_a_blend_that_cannot_be_loaded_fails_its_requests_alone(
    engine: LlamaCppEngine, blends: list[Blend | None], pool: Pool, local: list[list[float]]
) -> None:
    assert engine._held.blends is not None
    make = engine._held.blends._bytes
    bad = Blend(pool.id, (0.25, 0.0, 0.0))

    def broken(owner: Pool, weights: Any) -> Any:
        return b"not an adapter" if weights[0] == 0.25 else make(owner, weights)

    engine._held.blends._bytes = broken  # type: ignore[method-assign]  # as a damaged image would be
    with engine._loop.queue.wake:
        streams = [engine.generate(ask("hello", blend)) for blend in (bad, blends[1], bad, None)]
        futures = [engine.score(request_of(blend)) for blend in (bad, blends[2])]
    for stream in (streams[0], streams[2]):
        with pytest.raises(AdapterError, match="cannot be loaded"):
            list(stream)
    with pytest.raises(AdapterError, match="cannot be loaded"):
        futures[0].result(PATIENCE)
    assert flat(futures[1].result(PATIENCE)) == pytest.approx(local[2], abs=CLOSE)
    for stream in (streams[1], streams[3]):
        assert isinstance(list(stream)[-1], Finished)
    assert not engine._loop._tasks


def test_closing_while_blends_run(tiny_path: Path, pool: Pool) -> None:
    engine = engine_of(tiny_path, pool)
    streams = [engine.generate(ask("on", Blend(pool.id, (1.0, 0.0, 0.1 * i)), 500)) for i in range(8)]
    next(streams[0])
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            list(stream)
