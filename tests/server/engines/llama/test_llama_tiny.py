"""The server's llama.cpp engine on a small exact model: crowds of random requests come out as each alone."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import wait as wait_all
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from serving_tools import Serving, until
from tiny_chat import CLOSE, write_model

from crayon.client import RemoteEngine
from crayon.engine import Delta, EncodeRequest, Finished, GenerateRequest, ScoreRequest, Started, deadline_after
from crayon.errors import (
    CancelledError,
    ConfigError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    KvFullError,
    OverloadedError,
    ServerError,
)
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.encoder import middle_layer
from crayon.llama.model import Model
from crayon.llama.tap import Tap
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.cost.online import LiveCost
from crayon.server.cost.step_cost import StepCost
from crayon.server.engines.llama import engine as llama_cpp
from crayon.server.engines.llama.encoder import LlamaEncoder
from crayon.server.engines.llama.engine import LlamaCppEngine
from crayon.server.engines.llama.swap import SwapSpace
from crayon.server.engines.llama.tasks import GenerateTask
from crayon.server.observability.stats import CountingEngine
from crayon.server.scheduler import Lengths

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.engine import Stream, TokenSignal

PATIENCE = 60.0
BACKGROUND = ("the train leaves at nine", "two eggs and milk", "rates did not change", "light into energy")
WORDS = ["the", "in", "an", "or", "er", "tea", "train", "on", "a", "hat", "then", "other", "air", "7", "é", "漢", "🙂"]


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


def engine_of(path: Path, *, outputs: int = llama_cpp.OUTPUTS, **values: Any) -> LlamaCppEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "OUTPUTS", outputs)
        return LlamaCppEngine(
            path, **{"n_ctx": 512, "n_seq_max": 4, "threads": 1, "n_batch": 64, "kv_unified": True, **values}
        )


def ask(text: str, *, deadline: float | None = None, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", text),), sampling=Sampling(**sampling), deadline=deadline)


class Read:
    """What one stream gave, up to its end or its failure."""

    def __init__(self, stream: Stream, leave_after: int | None = None) -> None:
        self.text, self.tokens, self.finished, self.error = "", [], None, None
        try:
            for n, event in enumerate(stream):
                if isinstance(event, Delta):
                    self.text += event.text
                    self.tokens += event.signals
                elif isinstance(event, Finished):
                    self.finished = event
                else:
                    assert isinstance(event, Started)
                    assert n == 0
                if n == leave_after:
                    stream.cancel()
        except CrayonError as error:
            self.error = error

    def agrees_with(self, alone: Read, *, greedy: bool = True) -> bool:
        """Whether this is what came alone, or the start of it where it was cut short, up to the first near tie."""
        for mine, other in zip(self.tokens, alone.tokens, strict=False):
            if greedy and (is_near_tie(mine) or is_near_tie(other)):
                return True
            if abs(mine.logprob - other.logprob) > CLOSE:
                return False
        if self.finished is None:
            return alone.text.startswith(self.text)
        assert alone.finished is not None
        return (self.text, self.finished.finish_reason, self.finished.usage) == (
            alone.text,
            alone.finished.finish_reason,
            alone.finished.usage,
        )


def is_near_tie(signal: TokenSignal) -> bool:
    """Whether another order of summation may make another token the likeliest."""
    best = math.exp(signal.logprob)
    return best <= signal.margin + 1e-9 or math.log(best / (best - signal.margin)) < 2 * CLOSE


def words(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def random_request(rng: random.Random) -> GenerateRequest | ScoreRequest | EncodeRequest:
    kind = rng.random()
    if kind < 0.55:
        how: dict[str, Any] = {"max_tokens": rng.choice((1, 2, 7, 30))}
        if rng.random() < 0.3:
            how |= {"temperature": 0.8, "seed": rng.randrange(1000), "repeat_penalty": rng.choice((1.0, 1.2))}
        if rng.random() < 0.3:
            how["stop"] = tuple(rng.sample("aeiou\u0120 th", 2))
        return ask(words(rng, 12), **how)
    if kind < 0.8:
        texts = tuple(words(rng, 9) for _ in range(rng.randint(1, 6)))
        return ScoreRequest(messages=(Message("user", words(rng, 12)),), continuations=texts)
    return EncodeRequest(texts=tuple(words(rng, 20) for _ in range(rng.randint(1, 5))))


def alone(engine: LlamaCppEngine, request: Any) -> Any:
    if isinstance(request, GenerateRequest):
        return Read(engine.generate(request))
    return (engine.score if isinstance(request, ScoreRequest) else engine.encode)(request).result(PATIENCE)


def check_reads(
    requests: list[Any], reads: dict[int, Read], expected: list[Any], gave_up: set[int], hurried: set[int]
) -> None:
    off = []
    for i, one in reads.items():
        if isinstance(one.error, OverloadedError):
            assert i in hurried
            assert not one.text
        elif isinstance(one.error, DeadlineExceededError):
            assert i in hurried
            assert one.error.partial == one.text
        elif isinstance(one.error, CancelledError):
            assert i in gave_up
        else:
            assert one.error is None
            assert one.finished is not None
        if not one.agrees_with(expected[i], greedy=not requests[i].sampling.temperature):
            off.append(i)
    # A draw may fall on the border between two tokens; greedy answers agree.
    assert all(requests[i].sampling.temperature for i in off)
    assert len(off) <= 1, [(requests[i], reads[i].text, expected[i].text) for i in off]


def check_futures(
    requests: list[Any],
    futures: dict[int, Future[Any]],
    expected: list[Any],
    gave_up: set[int],
    hurried: set[int],
) -> None:
    for i, future in futures.items():
        if future.cancelled():
            assert i in gave_up
        elif isinstance(future.exception(), DeadlineExceededError | OverloadedError):
            assert i in hurried
        else:
            found = future.result()
            assert found.usage == expected[i].usage
            if isinstance(requests[i], ScoreRequest):
                for mine, other in zip(found.scores, expected[i].scores, strict=True):
                    assert mine.token_logprobs == pytest.approx(other.token_logprobs, abs=2 * CLOSE)
            else:
                assert (found.vectors * expected[i].vectors).sum(axis=1) == pytest.approx(1.0, abs=0.01)


SIZES = [
    {"n_ctx": 256, "n_seq_max": 3, "n_batch": 16, "context_tokens": 256},
    {"n_ctx": 512, "n_seq_max": 8, "n_batch": 64, "step_seconds": None},
    {"n_ctx": 1024, "n_seq_max": 16, "n_batch": 16, "step_seconds": 0.001},
    {"n_ctx": 512, "n_seq_max": 4, "n_batch": 64, "outputs": 4},
    {"n_ctx": 1024, "n_seq_max": 8, "n_batch": 32, "kv_unified": False, "idle_prefixes": 4},
    {"n_ctx": 512, "n_seq_max": 8, "n_batch": 32, "overlap": "dual", "threads": None, "idle_prefixes": 4},
    {"n_ctx": 512, "n_seq_max": 8, "n_batch": 64, "nano_batches": 4},
]


@pytest.mark.parametrize("size", SIZES, ids=["narrow", "wide", "hasty", "few outputs", "split", "dual", "parts"])
@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_gets_what_each_would_get_alone(tiny_path: Path, size: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    requests = [random_request(rng) for _ in range(40)]
    with engine_of(tiny_path, background=BACKGROUND, n_ctx=256) as single:
        expected = [alone(single, request) for request in requests]
    # Some callers leave, some run out of time: nobody else is to notice.
    gives_up = [rng.randrange(6) if rng.random() < 0.25 else None for _ in requests]
    reads: dict[int, Read] = {}
    futures: dict[int, Future[Any]] = {}
    hurried: set[int] = set()
    gave_up = {i for i, after in enumerate(gives_up) if after is not None}
    with engine_of(tiny_path, background=BACKGROUND, **size) as engine:

        def read(i: int, stream: Stream) -> None:
            reads[i] = Read(stream, gives_up[i])

        threads = []
        for i, request in enumerate(requests):
            if rng.random() < 0.2:
                hurried.add(i)
                request = replace(request, deadline=deadline_after(0.05 * rng.random() + 1e-4))
            if isinstance(request, GenerateRequest):
                threads.append(threading.Thread(target=read, args=(i, engine.generate(request))))
                threads[-1].start()
            else:
                futures[i] = (engine.score if isinstance(request, ScoreRequest) else engine.encode)(request)
                if gives_up[i] is not None:
                    threading.Timer(0.003 * (gives_up[i] or 0), futures[i].cancel).start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not wait_all(futures.values(), PATIENCE).not_done
        check_reads(requests, reads, expected, gave_up, hurried)
        check_futures(requests, futures, expected, gave_up, hurried)
        # Whatever they left behind is cleaned up: the engine answers as at first.
        again = ask("the other", max_tokens=10)
        assert Read(engine.generate(again)).finished
        until(lambda: not engine._loop._tasks)


def test_a_full_cache_makes_requests_wait_and_never_fail(tiny_path: Path) -> None:
    # n_ctx is a multiple of 256, to which llama.cpp rounds up: one cell too many would be found.
    with engine_of(tiny_path, n_ctx=256, n_seq_max=8) as engine:
        streams = [engine.generate(ask(f"hat {i}", max_tokens=90 + i, temperature=3.0, seed=i)) for i in range(8)]
        texts = tuple("tea and the other hat " * 3 + str(i) for i in range(8))
        scores = [engine.score(ScoreRequest(messages=(Message("user", "er"),), continuations=texts)) for _ in range(3)]
        streams += [engine.generate(ask("tea", max_tokens=230, temperature=3.0, seed=1))]
        assert all(Read(stream).finished for stream in streams)
        assert [len(score.result(PATIENCE).scores) for score in scores] == [8, 8, 8]


def test_vectors_are_centred_means_without_the_sink(tiny_path: Path) -> None:
    texts = ("the hat " * 50, "two eggs", "é 漢 🙂")  # the first takes several steps
    with engine_of(tiny_path, background=BACKGROUND, n_batch=16) as engine:
        vectors = engine.encode(EncodeRequest(texts=texts)).result(PATIENCE).vectors
    with Model(tiny_path) as model:
        tap = Tap(f"l_out-{middle_layer(model.n_layer)}", model.n_embd, stop=False)
        means = []
        with Context(model, n_ctx=512, threads=1, tap=tap) as context:
            batch = Batch(512)
            for text in (*texts, *BACKGROUND):
                context.clear()
                batch.clear()
                batch.add([model.bos, *model.tokenize(text)], 0, 0, "all")
                context.decode(batch)
                own = tap.take()[1:]
                own /= np.linalg.norm(own, axis=1, keepdims=True)
                means.append(np.average(own, axis=0, weights=np.minimum(np.arange(1, len(own) + 1), 4)))
    centred = np.stack(means[: len(texts)]) - np.stack(means[len(texts) :]).mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert (vectors * expected).sum(axis=1) == pytest.approx(1.0, abs=1e-3)


def test_who_leaves_the_queue_early_makes_room_in_it(tiny_path: Path) -> None:
    with engine_of(tiny_path, n_seq_max=1, max_queue=1) as engine:
        running = engine.generate(ask("the other", max_tokens=450, temperature=3.0, seed=1))
        next(running)
        engine.generate(ask("never read")).cancel()
        until(lambda: engine._loop.queue.bounds.queued == 0)
        until(lambda: engine.counters.cancelled == 1)
        hurried = Read(engine.generate(ask("too late", deadline=deadline_after(1e-4))))
        assert isinstance(hurried.error, DeadlineExceededError)
        until(lambda: engine._loop.queue.bounds.queued == 0)
        assert engine._loop.queue.bounds.queued_tokens == 0
        # It was refused at the door, or it expired behind it.
        until(lambda: engine.counters.expired + engine._loop.queue.bounds.refused["deadline"] == 1)
        running.cancel()
        assert Read(engine.generate(ask("hello"))).finished


def test_a_deadline_and_a_cancellation_reach_answers_between_two_steps(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()
    with engine_of(tiny_path, idle_prefixes=0) as engine:
        loop = engine._loop
        real = loop._step

        def step() -> None:
            real()
            if len(loop._state.running) == 2:
                reached.set()
                assert go.wait(PATIENCE)

        monkeypatch.setattr(loop, "_step", step)
        stream = engine.generate(ask("the other", max_tokens=450, ignore_eos=True))
        hurried = engine.generate(ask("again", max_tokens=450, ignore_eos=True, deadline=deadline_after(PATIENCE)))
        assert reached.wait(PATIENCE)
        [*loop._state.running.values()][1].deadline = 0.0
        stream.cancel()
        go.set()
        with pytest.raises(DeadlineExceededError, match="while the request was computed"):
            list(hurried)
        until(lambda: (engine.counters.cancelled, engine.counters.expired) == (1, 1))
        until(lambda: loop._state.cells.used == 0)


def test_a_cancelled_future_is_over_for_those_who_wait_for_many(tiny_path: Path) -> None:
    with engine_of(tiny_path) as engine:
        future = engine.score(ScoreRequest(messages=(Message("user", "tea " * 50),), continuations=("the hat " * 20,)))
        assert future.cancel()
        assert wait_all([future], PATIENCE).done == {future}


def test_limits_that_contradict_each_other_are_named_before_llama_cpp_sees_them(tiny_path: Path) -> None:
    for values, key in (
        ({"n_batch": 8, "n_seq_max": 16}, "max_tokens"),
        ({"n_ctx": 0}, "n_ctx"),
        ({"context_tokens": -1}, "context_tokens"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"max_queue": 0}, "max_queue"),
        ({"max_queue_tokens": 0}, "max_queue_tokens"),
    ):
        with pytest.raises(ConfigError) as caught:
            engine_of(tiny_path, **values)
        assert caught.value.key == key


def test_an_end_that_is_ignored_does_not_end_an_answer(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "is_end", lambda *_: True)  # the model would end every answer at once
    with engine_of(tiny_path) as engine:
        lengths = []
        for ignore in (False, True):
            finished = Read(engine.generate(ask("the other", max_tokens=9, ignore_eos=ignore))).finished
            assert finished is not None
            lengths.append(finished.usage.completion_tokens)
    assert lengths == [0, 9]


def test_a_fault_in_one_answer_leaves_its_batch_mates_alone(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(tiny_path) as engine:
        expected = Read(engine.generate(ask("the other", max_tokens=20)))
        take = GenerateTask.take

        def faulty(task: GenerateTask, token: int, signal: Any = None) -> bool:
            if task.request.sampling.max_tokens == 21:
                raise ZeroDivisionError
            return take(task, token, signal)

        monkeypatch.setattr(GenerateTask, "take", faulty)
        with engine._loop.queue.wake:  # the loop sees all of them at once
            streams = [engine.generate(ask("the other", max_tokens=n)) for n in (20, 21, 20)]
        first, faulted, last = [Read(stream) for stream in streams]
        for one in (first, last):
            assert one.finished is not None
            assert one.agrees_with(expected)
        assert isinstance(faulted.error, EngineError)
        assert "ZeroDivisionError" in str(faulted.error)
        assert not engine._loop._tasks


def test_a_request_that_cannot_be_scheduled_fails_alone(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(tiny_path, max_queue=1) as engine:
        monkeypatch.setattr(engine, "_ids", itertools.repeat("the same"))
        running = engine.generate(ask("the other", max_tokens=100))
        next(running)
        with pytest.raises(EngineError, match="already scheduled"):
            list(engine.generate(ask("the other")))
        assert isinstance(list(running)[-1], Finished)
        assert Read(engine.generate(ask("the other"))).finished


def test_an_empty_prompt_is_refused(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(tiny_path) as engine:
        monkeypatch.setattr(engine._model, "tokenize_chat", lambda *_: [])
        with pytest.raises(InvalidRequestError, match="template"):
            engine.generate(ask("hello"))


def test_a_broken_loop_says_so_to_those_who_watch_and_to_later_callers(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of(tiny_path) as engine:
        told: Future[CrayonError] = Future()
        engine.on_failure(told.set_result)

        def broken(_: object) -> None:
            raise ZeroDivisionError(f"said {6 * 7}")

        monkeypatch.setattr(engine._loop, "_begin", broken)
        with pytest.raises(EngineError, match="ZeroDivisionError") as first:
            list(engine.generate(ask("hello")))
        assert "said 42" not in str(first.value) + caplog.text
        assert "test_llama_tiny.py" in caplog.text, "where it failed"
        assert "ZeroDivisionError" in str(told.result(PATIENCE))
        later: Future[CrayonError] = Future()
        engine.on_failure(later.set_result)
        assert later.done()
        with pytest.raises(EngineError, match="the engine failed") as caught:
            engine.generate(ask("hello"))
        assert not isinstance(caught.value, EngineClosedError)


def test_health_says_that_the_engine_has_broken_down(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny_path)
    with Serving(lambda: engine) as running, closing(RemoteEngine(running.address)) as remote:
        assert remote.check(PATIENCE).serving

        def broken(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(engine._loop, "_begin", broken)
        for _ in range(2):
            with pytest.raises(ServerError, match=r"under incident \w+") as caught:
                list(remote.generate(ask("hello")))
            assert type(caught.value) is ServerError
        until(lambda: not remote.check(PATIENCE).serving)


def test_an_engine_that_closes_does_not_count_as_broken(tiny_path: Path) -> None:
    engine = engine_of(tiny_path)
    told: list[CrayonError] = []
    engine.on_failure(told.append)
    engine.close()
    assert not told
    with pytest.raises(EngineClosedError):
        engine.generate(ask("hello"))


def test_a_process_that_ends_without_close_stops_the_thread_first(tiny_path: Path) -> None:
    program = f"""
import atexit, sys
atexit.register(lambda: print("stopped" if not engine._loop._thread.is_alive() else "still computing"))
from crayon.engine import GenerateRequest
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine
engine = LlamaCppEngine({str(tiny_path)!r}, threads=1, n_ctx=1024, kv_unified=True)
next(engine.generate(GenerateRequest(messages=(Message("user", "the " * 300),), sampling=Sampling(max_tokens=600))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.split("\n")[0] == "stopped"


def test_background_texts_are_learnt_even_by_requests_that_run_out_of_time(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = [f"{text} {i}" for i, text in enumerate(BACKGROUND * 3)]
    request = EncodeRequest(texts=("the hat", "two trains"))
    with engine_of(tiny_path, background=background) as engine:
        expected = engine.encode(request).result(PATIENCE).vectors
    with engine_of(tiny_path, background=background, n_seq_max=2) as engine:
        decode, steps = LlamaEncoder.decode, []

        def slow(encoder: LlamaEncoder, batch: Any) -> Any:
            steps.append(batch.size)
            states = decode(encoder, batch)
            if len(steps) % 5 == 0:  # the deadline passes in every fifth step
                for task in engine._loop._tasks.values():
                    task.entry.deadline = 0.0
            return states

        monkeypatch.setattr(LlamaEncoder, "decode", slow)
        failed = 0
        while True:
            try:
                found = engine.encode(request).result(PATIENCE).vectors
                break
            except DeadlineExceededError:
                failed += 1
                assert failed < 10, "no request gets any further than the one before"
        assert failed > 1
        assert (found * expected).sum(axis=1) == pytest.approx(1.0, abs=0.01)


def test_background_texts_are_cut_to_the_context(tiny_path: Path) -> None:
    with engine_of(tiny_path, background=("the hat " * 200, "tea"), context_tokens=64) as engine:
        vectors = engine.encode(EncodeRequest(texts=("two eggs",))).result(PATIENCE).vectors
    assert (vectors**2).sum() == pytest.approx(1.0, abs=1e-4)


def test_more_sequences_than_a_small_context_has_tokens(tiny_path: Path) -> None:
    with engine_of(tiny_path, context_tokens=20, n_seq_max=64) as engine:
        vectors = engine.encode(EncodeRequest(texts=tuple("abcdefgh" * 8))).result(PATIENCE).vectors
    assert vectors.shape[0] == 64


def spilling(path: Path, **values: Any) -> LlamaCppEngine:
    """An engine that takes every answer to be about to end, so that its cache of 160 cells gets too full."""
    return engine_of(path, **{"n_ctx": 160, "n_seq_max": 4, "n_batch": 32, "idle_prefixes": 0, **values})


@pytest.mark.parametrize("overlap", ["none", "dual"])
def test_who_is_spilled_goes_on_where_it_was(tiny_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: str) -> None:
    monkeypatch.setattr(Lengths, "remaining", lambda *_, **__: 1)
    requests = [
        ask(f"the {word}", max_tokens=60, ignore_eos=True) for word in ("other", "hat", "tea", "cat", "dog", "end")
    ]
    with spilling(tiny_path, overlap=overlap, threads=None) as engine:
        expected = [Read(engine.generate(one)) for one in requests]
        assert engine.counters.spilled == 0
        with engine._loop.queue.wake:  # the loop sees all of them at once
            streams = [engine.generate(one) for one in requests]
        found = [Read(stream) for stream in streams]
        assert engine.counters.spilled == engine.counters.restored > 0
        assert not len(engine._loop._swap)
    for mine, other in zip(found, expected, strict=True):
        assert mine.finished is not None
        assert mine.finished.usage.completion_tokens == 60
        assert mine.agrees_with(other)


def test_the_engine_tells_what_it_did(tiny_path: Path) -> None:
    long = "the other hat " * 9
    with engine_of(tiny_path, idle_prefixes=2) as engine:
        assert isinstance(engine, CountingEngine)
        first = Read(engine.generate(ask(long, max_tokens=8, ignore_eos=True)))
        assert Read(engine.generate(ask(long, max_tokens=8, ignore_eos=True))).finished
        until(lambda: engine.stats().running == 0)
        stats = engine.stats()
    assert first.finished is not None
    prompt = first.finished.usage.prompt_tokens
    assert first.finished.timings.prompt_steps >= 1
    assert first.finished.timings.decode_steps == 7
    assert stats.prefix_queries == 2 * prompt
    assert stats.prefix_hits is not None
    assert 0 < stats.prefix_hits < prompt
    assert stats.step_tokens == 2 * prompt - stats.prefix_hits + 2 * 7
    assert stats.iteration_tokens is not None
    assert stats.iteration_tokens.sum == stats.step_tokens
    assert stats.steps is not None
    assert 0 < stats.iteration_tokens.count <= stats.steps
    assert (stats.waiting, stats.preemptions, stats.blends_loaded) == (0, 0, None)
    assert stats.kv_cache_usage is not None
    assert 0 < stats.kv_cache_usage <= 1  # what they left stays


def test_a_request_that_cannot_be_set_aside_fails_alone(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lengths, "remaining", lambda *_, **__: 1)

    def full(*_: object) -> None:
        raise EngineError("no room to set a request's cache aside: No space left on device")

    monkeypatch.setattr(SwapSpace, "put", full)
    with spilling(tiny_path) as engine:
        with engine._loop.queue.wake:
            streams = [engine.generate(ask(f"the {i}", max_tokens=60, ignore_eos=True)) for i in range(4)]
        found = [Read(stream) for stream in streams]
        failed = [one for one in found if one.error is not None]
        assert 0 < len(failed) < 4
        assert all("set a request's cache aside" in str(one.error) for one in failed)
        assert Read(engine.generate(ask("hello"))).finished


@pytest.mark.parametrize("values", [{}, {"kv_unified": False, "n_ctx": 1024}, {"overlap": "dual", "threads": None}])
def test_a_prompt_begins_with_what_another_left(tiny_path: Path, values: dict[str, Any]) -> None:
    long = "the other hat " * 9
    with engine_of(tiny_path, **{"idle_prefixes": 2, **values}) as engine:
        alone_ = [Read(engine.generate(ask(long + end, max_tokens=12))) for end in ("tea", "cat")]
        assert engine.counters.shared_tokens > 16
    with engine_of(tiny_path, **{"idle_prefixes": 0, **values}) as engine:
        plain = [Read(engine.generate(ask(long + end, max_tokens=12))) for end in ("tea", "cat")]
        assert engine.counters.shared_tokens == 0
    for mine, other in zip(alone_, plain, strict=True):
        assert mine.agrees_with(other)


def test_the_next_step_is_mostly_planned_while_one_runs(tiny_path: Path) -> None:
    for ahead in (True, False):
        with engine_of(tiny_path, plan_ahead=ahead) as engine:
            streams = [engine.generate(ask("the other", max_tokens=40, ignore_eos=True)) for _ in range(4)]
            for stream in streams:
                Read(stream)
            assert (engine.counters.planned_ahead > 30) is ahead


def test_an_overlap_that_there_is_none_of_is_named(tiny_path: Path) -> None:
    with pytest.raises(ConfigError, match="none or dual"):
        engine_of(tiny_path, overlap="triple")


def test_what_the_engine_has_no_room_for_at_once_is_computed_in_parts(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [ask(f"the {word}", max_tokens=12, ignore_eos=True) for word in ("other", "hat", "tea", "cat")]
    decode, stuck = Context.decode, []

    def full(context: Context, batch: Batch) -> None:
        if stuck or len({batch.struct.seq_id[i][0] for i in range(batch.size)}) > 1:
            raise KvFullError("no KV slot")
        decode(context, batch)

    with engine_of(tiny_path, idle_prefixes=0) as engine:
        expected = [Read(engine.generate(one)) for one in requests]
        monkeypatch.setattr(Context, "decode", full)
        with engine._loop.queue.wake:  # the loop sees all of them at once
            streams = [engine.generate(one) for one in requests]
        found = [Read(stream) for stream in streams]
        assert "it is computed in two" in caplog.text
        stuck.append(True)  # not even one row fits any more
        assert isinstance(Read(engine.generate(requests[0])).error, KvFullError)
        stuck.clear()
        assert Read(engine.generate(requests[0])).finished
    for mine, other in zip(found, expected, strict=True):
        assert mine.finished is not None
        assert mine.agrees_with(other)


def test_a_step_that_failed_leaves_no_beginning_to_others(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ask("the other " * 3, max_tokens=1)  # its only step is its last
    with engine_of(tiny_path) as engine:
        alone = Read(engine.generate(wanted))

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with engine_of(tiny_path, idle_prefixes=2) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Context, "decode", broken)
            assert "RuntimeError" in str(Read(engine.generate(wanted)).error)
        again = Read(engine.generate(wanted))
        assert again.finished
        assert engine.counters.shared_tokens == 0
    assert again.agrees_with(alone, greedy=False)


def test_a_deadline_that_cannot_be_met_is_refused_before_it_passes(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = ask("the other", max_tokens=5, deadline=deadline_after(20.0))
    with engine_of(tiny_path, n_seq_max=1) as engine:
        assert Read(engine.generate(late)).finished
        monkeypatch.setattr(LiveCost, "confident", True)
        monkeypatch.setattr(LiveCost, "now", StepCost(base=60.0))
        error = Read(engine.generate(late)).error
        assert isinstance(error, DeadlineExceededError)
        assert "its deadline is in" in str(error)
        # Alone it would be done within 9 s, but not behind one that runs and reads.
        monkeypatch.setattr(LiveCost, "now", StepCost(base=9.0))
        running = engine.generate(ask("the other", max_tokens=450, temperature=3.0, seed=1))
        next(running)
        first = engine.generate(ask("a hat " * 60, max_tokens=2))
        second = engine.generate(ask("a hat " * 60, max_tokens=2))
        error = Read(engine.generate(late)).error
        assert isinstance(error, OverloadedError)
        assert "behind 3 requests" in str(error)
        assert 1 <= error.retry_after <= 60
        assert engine.counters.refused_late == 2
        running.cancel()
        assert Read(first).finished
        assert Read(second).finished
        assert engine._loop.queue.bounds.queued == 0


def test_ten_thousand_wait_and_none_is_lost(tiny_path: Path) -> None:
    with engine_of(tiny_path, n_seq_max=2, max_queue=10_000, max_queue_tokens=10**9) as engine:
        running = engine.generate(ask("the other", max_tokens=450, temperature=3.0, seed=1))
        next(running)
        until(lambda: engine._loop.queue.bounds.queued == 0)
        with engine._loop.queue.wake:
            streams = [engine.generate(ask("tea", max_tokens=1)) for _ in range(10_000)]
            with pytest.raises(OverloadedError) as caught:
                engine.generate(ask("tea"))
            assert "10000 requests are waiting" in str(caught.value)
            assert 0.1 <= caught.value.retry_after <= 60
        for stream in streams[20:]:
            stream.cancel()
        assert all(Read(stream).finished for stream in streams[:20])
        assert all(isinstance(Read(stream).error, CancelledError) for stream in streams[20:])
        running.cancel()
        until(lambda: not engine._loop._tasks)
        assert (engine._loop.queue.bounds.queued, engine._loop.queue.bounds.queued_tokens) == (0, 0)


def test_the_statistics_say_where_the_time_went(tiny_path: Path) -> None:
    cost = StepCost(base=0.0005, per_token=1e-5, per_context=1e-7, per_output=1e-6)
    with engine_of(tiny_path, cost=cost) as engine:
        for word in ("other", "hat", "tea") * 10:  # of calls alike, few are looked at
            Read(engine.generate(ask(word, max_tokens=60, ignore_eos=True)))
        until(lambda: engine.counters.cost_error is not None)
        told = json.loads(json.dumps(engine.counters.as_json()))
    shares = told["shares"]
    parts = [shares[name] for name in shares if name.startswith(("useful", "lost", "host", "unexplained"))]
    assert sum(parts) == pytest.approx(1)
    assert shares["lost to attention"] > 0
    assert told["cost_error"] >= 0
