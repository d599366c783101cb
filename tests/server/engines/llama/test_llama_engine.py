"""The server's llama.cpp engine on the real small model: what is particular to it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from crayon.completion import Blend, FinishReason
from crayon.engine import Delta, EncodeRequest, Finished, GenerateRequest, ScoreRequest, TokenSignal
from crayon.errors import (
    AbortedError,
    AdapterError,
    CancelledError,
    EngineError,
    KvFullError,
    OverloadedError,
    PromptTooLongError,
    UnknownModelError,
)
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.models
PATIENCE = 120.0
LONG = "Write a story about a fox. " + "The fox ran over the hill and saw the river. " * 30


@pytest.fixture(scope="module")
def engine(device_model_path: Path) -> Iterator[LlamaCppEngine]:
    # One thread: see the contract tests.
    with LlamaCppEngine(device_model_path, name="small", n_ctx=1024, n_seq_max=6, threads=1) as engine:
        yield engine


def ask(text: str, **more: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 12, **more}))


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def answer(engine: LlamaCppEngine, text: str, **more: Any) -> str:
    return text_of(list(engine.generate(ask(text, **more))))


def pieces(events: Iterable[Any]) -> list[tuple[str, TokenSignal]]:
    return [(event.text, event.signals[0]) for event in events if isinstance(event, Delta) and event.signals]


def test_batch_mates_do_not_change_a_greedy_answer(engine: LlamaCppEngine) -> None:
    requests = [ask(f"What is {i} plus {i}?", max_tokens=8) for i in range(6)]
    alone = [pieces(engine.generate(request)) for request in requests]
    streams = [engine.generate(request) for request in requests]
    for one, mixed in zip(alone, [pieces(stream) for stream in streams], strict=True):
        for (text, signal), (mixed_text, mixed_signal) in zip(one, mixed, strict=False):
            if text != mixed_text:
                # A batch of another size sums in another order, so a near tie may fall the other way.
                assert signal.margin < 0.1
                break
            assert mixed_signal.logprob == pytest.approx(signal.logprob, abs=0.4)


def test_a_seed_fixes_the_draw(engine: LlamaCppEngine) -> None:
    how = {"temperature": 1.5, "max_tokens": 10}
    first = answer(engine, "Invent a word and say what it means.", seed=7, **how)
    assert answer(engine, "Invent a word and say what it means.", seed=7, **how) == first
    others = {answer(engine, "Invent a word and say what it means.", seed=seed, **how) for seed in (8, 9, 10)}
    assert others != {first}


def test_signals_and_scores_agree(engine: LlamaCppEngine) -> None:
    question = "What is the capital of France?"
    events = list(engine.generate(ask(question, max_tokens=8)))
    text = text_of(events)
    signals = [signal for event in events if isinstance(event, Delta) for signal in event.signals]
    request = ScoreRequest(messages=(Message("user", question),), continuations=(text, text + " and so on"))
    score, longer = engine.score(request).result(PATIENCE).scores
    assert len(score.token_logprobs) == len(signals)
    assert score.token_logprobs == pytest.approx([signal.logprob for signal in signals], abs=0.15)
    assert longer.token_logprobs[: len(signals)] == pytest.approx(score.token_logprobs, abs=0.15)


def test_a_long_score_shares_its_prompt_and_fits_the_output_rows(engine: LlamaCppEngine) -> None:
    texts = tuple(f"{word} " + "and the rain fell on the roof " * 12 for word in ("Yes", "No", "Maybe"))
    request = ScoreRequest(messages=(Message("user", "Did it rain?"),), continuations=texts)
    together = engine.score(request).result(PATIENCE).scores
    for text, score in zip(texts, together, strict=True):
        one = ScoreRequest(messages=request.messages, continuations=(text,))
        assert engine.score(one).result(PATIENCE).scores[0].mean == pytest.approx(score.mean, abs=0.05)


def test_a_blend_is_refused_while_there_is_no_pool(engine: LlamaCppEngine) -> None:
    request = GenerateRequest(messages=(Message("user", "hi"),), blend=Blend("pool", (0.5, 0.5)))
    with pytest.raises(AdapterError, match="pool"):
        engine.generate(request)


def test_an_unknown_model_is_refused(engine: LlamaCppEngine) -> None:
    with pytest.raises(UnknownModelError, match="small"):
        engine.encode(EncodeRequest(texts=("x",), model="big"))


def test_a_text_too_long_to_embed_is_named(engine: LlamaCppEngine) -> None:
    with pytest.raises(PromptTooLongError, match=r"texts\[1\]"):
        engine.encode(EncodeRequest(texts=("short", "word and " * 1000)))


def test_the_queue_is_bounded_and_nothing_in_it_is_lost(device_model_path: Path) -> None:
    with LlamaCppEngine(
        device_model_path, n_ctx=256, n_seq_max=1, threads=1, max_queue=2, context_tokens=256
    ) as engine:
        running = engine.generate(ask("Count to ten.", max_tokens=60))
        next(running)
        waiting = [engine.generate(ask(f"Say {i}.", max_tokens=2)) for i in range(2)]
        with pytest.raises(OverloadedError) as caught:
            engine.generate(ask("One more."))
        assert caught.value.retry_after >= 0.1
        assert all(isinstance(list(stream)[-1], Finished) for stream in [running, *waiting])
        assert answer(engine, "And now?")


def test_a_step_that_nobody_wants_any_more_is_aborted(device_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaCppEngine(device_model_path, n_ctx=2048, n_seq_max=2, threads=1, n_batch=1024) as engine:
        context, entered, seen = engine._held.runners.runners[0].context, threading.Event(), []
        decode = context.decode

        def watched(batch: Any) -> None:
            entered.set()
            try:
                decode(batch)
            except AbortedError as error:
                seen.append(error)
                raise

        monkeypatch.setattr(context, "decode", watched)
        stream = engine.generate(ask(LONG * 2, max_tokens=1))
        assert entered.wait(PATIENCE)
        stream.cancel()
        with pytest.raises(CancelledError):
            list(stream)
        monkeypatch.undo()
        assert answer(engine, "Hello there, how are you?")
        assert len(seen) == 1


def test_a_failing_step_fails_its_requests_and_no_others(
    device_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LlamaCppEngine(device_model_path, n_ctx=512, n_seq_max=2, threads=1) as engine:

        def full(_: object) -> None:
            raise KvFullError("no room")

        monkeypatch.setattr(engine._held.runners.runners[0].context, "decode", full)
        with pytest.raises(EngineError, match="no room"):
            list(engine.generate(ask("hello")))
        monkeypatch.undo()
        assert answer(engine, "Hello there, how are you?")


def test_a_broken_loop_leaves_nobody_waiting(device_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaCppEngine(device_model_path, n_ctx=512, n_seq_max=2, threads=1) as engine:

        def broken(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(engine._loop, "_begin", broken)
        streams = [engine.generate(ask("hello"))]
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            list(streams[0])


def test_an_idle_engine_sleeps(engine: LlamaCppEngine) -> None:
    answer(engine, "hi", max_tokens=1)
    steps = engine._loop._state.step
    time.sleep(0.2)
    assert engine._loop._state.step == steps


def test_the_end_of_the_context_ends_an_answer(device_model_path: Path) -> None:
    with LlamaCppEngine(device_model_path, n_ctx=256, n_seq_max=1, threads=1, context_tokens=64) as engine:
        *_, finished = engine.generate(ask("Tell me a very long story.", max_tokens=10_000))
        assert isinstance(finished, Finished)
        assert finished.finish_reason is FinishReason.LENGTH
        assert finished.usage.total_tokens == 64
