"""Steps are shared by clients, not only the queue: `scheduler.reading`, on whatever hypothesis can think of."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.server.cost.step_cost import StepCost
from crayon.server.scheduler import Kind, LinearCost, Request, State, StepLimits, StepOutcome, commit, plan
from crayon.server.scheduler.deadlines import late_in_queue
from crayon.server.scheduler.reading import OWED

COST = LinearCost(0.01, 0.001)
KINDS = (Kind.GENERATE, Kind.SCORE, Kind.ENCODE)


def work(name: str, client: str, kind: Kind, tokens: int, parts: int = 1) -> Request:
    """Return a request of so many tokens to read: a prompt, or `parts` continuations or texts."""
    if kind is Kind.GENERATE:
        return Request(id=name, kind=kind, prompt=tokens, max_tokens=2, client=client)
    prompt = 3 if kind is Kind.SCORE else 0
    return Request(id=name, kind=kind, prompt=prompt, branches=(tokens,) * parts, client=client)


def caps_of(**more: object) -> StepLimits:
    return StepLimits(**{"max_tokens": 64, "max_seqs": 8, "kv_capacity": 4096, "max_outputs": 16, **more})  # type: ignore[arg-type]  # keywords of one test each


def go(state: State, limits: StepLimits) -> dict[str, int]:
    """Run one step; return the tokens that were read for each client."""
    step = plan(state, limits, COST)
    reading = {request.id: request.client for request in state if request.reading}
    commit(state, step, StepOutcome())
    read: dict[str, int] = {}
    for nano in step.nano:
        for row in nano.rows:
            if row.request in reading:
                read[reading[row.request]] = read.get(reading[row.request], 0) + row.tokens
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same", [False, True])
def test_a_short_prompt_is_read_within_a_few_steps_beside_the_largest_request(kind: Kind, same: bool) -> None:
    state, limits = State(), caps_of()
    state.add(work("large", "busy", kind, 500, parts=1000))
    for _ in range(20):
        go(state, limits)
    quiet = work("short", "busy" if same else "quiet", Kind.GENERATE, 30)
    state.add(quiet)
    steps = next(at for at in count(1) if go(state, limits) is not None and quiet.generated)
    assert steps <= 4


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(KINDS[:2]), st.integers(1, 300), st.integers(1, 30))),
    st.integers(8, 64),
    st.integers(8, 64),
)
@settings(max_examples=60, deadline=None)
def test_who_was_read_less_goes_first_and_everybody_is_read_to_the_end(
    coming: list[tuple[str, Kind, int, int]], most: int, outputs: int
) -> None:
    state, limits = State(), caps_of(max_tokens=most, max_outputs=outputs)
    for number, (client, kind, tokens, parts) in enumerate(coming):
        state.add(work(str(number), client, kind, tokens, parts))
    while len(state):
        counters = dict(state.readers.counters)
        behind = {request.client: request for request in reversed(state.running.values()) if request.reading}
        step = plan(state, limits, COST)
        first = min(behind, key=lambda client: counters.get(client, 0), default=None)
        alone = first is not None and not any(
            client != first and counters.get(client, 0) == counters.get(first, 0) for client in behind
        )
        rows = {row.request for nano in step.nano for row in nano.rows}
        if alone and not step.admissions and not step.drops:
            assert any(request.id in rows for request in state.running.values() if request.client == first)
        assert step.tokens, "a step without a token"
        commit(state, step, StepOutcome())
        here = [state.readers.counters.get(item.client, 0) for item in state.running.values() if item.reading]
        assert not here or max(here) - min(here) <= OWED + most
    assert not state.readers.counters


def test_two_clients_with_long_prompts_are_read_alike() -> None:
    state, limits = State(), caps_of()
    for client in "ab":
        for number in range(3):
            state.add(work(f"{client}{number}", client, Kind.GENERATE, 600))
    read = {"a": 0, "b": 0}
    while len(state.running) or not state.step:
        for client, tokens in go(state, limits).items():
            read[client] += tokens
        if all(any(request.client == client for request in state) for client in "ab"):
            assert abs(read["a"] - read["b"]) <= 2 * limits.max_tokens


def test_continuations_leave_the_ends_of_prompts_their_rows_of_logits() -> None:
    state, limits = State(), caps_of(max_outputs=8)
    state.add(work("large", "busy", Kind.SCORE, 100, parts=50))
    go(state, limits)
    asked = work("short", "quiet", Kind.GENERATE, 5)
    state.readers.charge({"quiet": 1000})  # so that the other goes first
    state.add(asked)
    go(state, limits)
    assert asked.generated


def test_who_leaves_early_pays_for_what_was_read_and_is_not_forgiven() -> None:
    state, limits = State(), caps_of()
    state.add(work("large", "busy", Kind.SCORE, 500, parts=100))
    state.add(work("other", "quiet", Kind.SCORE, 50, parts=100))
    read = sum(go(state, limits).get("busy", 0) for _ in range(5))
    assert state.waiting.counters["busy"] == 3 + 500 * 100
    state.cancel("large")
    assert go(state, limits).get("busy", 0) == 0
    assert state.readers.counters.get("busy", read) == read
    state.add(work("again", "busy", Kind.SCORE, 10))
    assert state.waiting.counters["busy"] >= read


def test_nobody_is_refused_for_what_another_client_wants_read() -> None:
    state, limits = State(), caps_of()
    state.add(work("large", "busy", Kind.SCORE, 500, parts=1000))
    for _ in range(70):
        go(state, limits)
    cost = StepCost(base=0.001, per_token=0.001)
    mine = work("short", "quiet", Kind.GENERATE, 30)
    mine.deadline = state.now + 2.0
    state.add(mine)
    assert late_in_queue(mine, state, limits, cost, None, 1.0) is None
    same = work("own", "busy", Kind.GENERATE, 100)
    same.deadline = state.now + 2.0
    state.add(same)
    assert late_in_queue(same, state, limits, cost, None, 1.0) is not None


# -- whose the sequences are


def hog(state: State, limits: StepLimits, kinds: list[Kind]) -> None:
    """Let one client ask for more than there is room for, and run some steps."""
    for number, kind in enumerate(kinds):
        request = work(f"busy{number}", "busy", kind, 40, parts=50)
        if kind is Kind.GENERATE:
            request = Request(id=request.id, kind=kind, prompt=20, max_tokens=400, client="busy")
        state.add(request)
    for _ in range(30):
        go(state, limits)


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=24), st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_whatever_one_client_runs_another_gets_a_sequence_at_once(kinds: list[Kind], seqs: int) -> None:
    state, limits = State(), caps_of(max_seqs=seqs, max_outputs=16, spill=True)
    hog(state, limits, kinds)
    quiet = work("short", "quiet", Kind.GENERATE, 30)
    state.add(quiet)
    step = plan(state, limits, COST)
    assert "short" in {admission.request for admission in step.admissions}
    assert len(step.spills) <= 1
    before = {request.id for request in state}
    commit(state, step, StepOutcome())
    while len(state):
        go(state, limits)
    assert "short" in before


def test_an_answer_that_made_place_goes_on_where_it_was_once_there_is_a_sequence() -> None:
    state, limits = State(), caps_of(max_seqs=2, spill=True)
    hog(state, limits, [Kind.GENERATE, Kind.GENERATE])
    written = state.get("busy1").generated
    state.add(work("short", "quiet", Kind.GENERATE, 5))
    go(state, limits)
    assert list(state.running) == ["busy0", "short"]
    assert list(state.spilled) == ["busy1"]
    assert state.get("busy1").generated == written
    state.add(work("next", "quiet", Kind.GENERATE, 5))
    seen = [list(state.running) for _ in range(4) if go(state, limits) is not None]
    # Nobody is spilled twice in a row, and whoever made place is back as soon as there is some.
    assert seen == [["busy0"], ["busy0", "next"], ["busy0"], ["busy0", "busy1"]]


def test_nobody_loses_the_only_sequence_it_has() -> None:
    state, limits = State(), caps_of(max_seqs=2, spill=True)
    for client in "ab":
        state.add(Request(id=client, kind=Kind.GENERATE, prompt=4, max_tokens=300, client=client))
    go(state, limits)
    assert list(state.running) == ["a", "b"]
    state.add(work("late", "c", Kind.GENERATE, 5))
    step = plan(state, limits, COST)
    assert not step.spills
    assert not step.admissions


def test_what_is_scored_or_embedded_leaves_answers_a_sequence_and_holds_up_nobody_else() -> None:
    state, limits = State(), caps_of(max_seqs=4)
    hog(state, limits, [Kind.SCORE] * 3)
    assert sum(len(request.slots) for request in state.running.values()) == limits.slots == 2
    state.add(work("other", "third", Kind.ENCODE, 40, parts=50))
    state.add(work("short", "quiet", Kind.GENERATE, 5))
    step = plan(state, limits, COST)
    assert {admission.request: len(admission.seqs) for admission in step.admissions} == {"other": 1, "short": 1}
