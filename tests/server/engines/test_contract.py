"""What every engine promises, asked of each of them in the same words."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from serving_tools import Serving

from crayon.client import RemoteEngine
from crayon.completion import FinishReason
from crayon.constraint import Constraint, ConstraintKind
from crayon.engine import (
    Delta,
    EncodeRequest,
    Engine,
    Finished,
    GenerateRequest,
    ScoreRequest,
    Started,
    Stream,
    deadline_after,
    needs,
)
from crayon.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    ServerRejectedError,
    UnknownModelError,
)
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crayon.token_options import TokenLogprob

CONTEXT = 256
PATIENCE = 120.0  # for machines that have other things to do; nothing here measures time
# One compute thread: two that wait for each other at every layer are many times slower on a machine that is busy.
LONG = "Write a long story. " + "The fox ran over the hill and saw the river. " * 8


@dataclass(frozen=True)
class Made:
    """How to make one kind of engine: `make(slots)` gives it room for that many requests at once."""

    make: Callable[[int], Engine]


@pytest.fixture(
    scope="module",
    params=[
        "echo",
        "remote",
        pytest.param("llama_cpp", marks=pytest.mark.models),
        pytest.param("device", marks=pytest.mark.models),
        pytest.param("vllm", marks=pytest.mark.vllm),
    ],
)
def made(request: pytest.FixtureRequest) -> Made:
    if request.param == "echo":
        return Made(lambda slots: EchoEngine(name="it", delay=0.005, context_tokens=CONTEXT, slots=slots))
    if request.param == "remote":
        return Made(lambda slots: OverTheWire(slots))
    if request.param == "vllm":
        return with_vllm(request.getfixturevalue("tmp_path_factory").mktemp("vllm"))
    path = request.getfixturevalue("device_model_path")
    background = ("The weather is nice.", "How do I cook rice?", "Stocks fell on Monday.", "She plays the violin.")
    if request.param == "llama_cpp":
        from crayon.server.engines.llama.engine import LlamaCppEngine

        def llama_cpp(slots: int) -> Engine:
            seqs = min(slots, 8)
            return LlamaCppEngine(
                path,
                name="it",
                n_ctx=seqs * CONTEXT,
                context_tokens=CONTEXT,
                n_seq_max=seqs,
                threads=1,
                background=background,
            )

        return Made(llama_cpp)
    from crayon.device import DeviceEngine

    return Made(lambda _: DeviceEngine(path, name="it", n_ctx=CONTEXT, threads=1, background=background))


def with_vllm(folder: Path) -> Made:
    from vllm_tools import engine_on, tiny_file, tiny_folder

    model = tiny_folder(tiny_file(folder), folder / "model")
    # Its tokens are letters, so the same texts take four times as many.
    return Made(lambda slots: engine_on(model, context_tokens=4 * CONTEXT, slots=min(slots, 16)))


class OverTheWire(RemoteEngine):
    """The echo engine again, behind a real server."""

    def __init__(self, slots: int) -> None:
        made = EchoEngine(name="it", delay=0.005, context_tokens=CONTEXT, slots=slots)
        self.serving = Serving(lambda: made).__enter__()
        super().__init__(self.serving.address)

    def close(self) -> None:
        super().close()
        self.serving.stop()


@pytest.fixture(scope="module")
def engine(made: Made) -> Iterator[Engine]:
    engine = made.make(64)
    yield engine
    engine.close()


FIELDS = ("deadline", "request_id", "model", "signals", "constraint", "top_logprobs", "logit_bias")


def ask(text: str, **more: Any) -> GenerateRequest:
    request = {name: more.pop(name) for name in FIELDS if name in more}
    sampling = Sampling(**{"max_tokens": 12, **more})
    return GenerateRequest(messages=(Message("user", text),), sampling=sampling, **request)


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def read(stream: Stream) -> list[Any]:
    return list(stream)


def test_it_is_an_engine_and_says_what_it_serves(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    (info,) = engine.models()
    assert info.name == "it"
    assert info.context_tokens >= CONTEXT
    assert {"generate", "score"} <= info.capabilities


def test_events_come_in_order_and_add_up(engine: Engine) -> None:
    events = read(engine.generate(ask("Say something about rivers and hills and the sea", request_id="r1")))
    started, *deltas, finished = events
    assert started == Started("r1", "it", None)
    assert deltas
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(finished, Finished)
    assert finished.usage.prompt_tokens > 0
    signals = [signal for delta in deltas for signal in delta.signals]
    assert len(signals) == finished.usage.completion_tokens
    assert all(signal.logprob <= 0 and signal.entropy >= 0 and 0 <= signal.margin <= 1 for signal in signals)
    assert min(finished.timings.queue_ms, finished.timings.prompt_ms, finished.timings.decode_ms) >= 0


def test_an_answer_is_the_same_without_signals(engine: Engine) -> None:
    with_signals = read(engine.generate(ask(LONG)))
    without = read(engine.generate(ask(LONG, signals=False)))
    assert text_of(without) == text_of(with_signals)
    assert without[-1].finish_reason is with_signals[-1].finish_reason
    # How much of the prompt was cached is another matter: the second one finds what the first left.
    assert without[-1].usage.completion_tokens == with_signals[-1].usage.completion_tokens


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (
            Constraint(ConstraintKind.SCHEMA, '{"type": "array", "items": {"type": "boolean"}, "maxItems": 3}'),
            r"\[.*\]",
        ),
        (Constraint(ConstraintKind.REGEX, "[a-c]{2}-[0-9]"), "[a-c]{2}-[0-9]"),
        (Constraint(ConstraintKind.CHOICES, choices=("red", "dark green", "größe")), "red|dark green|größe"),
        (Constraint(ConstraintKind.GRAMMAR, 'start: "no" | "yes" /[!?]/'), "no|yes[!?]"),
    ],
    ids=["schema", "regex", "choices", "grammar"],
)
def test_a_constraint_is_kept(engine: Engine, constraint: Constraint, pattern: str) -> None:
    started, *_, finished = events = read(engine.generate(ask("Say something", max_tokens=60, constraint=constraint)))
    assert started.constrained
    assert re.fullmatch(pattern, text_of(events))
    assert finished.finish_reason is FinishReason.STOP
    assert (finished.usage.shown_tokens > 0) is (constraint.kind in {ConstraintKind.SCHEMA, ConstraintKind.CHOICES})
    assert "constrain" in engine.models()[0].capabilities


def test_each_token_is_told_with_the_likeliest_in_its_place(engine: Engine) -> None:
    question = ask("Tell me about the old stone bridge", top_logprobs=3)
    started, *deltas, finished = read(engine.generate(question))
    assert started.kept == {"top_logprobs"}
    told = [one for delta in deltas for one in delta.logprobs]
    assert len(told) == finished.usage.completion_tokens
    assert b"".join(one.piece for one in told).decode(errors="replace") == text_of(deltas)
    signals = [signal.logprob for delta in deltas for signal in delta.signals]
    assert [one.logprob for one in told] == pytest.approx(signals, abs=1e-3)
    for one in told:
        ranked = [each.logprob for each in one.top]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)
        assert one.top[0].logprob == pytest.approx(one.logprob)  # the likeliest was taken
        assert not one.top[0].top
    plain = read(engine.generate(ask("Tell me about the old stone bridge", signals=False)))
    assert text_of(plain) == text_of(deltas)
    assert not any(delta.logprobs for delta in plain[1:-1])
    bare = read(engine.generate(ask("Tell me about the old stone bridge", signals=False, top_logprobs=0)))
    alone = [one for delta in bare[1:-1] for one in delta.logprobs]
    assert [one.token for one in alone] == [one.token for one in told]
    assert not any(one.top for one in alone)


def test_a_banned_token_is_not_written_and_its_likelihood_is_told_all_the_same(engine: Engine) -> None:
    (first, *_) = logprobs_of(engine, ask("Name a river", top_logprobs=5))
    banned = ask("Name a river", top_logprobs=5, logit_bias=((first.token, -100.0),))
    (other, *_) = logprobs_of(engine, banned)
    assert other.token != first.token
    if other.top[0].token == first.token:  # the echo goes on with its next word
        assert other.top[0].logprob == pytest.approx(first.logprob, abs=1e-3)
        assert other.logprob < first.logprob
    assert needs(banned) == {"top_logprobs", "logit_bias"}


def test_a_token_that_the_model_has_not_is_refused_by_its_number(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="logit_bias: names token 2000000000; those of the model"):
        read(engine.generate(ask("Hello", logit_bias=((2_000_000_000, 1.0),))))


def logprobs_of(engine: Engine, request: GenerateRequest) -> list[TokenLogprob]:
    return [one for event in read(engine.generate(request)) if isinstance(event, Delta) for one in event.logprobs]


def test_a_constraint_that_cannot_be_kept_is_refused_in_one_way(engine: Engine) -> None:
    constraint = Constraint(ConstraintKind.SCHEMA, '{"properties": {"x": {"not": {}}}}')
    with pytest.raises(InvalidRequestError) as caught:
        read(engine.generate(ask("Say something", constraint=constraint)))
    said = "response_format: the keyword 'not' at /properties/x cannot be kept; leave out, and check in the answer"
    assert str(caught.value) == said


def test_max_tokens_ends_an_answer(engine: Engine) -> None:
    *_, finished = read(engine.generate(ask(LONG, max_tokens=3)))
    assert finished.finish_reason is FinishReason.LENGTH
    assert finished.usage.completion_tokens == 3


def test_an_answer_has_the_length_that_was_asked_for_where_the_end_is_ignored(engine: Engine) -> None:
    *deltas, finished = read(engine.generate(ask("Hello", max_tokens=40, ignore_eos=True)))[1:]
    assert finished.finish_reason is FinishReason.LENGTH
    assert finished.usage.completion_tokens == sum(len(delta.signals) for delta in deltas) == 40


def test_an_answer_ends_where_the_context_ends(engine: Engine) -> None:
    (info,) = engine.models()
    *_, finished = read(engine.generate(ask(LONG, max_tokens=2**30)))
    assert finished.usage.total_tokens <= info.context_tokens


def test_greedy_answers_repeat(engine: Engine) -> None:
    assert len({text_of(read(engine.generate(ask("Name a colour and a tree please")))) for _ in range(3)}) == 1


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(engine: Engine) -> None:
    whole = text_of(read(engine.generate(ask("Tell me about the old stone bridge", max_tokens=10))))
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    events = read(engine.generate(ask("Tell me about the old stone bridge", max_tokens=10, stop=(stop,))))
    assert text_of(events) == whole[: whole.find(stop)]
    assert events[-1].finish_reason is FinishReason.STOP


def test_a_prompt_that_is_too_long_is_refused(engine: Engine) -> None:
    (info,) = engine.models()
    with pytest.raises(PromptTooLongError, match=r"messages: .* at most"):
        read(engine.generate(ask("word and " * info.context_tokens)))
    request = ScoreRequest(messages=(Message("user", "word and " * info.context_tokens),), continuations=("x",))
    with pytest.raises(PromptTooLongError):
        engine.score(request).result(PATIENCE)


def test_another_model_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(UnknownModelError, match="other"):
        read(engine.generate(ask("hello", model="other")))


def test_a_deadline_ends_an_answer(engine: Engine) -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        read(engine.generate(ask(LONG, max_tokens=300, deadline=deadline_after(0.05))))
    assert isinstance(caught.value.partial, str)


def test_a_deadline_in_the_past_is_not_answered(engine: Engine) -> None:
    with pytest.raises(DeadlineExceededError):
        read(engine.generate(ask("hello", deadline=time.monotonic() - 1)))
    request = ScoreRequest(messages=(Message("user", "hello"),), continuations=("x",), deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineExceededError):
        engine.score(request).result(PATIENCE)


def test_cancelling_frees_the_slot(made: Made) -> None:
    engine = made.make(1)
    try:
        stream = engine.generate(ask(LONG, max_tokens=300))
        assert isinstance(next(stream), Started)
        assert isinstance(next(stream), Delta)
        stream.cancel()
        with pytest.raises(CancelledError):
            read(stream)
        assert isinstance(retried(engine, ask("hello", max_tokens=2))[-1], Finished)
    finally:
        engine.close()


def retried(engine: Engine, request: GenerateRequest) -> list[Any]:
    """Ask again while the engine says that it is full: some refuse where others queue."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return read(engine.generate(request))
        except OverloadedError as error:
            if time.monotonic() > end:
                raise
            time.sleep(min(error.retry_after, 0.01))


def test_leaving_the_with_block_cancels(engine: Engine) -> None:
    with engine.generate(ask(LONG, max_tokens=300)) as stream:
        next(stream)
    assert stream.cancelled
    assert stream.closed


def test_a_cancelled_future_is_forgotten(engine: Engine) -> None:
    future = engine.score(ScoreRequest(messages=(Message("user", LONG),), continuations=("a", "b")))
    if future.cancel():
        with pytest.raises(FutureCancelledError):
            future.result(PATIENCE)
    assert isinstance(read(engine.generate(ask("hello", max_tokens=2)))[-1], Finished)


def test_many_threads_ask_at_once(engine: Engine) -> None:
    words = ["red", "green", "blue", "black", "white", "grey", "pink", "brown"]

    def one(i: int) -> list[Any]:
        return read(engine.generate(ask(f"Say {words[i % 8]} and count to {i}", max_tokens=6)))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(16)))
    assert all(isinstance(events[-1], Finished) for events in answers)


async def test_many_tasks_ask_at_once(engine: Engine) -> None:
    async def one(i: int) -> list[Any]:
        return [event async for event in engine.generate(ask(f"Count to {i} for me", max_tokens=6))]

    async def score(i: int) -> float:
        request = ScoreRequest(messages=(Message("user", f"Is {i} even?"),), continuations=("yes", "no, never"))
        return (await asyncio.wrap_future(engine.score(request))).scores[0].total

    answers, scores = await asyncio.gather(
        asyncio.gather(*(one(i) for i in range(12))), asyncio.gather(*(score(i) for i in range(8)))
    )
    assert all(isinstance(events[-1], Finished) for events in answers)
    assert all(score <= 0 for score in scores)


async def test_a_cancelled_task_leaves_the_engine_usable(engine: Engine) -> None:
    async def one() -> None:
        async with engine.generate(ask(LONG, max_tokens=300)) as stream:
            async for _ in stream:
                pass

    task = asyncio.create_task(one())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    events = [event async for event in engine.generate(ask("hello", max_tokens=2))]
    assert isinstance(events[-1], Finished)


def test_scores_have_one_number_a_token_and_add_up(engine: Engine) -> None:
    texts = ("Paris", "London is a city in England", "Paris is the capital of France, a country in Europe")
    request = ScoreRequest(messages=(Message("user", "What is the capital of France?"),), continuations=texts)
    result = engine.score(request).result(PATIENCE)
    assert len(result.scores) == 3
    for score in result.scores:
        assert all(math.isfinite(value) and value <= 0 for value in score.token_logprobs)
        assert score.total == pytest.approx(sum(score.token_logprobs))
        assert score.mean == pytest.approx(score.total / len(score.token_logprobs))
    lengths = [len(score.token_logprobs) for score in result.scores]
    assert lengths == sorted(lengths)
    assert result.usage.prompt_tokens > sum(lengths)
    assert result.model == "it"


def test_a_score_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    def totals(*texts: str) -> list[float]:
        request = ScoreRequest(messages=(Message("user", "Which animal barks?"),), continuations=texts)
        return [score.total for score in engine.score(request).result(PATIENCE).scores]

    many = [f"a dog number {i} of them all" for i in range(40)]
    together = totals("the dog", *many, "a cat on the roof")
    (dog,), (cat,) = totals("the dog"), totals("a cat on the roof")
    assert together[0] == pytest.approx(dog, abs=0.2)
    assert together[-1] == pytest.approx(cat, abs=0.2)


def test_vectors_are_unit_rows_that_know_their_own(engine: Engine) -> None:
    if "encode" not in engine.models()[0].capabilities:
        with pytest.raises(ServerRejectedError):
            engine.encode(EncodeRequest(texts=("x",)))
        return
    texts = ("book a flight to Rome", "reserve a flight to Rome", "how to bake bread at home")
    result = engine.encode(EncodeRequest(texts=texts)).result(PATIENCE)
    assert result.vectors.shape[0] == 3
    assert result.vectors.dtype == np.float32
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert result.vectors[0] @ result.vectors[1] > result.vectors[0] @ result.vectors[2]
    (again,) = engine.encode(EncodeRequest(texts=texts[:1])).result(PATIENCE).vectors
    assert again @ result.vectors[0] == pytest.approx(1.0, abs=0.01)


def test_closing_fails_what_runs_and_ends_its_threads(made: Made) -> None:
    before = set(threading.enumerate())
    engine = made.make(4)
    streams = [engine.generate(ask(LONG, max_tokens=300)) for _ in range(3)]
    next(streams[0])
    engine.close()
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            read(stream)
    assert {thread for thread in threading.enumerate() if thread.name.startswith("crayon")} <= before
    with pytest.raises(EngineClosedError):
        read(engine.generate(ask("hello")))
    with pytest.raises(EngineClosedError):
        engine.score(ScoreRequest(messages=(Message("user", "x"),), continuations=("x",))).result(PATIENCE)
    with pytest.raises(EngineClosedError):
        engine.encode(EncodeRequest(texts=("x",))).result(PATIENCE)
