"""What this machine is and what of it this process may use; reads only, from /proc, the control groups and psutil."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Those that llama.cpp's kernels tell apart, as /proc/cpuinfo spells them.
INSTRUCTION_SETS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# Version 1 says "no limit" with a number near 2**63.
_NO_LIMIT = 2**60


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware, and the share of it this process has. Memory in bytes; None where there is no limit or no answer."""

    system: str
    cpu: str
    instruction_sets: tuple[str, ...]
    logical_cores: int
    physical_cores: int | None
    allowed_cores: int
    cpu_quota: float | None
    memory: int
    memory_available: int
    memory_limit: int | None

    @property
    def usable_cores(self) -> int:
        """Whole cores that affinity and quota leave, at least one."""
        return _usable(self.allowed_cores, self.cpu_quota)


@dataclass(frozen=True, slots=True)
class Battery:
    """Charge in percent, and whether it is being charged (None: the platform does not tell)."""

    percent: float
    plugged: bool | None


def battery() -> Battery | None:
    """Return the state of the battery, or None where there is none or the platform does not tell."""
    try:
        found = getattr(psutil, "sensors_battery", lambda: None)()
    except (OSError, RuntimeError, ValueError):  # what psutil's readers of /sys raise for odd drivers
        return None
    return None if found is None else Battery(float(found.percent), found.power_plugged)


def inspect_machine() -> Machine:
    """Return the facts about this machine."""
    logical = psutil.cpu_count() or os.cpu_count() or 1
    memory = psutil.virtual_memory()
    cpu, flags = _cpu()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        logical_cores=logical,
        physical_cores=psutil.cpu_count(logical=False),
        allowed_cores=allowed_cores(),
        cpu_quota=cpu_quota(),
        memory=memory.total,
        memory_available=memory.available,
        memory_limit=memory_limit(),
    )


def usable_cores() -> int:
    """Return how many compute threads may run: the cores that affinity and quota leave, at least one.

    ggml's threads spin at barriers, so one thread more than there are cores makes everything many times slower.
    """
    return _usable(allowed_cores(), cpu_quota())


def usable_core_ids() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on, no more than its quota of processor time fills."""
    ids = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return tuple(ids[: usable_cores()])


def _usable(allowed: int, quota: float | None) -> int:
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def allowed_cores() -> int:
    """Return on how many cores this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(proc: Path = PROC, root: Path = CGROUPS) -> float | None:
    """Return the CPU quota in cores (control groups v2 and v1), the tightest on the way up, or None."""
    quotas: list[float] = []
    for folder in _folders("cpu", proc, root):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us").strip(),
            _read(folder / "cpu.cfs_period_us").strip(),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit(proc: Path = PROC, root: Path = CGROUPS) -> int | None:
    """Return the memory limit in bytes (control groups v2 and v1), the tightest on the way up, or None."""
    limits: list[int] = []
    for folder in _folders("memory", proc, root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)


def memory_room(proc: Path = PROC, root: Path = CGROUPS) -> int:
    """Return how many bytes this process may still take: what is free, or less where a control group says so."""
    return min([psutil.virtual_memory().available, *_group_room(proc, root)])


def _group_room(proc: Path, root: Path) -> list[int]:
    """Return what each control group with a limit leaves; pages of files that were not used lately count as free."""
    left: list[int] = []
    for folder in _folders("memory", proc, root):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, now = (_read(folder / name).strip() for name in (most, used))
            if limit.isdigit() and now.isdigit() and int(limit) < _NO_LIMIT:
                stat = dict(
                    line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines() if " " in line
                )
                idle = stat.get(cached, "0").strip()
                left.append(max(0, int(limit) - int(now) + (int(idle) if idle.isdigit() else 0)))
    return left


def address_space_left(proc: Path = PROC) -> int | None:
    """Return how many bytes of address space this process may still take; None where no limit is set or known."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = _read(proc / "self" / "statm").split()
    return max(0, limit - int(pages[0]) * resource.getpagesize()) if pages else None


def _folders(controller: str, proc: Path, root: Path) -> list[Path]:
    """Return this process's control group folder and those above it, for v2 and for the v1 controller."""
    folders: list[Path] = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        folders += [base.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]
    return folders


def _cpu() -> tuple[str, frozenset[str]]:
    """Return the CPU's name and its flags."""
    if sys.platform == "darwin":
        # No user input in it.
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed
        return result.stdout.strip() or platform.processor(), frozenset()
    return parse_cpuinfo(_read(PROC / "cpuinfo"))


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return name and flags from the text of /proc/cpuinfo (x86 and ARM)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return name, frozenset(flags.split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
