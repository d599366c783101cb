"""How much may go to the server: a share of the queries, and tokens and money a day. Numbers in, decision out.

Days are those of UTC, on a clock of its own: the wall clock is read once a start of the machine, and from there on time
is counted by the steady clock, which nobody sets. So a wall clock that is set forward refills nothing, and one that is
set back locks nothing: a day is over after at most 24 hours of running. Between two starts of the machine the wall
clock is all there is: what it says then counts, unless it is before what was believed last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from crayon.errors import InvalidRequestError

SECONDS_A_DAY = 86_400
MAX_WINDOW = 1000
# The steady clock may seem to go back by less than this when two processes read it at once.
_READ_APART = 1.0
SENT, KEPT = "s", "k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of what may go to the server; None: no such limit.

    Args:
        share: of the last `window` queries, at most this part (0 to 1) goes to the server.
        window: how many queries `share` looks back.
        tokens_per_day: prompt and answer tokens together, for each day of UTC.
        money_per_day: in the currency of the prices.
        prompt_price: of a million prompt tokens.
        answer_price: of a million answer tokens.

    Raises:
        InvalidRequestError: a number out of range, or a limit that could never let anything through or never hold.
    """

    share: float | None = None
    window: int = 200
    tokens_per_day: int | None = None
    money_per_day: float | None = None
    prompt_price: float = 0.0
    answer_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("share", "money_per_day", "prompt_price", "answer_price"):
            _check_amount(f"budget.{name}", getattr(self, name), optional=name in {"share", "money_per_day"})
        _check_count("budget.tokens_per_day", self.tokens_per_day, optional=True)
        _check_count("budget.window", self.window)
        if not 1 <= self.window <= MAX_WINDOW:
            raise InvalidRequestError("budget.window", f"must be 1 to {MAX_WINDOW} queries, not {self.window}")
        if self.share is not None and self.share > 1:
            raise InvalidRequestError("budget.share", f"must be 0 to 1 (0.3 is 30 %), not {self.share}")
        if self.share and not self.queries:
            raise InvalidRequestError(
                "budget.share", f"{self.share} of {self.window} queries is less than one; make the window longer"
            )
        if self.money_per_day is not None and not (self.prompt_price or self.answer_price):
            raise InvalidRequestError("budget.money_per_day", "needs prompt_price or answer_price to be counted")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return not (self.share is None and self.tokens_per_day is None and self.money_per_day is None)

    @property
    def queries(self) -> int | None:
        """How many of the last `window` queries may have gone to the server."""
        return None if self.share is None else math.floor(self.share * self.window + 1e-9)

    def price(self, cost: Cost) -> float:
        """Return what tokens cost."""
        return (cost.prompt_tokens * self.prompt_price + cost.answer_tokens * self.answer_price) / 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens that the server reads and writes for one query."""

    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment: `wall` in seconds since 1970 (may be wrong), `steady` since this start of the machine, named `boot`."""

    wall: float
    steady: float
    boot: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used up by the moment `at`, whose `wall` is the time that is believed; `day` counts from 1970.

    `queries` holds one letter a query, the latest last: `SENT` or `KEPT`.
    """

    at: Instant
    day: int
    tokens: int = 0
    money: float = 0.0
    queries: str = ""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What was set aside for a query that was sent on a `day`."""

    day: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Remaining:
    """What may still go to the server: queries in the window, tokens and money today; None where there is no limit."""

    queries: int | None
    tokens: int | None
    money: float | None


def nothing_spent(now: Instant) -> Spent:
    """Return the state of a budget that is used for the first time."""
    return Spent(now, _day(now.wall))


def roll(spent: Spent, now: Instant) -> Spent:
    """Return the state at `now`: tokens and money start anew when a day is over (see the module for whose day)."""
    at = spent.at
    if now.boot == at.boot and now.steady > at.steady - _READ_APART:
        wall = at.wall + max(0.0, now.steady - at.steady)
        now = replace(now, steady=max(now.steady, at.steady))
    else:
        wall = max(at.wall, now.wall)
    rolled = replace(spent, at=replace(now, wall=wall))
    day = _day(wall)
    return rolled if day <= spent.day else replace(rolled, day=day, tokens=0, money=0.0)


def remaining(budget: Budget, spent: Spent) -> Remaining:
    """Return what is left."""
    # The next query pushes the oldest one out of the window.
    recent = spent.queries[-(budget.window - 1) :] if budget.window > 1 else ""
    return Remaining(
        queries=None if budget.queries is None else max(0, budget.queries - recent.count(SENT)),
        tokens=None if budget.tokens_per_day is None else max(0, budget.tokens_per_day - spent.tokens),
        money=None if budget.money_per_day is None else max(0.0, budget.money_per_day - spent.money),
    )


def limit_reached(budget: Budget, spent: Spent) -> str | None:
    """Return the setting whose limit is used up, if one is."""
    left = remaining(budget, spent)
    for name, amount in (("share", left.queries), ("tokens_per_day", left.tokens), ("money_per_day", left.money)):
        if amount is not None and amount <= 0:
            return name
    return None


def may_send(budget: Budget, spent: Spent) -> bool:
    """Return whether one more query may go to the server.

    The last one let through may cost more than was left; since it is charged in full beforehand, only one ever does.
    """
    return limit_reached(budget, spent) is None


def charge(budget: Budget, spent: Spent, most: Cost) -> tuple[Spent, Reserved]:
    """Set aside the most a query may cost, before it is sent."""
    charged = replace(
        spent,
        tokens=spent.tokens + most.tokens,
        money=spent.money + budget.price(most),
        queries=_with(spent.queries, SENT),
    )
    return charged, Reserved(spent.day, most)


def settle(budget: Budget, spent: Spent, reserved: Reserved, real: Cost | None) -> Spent:
    """Replace what was set aside by what a query cost; None: the server never took it, and it counts as kept.

    A query costs the day on which it was sent: if that one is over, the new day is not touched.
    """
    if real is None and SENT in spent.queries:
        before, _, after = spent.queries.rpartition(SENT)
        spent = replace(spent, queries=before + KEPT + after)
    if reserved.day != spent.day:
        return spent
    cost = real or Cost(0, 0)
    return replace(
        spent,
        tokens=max(0, spent.tokens - reserved.cost.tokens + cost.tokens),
        money=max(0.0, spent.money - budget.price(reserved.cost) + budget.price(cost)),
    )


def keep(spent: Spent) -> Spent:
    """Count a query that was answered on the device."""
    return replace(spent, queries=_with(spent.queries, KEPT))


def seconds_to_refill(spent: Spent) -> float:
    """Return how long the day still lasts."""
    return max(0.0, (spent.day + 1) * SECONDS_A_DAY - spent.at.wall)


def _with(queries: str, letter: str) -> str:
    return (queries + letter)[-MAX_WINDOW:]


def _day(wall: float) -> int:
    return math.floor(wall / SECONDS_A_DAY)


def _check_amount(field: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidRequestError(field, f"must be a finite number of 0 or more, not {value!r}")


def _check_count(field: str, value: object, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequestError(field, f"must be a whole number of 0 or more, not {value!r}")
