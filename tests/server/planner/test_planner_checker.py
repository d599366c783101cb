"""The checker refuses plans that were broken on purpose."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from crayon.errors import EngineError
from crayon.server.planner import Class, LayerWorkload, NanoOperation, Operation, Pipeline, faults, search

A = Operation("A", Class.COMPUTE, 2.0, 0.0, after_previous=("B",))
B = Operation("B", Class.MEMORY, 2.0, 0.0, after=("A",))
WORKLOAD = LayerWorkload((A, B), layers=4, tokens=256, gpus=1)
# Quarters of 2 ms a piece, over the performance: A at 0.6, B at 0.4, which is 0.8 of its speed.
LONG, SHORT = 0.25 / 0.6, 0.25 / 0.8
GOOD = Pipeline(
    WORKLOAD,
    2 * LONG,
    (
        NanoOperation(A, 0, 0, 128, 0.0, LONG, 0.6),
        NanoOperation(A, 1, 128, 256, LONG, LONG, 0.6),
        NanoOperation(B, 0, 0, 128, LONG, SHORT, 0.4),
        NanoOperation(B, 1, 128, 256, 2 * LONG, SHORT, 0.4),
    ),
)


def changed(place: int, **values: float) -> Pipeline:
    pieces = list(GOOD.pieces)
    pieces[place] = replace(pieces[place], **values)  # type: ignore[arg-type]  # fields of one case each
    return replace(GOOD, pieces=tuple(pieces))


def test_a_sound_plan_has_no_faults() -> None:
    assert faults(GOOD) == []
    assert GOOD.makespan == pytest.approx(3 * 2 * LONG + 2 * LONG + SHORT)


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        pytest.param(changed(2, start=LONG - 0.01), "B1 starts 0.010000 ms before A1 is done", id="dependency"),
        pytest.param(
            changed(3, start=2 * LONG + LONG),
            "A2 starts 0.312500 ms before B2 is done",
            id="dependency of the next layer",
        ),
        pytest.param(replace(GOOD, period=2 * LONG - 0.1), "2 of them on compute", id="classes of neighbouring layers"),
        pytest.param(changed(1, start=LONG - 0.1), "A1 and A2 run at once, 2 of them on compute", id="class"),
        pytest.param(changed(0, share=0.8, duration=0.25 / 0.8), "A1 and B2 hold 1.20", id="shares of two layers"),
        pytest.param(changed(2, share=0.8, duration=0.25 / 0.85), "A2 and B1 hold 1.40", id="shares"),
        pytest.param(changed(0, duration=LONG - 0.1), "A1 takes 0.316667 ms, not 0.416667", id="duration"),
        pytest.param(changed(0, share=1.1), "A1 has a share of 1.1", id="too large a share"),
        pytest.param(changed(0, share=0.0), "A1 has a share of 0.0", id="no share"),
        pytest.param(changed(1, first=0), "A2 begins at token 0, not 128", id="computed twice"),
        pytest.param(changed(1, last=128), "A ends at token 128, not 256", id="an empty piece"),
        pytest.param(changed(0, last=100), "A1 has 100 tokens", id="no whole unit"),
        pytest.param(replace(GOOD, pieces=GOOD.pieces[:3]), "B ends at token 128, not 256", id="a piece is missing"),
        pytest.param(changed(0, duration=-1.0), "A1 starts at 0.0 ms and takes -1.0 ms", id="negative time"),
        pytest.param(changed(0, start=float("nan")), "A1 starts at nan ms", id="no time"),
        pytest.param(replace(GOOD, period=0.0), "the period is 0.0 ms", id="no period"),
        pytest.param(
            replace(GOOD, pieces=(*GOOD.pieces, replace(GOOD.pieces[0], operation=replace(A, name="C")))),
            "C1 is of no operation",
            id="foreign",
        ),
    ],
)
def test_a_broken_plan_is_refused(plan: Pipeline, fault: str) -> None:
    assert any(fault in text for text in faults(plan)), faults(plan)


def test_the_search_returns_no_plan_that_the_checker_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> Pipeline:
        return changed(2, start=0.0)

    # The package's `search` is the function, so the module is found by its name.
    monkeypatch.setattr(sys.modules["crayon.server.planner.search"], "find_shares", wrong)
    with pytest.raises(EngineError, match="B1 starts"):
        search([WORKLOAD], seconds=100)
