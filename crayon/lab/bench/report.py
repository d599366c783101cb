"""What every bench prints: one object, rows of one shape, the machine named."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from crayon.machine import inspect_machine

if TYPE_CHECKING:
    from collections.abc import Sequence


_OPTIONAL = (
    "model", "workload", "against", "note", "ci_low", "ci_high", "n", "draws", "group", "task", "variant",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One measured figure; `value` is the median of `runs` in a bench, their mean in an evaluation.

    An evaluation adds the 95 % interval of `value`, how many items and draws it is from, and what was measured: the
    group of tasks, the task, and the variant of the model.
    """

    metric: str
    value: float
    unit: str
    runs: tuple[float, ...]
    model: str | None = None
    workload: str | None = None
    against: str | None = None
    note: str | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    draws: int | None = None
    group: str | None = None
    task: str | None = None
    variant: str | None = None

    @classmethod
    def median(
        cls,
        metric: str,
        unit: str,
        runs: Sequence[float],
        *,
        model: str | None = None,
        workload: str | None = None,
        against: str | None = None,
        note: str | None = None,
    ) -> BenchRow:
        """Return the row of the median of `runs`."""
        return cls(metric, statistics.median(runs), unit, tuple(runs), model, workload, against, note)

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON, without the names that were not given."""
        record: dict[str, Any] = {
            "metric": self.metric,
            "value": round(self.value, 5),
            "unit": self.unit,
            "runs": [round(run, 5) for run in self.runs],
        }
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                record[name] = round(value, 5) if isinstance(value, float) else value
        return record


@dataclass(slots=True)
class BenchReport:
    """The result of one bench. A ratio is ours over theirs, higher is better, from pairs run in turn."""

    bench: str
    models: dict[str, str] = field(default_factory=dict)
    rows: list[BenchRow] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list, kw_only=True)
    """What could not be measured, and why."""
    made: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """How: command, time, version, commit (see `Making`)."""

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        machine = inspect_machine()
        env = {
            "cpu": machine.cpu,
            "cores": machine.usable_cores,
            "memory": machine.memory,
            "versions": {
                "python": sys.version.split()[0],
                **{name: metadata.version(name) for name in ("crayon-llm", "llama-cpp-python", "numpy")},
            },
            "models": self.models,
        }
        record = {"bench": self.bench, "env": env, "rows": [row.as_json() for row in self.rows]}
        more = {"unmeasured": self.unmeasured, "made": self.made}
        return record | {name: value for name, value in more.items() if value}
