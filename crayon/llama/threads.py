"""How many compute threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores for compute threads: affinity and container quota considered.

    ggml's threads spin at barriers, so one thread more than there are cores makes everything many times slower.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus()
    if quota is not None:
        allowed = min(allowed, max(1, math.floor(quota)))
    return max(1, allowed)


def cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU quota of this process's control group in cores; None where there is none. Versions 2 and 1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
        period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
