"""Whose turn it is, on a clock of its own: examples of each rule, and what holds whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crayon.client.balancer import (
    CHECK_S,
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    LONGEST_FULL_S,
    Balancer,
    Health,
    RequestOutcome,
)
from crayon.client.breaker import COOLDOWN_S, FAILURES, Breaker, BreakerState

if TYPE_CHECKING:
    from collections.abc import Collection

    from crayon.client.balancer import EndpointStatus, Pick

NAMES = ("a:1", "b:2", "c:3", "d:4")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def made(clock: HandClock, names: Collection[str] = NAMES[:3], seed: int = 0) -> Balancer:
    return Balancer(names, breaker=lambda: Breaker(clock=clock), clock=clock, shuffled=random.Random(seed))


def turn(balancer: Balancer, outcome: RequestOutcome = RequestOutcome.ANSWERED, tried: Collection[str] = ()) -> str:
    pick = balancer.pick(tried)
    assert pick is not None
    balancer.end(pick, outcome)
    return pick.address


def lose(balancer: Balancer, name: str) -> Pick:
    """Let a request find that a server is away."""
    pick = balancer.pick([other for other in balancer.addresses if other != name])
    assert pick is not None
    assert pick.address == name
    balancer.eject(pick)
    balancer.end(pick, RequestOutcome.FAILED)
    return pick


def of(balancer: Balancer, name: str) -> EndpointStatus:
    return next(each for each in balancer.status() if each.address == name)


def test_servers_take_turns(clock: HandClock) -> None:
    balancer = made(clock)
    order = [turn(balancer) for _ in range(3)]
    assert set(order) == set(NAMES[:3])
    assert [turn(balancer) for _ in range(300)] == order * 100


def test_clients_do_not_all_begin_with_the_same_server(clock: HandClock) -> None:
    first = Counter(turn(made(clock, seed=seed)) for seed in range(300))
    assert set(first) == set(NAMES[:3])
    assert min(first.values()) > 50


def test_they_are_listed_in_the_order_given(clock: HandClock) -> None:
    balancers = [made(clock, seed=seed) for seed in range(20)]
    assert {balancer.addresses for balancer in balancers} == {NAMES[:3]}
    assert {tuple(each.address for each in balancer.status()) for balancer in balancers} == {NAMES[:3]}
    balancers[0].update([NAMES[3], *NAMES[:2]])
    assert balancers[0].addresses == (NAMES[3], *NAMES[:2])


def test_one_failure_ejects_and_the_others_share_its_turns_evenly(clock: HandClock) -> None:
    balancer = made(clock)
    lose(balancer, "b:2")
    assert of(balancer, "b:2").health is Health.AWAY
    assert Counter(turn(balancer) for _ in range(100)) == {"a:1": 50, "c:3": 50}


def test_good_health_brings_it_back(clock: HandClock) -> None:
    balancer = made(clock)
    lose(balancer, "b:2")
    balancer.checked("b:2", Health.SERVING)
    assert Counter(turn(balancer) for _ in range(300)) == dict.fromkeys(NAMES[:3], 100)


def test_who_does_not_serve_gets_nothing_even_if_there_is_nobody_else(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    balancer.checked("a:1", Health.NOT_SERVING)
    assert {turn(balancer) for _ in range(9)} == {"b:2"}
    assert not balancer.spare(["b:2"])
    balancer.checked("b:2", Health.NOT_SERVING)
    assert balancer.pick() is None


def test_where_all_are_away_they_are_tried_until_their_breakers_open(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    for _ in range(FAILURES):
        for name in NAMES[:2]:
            lose(balancer, name)
    assert balancer.pick() is None
    assert {each.breaker for each in balancer.status()} == {BreakerState.OPEN}
    clock.now += COOLDOWN_S
    probes = [balancer.pick(), balancer.pick()]
    assert [probe is not None and probe.probe for probe in probes] == [True, True]
    assert balancer.pick() is None, "one request each decides"


def test_an_open_breaker_is_passed_over_though_health_is_good(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    for _ in range(FAILURES):
        lose(balancer, "a:1")
        balancer.checked("a:1", Health.SERVING)
    assert {turn(balancer) for _ in range(9)} == {"b:2"}
    clock.now += COOLDOWN_S
    assert {turn(balancer) for _ in range(9)} == {"a:1", "b:2"}


def test_what_one_event_brings_about_counts_once(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    picks = [pick for pick in [balancer.pick() for _ in range(40)] if pick is not None and pick.address == "a:1"]
    news = [balancer.eject(pick) for pick in picks]
    for pick in picks:
        balancer.end(pick, RequestOutcome.FAILED)
    assert news == [True] + [False] * (len(picks) - 1)
    assert (of(balancer, "a:1").failures, of(balancer, "a:1").breaker) == (1, BreakerState.CLOSED)


def test_of_a_single_server_every_failure_counts(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:1])
    picks = [pick for pick in [balancer.pick() for _ in range(FAILURES)] if pick is not None]
    assert [balancer.eject(pick) for pick in picks] == [True] * FAILURES
    for pick in picks:
        balancer.end(pick, RequestOutcome.FAILED)
    assert balancer.pick() is None


def test_a_full_server_comes_last_for_a_while(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    pick = balancer.pick(["b:2"])
    assert pick is not None
    balancer.full(pick, 10_000.0)
    balancer.end(pick, RequestOutcome.ANSWERED)
    assert {turn(balancer) for _ in range(9)} == {"b:2"}
    assert not balancer.spare(["b:2"])
    assert turn(balancer, tried=["b:2"]) == "b:2", "one that is well goes before one that is full"
    clock.now += LONGEST_FULL_S
    assert {turn(balancer) for _ in range(9)} == {"a:1", "b:2"}


def test_who_was_tried_comes_after_who_was_not(clock: HandClock) -> None:
    balancer = made(clock)
    assert [turn(balancer, tried=["a:1", "c:3"]) for _ in range(5)] == ["b:2"] * 5
    assert balancer.spare(["a:1", "c:3"])
    assert not balancer.spare(NAMES[:3])


def test_pauses_between_checks_grow_and_end_with_an_answer(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:1])
    assert balancer.due() == ("a:1",)
    assert balancer.due() == (), "it is being asked"
    pauses = []
    for _ in range(12):
        balancer.checked("a:1", Health.AWAY)
        begin = clock.now
        while not balancer.due():
            clock.now += 0.01
        pauses.append(clock.now - begin)
    wanted = [min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**doubled) for doubled in range(12)]
    assert all(0.5 * most - 0.02 <= pause <= most + 0.02 for pause, most in zip(pauses, wanted, strict=True))
    balancer.checked("a:1", Health.SERVING)
    clock.now += CHECK_S - 0.01
    assert balancer.due() == ()
    clock.now += 0.02
    assert balancer.due() == ("a:1",)


def test_a_server_that_stays_silent_loses_what_waits_there(clock: HandClock) -> None:
    balancer = made(clock)
    assert not balancer.checked("a:1", Health.AWAY, silent=True)
    assert balancer.checked("a:1", Health.AWAY, silent=True)
    assert not balancer.checked("a:1", Health.SERVING)
    assert not balancer.checked("a:1", Health.AWAY, silent=True)
    assert not balancer.checked("a:1", Health.AWAY), "refused: it has ended, and so have its calls"
    assert not balancer.checked("a:1", Health.AWAY, silent=True)


def test_after_a_sleep_nobody_is_written_off_and_everybody_is_asked(clock: HandClock) -> None:
    balancer = made(clock)
    balancer.due()
    balancer.checked("a:1", Health.NOT_SERVING)
    balancer.checked("b:2", Health.SERVING)
    balancer.wake()
    assert set(balancer.due()) == set(NAMES[:3])
    assert {each.address: each.health for each in balancer.status()} == {
        "a:1": Health.AWAY,
        "b:2": Health.UNKNOWN,
        "c:3": Health.UNKNOWN,
    }


def test_another_list_keeps_who_stays_and_lets_who_goes_finish(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    lose(balancer, "b:2")
    running = balancer.pick()
    assert running is not None
    assert running.address == "a:1"
    balancer.update(NAMES[1:3])
    assert of(balancer, "b:2").health is Health.AWAY
    assert balancer.retired() == ()
    assert {turn(balancer) for _ in range(9)} == {"c:3"}
    balancer.end(running, RequestOutcome.ANSWERED)
    assert balancer.retired() == ("a:1",)
    assert set(balancer.addresses) == set(NAMES[1:3])


def test_a_turn_ends_once(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:1])
    pick = balancer.pick()
    assert pick is not None
    for _ in range(FAILURES):
        balancer.end(pick, RequestOutcome.FAILED)
    assert (of(balancer, "a:1").running, of(balancer, "a:1").failures) == (0, 1)


def test_an_answer_that_began_before_the_ejection_does_not_bring_a_server_back(clock: HandClock) -> None:
    balancer = made(clock, NAMES[:2])
    early = balancer.pick(["b:2"])
    assert early is not None
    lose(balancer, "a:1")
    balancer.end(early, RequestOutcome.ANSWERED)
    assert of(balancer, "a:1").health is Health.AWAY


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.sets(st.integers(0, 5)), st.integers(1, 60), st.integers(0, 99))
def test_the_spread_is_even_over_those_that_are_well(count: int, lost: set[int], turns: int, seed: int) -> None:
    names = [f"s{index}:1" for index in range(count)]
    balancer = made(HandClock(), names, seed)
    for index in lost:
        if index < count:
            balancer.checked(names[index], Health.AWAY)
    well = [name for index, name in enumerate(names) if index not in lost] or names
    # Ends that tell nothing: an answer would make a server well that is only said to be away.
    sent = Counter(turn(balancer, RequestOutcome.NEUTRAL) for _ in range(turns))
    assert set(sent) <= set(well)
    assert max(sent.values()) - min(sent.get(name, 0) for name in well) <= 1


class Anything(RuleBasedStateMachine):
    """Requests, failures, health and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.balancer = made(self.clock, NAMES)
        self.running: list[Pick] = []
        self.ejected: set[str] = set()  # since their last sign of health
        self.drained: set[str] = set()
        self.listed = set(NAMES)

    @rule(tried=st.sets(st.sampled_from(NAMES)))
    def request(self, tried: set[str]) -> None:
        well = self.balancer.spare(())
        pick = self.balancer.pick(tried)
        if pick is None:
            # Only if nobody may be asked: each does not serve, or its breaker is open or half open and busy.
            assert all(
                each.health is Health.NOT_SERVING or each.breaker is not BreakerState.CLOSED
                for each in self.balancer.status()
                if each.address in self.listed
            )
            return
        assert pick.address in self.listed - self.drained
        if well and not pick.probe:
            assert pick.address not in self.ejected, "somebody who is well was passed over"
        self.running.append(pick)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 10**6), outcome=st.sampled_from(RequestOutcome), away=st.booleans())
    def end(self, which: int, outcome: RequestOutcome, away: bool) -> None:
        pick = self.running.pop(which % len(self.running))
        if away and outcome is RequestOutcome.FAILED:
            if self.balancer.eject(pick) and pick.address in self.listed:
                self.ejected.add(pick.address)
        elif outcome is RequestOutcome.ANSWERED:
            # Only an answer that began after the ejection is a sign of health; the balancer decides which.
            self.balancer.end(pick, outcome)
            health = {each.address: each.health for each in self.balancer.status()}
            if health.get(pick.address) is not Health.AWAY:
                self.ejected.discard(pick.address)
            return
        self.balancer.end(pick, outcome)

    @rule(name=st.sampled_from(NAMES), health=st.sampled_from((Health.SERVING, Health.NOT_SERVING, Health.AWAY)))
    def hear(self, name: str, health: Health) -> None:
        # One that is off the list while it still answers is heard, too.
        known = {each.address for each in self.balancer.status()}
        self.balancer.checked(name, health)
        if name in known:
            (self.ejected.add if health is Health.AWAY else self.ejected.discard)(name)
            (self.drained.add if health is Health.NOT_SERVING else self.drained.discard)(name)

    @rule(seconds=st.floats(0.0, 20.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ask(self) -> None:
        for name in self.balancer.due():
            assert name in self.listed
            self.balancer.checked(name, Health.SERVING)
            self.ejected.discard(name)
            self.drained.discard(name)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def relist(self, names: set[str]) -> None:
        # Whoever leaves the list and is forgotten comes back as a stranger.
        self.balancer.update(names)
        for gone in self.balancer.retired():
            self.ejected.discard(gone)
            self.drained.discard(gone)
        self.listed = names

    @invariant()
    def counts_are_right(self) -> None:
        sent = Counter(pick.address for pick in self.running)
        assert {each.address: each.running for each in self.balancer.status() if each.running} == dict(sent)
        assert {each.address for each in self.balancer.status()} >= self.listed
        assert self.balancer.addresses == tuple(
            each.address for each in self.balancer.status() if each.address in self.listed
        )


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
