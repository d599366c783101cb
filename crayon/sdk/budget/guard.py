"""The budget of one client: asked before something goes to the server, charged when it has ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import BudgetError, ConfigError
from crayon.router import budget as rules

if TYPE_CHECKING:
    from crayon.router.budget import Budget, Cost, Reserved, Spent
    from crayon.sdk.budget.store import BudgetStore

logger = logging.getLogger("crayon.sdk")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """What is left: queries in the window, tokens and money today; None where there is no limit.

    `limit` names the setting that is used up, if one is, `problem` says why or what is wrong with the file.
    `refill_s`: seconds until tokens and money start anew.
    """

    queries: int | None
    tokens: int | None
    money: float | None
    refill_s: float
    limit: str | None = None
    problem: str = ""


class BudgetGuard:
    """Asks and charges the budget's file. Where the file cannot be used, the budget counts as used up.

    Args:
        budget: the limits; without any, the file is not touched.
        store: where it is kept what was spent.
    """

    def __init__(self, budget: Budget | None, store: BudgetStore) -> None:
        self.budget = budget if budget is not None and budget.limited else None
        self._store = store
        self._warned: set[str] = set()

    def status(self) -> BudgetStatus | None:
        """Return what is left now, or None where there is no budget. Changes nothing."""
        if self.budget is None:
            return None
        try:
            spent = self._store.read()
        except ConfigError as error:
            self._warn(error)
            none = [None if limit is None else 0 for limit in (self.budget.queries, self.budget.tokens_per_day)]
            money = None if self.budget.money_per_day is None else 0.0
            return BudgetStatus(
                queries=none[0], tokens=none[1], money=money, refill_s=0.0, limit="budget", problem=str(error)
            )
        left = rules.remaining(self.budget, spent)
        limit = rules.limit_reached(self.budget, spent)
        return BudgetStatus(
            queries=left.queries,
            tokens=left.tokens,
            money=left.money,
            refill_s=rules.seconds_to_refill(spent),
            limit=None if limit is None else f"budget.{limit}",
            problem="" if limit is None else _problem(self.budget, limit, spent),
        )

    def reserve(self, most: Cost) -> Reserved | None:
        """Set aside what a query may cost at most; None where there is no budget. May wait for other processes.

        Raises:
            BudgetError: the budget is used up, or its file cannot be used; nothing may be sent.
        """
        if self.budget is None:
            return None
        try:
            with self._store.change() as held:
                limit = rules.limit_reached(self.budget, held[0])
                if limit is not None:
                    raise BudgetError(f"budget.{limit}", _problem(self.budget, limit, held[0]))
                held[0], reserved = rules.charge(self.budget, held[0], most)
        except ConfigError as error:
            self._warn(error)
            raise BudgetError("budget", str(error)) from error
        return reserved

    def settle(self, reserved: Reserved, real: Cost | None) -> None:
        """Charge what a query cost in place of what was set aside; None: the server never took it.

        Where that cannot be written, what was set aside stays charged.
        """
        if self.budget is None:
            return
        try:
            with self._store.change() as held:
                held[0] = rules.settle(self.budget, held[0], reserved, real)
        except ConfigError as error:
            self._warn(error)

    def keep(self) -> None:
        """Count a query that was answered on the device, where a share of all queries is the limit."""
        if self.budget is None or self.budget.share is None:
            return
        try:
            with self._store.change() as held:
                held[0] = rules.keep(held[0])
        except ConfigError as error:
            self._warn(error)

    def _warn(self, error: ConfigError) -> None:
        text = str(error)
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)


def _problem(budget: Budget, limit: str, spent: Spent) -> str:
    if limit == "share":
        return f"{budget.queries} of the last {budget.window} queries went to the server, and no more may"
    hours = rules.seconds_to_refill(spent) / 3600
    return f"today's {getattr(budget, limit)} are used up; they start anew in {hours:.1f} h, or raise the limit"
