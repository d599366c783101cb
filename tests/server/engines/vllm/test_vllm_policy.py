"""Who may be computed next in vLLM: pure, without vLLM."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crayon.server.engines.vllm.admission import PATIENCE, WaitingRequest, admitted, in_turn
from crayon.server.forecast.lengths import MIN_SEEN, Lengths
from crayon.server.forecast.occupancy import Holder

names = st.sampled_from(["", "a", "b", "c", "d"])


def waits(*adapters: str) -> list[WaitingRequest]:
    return [WaitingRequest(str(i), Holder(10, 0, 10, name)) for i, name in enumerate(adapters)]


def ids(line: list[WaitingRequest]) -> str:
    return "".join(one.id for one in line)


def learnt(tokens: int) -> Lengths:
    lengths = Lengths("mean")
    for _ in range(2 * MIN_SEEN):
        lengths.observe(tokens, ended=True)
    return lengths


def test_who_came_first_enters_first_while_adapters_have_slots() -> None:
    assert ids(in_turn(waits("a", "", "b", "a"), set(), {}, slots=2)) == "0123"


def test_who_would_wait_for_a_slot_lets_others_pass() -> None:
    assert ids(in_turn(waits("c", "a", "", "b"), {"a", "b"}, {}, slots=2)) == "1230"


def test_nobody_lets_others_pass_for_ever() -> None:
    overtaken = {"0": PATIENCE}
    assert ids(in_turn(waits("c", "a", ""), {"a", "b"}, overtaken, slots=2)) == "0"
    # Who came before may still enter.
    assert ids(in_turn(waits("a", "c", "a"), {"a", "b"}, {"1": PATIENCE}, slots=2)) == "01"


@given(st.lists(names, max_size=12), st.sets(names, max_size=3), st.integers(1, 4))
def test_an_order_leaves_nobody_out_and_keeps_turns(adapters: list[str], live: set[str], slots: int) -> None:
    line = in_turn(waits(*adapters), live, {}, slots=slots)
    assert sorted(int(one.id) for one in line) == list(range(len(adapters)))
    for name in set(adapters):
        mine = [int(one.id) for one in line if one.adapter == name]
        assert mine == sorted(mine)


def test_as_many_enter_as_the_predicted_peak_has_room_for() -> None:
    line = [WaitingRequest(str(i), Holder(100, 0, 1000)) for i in range(8)]
    worst = admitted([], line, capacity=2300, lengths=Lengths("worst"), places=8)
    assert worst == ["0", "1"]
    # Answers of 50 tokens make room for many more.
    assert len(admitted([], line, capacity=2300, lengths=learnt(50), places=8)) == 8


def test_the_first_that_does_not_fit_holds_those_behind_it() -> None:
    line = [
        WaitingRequest("small", Holder(10, 0, 10)),
        WaitingRequest("big", Holder(900, 0, 90)),
        WaitingRequest("x", Holder(1, 0, 1)),
    ]
    assert admitted([Holder(500, 1, 10)], line, capacity=1000, lengths=Lengths("worst"), places=9) == ["small"]


def test_a_request_alone_enters_whatever_is_predicted() -> None:
    line = [WaitingRequest("big", Holder(2000, 0, 90)), WaitingRequest("next", Holder(1, 0, 1))]
    assert admitted([], line, capacity=1000, lengths=Lengths("worst"), places=9) == ["big"]


def test_pages_and_places_count() -> None:
    line = [WaitingRequest(str(i), Holder(1, 0, 1)) for i in range(10)]
    assert len(admitted([], line, capacity=1000, lengths=Lengths("worst"), places=3)) == 3
    assert len(admitted([], line, capacity=1000, lengths=Lengths("worst"), places=9, block=128)) == 7


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=10),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=10),
    st.integers(120, 400),
)
def test_worst_cases_never_run_out_of_cache(
    running: list[tuple[int, int]], waiting: list[tuple[int, int]], capacity: int
) -> None:
    held = [Holder(prompt, 0, most) for prompt, most in running]
    line = [WaitingRequest(str(i), Holder(prompt, 0, most)) for i, (prompt, most) in enumerate(waiting)]
    entering = admitted(held, line, capacity=capacity, lengths=Lengths("worst"), places=99)
    everybody = [*held, *(one.holder for one in line if one.id in entering)]
    if entering and len(everybody) > 1:
        at = range(61)
        used = [sum(h.held + t for h in everybody if t <= h.most) for t in at]
        assert max(used) <= capacity
