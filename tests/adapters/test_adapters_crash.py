"""A pool that is being replaced when its process is killed, or when a name cannot be given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pool_tools import shared_pool

from crayon.adapters import Pool
from crayon.adapters.folder import STALE_SECONDS
from crayon.errors import AdapterError

PATIENCE = 120

# Forks a process for each line of the writing code, which saves and is killed before that line; then opens the pool.
KILLER = r"""
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_adapters_crash import new, old
from crayon.adapters import Pool, folder as module
os.fsync = lambda descriptor: None

def save(folder, k):
    left = k
    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    new().save(folder)
    sys.settrace(None)

seen = []
for k in range(1000):
    folder = Path(sys.argv[1]) / str(k)
    old().save(folder)
    child = os.fork()
    if child == 0:
        save(folder, k)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen.append({old().id: "old", new().id: "new"}[Pool.open(folder).id])
    old().save(folder)
    assert Pool.open(folder).id == old().id
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
else:
    sys.exit("never ended")
print(k, *dict.fromkeys(seen))
"""


def old() -> Pool:
    return shared_pool()


def new() -> Pool:
    """A pool of other numbers, and larger."""
    return shared_pool(5)


def test_a_pool_that_is_killed_before_any_line_of_writing_opens_as_the_old_or_the_new(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    paths = [path for path in sys.path if path.startswith(tests)]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), *paths],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, *seen = done.stdout.split()
    assert int(count) > 15
    assert seen == ["old", "new"], "one, and then the other"


def test_a_name_that_cannot_be_given_leaves_a_pool_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace
    for k, expected, says in ((1, old(), "nothing was changed"), (2, new(), "write it again")):
        folder, count = tmp_path / str(k), [0]
        old().save(folder)

        def failing(*args: Any, count: list[int] = count, k: int = k) -> None:
            count[0] += 1
            if count[0] >= k:
                raise OSError(5, "Input/output error")
            real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            with pytest.raises(AdapterError, match=says):
                new().save(folder)
        assert Pool.open(folder).id == expected.id
        old().save(folder)
        assert Pool.open(folder).id == old().id


def test_a_pool_that_is_damaged_is_not_mended_by_a_part_of_another(tmp_path: Path) -> None:
    old().save(tmp_path)
    new().save(tmp_path / "other")
    (tmp_path / "pool.json.0123.partial").write_bytes((tmp_path / "other" / "pool.json").read_bytes())
    (tmp_path / "pool.json.4567.partial").write_bytes(b"{")
    assert Pool.open(tmp_path).id == old().id
    tensors = tmp_path / "pool.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    with pytest.raises(AdapterError, match=r"pool\.safetensors: is damaged or was changed"):
        Pool.open(tmp_path)


def test_parts_that_killed_processes_left_go_when_they_are_old(tmp_path: Path) -> None:
    ages = {"pool.safetensors.aa.partial": 2 * STALE_SECONDS, "pool.json.bb.partial": 2 * STALE_SECONDS}
    ages |= {"pool.json.cc.partial": 0.0, "notes.partial": 2 * STALE_SECONDS}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    old().save(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"pool.json", "pool.safetensors", "pool.json.cc.partial", "notes.partial"}
