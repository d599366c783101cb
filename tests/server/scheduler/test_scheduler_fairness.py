"""Clients share the engine: the bounds that `scheduler.fairness` states, on whatever hypothesis can think of."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.server.scheduler import Kind, LinearCost, Request, State, StepLimits, StepOutcome, commit, plan
from crayon.server.scheduler.fairness import PRIORITY_TOKENS

COST = LinearCost(0.01, 0.001)


def generate(name: str, client: str, prompt: int = 4, max_tokens: int = 4, priority: int = 0) -> Request:
    return Request(id=name, kind=Kind.GENERATE, prompt=prompt, max_tokens=max_tokens, client=client, priority=priority)


@dataclass
class Run:
    """What happened while a list of (step to arrive at, request) was worked off."""

    limits: StepLimits
    admitted: list[Request] = field(default_factory=list)
    overtaken: dict[str, list[Request]] = field(default_factory=dict)
    """Those admitted while a request waited that owed nothing and had nothing of its own client before it."""
    shares: list[tuple[frozenset[str], dict[str, int]]] = field(default_factory=list)
    """After each step: the clients that wait, and what all were charged so far."""

    def go(self, coming: list[tuple[int, Request]]) -> Run:
        state, charged = State(), dict[str, int]()
        coming = sorted(coming, key=lambda item: item[0])
        while coming or len(state):
            while coming and (coming[0][0] <= state.step or not len(state)):
                request = coming.pop(0)[1]
                fresh = all(other.client != request.client for other in state)
                state.add(request)
                counters = state.waiting.counters
                if fresh and counters[request.client] == min(counters[other.client] for other in state.waiting):
                    self.overtaken[request.id] = []
            step = plan(state, self.limits, COST)
            for admission in step.admissions:
                request = state.get(admission.request)
                for name, others in self.overtaken.items():
                    if name != request.id and any(other.id == name for other in state.waiting):
                        others.append(request)
                self.admitted.append(request)
            # Within a step the order of admission counts: who comes after the request did not overtake it.
            for at, admission in enumerate(step.admissions):
                if admission.request in self.overtaken:
                    after = {later.request for later in step.admissions[at:]}
                    self.overtaken[admission.request] = [
                        other for other in self.overtaken[admission.request] if other.id not in after
                    ]
            before = {request.id: request.generated for request in state}
            owners = {request.id: request for request in state}
            commit(state, step, StepOutcome())
            for admission in step.admissions:
                request = owners[admission.request]
                charged[request.client] = charged.get(request.client, 0) + request.charge
            for name, request in owners.items():
                charged[request.client] = charged.get(request.client, 0) + request.generated - before[name]
            self.shares.append((frozenset(request.client for request in state.waiting), dict(charged)))
        return self


@st.composite
def drawn_limits(draw: st.DrawFn) -> StepLimits:
    seqs = draw(st.integers(1, 4))
    return StepLimits(max_tokens=draw(st.integers(seqs, 20)), max_seqs=seqs, kv_capacity=draw(st.integers(24, 60)))


@st.composite
def arrivals(draw: st.DrawFn, *, priorities: bool = False) -> list[tuple[int, Request]]:
    made = []
    for i in range(draw(st.integers(2, 24))):
        request = generate(
            str(i),
            draw(st.sampled_from("aaabc")),
            draw(st.integers(1, 12)),
            draw(st.integers(1, 12)),
            draw(st.integers(-1, 1)) if priorities else 0,
        )
        made.append((draw(st.integers(0, 12)), request))
    return made


@given(drawn_limits(), arrivals())
@settings(max_examples=60, deadline=None)
def test_a_client_that_owes_nothing_is_overtaken_once_by_each_other_client(
    limits: StepLimits, coming: list[tuple[int, Request]]
) -> None:
    for name, others in Run(limits).go(coming).overtaken.items():
        clients = [other.client for other in others]
        assert len(clients) == len(set(clients)), name


@given(drawn_limits(), arrivals(priorities=True))
@settings(max_examples=60, deadline=None)
def test_a_priority_is_a_bounded_head_start(limits: StepLimits, coming: list[tuple[int, Request]]) -> None:
    by_id = {request.id: request for _, request in coming}
    for name, others in Run(limits).go(coming).overtaken.items():
        clients = {other.client for other in others}
        if by_id[name].client in clients:
            continue  # its own client's more urgent request was served, which counts for this one
        for client in clients:
            mine = [other for other in others if other.client == client]
            lead = max(0, max(other.priority for other in mine) - by_id[name].priority) * PRIORITY_TOKENS
            # All but the last left the counter within the lead.
            assert sum(other.charge for other in mine[:-1]) <= lead


@given(drawn_limits(), arrivals())
@settings(max_examples=60, deadline=None)
def test_clients_that_both_wait_get_the_same_within_the_bound(
    limits: StepLimits, coming: list[tuple[int, Request]]
) -> None:
    run = Run(limits).go(coming)
    bound = 2 * max(limits.kv_capacity, *(request.charge for _, request in coming))
    for one, other in combinations("abc", 2):
        since: dict[str, int] | None = None
        for waiting, charged in run.shares:
            if not {one, other} <= waiting:
                since = None
                continue
            since = since or charged
            got = [charged.get(client, 0) - since.get(client, 0) for client in (one, other)]
            assert abs(got[0] - got[1]) <= bound


def test_a_flood_does_not_stand_before_another_client() -> None:
    run = Run(StepLimits(max_tokens=8, max_seqs=1, kv_capacity=100))
    run.go([*((0, generate(f"flood{i}", "a")) for i in range(30)), (3, generate("late", "b"))])
    assert [request.id for request in run.admitted].index("late") <= 2


def test_who_was_idle_has_saved_nothing_up() -> None:
    coming = [(0, generate(f"a{i}", "a")) for i in range(20)] + [(30, generate(f"b{i}", "b")) for i in range(20)]
    run = Run(StepLimits(max_tokens=8, max_seqs=1, kv_capacity=100)).go(coming)
    order = "".join(request.client for request in run.admitted)
    assert "bbb" not in order[: order.rindex("a")]


def test_counters_of_clients_that_left_are_forgotten() -> None:
    state = State()
    for i in range(100):
        state.add(generate(str(i), f"client{i}"))
        while len(state) > 1 or state.step % 3:
            commit(state, plan(state, StepLimits(max_tokens=8, max_seqs=2, kv_capacity=100), COST), StepOutcome())
    assert len(state.waiting.counters) < 10
