"""Many answers' next tokens at once: the same as one after the other, and no answer spoils another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_chat import write_model

from crayon.engine import Delta, Finished, GenerateRequest, Stream
from crayon.errors import EngineError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.signals import SignalMeter
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.sampler import sample_rows
from crayon.server.engines.llama.tasks import GenerateTask
from crayon.server.scheduler import Kind, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crayon.engine import TokenSignal

STEPS = 24
ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"signals": False},
    {"temperature": 0.9, "seed": 5},
    {"temperature": 1.4, "seed": 6, "top_k": 9, "signals": False},
    {"repeat_penalty": 1.3},
    {"stop": ("a", "the")},
    {"ignore_eos": True},
    {"max_tokens": 3, "signals": False},
    {"temperature": 0.7, "seed": 7, "ignore_eos": True},
    {"ignore_eos": True, "signals": False},
)
ORDERS = [range(len(ASKED)), range(len(ASKED) - 1, -1, -1), [0], [1], [0, 6], [1, 9], [5, 1, 0, 4, 6, 2]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def context(model: Model) -> Iterator[Context]:
    """A context with one row of logits for each request, always the same."""
    with Context(model, n_ctx=256, n_batch=64, n_seq_max=len(ASKED), threads=1) as context:
        batch = Batch(64)
        for i in range(len(ASKED)):
            batch.add([40 + 3 * i, 90], 0, i, "last")
        context.decode(batch)
        yield context


def row_of(i: int) -> int:
    return 2 * i + 1


def task_of(model: Model, meter: SignalMeter, i: int, *, start: bool = True) -> GenerateTask:
    asked = dict(ASKED[i])
    signals = asked.pop("signals", True)
    sampling = Sampling(**{"max_tokens": STEPS, **asked})
    task = GenerateTask(
        entry=Request(id=str(i), kind=Kind.GENERATE, prompt=3, max_tokens=sampling.max_tokens),
        model_name="tiny",
        request=GenerateRequest(messages=(Message("user", "x"),), sampling=sampling, signals=signals),
        ids=[50, 60, 70],
        stream=Stream(),
        model=model,
        meter=meter,
    )
    if start:
        task.start()
    return task


@dataclass
class Got:
    """What a task's caller got so far."""

    text: str = ""
    signals: list[TokenSignal] = field(default_factory=list)
    finished: tuple[Any, ...] | None = None

    def __init__(self, task: GenerateTask) -> None:
        self.text, self.signals, self.finished = "", [], None
        while (event := task.stream.get(0.0) if not self.finished else None) is not None:
            if isinstance(event, Delta):
                self.text += event.text
                self.signals += event.signals
            elif isinstance(event, Finished):
                self.finished = (event.finish_reason, event.usage)


def run(tasks: Sequence[GenerateTask], step: Callable[[list[GenerateTask]], set[str]]) -> None:
    live = list(tasks)
    for _ in range(STEPS):
        ended = step(live)
        live = [task for task in live if task.entry.id not in ended]
    assert not live


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_tokens_drawn_together_are_those_drawn_one_by_one(model: Model, context: Context, order: Sequence[int]) -> None:
    meter = SignalMeter(model.n_vocab)
    apart, together = ([task_of(model, meter, i) for i in order] for _ in range(2))

    def one_by_one(tasks: list[GenerateTask]) -> set[str]:
        return {task.entry.id for task in tasks if task.sample(context, row_of(int(task.entry.id)))}

    def at_once(tasks: list[GenerateTask]) -> set[str]:
        found = sample_rows(context, [(task, row_of(int(task.entry.id))) for task in tasks])
        assert not found.failed
        assert len(set(found.ended)) == len(found.ended)
        return set(found.ended)

    run(apart, one_by_one)
    run(together, at_once)
    for a, b in zip(apart, together, strict=True):
        one, other = Got(a), Got(b)
        assert a.ids == b.ids
        assert a.partial == b.partial == one.text == other.text
        assert one.finished == other.finished
        assert one.finished is not None
        assert len(one.signals) == len(other.signals) == (one.finished[1].completion_tokens if a.request.signals else 0)
        for mine, theirs in zip(one.signals, other.signals, strict=True):
            assert np.allclose(
                (mine.logprob, mine.entropy, mine.margin), (theirs.logprob, theirs.entropy, theirs.margin), atol=1e-5
            )
        a.close()
        b.close()


def test_nothing_to_sample_is_nothing_done(context: Context) -> None:
    assert sample_rows(context, []) == ([], [], {})


@pytest.mark.parametrize("bad", range(len(ASKED)))
@pytest.mark.parametrize("fault", ["never started", "no logits", "take"])
def test_one_that_fails_leaves_the_others_alone(
    model: Model, context: Context, monkeypatch: pytest.MonkeyPatch, bad: int, fault: str
) -> None:
    meter = SignalMeter(model.n_vocab)
    tasks = [task_of(model, meter, i, start=not (fault == "never started" and i == bad)) for i in range(len(ASKED))]
    alone = [task_of(model, meter, i) for i in range(len(ASKED))]
    rows = [row_of(i) for i in range(len(ASKED))]
    if fault == "no logits":
        rows[bad] -= 1
    take = GenerateTask.take

    def faulty(task: GenerateTask, token: int, signal: TokenSignal | None = None) -> bool:
        if task is tasks[bad] and fault == "take":
            raise ZeroDivisionError
        return take(task, token, signal)

    monkeypatch.setattr(GenerateTask, "take", faulty)
    found = sample_rows(context, list(zip(tasks, rows, strict=True)))
    ((failed, error),) = found.failed
    assert failed is tasks[bad]
    assert isinstance(error, ZeroDivisionError if fault == "take" else EngineError)
    for i, (task, other) in enumerate(zip(tasks, alone, strict=True)):
        if i != bad:
            other.sample(context, row_of(i))
            assert task.ids == other.ids
            assert task.partial == other.partial
        task.close()
        other.close()
