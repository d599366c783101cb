from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from crayon.cli.doctor import checks
from crayon.cli.doctor.checks import GIB, CheckResult, Status
from crayon.cli.shared.app import app
from crayon.config import load
from crayon.device.choice import LARGER, Facts, Speed
from crayon.errors import ServerUnavailableError
from crayon.machine import (
    INSTRUCTION_SETS,
    Machine,
    cpu_quota,
    inspect_machine,
    memory_limit,
    memory_room,
    parse_cpuinfo,
)

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

MACHINE = Machine(
    system="Linux 6.1 x86_64",
    cpu="A CPU",
    instruction_sets=("avx2", "fma"),
    logical_cores=8,
    physical_cores=4,
    allowed_cores=8,
    cpu_quota=None,
    memory=16 * GIB,
    memory_available=8 * GIB,
    memory_limit=None,
)


def machine(**changes: Any) -> Machine:
    return dataclasses.replace(MACHINE, **changes)


def the(findings: list[CheckResult]) -> CheckResult:
    (finding,) = findings
    assert finding.status is Status.OK or finding.fix
    return finding


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"instruction_sets": ()}, Status.WARN),
        ({"instruction_sets": (), "system": "Darwin 23 arm64"}, Status.OK),
    ],
)
def test_cpu(changes: dict[str, Any], status: Status) -> None:
    assert the(checks.check_cpu(machine(**changes))).status is status


@pytest.mark.parametrize(
    ("changes", "threads", "status"),
    [
        ({}, None, Status.OK),
        ({}, 8, Status.OK),
        ({}, 9, Status.WARN),
        ({"allowed_cores": 2}, 3, Status.WARN),
        ({"cpu_quota": 2.5}, 3, Status.WARN),
        ({"cpu_quota": 0.5}, None, Status.WARN),
    ],
)
def test_cores(changes: dict[str, Any], threads: int | None, status: Status) -> None:
    assert the(checks.check_cores(machine(**changes), threads)).status is status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"memory_available": GIB // 2}, Status.WARN),
        ({"memory_limit": GIB // 2}, Status.WARN),
        ({"memory_limit": GIB // 8}, Status.FAIL),
    ],
)
def test_memory(changes: dict[str, Any], status: Status) -> None:
    assert the(checks.check_memory(machine(**changes))).status is status


@pytest.mark.parametrize(("free", "status"), [(100 * GIB, Status.OK), (GIB, Status.WARN), (1000, Status.FAIL)])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: Status) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    finding = the(checks.check_disk(tmp_path / "not" / "there"))
    assert finding.status is status
    assert str(tmp_path / "not" / "there") in finding.detail


def test_a_folder_that_cannot_be_written_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert the(checks.check_disk(tmp_path)).status is Status.FAIL


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("print('noise'); print('{\"system_info\": \"AVX2 = 1\"}')", Status.OK, "AVX2 = 1"),
        ('print(\'{"error": "wrong version"}\')', Status.FAIL, "wrong version"),
        ("import os; os.kill(os.getpid(), 4)", Status.FAIL, "signal 4"),
        ("raise SystemExit('boom')", Status.FAIL, "exit code 1: boom"),
        ("pass", Status.FAIL, "without a result"),
        ("print('not json')", Status.FAIL, "without a result"),
    ],
)
def test_a_crash_of_the_library_is_a_finding(code: str, status: Status, detail: str) -> None:
    finding = the(checks.check_library([sys.executable, "-c", code]))
    assert finding.status is status
    assert detail in finding.detail


def test_a_library_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SMOKE_SECONDS", 0.2)
    finding = the(checks.check_library([sys.executable, "-c", "import time; time.sleep(60)"]))
    assert finding.status is Status.FAIL
    assert "hung" in finding.detail


def test_an_absent_device_model_is_a_warning_others_are_not(tmp_path: Path) -> None:
    settings = load({"device.model": "smollm2-135m-instruct"}).settings
    findings = checks.check_models(settings, tmp_path / "models")
    states = {finding.subject: finding.status for finding in findings}
    assert states.pop("model smollm2-135m-instruct") is Status.WARN
    assert states
    assert set(states.values()) == {Status.OK}


@pytest.mark.parametrize(
    ("reference", "status"), [("own.gguf", Status.OK), ("nowhere.gguf", Status.FAIL), ("hf:a/b:Q8_0", Status.OK)]
)
def test_a_model_outside_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, status: Status
) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    first = checks.check_models(load({"device.model": reference}).settings, tmp_path)[0]
    assert (first.subject, first.status) == ("model", status)


def test_no_server_is_fine_and_one_that_is_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(address: str, seconds: float) -> str:
        raise ServerUnavailableError(f"{address}: connection refused")

    assert the(checks.check_server(load().settings)).status is Status.OK
    settings = load({"server.address": "localhost:1"}).settings
    monkeypatch.setattr("crayon.cli.shared.client.server_report", away)
    finding = the(checks.check_server(settings))
    assert finding.status is Status.FAIL
    assert "connection refused" in finding.detail


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library passes: its real test has its own."""
    monkeypatch.setattr(checks, "check_library", lambda: [CheckResult("library", Status.OK, "loads")])


def test_doctor_says_which_model_auto_takes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Facts(
        larger_here=True,
        small_here=True,
        may_fetch=True,
        need=GIB,
        room=4 * GIB,
        disk_need=GIB,
        disk_room=4 * GIB,
        cores=2,
        vectors=True,
        speed=Speed(200.0, 30.0),
    )
    settings = load().settings
    monkeypatch.setattr("crayon.device.auto.gather", lambda *_, **__: facts)
    found, named = checks.check_device(settings, timing=True)
    assert f"auto takes {LARGER}" in the(found).detail
    assert "1,024 MiB of 4,096 MiB free; 0.36 s for a question, 30 tokens/s" in the(found).detail
    assert named.device.model == LARGER
    # Nothing is timed where the library does not run.
    facts = dataclasses.replace(facts, speed=None)
    found, named = checks.check_device(settings, timing=False)
    assert the(found).status is Status.WARN
    assert named is settings
    given = load({"device.model": "m.gguf"}).settings
    found, named = checks.check_device(given, timing=True)
    assert the(found).detail == "m.gguf, as device.model says"
    assert named is given


def test_doctor_prints_findings_and_ends_well(runner: CliRunner, sound: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_DEVICE__MODEL", "smollm2-135m-instruct")
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert all(line[:4].strip() in {"ok", "warn", ""} for line in result.stdout.splitlines())
    assert "model smollm2-135m-instruct" in result.stdout
    assert "-> crayon models pull smollm2-135m-instruct" in result.stdout


def test_doctor_json_and_exit_code_1_on_a_failure(
    runner: CliRunner, sound: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_DEVICE__THREADS", "many")
    result = runner.invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert not record["ok"]
    findings = {finding["subject"]: finding for finding in record["findings"]}
    assert findings["settings"]["status"] == "fail"
    assert "device.threads" in findings["settings"]["detail"]
    assert {"cpu", "cores", "memory", "disk", "library", "server"} <= set(findings)


def test_this_machine_can_be_inspected() -> None:
    found = inspect_machine()
    assert 1 <= found.usable_cores <= found.allowed_cores <= found.logical_cores
    assert 0 < found.memory_available <= found.memory
    assert found.cpu
    assert set(found.instruction_sets) <= set(INSTRUCTION_SETS)


def groups(tmp_path: Path, cgroup: str, files: dict[str, str]) -> dict[str, Path]:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": tmp_path / "proc", "root": tmp_path / "sys"}


def test_quota_and_limit_of_version_2_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000\n",
        "a/cpu.max": "150000 100000\n",
        "a/b/cpu.max": "400000 100000\n",
        "a/memory.max": "1000\n",
        "a/b/memory.max": "max\n",
    }
    where = groups(tmp_path, "0::/a/b\n", files)
    assert cpu_quota(**where) == 1.5
    assert memory_limit(**where) == 1000


def test_the_memory_that_is_left_is_what_the_tightest_group_leaves(tmp_path: Path) -> None:
    where = groups(
        tmp_path,
        "0::/a\n4:memory:/box\n",
        {
            "a/memory.max": "900000\n",
            "a/memory.current": "500000\n",
            "a/memory.stat": "anon 1\ninactive_file 100000\n",
            "memory/box/memory.limit_in_bytes": "800000\n",
            "memory/box/memory.usage_in_bytes": "200000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "1\n",
        },
    )
    assert memory_room(**where) == 500_000
    (tmp_path / "sys" / "a" / "memory.current").write_text("2000000\n")
    assert memory_room(**where) == 0
    assert 0 < memory_room(tmp_path, tmp_path) <= inspect_machine().memory


def test_quota_and_limit_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu/box/cpu.cfs_quota_us": "50000\n",
        "cpu/box/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/box/memory.limit_in_bytes": "2000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    where = groups(tmp_path, "4:memory:/box\n3:cpu,cpuacct:/box\n", files)
    assert cpu_quota(**where) == 0.5
    assert memory_limit(**where) == 2000


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "garbage\n0::/../../up\n"])
def test_without_limits_there_are_none(tmp_path: Path, cgroup: str) -> None:
    where = groups(tmp_path, cgroup, {})
    assert cpu_quota(**where) is None
    assert memory_limit(**where) is None


def test_cpuinfo_of_both_families() -> None:
    assert parse_cpuinfo("model name\t: Big CPU\nflags\t\t: avx2 fma\n") == ("Big CPU", {"avx2", "fma"})
    assert parse_cpuinfo("Features\t: asimd i8mm\nModel\t: Raspberry Pi\n") == ("Raspberry Pi", {"asimd", "i8mm"})
