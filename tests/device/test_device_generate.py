from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from device_tools import Answer, ask, steady_answers
from tiny_chat import CLOSE

from crayon.completion import FinishReason
from crayon.device import DeviceEngine
from crayon.engine import Delta, Finished, GenerateRequest, Started, Stream, TokenSignal
from crayon.errors import CancelledError, DeadlineExceededError, EngineClosedError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.sampler import Sampler
from crayon.llama.signals import SignalMeter
from crayon.llama.text import TextAssembler
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PATIENCE = 60.0


@pytest.fixture
def engine(tiny: Callable[..., DeviceEngine]) -> DeviceEngine:
    return tiny()


def script(monkeypatch: pytest.MonkeyPatch, tokens: Sequence[int]) -> None:
    """Let the model "choose" these tokens, then end."""
    left = list(tokens)

    def sample(self: Sampler, context: Context, row: int) -> tuple[int, TokenSignal]:
        return self._meter.measure(context.logits(row), left.pop(0))

    monkeypatch.setattr(Sampler, "sample", sample)


def record_pieces(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every token that is written from now on."""
    pieces: list[bytes] = []
    real = TextAssembler.push

    def push(self: TextAssembler, piece: bytes) -> str:
        pieces.append(piece)
        return real(self, piece)

    monkeypatch.setattr(TextAssembler, "push", push)
    return pieces


def busy(engine: DeviceEngine) -> list[int]:
    return [slot.sequence for slot in engine._compute._slots._slots if slot.reserved]


# -- one answer


def test_an_answer_is_what_single_steps_give(engine: DeviceEngine) -> None:
    model = engine._model
    for text, answer in steady_answers(engine, 3, max_tokens=12).items():
        prompt = model.tokenize_chat([Message("user", text)])
        tokens, signals, meter, batch = [], [], SignalMeter(model.n_vocab), Batch(128)
        with Context(model, n_ctx=256, n_batch=128, threads=1) as context:
            row = batch.add(prompt, 0, 0, "last")[-1]
            for at in range(len(prompt), len(prompt) + 12):
                context.decode(batch)
                token, signal = meter.measure(context.logits(row))
                if model.is_end(token):
                    break
                tokens.append(token)
                signals.append(signal)
                batch.clear()
                row = batch.add([token], at, 0, "last")[0]
        assert answer.text == b"".join(model.piece(token) for token in tokens).decode("utf-8", "replace")
        assert answer.logprobs == pytest.approx([signal.logprob for signal in signals], abs=CLOSE)
        assert [s.entropy for s in answer.signals] == pytest.approx([s.entropy for s in signals], abs=CLOSE)
        assert [s.margin for s in answer.signals] == pytest.approx([s.margin for s in signals], abs=CLOSE)
        assert answer.finished.usage.prompt_tokens == len(prompt)
        assert answer.finished.usage.completion_tokens == len(tokens) == len(answer.signals)


def test_started_names_request_and_model(engine: DeviceEngine) -> None:
    request = ask("hello", max_tokens=2)
    answer = Answer(engine, request)
    assert answer.started.request_id == request.request_id
    assert answer.started.model == engine.models()[0].name == "tiny-chat"
    assert answer.finished.timings.prompt_ms > 0
    assert answer.finished.timings.queue_ms >= 0


def test_max_tokens_ends_an_answer(engine: DeviceEngine) -> None:
    answer = Answer(engine, ask("hello", max_tokens=3))
    assert answer.finished.finish_reason is FinishReason.LENGTH
    assert answer.finished.usage.completion_tokens == 3


def test_the_models_end_token_ends_an_answer(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [*engine._model.tokenize("the end"), engine._model.eos])
    answer = Answer(engine, ask("hello"))
    assert answer.text == "the end"
    assert answer.finished.finish_reason is FinishReason.STOP
    assert answer.finished.usage.completion_tokens == len(engine._model.tokenize("the end"))


def test_an_answer_goes_on_past_the_models_end_where_that_is_ignored(
    engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [*engine._model.tokenize("the"), engine._model.eos, *engine._model.tokenize("end")] * 2)
    answer = Answer(engine, ask("hello", max_tokens=4, ignore_eos=True))
    assert answer.finished.finish_reason is FinishReason.LENGTH
    assert answer.finished.usage.completion_tokens == len(answer.signals) == 4


def test_an_answer_ends_where_the_context_does(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny(n_ctx=128)
    answer = Answer(engine, ask("x" * 60, max_tokens=10_000, temperature=1.0, seed=4))
    usage = answer.finished.usage
    assert usage.total_tokens <= 128
    if answer.finished.finish_reason is FinishReason.LENGTH:
        assert usage.total_tokens == 128


def test_a_conversation_goes_on_from_its_cache(engine: DeviceEngine) -> None:
    answers = steady_answers(engine, 1, max_tokens=6)
    ((text, first),) = answers.items()
    history = (Message("user", text), Message("assistant", "certainly"), Message("user", "and then?"))
    warm = Answer(engine, GenerateRequest(messages=history, sampling=ask("", max_tokens=6).sampling))
    assert warm.finished.usage.cached_tokens >= len(engine._model.tokenize(text))
    again = Answer(engine, ask(text, max_tokens=6))
    assert again.finished.usage.cached_tokens == again.finished.usage.prompt_tokens - 1
    assert again.text == first.text


# -- characters and stops

MIXED = "the 🙂🙃 family 👩‍👩‍👧 of 漢字 é, then "  # odd characters are the point


def test_characters_cut_by_tokens_come_out_whole(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = engine._model.tokenize(MIXED)
    assert any(not _is_utf8(engine._model.piece(token)) for token in tokens)
    script(monkeypatch, [*tokens, engine._model.eos])
    answer = Answer(engine, ask("hello"))
    assert answer.text == MIXED
    assert all("\ufffd" not in delta.text for delta in answer.deltas)
    assert len(answer.signals) == len(tokens)


def test_an_answer_cut_inside_a_character_drops_its_start(
    engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = engine._model.tokenize(MIXED)
    for n in range(1, len(tokens)):
        script(monkeypatch, tokens)
        answer = Answer(engine, ask("hello", max_tokens=n))
        assert "\ufffd" not in answer.text
        assert MIXED.startswith(answer.text)


@pytest.mark.parametrize("stop", ["family", "y 👩", "漢", "字 é", "then ", "🙃 fam", "e 🙂🙃 f"])
def test_stops_across_token_borders(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    script(monkeypatch, [*engine._model.tokenize(MIXED + MIXED), engine._model.eos])
    answer = Answer(engine, ask("hello", stop=(stop, "never seen")))
    assert answer.text == MIXED[: MIXED.index(stop)]
    assert answer.finished.finish_reason is FinishReason.STOP
    assert busy(engine) == []


def test_what_looked_like_a_stop_is_given_at_the_end(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, engine._model.tokenize("in the en"))
    answer = Answer(engine, ask("hello", stop="end", max_tokens=len(engine._model.tokenize("in the en"))))
    assert answer.text == "in the en"
    assert answer.finished.finish_reason is FinishReason.LENGTH


@pytest.mark.models
def test_the_real_model_streams_whole_characters(device_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = record_pieces(monkeypatch)
    with DeviceEngine(device_model_path, n_ctx=256, threads=1) as engine:
        for text in ("Repeat exactly: 🙂🙃 漢字 👩‍👩‍👧 é", "漢字は何ですか"):
            pieces.clear()
            answer = Answer(engine, ask(text, max_tokens=24))
            # A model this small does write bytes that are no character at all: those, and only those, are replaced.
            assert b"".join(pieces).decode("utf-8", "replace").rstrip("\ufffd") == answer.text.rstrip("\ufffd")
            assert any(not _is_utf8(piece) for piece in pieces)
            assert len(answer.signals) == answer.finished.usage.completion_tokens


@pytest.mark.models
def test_the_real_model_answers_up_to_a_stop(device_model_path: Path) -> None:
    question = "What is the capital of France?"
    with DeviceEngine(device_model_path, n_ctx=256, threads=1) as engine:
        whole = Answer(engine, ask(question, max_tokens=40)).text
        stop = whole[9:14]
        stopped = Answer(engine, ask(question, max_tokens=40, stop=stop))
        assert stopped.text == whole[: whole.index(stop)]
        assert stopped.finished.finish_reason is FinishReason.STOP


# -- sampling


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: DeviceEngine) -> None:
    def text(seed: int | None) -> str:
        return Answer(engine, ask("hello", max_tokens=20, temperature=1.0, seed=seed)).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(5)}) == 5
    assert text(None) != text(None)


def test_one_choice_left_is_the_likeliest(engine: DeviceEngine) -> None:
    ((text, greedy),) = steady_answers(engine, 1).items()
    for values in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-9}):
        assert Answer(engine, ask(text, max_tokens=8, seed=3, **{"temperature": 2.0, **values})).text == greedy.text


def test_penalties_reach_the_sampler(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = record_pieces(monkeypatch)
    Answer(engine, ask("hello", max_tokens=40))
    repeated = len(pieces) - len(set(pieces))
    pieces.clear()
    Answer(engine, ask("hello", max_tokens=40, presence_penalty=2.0, repeat_penalty=10.0))
    assert len(pieces) - len(set(pieces)) < repeated


# -- ending early


class Gate:
    """Holds the engine inside a decode until the test has acted."""

    def __init__(self, engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        real, calls = engine._compute._context.decode, [0]

        def decode(batch: Batch) -> None:
            calls[0] += 1
            if calls[0] == after + 1:
                self.inside.set()
                assert self.go.wait(PATIENCE)
            real(batch)

        monkeypatch.setattr(engine._compute._context, "decode", decode)


@pytest.mark.parametrize("after", [0, 2, 6], ids=["first prompt step", "later prompt step", "answer step"])
def test_cancelling_in_a_step_frees_the_slot_at_once(
    engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    gate = Gate(engine, monkeypatch, after)
    stream = engine.generate(ask("x" * 200, max_tokens=200))  # four prompt steps of 64
    assert gate.inside.wait(PATIENCE)
    assert len(busy(engine)) == 1
    stream.cancel()
    gate.go.set()
    following = Answer(engine, ask("hello", max_tokens=2))  # the worker has been round since
    assert busy(engine) == []
    assert following.finished.usage.completion_tokens == 2
    with pytest.raises(CancelledError):
        list(stream)
    (held,) = [slot for slot in engine._compute._slots._slots if slot.tokens]
    assert len(held.tokens) < 60, "nothing of the aborted step is taken for computed"


def test_leaving_the_block_cancels(engine: DeviceEngine) -> None:
    with engine.generate(ask("hello", max_tokens=400)) as stream:
        for event in stream:
            if isinstance(event, Delta):
                break
    Answer(engine, ask("hello", max_tokens=1))
    assert busy(engine) == []


def test_a_waiting_request_can_be_cancelled(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)
    running = engine.generate(ask("hello", max_tokens=10_000))  # has all of the context
    assert gate.inside.wait(PATIENCE)
    waiting = engine.generate(ask("hello", max_tokens=10))
    waiting.cancel()
    running.cancel()
    gate.go.set()
    assert Answer(engine, ask("hello", max_tokens=3)).finished.usage.completion_tokens == 3
    assert busy(engine) == []


def test_a_deadline_in_the_answer_carries_what_there_was(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch, after=5)
    deadline = time.monotonic() + 0.5
    stream = engine.generate(ask("hello", max_tokens=400, deadline=deadline))
    while time.monotonic() < deadline:
        gate.inside.wait(0.01)
        time.sleep(0.01)
    gate.go.set()
    seen: list[str] = []

    def read() -> None:
        seen.extend(event.text for event in stream if isinstance(event, Delta))

    with pytest.raises(DeadlineExceededError) as caught:
        read()
    assert caught.value.partial == "".join(seen)
    Answer(engine, ask("hello", max_tokens=1))
    assert busy(engine) == []


def test_closing_ends_running_and_waiting_answers(
    tiny: Callable[..., DeviceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny()
    gate = Gate(engine, monkeypatch)
    streams = [engine.generate(ask("hello", max_tokens=400)) for _ in range(3)]
    assert gate.inside.wait(PATIENCE)
    closer = threading.Thread(target=engine.close)
    closer.start()
    gate.go.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            list(stream)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.generate(ask("hello"))


def test_closing_while_many_threads_ask_crashes_nothing(tiny: Callable[..., DeviceEngine]) -> None:
    engine, ended = tiny(), []

    def work() -> None:
        try:
            while True:
                with engine.generate(ask("hello " * 20, max_tokens=4)) as stream:
                    list(stream)
        except EngineClosedError:
            ended.append(True)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    Answer(engine, ask("hello", max_tokens=8))
    engine.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ended) == 6


# -- several at once


def test_two_chats_advance_together_and_say_what_they_say_alone(
    engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = steady_answers(engine, 2, max_tokens=12)
    gate = Gate(engine, monkeypatch)
    order: list[str] = []
    real = Stream.push

    def push(self: Stream, event: Started | Delta | Finished) -> None:
        if isinstance(event, Delta) and event.signals:
            order.append(names[id(self)])
        real(self, event)

    monkeypatch.setattr(Stream, "push", push)
    streams = {text: engine.generate(ask(text, max_tokens=12)) for text in answers}
    names = {id(stream): text for text, stream in streams.items()}
    assert gate.inside.wait(PATIENCE)
    gate.go.set()
    for text, stream in streams.items():
        events = list(stream)
        assert "".join(event.text for event in events if isinstance(event, Delta)) == answers[text].text
    one, two = (order.index(text) for text in answers)
    last = {text: len(order) - 1 - order[::-1].index(text) for text in answers}
    assert max(one, two) < min(last.values()), "each began before the other ended"


def test_more_chats_than_slots_from_many_threads(engine: DeviceEngine) -> None:
    answers = steady_answers(engine, 10)
    found: dict[str, str] = {}

    def work(text: str) -> None:
        found[text] = Answer(engine, ask(text, max_tokens=8)).text

    threads = [threading.Thread(target=work, args=(text,)) for text in answers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {text: answer.text for text, answer in answers.items()}
    assert busy(engine) == []


async def test_chats_from_asyncio(engine: DeviceEngine) -> None:
    answers = steady_answers(engine, 6)

    async def work(text: str) -> str:
        async with engine.generate(ask(text, max_tokens=8)) as stream:
            return "".join([event.text async for event in stream if isinstance(event, Delta)])

    found = await asyncio.gather(*(work(text) for text in answers))
    assert found == [answer.text for answer in answers.values()]


def test_a_large_request_is_not_overtaken_for_ever(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)
    started: list[str] = []
    real = engine._compute._slots.acquire

    def acquire(key: Any, tokens: Sequence[int], reserve: int) -> Any:
        found = real(key, tokens, reserve)
        if found is not None:
            started.append("large" if reserve == engine.n_ctx else "small")
        return found

    monkeypatch.setattr(engine._compute._slots, "acquire", acquire)
    streams = [engine.generate(ask("hello", max_tokens=4))]
    assert gate.inside.wait(PATIENCE)
    streams.append(engine.generate(ask("hello", max_tokens=10_000, stop=tuple("abcdefghijklmnop"))))
    streams += [engine.generate(ask("hello", max_tokens=4)) for _ in range(5)]
    gate.go.set()
    for stream in streams:
        list(stream)
    assert started == ["small", "large", *["small"] * 5]


def test_more_threads_than_cores_share_one_real_answer(engine: DeviceEngine) -> None:
    """The signals of an answer are finite and in range, whoever runs beside it."""
    streams = [engine.generate(ask("hello", max_tokens=10, temperature=1.5, seed=i)) for i in range(8)]
    for stream in streams:
        for event in stream:
            if isinstance(event, Delta):
                for signal in event.signals:
                    assert signal.logprob <= 0
                    assert 0 <= signal.entropy <= np.log(engine._model.n_vocab)
                    assert 0 <= signal.margin <= 1


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
