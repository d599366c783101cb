"""Keeps the server's share on its target while the traffic drifts.

A share that was right on the calibration's queries is not on others. So the threshold `lam` goes up a little after each
query that was sent and down a little after each that was not, in the proportion that balances at the target:

    lam <- lam + step * (sent - target)

which is stochastic approximation of a quantile (Robbins and Monro 1951) with a constant step, as in adaptive conformal
inference (Gibbs and Candes 2021, arXiv 2106.00263). Summed up, it bounds the error whatever the traffic does: over n
queries the share is off by at most (change of lam) / (step * n), as long as lam stays above 0. At 0 all that gains is
sent; then the share may be below its target, since the rest would lose.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from crayon.errors import InvalidRequestError
from crayon.router import record_fields as raw

MAX_CHANGES = 50


@dataclass(frozen=True, slots=True)
class Change:
    """The threshold has moved: after `n` queries, from `old` to `new`, with this share sent until then."""

    n: int
    old: float
    new: float
    share: float


@dataclass(frozen=True, slots=True)
class ShareKeeper:
    """The state after some queries; `after` gives the next one. Only queries that the router may send count.

    Args:
        target: share to send, from 0 to 1.
        lam: a query is sent if it gains more than this, from 0 to 1; start with the calibration's.
        step: how far lam moves, above 0 and at most 0.5: larger follows faster and sends in less good an order.
        log_over: a change of lam by more than this is written down.
        n: queries so far.
        sent: how many of them were sent.
        logged: lam at the last change written down (by default: at the start).
        changes: the last 50 of them.

    Raises:
        InvalidRequestError: a value is out of range.
    """

    target: float
    lam: float = 0.0
    step: float = 0.02
    log_over: float = 0.05
    n: int = 0
    sent: int = 0
    logged: float | None = None
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("target", self.target, 0.0, 1.0),
            ("lam", self.lam, 0.0, 1.0),
            ("step", self.step, math.ulp(0.0), 0.5),
            ("log_over", self.log_over, 0.0, 1.0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InvalidRequestError(f"keeper.{name}", f"must be a number from {low:g} to {high:g}, not {value!r}")
        if not 0 <= self.sent <= self.n:
            raise InvalidRequestError("keeper.sent", f"must be 0 to {self.n} queries, not {self.sent}")
        if self.logged is None:
            object.__setattr__(self, "logged", self.lam)

    @property
    def share(self) -> float:
        """Share sent so far (0 before the first query)."""
        return self.sent / self.n if self.n else 0.0

    def sends(self, benefit: float) -> bool:
        """Return whether a query of this estimated gain is sent; never one that gains nothing."""
        return bool(benefit > self.lam)  # a number of numpy's would not go into JSON

    def after(self, benefit: float) -> ShareKeeper:
        """Return the state after a query of this estimated gain, from -1 to 1, was decided by `sends`.

        Raises:
            InvalidRequestError: it is not a number.
        """
        if math.isnan(benefit):
            raise InvalidRequestError("benefit", "is not a number")
        sent = self.sends(benefit)
        lam = min(1.0, max(0.0, self.lam + self.step * (sent - self.target)))
        moved = replace(self, lam=lam, n=self.n + 1, sent=self.sent + sent)
        logged = self.lam if self.logged is None else self.logged
        if abs(lam - logged) <= self.log_over:
            return moved
        change = Change(moved.n, logged, lam, moved.share)
        return replace(moved, logged=lam, changes=(*self.changes, change)[-MAX_CHANGES:])

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain values, for JSON."""
        return {**asdict(self), "changes": [asdict(change) for change in self.changes]}

    @classmethod
    def from_dict(cls, data: object) -> ShareKeeper:
        """Return the state that `to_dict` gave.

        Raises:
            ConfigError: a field is missing, unknown or of another type.
            InvalidRequestError: a value is out of range.
        """
        fields = raw.mapping(data, "keeper", cls.__slots__)
        changes = []
        for entry in raw.items(fields["changes"], "keeper.changes", MAX_CHANGES):
            change = raw.mapping(entry, "keeper.changes", Change.__slots__)
            old, new, share = (raw.number(change[k], f"keeper.changes.{k}", 0, 1) for k in ("old", "new", "share"))
            changes.append(Change(raw.count(change["n"], "keeper.changes.n"), old, new, share))
        numbers = ("target", "lam", "step", "log_over", "logged")
        return cls(
            **{name: raw.number(fields[name], f"keeper.{name}", 0, 1) for name in numbers},
            n=raw.count(fields["n"], "keeper.n"),
            sent=raw.count(fields["sent"], "keeper.sent"),
            changes=tuple(changes),
        )
