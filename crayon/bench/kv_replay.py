"""What a rule for admission does to a cache that is too small for everybody who waits, step by step.

One step writes one token for every running request. Someone always waits, prompts are read at once, and the cache
is the only limit. Where it runs out although admission said that it would not, the youngest request is moved out
whole, waits, and comes back before anyone new is let in; nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.server.scheduler.kv import KvForecast
from crayon.server.scheduler.kv_profile import KvProfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crayon.server.scheduler.lengths import Lengths


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the world brings it: its answer would get `length` tokens, and may get `most`."""

    prompt: int
    length: int
    most: int

    @property
    def written(self) -> int:
        """Tokens that the answer gets."""
        return min(self.length, self.most)


@dataclass(slots=True)
class Tally:
    """What happened, summed over all steps."""

    steps: int = 0
    running: int = 0
    """Requests that wrote a token; that is tokens written."""
    read: int = 0
    finished: int = 0
    overcommits: int = 0
    """Steps that needed more than the cache holds."""
    moved: int = 0
    """Tokens that were moved out."""
    fullest: int = 0
    """Most tokens in the cache at the end of a step."""


@dataclass(slots=True)
class _Live:
    number: int
    arrival: Arrival
    generated: int = 0

    @property
    def held(self) -> int:
        return self.arrival.prompt + self.generated

    @property
    def most(self) -> int:
        return self.arrival.most - self.generated

    @property
    def left(self) -> int:
        return self.arrival.written - self.generated


class _ByEnds:
    """Admission by one predicted end for each request."""

    def __init__(self, lengths: Lengths | None, capacity: int, margin: float, running: Sequence[_Live]) -> None:
        self._lengths = lengths
        held, left = [live.held for live in running], [self._left(live) for live in running]
        self._forecast = KvForecast(capacity, held, left, margin=margin)

    def fits(self, live: _Live) -> bool:
        return self._forecast.fits(live.held, self._left(live))

    def add(self, live: _Live) -> None:
        self._forecast.add(live.held, self._left(live))

    def _left(self, live: _Live) -> int:
        return live.left if self._lengths is None else self._lengths.remaining(live.generated, live.most)


class _ByShares:
    """Admission by the shares of answers that get far."""

    def __init__(self, profile: KvProfile, running: Sequence[_Live]) -> None:
        self._profile = profile
        if running:
            profile.add([x.held for x in running], [x.generated for x in running], [x.most for x in running])

    def fits(self, live: _Live) -> bool:
        return self._profile.fits(live.held, live.generated, live.most)

    def add(self, live: _Live) -> None:
        self._profile.add(live.held, live.generated, live.most)


@dataclass(slots=True)
class Replay:
    """Runs requests through a cache of `capacity` tokens.

    Args:
        arrivals: who waits, in order; each has to fit an empty cache.
        lengths: predicts, and learns from every answer; None knows every answer's length.
        margin: share of the capacity left free at admission.
        caution: expects shares of answers with this many standard deviations, instead of one end for each.
    """

    arrivals: Iterator[Arrival]
    capacity: int
    lengths: Lengths | None = None
    margin: float = 0.0
    caution: float | None = None
    tally: Tally = field(default_factory=Tally)
    _running: list[_Live] = field(default_factory=list)  # both in order of arrival
    _moved: list[_Live] = field(default_factory=list)
    _next: _Live | None = None
    _arrived: int = 0

    def run(self, steps: int) -> Tally:
        """Run `steps` more steps, or fewer if nobody is left, and return the sums so far."""
        for _ in range(steps):
            self._admit()
            self._make_room()
            if not self._running:
                break
            self._write()
        return self.tally

    def _admit(self) -> None:
        live = self._first()
        # Whoever does not even fit the next step is refused by every rule: no need to ask.
        if live is None or self._need() + live.held + 1 > self.capacity:
            return
        ahead = self._ahead()
        while live is not None and ahead.fits(live):
            ahead.add(live)
            self._running.append(live)
            if live is self._next:
                self._next = None
                self.tally.read += live.arrival.prompt
            else:
                self._moved.remove(live)
            live = self._first()
        self._running.sort(key=lambda live: live.number)

    def _ahead(self) -> _ByEnds | _ByShares:
        if self.lengths is not None and self.caution is not None:
            return _ByShares(KvProfile(self.capacity, self.lengths, caution=self.caution), self._running)
        return _ByEnds(self.lengths, self.capacity, self.margin, self._running)

    def _first(self) -> _Live | None:
        """Return who is next: whoever was moved out comes before anyone new."""
        if self._moved:
            return self._moved[0]
        if self._next is None and (arrival := next(self.arrivals, None)):
            self._arrived += 1
            self._next = _Live(self._arrived, arrival)
        return self._next

    def _need(self) -> int:
        return sum(live.arrival.prompt + live.generated + 1 for live in self._running)

    def _make_room(self) -> None:
        need = self._need()
        self.tally.overcommits += need > self.capacity
        while need > self.capacity:
            live = self._running.pop()
            need -= live.held + 1
            self.tally.moved += live.held
            self._moved.insert(0, live)  # younger ones were moved out before
        self.tally.fullest = max(self.tally.fullest, need)

    def _write(self) -> None:
        self.tally.steps += 1
        self.tally.running += len(self._running)
        ended = []
        for live in self._running:
            live.generated += 1
            if live.generated == live.arrival.written:
                ended.append(live)
        for live in ended:
            self._running.remove(live)
            if self.lengths is not None:
                self.lengths.observe(live.generated, ended=live.arrival.length <= live.arrival.most)
        self.tally.finished += len(ended)
