"""Both stages on cases worked out by hand, and the paper's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.server.planner import Class, LayerWorkload, Operation, faults, llama2_70b, performance, search, sequential
from crayon.server.planner.milp import SolverBudget
from crayon.server.planner.shares import find_shares
from crayon.server.planner.structure import find_structure

COMPUTE, MEMORY, NETWORK = Class.COMPUTE, Class.MEMORY, Class.NETWORK
# Programs this small end by themselves; the clock is for a machine that stalls.
SECONDS = 200


def busiest(case: LayerWorkload) -> float:
    """Return the time of one layer in ms that the busiest class needs, uncut and alone: no plan is faster."""
    times = [sum(one.measured for one in case.operations if one.resource is resource) for resource in Class]
    return max(times) / case.layers


def exactly() -> SolverBudget:
    return SolverBudget.of(SECONDS, 100_000, 1e-6)


def workload(*operations: Operation, pieces: int = 2) -> LayerWorkload:
    return LayerWorkload(operations, layers=1, tokens=128 * pieces, gpus=1)


CHAIN = workload(
    Operation("A", COMPUTE, 2.0, 0.0, after_previous=("B",)),
    Operation("B", MEMORY, 2.0, 0.0, after=("A",)),
)


def test_whole_operations_that_wait_for_each_other_overlap_nothing() -> None:
    plan = find_structure(CHAIN, {"rest": 1}, exactly())
    assert plan is not None
    assert plan.period == pytest.approx(4.0)


def test_two_ranges_keep_both_classes_busy() -> None:
    plan = find_structure(CHAIN, {"rest": 2}, exactly())
    assert plan is not None
    # A1 A2 | A1 A2 beside B2 B1 | B2 B1: a layer every 2 ms, and 3 ms from A1 to the end of B2.
    assert plan.period == pytest.approx(2.0)
    assert plan.span == pytest.approx(3.0)
    assert [(piece.name, piece.first, piece.last) for piece in plan.pieces] == [
        ("A1", 0, 128), ("A2", 128, 256), ("B1", 0, 128), ("B2", 128, 256),
    ]  # fmt: skip


def test_ranges_that_do_not_meet_do_not_wait() -> None:
    # A in halves, B in quarters: B2 needs A1 only, though another group cut it.
    cut = workload(
        Operation("A", COMPUTE, 4.0, 0.0, after_previous=("B",), group="a"),
        Operation("B", MEMORY, 4.0, 0.0, after=("A",), group="b"),
        pieces=4,
    )
    plan = find_structure(cut, {"a": 2, "b": 4}, exactly())
    assert plan is not None
    assert plan.period == pytest.approx(4.0)
    for child in plan.pieces:
        for parent in plan.pieces:
            if child.operation.name == "B" and parent.operation.name == "A" and child.meets(parent):
                assert child.start >= parent.end - 1e-6


def test_a_cut_that_costs_as_much_as_it_hides_is_not_made() -> None:
    dear = workload(
        Operation("A", COMPUTE, 2.0, 2.0, after_previous=("B",)),
        Operation("B", MEMORY, 2.0, 2.0, after=("A",)),
    )
    found = search([dear], seconds=SECONDS)
    assert found.pipeline == sequential(dear)


def test_two_that_overlap_share_by_the_table() -> None:
    # Nobody waits: beside B at 0.4, which keeps 0.8 of its speed, A has 0.6 and takes 1 / 0.6. In turn it would be 2.
    free = workload(Operation("A", COMPUTE, 1.0, 0.0), Operation("B", MEMORY, 1.0, 0.0), pieces=1)
    structure = find_structure(free, {"rest": 1}, exactly())
    assert structure is not None
    plan = find_shares(structure, 2.0, exactly())
    assert plan is not None
    assert plan.period == pytest.approx(1 / 0.6)
    assert [piece.share for piece in plan.pieces] == [0.6, 0.4]
    assert faults(plan) == []


@pytest.mark.parametrize(
    ("network", "shares", "period"),
    [
        # All three at once all the time: C is slow enough at 0.1 to last as long as A at 0.5.
        (0.6, [0.5, 0.4, 0.1], 2.0),
        # In pairs: A lasts 1 / 0.6; B (1.25) and C (1) fill it in turn, and overlap for what is left over of them.
        (0.5, [0.6, 0.4, 0.2], 1 / 0.6 + (1.25 + 1 - 1 / 0.6) / 2),
    ],
)
def test_three_that_overlap_share_one_gpu(network: float, shares: list[float], period: float) -> None:
    free = workload(
        Operation("A", COMPUTE, 1.0, 0.0),
        Operation("B", MEMORY, 1.0, 0.0),
        Operation("C", NETWORK, network, 0.0),
        pieces=1,
    )
    structure = find_structure(free, {"rest": 1}, exactly())
    assert structure is not None
    plan = find_shares(structure, free.sequential(), exactly())
    assert plan is not None
    assert plan.period == pytest.approx(period)
    assert [piece.share for piece in plan.pieces] == shares
    assert faults(plan) == []


def test_the_chain_with_shares() -> None:
    found = search([CHAIN], seconds=SECONDS)
    # A at 0.6 all the time, B at 0.4 beside it.
    assert found.in_time
    assert found.pipeline.period == pytest.approx(2 / 0.6, rel=0.006)
    assert faults(found.pipeline) == []


def test_no_time_gives_the_sequential_plan_and_says_so() -> None:
    found = search([CHAIN], seconds=0)
    assert found.pipeline == sequential(CHAIN)
    assert not found.in_time


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    times=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    classes=st.lists(st.sampled_from(list(Class)), min_size=3, max_size=3),
    fixed=st.sampled_from([0.0, 0.2]),
)
def test_no_plan_beats_the_busiest_class_nor_loses_to_none(
    times: list[int], classes: list[Class], fixed: float
) -> None:
    operations = [
        Operation(f"op{i}", classes[i], times[i], fixed * times[i], after=(f"op{i - 1}",) if i else ())
        for i in range(3)
    ]
    chain = workload(*operations)
    found = search([chain], seconds=SECONDS)
    assert faults(found.pipeline) == []
    assert busiest(chain) - 1e-6 <= found.pipeline.period <= chain.sequential() + 1e-6
    assert found.pipeline == search([chain], seconds=SECONDS).pipeline


def test_the_papers_case_gains_by_overlap() -> None:
    case = llama2_70b(reduce=False)
    assert case.sequential() * case.layers == pytest.approx(225.05)
    structure = find_structure(case, {"attention": 4, "rest": 2}, SolverBudget.of(100, 3000, 0.002))
    assert structure is not None
    plan = find_shares(structure, case.sequential(), SolverBudget.of(150, 1500, 0.02))
    assert plan is not None
    assert faults(plan) == []
    assert 225.05 / plan.makespan > 1.1
    assert busiest(case) < structure.period <= plan.period


@pytest.mark.parametrize("reduce", [False, True])
def test_both_ways_to_join_o_move_as_much(reduce: bool) -> None:
    case = llama2_70b(reduce=reduce, layers=40)
    assert case.sequential() == pytest.approx(225.05 / 80)
    assert sum(o.measured for o in case.operations if o.resource is NETWORK) == pytest.approx(47.92 / 2)
    assert faults(sequential(case)) == []
    assert sequential(case).makespan == pytest.approx(225.05 / 2)


def test_the_table_is_the_papers() -> None:
    assert performance(COMPUTE, 0.7) == pytest.approx(0.7)
    shares = (0, 0.1, 0.2, 0.8, 0.9, 1)
    assert [performance(MEMORY, share) for share in shares] == pytest.approx([0, 0.2, 0.3, 0.85, 0.95, 1])
    assert [performance(NETWORK, share) for share in shares] == pytest.approx([0, 0.3, 0.5, 0.9, 1, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        performance(MEMORY, 1.1)
