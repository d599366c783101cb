from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.contention import (
    LATELY_S,
    LOOK_S,
    SLACK,
    SPARE,
    STALE_S,
    Contention,
    Look,
    here,
    lacking,
    look,
    others,
    slowdown,
    threads_beside,
)

cores_ = st.integers(1, 64)
busy_ = st.floats(0, 200)


@given(cores_, busy_, st.integers(1, 64))
def test_there_is_always_a_thread_and_never_more_than_cores(cores: int, busy: float, now: int) -> None:
    assert 1 <= threads_beside(busy, cores, now) <= cores


@given(cores_, busy_, st.integers(1, 64))
def test_what_was_decided_stays_while_nothing_changes(cores: int, busy: float, now: int) -> None:
    """Else threads would come and go at every look."""
    first = threads_beside(busy, cores, min(now, cores))
    assert threads_beside(busy, cores, first) == first


@given(cores_, busy_, st.floats(0, 64), st.integers(1, 64))
def test_more_neighbours_never_mean_more_threads(cores: int, busy: float, more: float, now: int) -> None:
    now = min(now, cores)
    assert threads_beside(busy + more, cores, now) <= threads_beside(busy, cores, now)


@given(cores_, st.integers(1, 64))
def test_an_idle_machine_gives_all_and_a_full_one_gives_one(cores: int, now: int) -> None:
    now = min(now, cores)
    assert threads_beside(0.0, cores, now) == cores
    assert threads_beside(float(cores), cores, now) == 1


def test_two_cores_and_their_neighbours() -> None:
    assert threads_beside(0.3, 2, 2) == 2, "a little beside costs less than a thread brings"
    assert threads_beside(0.67, 2, 2) == 1, "one neighbour's fair share beside two threads"
    assert threads_beside(1.0, 2, 1) == 1, "the same neighbour beside one"
    assert threads_beside(0.05, 2, 1) == 2
    assert SLACK + SPARE > 1, "a neighbour that takes what a thread leaves must not bring it back"


def test_what_others_compute_is_what_is_not_ours() -> None:
    assert others(Look(10.0, 100.0, 5.0), Look(12.0, 103.0, 6.0)) == 1.0
    assert others(Look(10.0, 100.0, 5.0), Look(12.0, 101.0, 7.0)) == 0.0, "rounding of the kernel's"
    assert others(Look(10.0, 100.0, 5.0), Look(10.0, 100.0, 5.0)) == 0.0


class Clock:
    """A machine by script: `busy` cores are kept by others from now on."""

    def __init__(self) -> None:
        self.now = self.total = self.busy = 0.0
        self.looks = 0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.total += seconds * self.busy

    def look(self) -> Look:
        self.looks += 1
        return Look(self.now, self.total, 0.0)


def test_threads_follow_a_neighbour_that_comes_and_goes() -> None:
    clock = Clock()
    watch = Contention(4, clock.look, clock)
    assert watch.threads(4) == 4
    clock.busy = 2.0
    clock.pass_by(LOOK_S)
    assert (watch.threads(4), watch.others) == (2, 2.0)
    assert watch.threads(1) == 1
    clock.busy = 0.0
    clock.pass_by(LOOK_S)
    assert watch.threads(3) == 3, "never more than are asked for"
    assert watch.threads(4) == 4


def test_what_was_before_a_long_pause_decides_nothing() -> None:
    clock = Clock()
    watch = Contention(2, clock.look, clock)
    clock.busy = 2.0
    clock.pass_by(60.0)
    clock.busy = 0.0
    assert watch.threads(2) == 2
    clock.busy = 1.0
    clock.pass_by(LOOK_S)
    assert watch.threads(2) == 1
    clock.busy = 0.0
    clock.pass_by(STALE_S)
    assert watch.threads(2) == 1, "a neighbour that was there is believed to be until it is seen to be gone"
    clock.pass_by(LOOK_S)
    assert watch.threads(2) == 2


def test_it_looks_around_ten_times_a_second_at_most() -> None:
    clock = Clock()
    watch = Contention(2, clock.look, clock)
    for _ in range(1000):
        clock.pass_by(LOOK_S / 100)
        watch.threads(2)
    assert clock.looks <= 12


@pytest.mark.parametrize(("busy", "threads", "missed"), [(4.0, 4, 1.0), (4.0, None, 1.0), (4.0, 1, 0.0), (9.0, 1, 3.0)])
def test_cores_that_nobody_wanted_are_not_missed(
    monkeypatch: pytest.MonkeyPatch, busy: float, threads: int | None, missed: float
) -> None:
    monkeypatch.setattr("crayon.contention.allowed_cores", lambda: 7)
    monkeypatch.setattr("crayon.contention.usable_cores", lambda: 4)
    assert lacking(Look(0.0, 0.0, 0.0), Look(1.0, busy + 1.0, 1.0), threads) == missed


def test_a_look_of_a_moment_ago_is_not_taken_twice() -> None:
    clock = Clock()
    watch = Contention(2, clock.look, clock)
    clock.busy = 1.0
    clock.pass_by(LOOK_S)
    watch.threads(2)
    looks = clock.looks
    assert watch.slowdown() == 2.0
    assert clock.looks == looks


@given(cores_, busy_, st.floats(0, 64))
def test_neighbours_never_make_us_faster(cores: int, busy: float, more: float) -> None:
    assert 1.0 <= slowdown(busy, cores) <= slowdown(busy + more, cores)
    assert slowdown(0.0, cores) == 1.0


def test_so_many_times_as_long_takes_a_fair_share() -> None:
    assert slowdown(1.0, 2) == 2.0
    assert slowdown(2.0, 2) == pytest.approx(3.0)
    assert slowdown(1.0, 8) == pytest.approx(8 / 7)
    clock = Clock()
    watch = Contention(2, clock.look, clock)
    clock.busy = 1.0
    clock.pass_by(LATELY_S)
    assert watch.slowdown() == 2.0
    clock.pass_by(1.0)
    assert watch.slowdown() == 1.0, "of so long ago nothing is known"


def test_this_machine_is_watched() -> None:
    before = look()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    now = look()
    assert now.own - before.own >= 0.05
    assert now.busy >= before.busy
    assert here() is here()
    assert here().threads(1) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform pins no process to a core")
def test_a_neighbour_on_our_core_is_seen_and_one_elsewhere_is_not() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(burner.pid, {core})
        os.sched_setaffinity(0, {core})
        before = look()
        time.sleep(1.0)
        assert others(before, look()) > 0.3
    finally:
        os.sched_setaffinity(0, allowed)
        burner.kill()
        burner.wait()


@pytest.mark.parametrize(("nice", "busy"), [(0, 4.0), (5, 14.0)], ids=["they give way", "so do we"])
def test_who_gives_way_is_no_neighbour(monkeypatch: pytest.MonkeyPatch, nice: int, busy: float) -> None:
    """Work at a low priority takes what we leave: a thread that is given up for it loses speed for nothing."""
    times = SimpleNamespace(user=1.0, nice=10.0, system=1.0, irq=1.0, softirq=1.0, idle=7.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [times])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "getpriority", lambda which, who: nice, raising=False)
    assert look().busy == busy
