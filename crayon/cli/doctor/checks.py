"""What `crayon doctor` looks at: one function a subject, each returning findings and raising nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.errors import CrayonError, UnauthenticatedError
from crayon.local_only import LOCAL_ONLY, local_only

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.config import Settings
    from crayon.machine import Machine
    from crayon.models import CatalogueEntry, Store

GIB = 2**30
# The small device model, prepared and running, needs about half of the first; its download the second.
LOW_MEMORY, LOW_DISK = GIB, 2 * GIB
SMOKE_SECONDS = 120.0
SERVER_SECONDS = 5.0
# In a process of its own: an illegal instruction must end that one, not the doctor.
SMOKE_TEST = """
import json
from crayon.errors import CrayonError
try:
    from crayon.llama import amx, library, smoke
    loaded = library.load()
    smoke.check()
    print(json.dumps({"system_info": loaded.system_info, "amx": amx.runs()}))
except CrayonError as error:
    print(json.dumps({"error": str(error)}))
"""


class Status(StrEnum):
    """How bad a finding is: `fail` keeps Crayon from working, `warn` makes it slower or poorer."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at; `fix` says what to do unless it is fine."""

    subject: str
    status: Status
    detail: str
    fix: str = ""


def check_cpu(machine: Machine) -> list[CheckResult]:
    """Check that the CPU has the instructions that make llama.cpp fast."""
    detail = f"{machine.cpu}; {' '.join(machine.instruction_sets) or 'no known instruction sets'}"
    slow = "x86_64" in machine.system and "avx2" not in machine.instruction_sets
    if slow:
        return [
            CheckResult("cpu", Status.WARN, detail, "without AVX2 decoding is several times slower; use a newer CPU")
        ]
    return [CheckResult("cpu", Status.OK, detail)]


def check_cores(machine: Machine, threads: int | None) -> list[CheckResult]:
    """Check that no more threads are asked for than cores may be used: ggml's threads spin."""
    parts = [f"{machine.logical_cores} logical"]
    if machine.physical_cores:
        parts.append(f"{machine.physical_cores} physical")
    parts.append(f"{machine.allowed_cores} allowed by affinity")
    parts.append("no quota" if machine.cpu_quota is None else f"quota {machine.cpu_quota:g}")
    detail = ", ".join(parts)
    if threads is not None and threads > machine.usable_cores:
        fix = f"set device.threads to {machine.usable_cores} or less, or leave it out"
        return [CheckResult("cores", Status.WARN, f"{detail}; device.threads is {threads}", fix)]
    if machine.cpu_quota is not None and machine.cpu_quota < 1:
        return [CheckResult("cores", Status.WARN, detail, "less than one core: raise the container's CPU quota")]
    return [CheckResult("cores", Status.OK, detail)]


def check_memory(machine: Machine) -> list[CheckResult]:
    """Check that a small model fits."""
    room = machine.memory_available
    detail = f"{_gib(machine.memory)} in all, {_gib(room)} free"
    if machine.memory_limit is not None:
        room = min(room, machine.memory_limit)
        detail += f", limited to {_gib(machine.memory_limit)}"
    if room < LOW_MEMORY // 4:
        return [
            CheckResult(
                "memory", Status.FAIL, detail, "the device model needs 256 MiB: end programs or raise the limit"
            )
        ]
    if room < LOW_MEMORY:
        return [
            CheckResult("memory", Status.WARN, detail, "only the smallest models fit: end programs or raise the limit")
        ]
    return [CheckResult("memory", Status.OK, detail)]


def check_disk(folder: Path) -> list[CheckResult]:
    """Check that models can be kept in `folder` (the nearest one that exists counts)."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return [CheckResult("disk", Status.FAIL, f"{folder}: {error.strerror}", "set models_dir to a folder of yours")]
    detail = f"{_gib(free)} free for {folder}"
    if not os.access(place, os.W_OK | os.X_OK):
        return [CheckResult("disk", Status.FAIL, f"{detail}, not writable", "set models_dir to a folder of yours")]
    if free < LOW_DISK // 8:
        return [CheckResult("disk", Status.FAIL, detail, "no model fits: free some space or set models_dir elsewhere")]
    if free < LOW_DISK:
        return [CheckResult("disk", Status.WARN, detail, "larger models do not fit: free some space")]
    return [CheckResult("disk", Status.OK, detail)]


def check_library(command: Sequence[str] | None = None) -> list[CheckResult]:
    """Load llama.cpp and run its smoke test in another process."""
    from crayon.llama.amx import REBUILD
    from crayon.llama.library import REQUIRED_VERSION

    fix = f"pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python=={REQUIRED_VERSION}"
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and text
            command or [sys.executable, "-c", SMOKE_TEST],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=SMOKE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [CheckResult("library", Status.FAIL, f"the smoke test hung for {SMOKE_SECONDS:.0f} s", fix)]
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return [CheckResult("library", Status.FAIL, f"the smoke test crashed with {how}{last}", fix)]
    try:
        record = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return [CheckResult("library", Status.FAIL, "the smoke test ended without a result", fix)]
    if "error" in record:
        return [CheckResult("library", Status.FAIL, record["error"], fix)]
    info = str(record["system_info"]).strip()
    if not record.get("amx", True):
        detail = f"this build of llama-cpp-python {REQUIRED_VERSION} breaks AMX, so it runs without; {info}"
        return [CheckResult("library", Status.WARN, detail, REBUILD)]
    return [CheckResult("library", Status.OK, f"llama-cpp-python {REQUIRED_VERSION}, smoke test passed; {info}")]


def check_device(settings: Settings, *, timing: bool) -> tuple[list[CheckResult], Settings]:
    """Tell which model the device takes and why; where `auto` is set, return settings that name it.

    The larger model is timed where it is here, that is not known yet, and `timing` says that the library runs.
    """
    from crayon.cli.shared.device_model import wish_of
    from crayon.device import auto
    from crayon.device.choice import choose_device
    from crayon.models import is_auto

    reference = settings.device.model
    if not is_auto(reference):
        return [CheckResult("device", Status.OK, f"{reference}, as device.model says")], settings
    try:
        wish = wish_of(settings)
        choice = choose_device(auto.gather(wish)) if timing else auto.peek(wish)
    except CrayonError as error:
        return [
            CheckResult("device", Status.FAIL, str(error), "mend it, or set device.model to a model's name")
        ], settings
    if choice is None:
        fix = "mend the library first"
        return [CheckResult("device", Status.WARN, "auto: the larger model was not timed here yet", fix)], settings
    detail = f"auto takes {choice.model}: {choice.why} (device.model, --device take another)"
    named = settings.model_copy(update={"device": settings.device.model_copy(update={"model": choice.model})})
    return [CheckResult("device", Status.OK, detail)], named


def check_models(settings: Settings, folder: Path) -> list[CheckResult]:
    """Check that the device's model is there, and tell about the others of the catalogue."""
    from crayon.models import Store, load_catalogue

    try:
        catalogue = load_catalogue()
        own = catalogue.get(settings.device.model)
        findings = [] if own else _own_file(settings.device.model)
        store = Store(folder)
        return findings + [_check_entry(store, entry, on_device=entry is own) for entry in catalogue]
    except CrayonError as error:
        return [CheckResult("models", Status.FAIL, str(error), "mend the catalogue or the models folder")]


def _check_entry(store: Store, entry: CatalogueEntry, *, on_device: bool) -> CheckResult:
    from crayon.models import StoreState

    subject = f"model {entry.name}"
    state = store.state(entry.wanted)
    if state is StoreState.READY:
        detail, fix = _prepared(store, entry.name)
        return CheckResult(subject, Status.WARN if fix and on_device else Status.OK, detail, fix if on_device else "")
    if state is StoreState.UNVERIFIED:
        return CheckResult(subject, Status.OK, "present, hashed at its next use")
    if on_device:
        fix = f"crayon models pull {entry.name} (the first question does it too)"
        return CheckResult(subject, Status.WARN, f"the device's model is {state}", fix)
    return CheckResult(subject, Status.OK, f"{state}, not needed on the device")


def _prepared(store: Store, name: str) -> tuple[str, str]:
    """Return what was made of a verified model for this CPU, and what to do about it."""
    from crayon.models import resolve
    from crayon.models.prepared import SOURCE, describe

    fix = f"crayon models prepare {name}"
    try:
        info = describe(resolve(name, download=False, models_dir=store.folder), store.folder)
    except CrayonError as error:
        return f"verified; {error}", fix
    if info is None:
        return "verified, not prepared for this CPU", f"{fix} (it may run faster then)"
    if info.stale:
        return f"verified, prepared as {info.chosen}, but {info.stale}", fix
    if info.chosen == SOURCE:
        return "verified, prepared: the published file is the best for this CPU", ""
    return f"verified, prepared: {info.chosen}", ""


def _own_file(reference: str) -> list[CheckResult]:
    path = Path(reference).expanduser()
    if path.is_file():
        return [CheckResult("model", Status.OK, f"{path}, {_gib(path.stat().st_size)}")]
    if ":" in reference:
        return [CheckResult("model", Status.OK, f"{reference}, fetched at its first use")]
    fix = "set device.model to a path or to a name that `crayon models ls` lists"
    return [CheckResult("model", Status.FAIL, f"{reference}: no such file or catalogue name", fix)]


def check_privacy(settings: Settings) -> list[CheckResult]:
    """Tell what may leave the device."""
    if local_only():
        return [CheckResult("privacy", Status.OK, f"{LOCAL_ONLY} is on: no server is asked, whatever else is set")]
    given = settings.privacy
    what = ", ".join([*given.detect, *given.patterns])
    return [CheckResult("privacy", Status.OK, f"action {given.action}, looks for {what or 'nothing'}")]


def check_server(settings: Settings) -> list[CheckResult]:
    """Check that the configured server answers."""
    from crayon.cli.shared.client import server_report

    address = settings.server.address
    if local_only():
        return [CheckResult("server", Status.OK, f"not asked: {LOCAL_ONLY} is on")]
    if address is None:
        fix = "to send hard questions away, start `crayon serve` somewhere and set server.address"
        return [CheckResult("server", Status.OK, f"none is set, everything stays on the device ({fix})")]
    try:
        detail = server_report(settings.server, SERVER_SECONDS)
    except CrayonError as error:
        fix = f"start it (crayon serve), or mend server.address; is {address} right?"
        if isinstance(error, UnauthenticatedError):
            fix = "set server.token_file (--token-file), or CRAYON_SERVER__TOKEN, to a token that the server takes"
        return [CheckResult("server", Status.FAIL, str(error), fix)]
    return [CheckResult("server", Status.OK, detail), _breaker()]


def _breaker() -> CheckResult:
    from crayon.client.breaker import COOLDOWN_S, FAILURES

    # Each program has its own: this one has just reached the server.
    detail = f"closed; after {FAILURES} failures in a row a program leaves the server alone for {COOLDOWN_S:g} s"
    return CheckResult("breaker", Status.OK, f"{detail} (Crayon.status() shows it)")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
