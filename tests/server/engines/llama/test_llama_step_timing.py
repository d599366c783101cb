"""The engine's books: a slow machine is noticed once, and so is its end; only whole calls teach."""

from __future__ import annotations

from typing import Any

import pytest

from crayon.server.cost.online import LiveCost
from crayon.server.cost.step_cost import StepCost, StepShape
from crayon.server.engines.llama.batch import EngineCall
from crayon.server.engines.llama.step_timing import StepTiming
from crayon.server.scheduler import Kind, Request, Row, StepLimits

COST = StepCost(base=0.05, per_token=0.001, per_switch=0.02)


class FakeTask:
    def __init__(self, blend: str) -> None:
        self.entry = Request(id="1", kind=Kind.GENERATE, prompt=8, max_tokens=8, blend=blend)


RUNNER: Any = object()


def call(tokens: int = 8, blend: str = "") -> EngineCall:
    task: Any = FakeTask(blend)
    return EngineCall(RUNNER, False, [Row("1", 0, 0, tokens, 1)], [task], [], True)


@pytest.fixture
def timing() -> StepTiming:
    return StepTiming(StepLimits(max_tokens=64, max_seqs=4, kv_capacity=512), LiveCost(COST))


def seconds(tokens: int = 8, switches: int = 0) -> float:
    return COST.seconds(StepShape(tokens, 0, 1, switches))


def test_a_slow_spell_is_logged_once_and_so_is_its_end(timing: StepTiming, caplog: pytest.LogCaptureFixture) -> None:
    for factor, count in ((1.0, 80), (4.0, 60), (1.0, 60)):
        for _ in range(count):
            timing.computed([call()], factor * seconds(), 0.0, 0, whole=True)
        assert timing.counters.slowdown == pytest.approx(factor, rel=0.01)
    assert ["times as long" in record.getMessage() for record in caplog.records] == [True, False]
    assert timing.counters.slow_spells == 1
    assert "4.0 times as long" in caplog.text


def test_a_slow_machine_is_noticed_however_rough_the_cost_is(
    timing: StepTiming, caplog: pytest.LogCaptureFixture
) -> None:
    """Once only a cost that predicted well was believed; where other processes come and go, none ever does."""
    for number in range(80):
        timing.computed([call()], (1.5 if number % 2 else 0.5) * seconds(), 0.0, 0, whole=True)
    assert not timing.cost.confident
    assert not caplog.records
    for _ in range(20):
        timing.computed([call()], 10 * seconds(), 0.0, 0, whole=True)
    assert timing.counters.slow_spells == 1


def test_a_few_odd_calls_are_no_spell(timing: StepTiming, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(400):
        timing.computed([call()], (5 if number % 40 < 4 else 1) * seconds(), 0.0, 0, whole=True)
    assert not caplog.records


def test_of_short_calls_alike_few_are_looked_at_and_all_are_counted() -> None:
    cost = StepCost(base=0.004, per_token=0.001)
    made = StepTiming(StepLimits(max_tokens=64, max_seqs=4, kv_capacity=512), LiveCost(cost))
    looked: list[StepShape] = []
    real = made.cost.observed

    def observed(shape: StepShape, seconds: float) -> None:
        looked.append(shape)
        real(shape, seconds)

    made.cost.observed = observed  # type: ignore[method-assign] # to count
    for _ in range(80):
        made.computed([call(1)], 0.005, 0.0, 0, whole=True)
    assert len(looked) == 10
    once = made.counters.fill_s / 80
    made.computed([call(2)], 0.006, 0.0, 0, whole=True)  # another kind is looked at
    assert len(looked) == 11
    assert made.counters.fill_s == pytest.approx(81 * once, rel=0.05)


def test_a_call_that_was_aborted_teaches_nothing(timing: StepTiming) -> None:
    for _ in range(100):
        timing.computed([call()], 100 * seconds(), 0.0, 0, whole=False)
    assert timing.counters.slowdown == 1.0
    assert (timing.counters.calls, timing.counters.useful_s) == (100, 0.0)


def test_a_change_of_blends_is_a_switch(timing: StepTiming) -> None:
    for blend in ("", "a", "a", "b", "b", "b"):
        timing.computed([call(blend=blend)], seconds(), 0.0, 0, whole=True)
    assert timing.counters.switches_s == pytest.approx(2 * COST.per_switch)
    assert timing.counters.useful_s > 0


def test_the_cost_is_fitted_a_piece_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread it took the interpreter, and a core, from the engine: one pause of 0.15 s for everybody."""
    monkeypatch.setattr("threading.Thread.start", lambda _: pytest.fail("a thread was started"))
    made = StepTiming(StepLimits(max_tokens=64, max_seqs=4, kv_capacity=512), LiveCost())
    for number in range(100):
        tokens = 1 + number % 32
        made.computed([call(tokens)], seconds(tokens), 0.0, 0, whole=True)
    steps = 0
    while not made.counters.cost_fits:
        assert steps < 50
        made.settle()
        steps += 1
    assert steps > 5
    assert made.cost.cost is not None
    assert made.cost.cost.per_token == pytest.approx(COST.per_token, rel=0.05)


def test_a_cost_that_cannot_be_fitted_is_said_once_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crayon.server.cost.fit.nnls", lambda *_: 1 / 0)
    made = StepTiming(StepLimits(max_tokens=64, max_seqs=4, kv_capacity=512), LiveCost())
    for number in range(100):
        made.computed([call(1 + number % 32)], seconds(), 0.0, 0, whole=True)
        made.settle()
    assert made.counters.cost_fits == 0
    assert caplog.text.count("could not be fitted") == 1
