"""Mixed integer linear programs: written down row by row, solved by HiGHS through SciPy."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping


# Making a plan exact is a linear program of some milliseconds, and is done even where the time is up.
_EXACT_S = 10.0


@dataclass(frozen=True, slots=True)
class SolverBudget:
    """How much a search may spend.

    Nodes of the search tree end a solve at the same place on every machine; the clock only guards slow machines, and
    a plan may differ where it struck.

    Args:
        deadline: when all solving ends, on the monotonic clock.
        nodes: most nodes of one program.
        gap: how close to the bound, as a part of it, is good enough.
    """

    deadline: float
    nodes: int
    gap: float

    @classmethod
    def of(cls, seconds: float, nodes: int, gap: float) -> SolverBudget:
        """Return a budget that starts now."""
        return cls(time.monotonic() + seconds, nodes, gap)

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(self.deadline - time.monotonic(), 0.0)


@dataclass(slots=True)
class Program:
    """Variables, each known by its place, and rows over them."""

    _low: list[float] = field(default_factory=list)
    _high: list[float] = field(default_factory=list)
    _whole: list[int] = field(default_factory=list)
    _rows: list[tuple[Mapping[int, float], float, float]] = field(default_factory=list)

    def number(self, low: float, high: float) -> int:
        """Add a real variable and return its place."""
        return self._variable(low, high, 0)

    def integer(self, low: int, high: int) -> int:
        """Add an integer variable and return its place."""
        return self._variable(low, high, 1)

    def binary(self) -> int:
        """Add a variable that is 0 or 1 and return its place."""
        return self._variable(0, 1, 1)

    def row(self, terms: Mapping[int, float], *, low: float = -math.inf, high: float = math.inf) -> None:
        """Demand `low <= sum of factor * variable <= high`."""
        self._rows.append((terms, low, high))

    def minimise(self, objective: Mapping[int, float], budget: SolverBudget) -> list[float] | None:
        """Return the values of the best solution found; None where none was found.

        Raises:
            MissingExtraError: the extra 'plan' is not installed.
        """
        values = self._solve(objective, self._low, self._high, budget, budget.left())
        if values is None:
            return None
        # HiGHS takes 0.999999 for 1, and a large factor makes much of that: the decisions are made exact, and the times
        # found again for them.
        exact = [round(value) if whole else None for value, whole in zip(values, self._whole, strict=True)]
        low = [bound if value is None else value for value, bound in zip(exact, self._low, strict=True)]
        high = [bound if value is None else value for value, bound in zip(exact, self._high, strict=True)]
        return self._solve(objective, low, high, budget, _EXACT_S)

    def _solve(
        self, objective: Mapping[int, float], low: list[float], high: list[float], budget: SolverBudget, seconds: float
    ) -> list[float] | None:
        try:
            import numpy as np
            from scipy import optimize, sparse
        except ModuleNotFoundError as error:
            raise MissingExtraError("plan", "planning a pipeline") from error
        if seconds <= 0:
            return None
        cost = np.zeros(len(low))
        for place, factor in objective.items():
            cost[place] = factor
        entries = [(i, place, value) for i, (terms, _, _) in enumerate(self._rows) for place, value in terms.items()]
        rows, columns, values = zip(*entries, strict=True)
        matrix = sparse.csr_array((values, (rows, columns)), shape=(len(self._rows), len(low)))
        found: Any = optimize.milp(
            cost,
            integrality=np.array(self._whole),
            bounds=optimize.Bounds(low, high),
            constraints=optimize.LinearConstraint(
                matrix, [bound for _, bound, _ in self._rows], [bound for _, _, bound in self._rows]
            ),
            options={"time_limit": seconds, "node_limit": budget.nodes, "mip_rel_gap": budget.gap},
        )
        return None if found.x is None else [float(value) for value in found.x]

    def _variable(self, low: float, high: float, whole: int) -> int:
        self._low.append(low)
        self._high.append(high)
        self._whole.append(whole)
        return len(self._low) - 1
