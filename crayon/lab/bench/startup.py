"""How long a newcomer waits for `import crayon` and `crayon --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from crayon.lab.bench.report import BenchReport, BenchRow

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORT = "import time; start = time.perf_counter(); import crayon; print(time.perf_counter() - start)"


def bench_startup(runs: int = 9) -> BenchReport:
    """Measure in fresh processes; the first run of each warms the file cache and is left out."""

    def imported() -> float:
        return float(_run("-c", _IMPORT))

    def helped() -> float:
        start = time.perf_counter()
        _run("-m", "crayon", "--help")
        return time.perf_counter() - start

    report = BenchReport("startup")
    report.rows.append(BenchRow.median("import_ms", "ms", _repeat(imported, runs), workload="import crayon"))
    report.rows.append(BenchRow.median("help_ms", "ms", _repeat(helped, runs), workload="crayon --help, whole process"))
    return report


def _repeat(measure: Callable[[], float], runs: int) -> list[float]:
    measure()
    return [1000.0 * measure() for _ in range(runs)]


def _run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603 - our own
