"""What a whole evaluation covers: the settings of its two parts, and of the measurement of costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from crayon.errors import InvalidRequestError
from crayon.lab.eval.routing.settings import RouteSettings
from crayon.lab.eval.settings import UNSEEN, EvalSettings

SAMPLES = (16, 4, 64)
SHARES = tuple(range(0, 101, 5))
_QUICK_CONTROLS = ("base", "fewshot", "all_data", "top1", "own")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSettings:
    """How much to measure.

    Args:
        customize: of users whose questions are all of their own task, with 4, 16 and 64 samples.
        route: of users half of whose queries are strangers.
        costs: queries of each user whose costs are measured, one at a time.
        shares: per cent of the queries that go to the server, for the curves.

    Raises:
        InvalidRequestError: a value is out of range.
    """

    customize: EvalSettings = field(default_factory=lambda: EvalSettings(samples=SAMPLES))
    route: RouteSettings = field(default_factory=RouteSettings)
    costs: int = 20
    shares: tuple[int, ...] = SHARES

    def __post_init__(self) -> None:
        if self.costs < 1:
            raise InvalidRequestError("--costs", "must be at least 1")
        if not self.shares or min(self.shares) < 0 or max(self.shares) > 100:
            raise InvalidRequestError("shares", "must be per cent, from 0 to 100")

    @classmethod
    def quick(cls) -> WholeSettings:
        """Return settings for about a quarter of an hour on two cores."""
        return cls(
            customize=EvalSettings(
                controls=_QUICK_CONTROLS, items=16, extra=0, draws=2, control_draws=1, samples=SAMPLES, pairs=1,
                tasks=5, far=("arc_challenge", "strategyqa"),
            ),
            route=RouteSettings(users=2, unseen=UNSEEN[:2], items=24, known=20, draws=2, promises=50, cases=80),
            costs=6,
        )  # fmt: skip

    def changed(
        self,
        *,
        items: int | None = None,
        draws: int | None = None,
        tasks: int | None = None,
        controls: tuple[str, ...] | None = None,
        groups: tuple[str, ...] | None = None,
        costs: int | None = None,
    ) -> WholeSettings:
        """Return these settings with some of them changed, in both parts where both have them."""
        own: dict[str, Any] = {"items": items, "draws": draws, "tasks": tasks, "controls": controls, "groups": groups}
        if draws is not None:
            own["control_draws"] = draws
        shared: dict[str, Any] = {"items": items, "draws": draws, "users": tasks}
        return replace(
            self,
            customize=replace(self.customize, **_given(own)),
            route=replace(self.route, **_given(shared)),
            costs=self.costs if costs is None else costs,
        )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
