"""A library whose AMX kernels end the process is found out in another process, once, and used without them."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from crayon.llama import amx, library, smoke
from crayon.llama.model import Model

if TYPE_CHECKING:
    from pathlib import Path

RUN = subprocess.run
AMX = "CPU : AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1 |"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A library with AMX, on a CPU with it, of which nobody knows anything yet."""
    path = tmp_path / "libggml-cpu.so"
    path.write_bytes(b"one")
    monkeypatch.setattr(amx, "_wanted", lambda info: "AMX_INT8 = 1" in info)
    monkeypatch.setattr(amx.library, "load", lambda: SimpleNamespace(system_info=AMX))
    monkeypatch.setattr(amx.library, "backend_file", lambda: path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    amx.runs.cache_clear()
    monkeypatch.setattr(amx, "runs", amx.runs.__wrapped__)
    return path


def tried(monkeypatch: pytest.MonkeyPatch, code: str) -> list[int]:
    """Let the child process run this instead, and count."""
    calls: list[int] = []
    real = RUN

    def run(_command: Any, **values: Any) -> Any:
        calls.append(1)
        return real([sys.executable, "-c", code], **values)

    monkeypatch.setattr(amx.subprocess, "run", run)
    return calls


def test_a_build_that_dies_is_used_without_and_asked_once(
    monkeypatch: pytest.MonkeyPatch, build: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tried(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with caplog.at_level(logging.WARNING, "crayon.llama"):
        assert not amx.runs()
    assert amx.REBUILD in caplog.text
    assert "-fno-dse" in amx.REBUILD
    assert not amx.runs()
    assert len(calls) == 1
    build.write_bytes(b"another build")
    calls = tried(monkeypatch, "pass")
    assert amx.runs()
    assert amx.runs()
    assert len(calls) == 1


def test_a_probe_that_hangs_counts_as_broken(monkeypatch: pytest.MonkeyPatch, build: Path) -> None:
    assert build.is_file()
    monkeypatch.setattr(amx, "_PATIENCE_S", 0.2)
    tried(monkeypatch, "import time; time.sleep(60)")
    assert not amx.runs()


@pytest.mark.usefixtures("build")
def test_without_amx_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx.library, "load", lambda: SimpleNamespace(system_info="CPU : AVX2 = 1 |"))
    calls = tried(monkeypatch, "raise SystemExit(1)")
    assert amx.runs()
    assert not calls


def test_a_cache_that_cannot_be_written_is_no_fault(monkeypatch: pytest.MonkeyPatch, build: Path) -> None:
    (build.parent / "cache").write_text("a file where the folder should be")
    calls = tried(monkeypatch, "pass")
    assert amx.runs()
    assert amx.runs()
    assert len(calls) == 2


def test_the_real_probe_ends_well_or_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this very machine, whatever it is: a library that has no AMX passes."""
    codes: list[int] = []
    real = RUN

    def run(*command: Any, **values: Any) -> Any:
        done = real(*command, **values)
        codes.append(done.returncode)
        assert not done.stderr or done.returncode < 0, done.stderr
        return done

    monkeypatch.setattr(amx.subprocess, "run", run)
    assert amx._try() == (codes == [0])
    assert codes[0] <= 0


def test_models_are_loaded_without_the_kernels_that_break(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    api = library.load().api
    real = api.llama_model_load_from_file

    def load(path: bytes, params: Any) -> Any:
        seen.append(params.use_extra_bufts)
        return real(path, params)

    monkeypatch.setattr(api, "llama_model_load_from_file", load)
    for works in (False, True):
        monkeypatch.setattr(amx, "runs", lambda works=works: works)
        Model(smoke.BASE).close()
    assert seen == [False, True]
