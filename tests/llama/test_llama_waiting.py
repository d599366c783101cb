"""How long llama.cpp's threads spin is set while the library loads, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, json, os
from crayon.llama import library
library.load()
child = os.popen("echo ${GOMP_SPINCOUNT-unset}").read().strip()
print(json.dumps({"after": os.environ.get("GOMP_SPINCOUNT"), "child": child}))
"""


def run(**given: str) -> tuple[dict[str, str | None], str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    # libgomp prints the settings that it has read.
    environment = {**plain, "OMP_DISPLAY_ENV": "verbose", **given}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's")
def test_threads_spin_briefly_and_children_do_not_inherit_it() -> None:
    found, settings = run()
    assert found == {"after": None, "child": "unset"}
    assert "GOMP_SPINCOUNT = '300'" in settings


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's")
def test_a_setting_of_the_user_is_kept() -> None:
    found, settings = run(GOMP_SPINCOUNT="7000")
    assert found == {"after": "7000", "child": "7000"}
    assert "GOMP_SPINCOUNT = '7000'" in settings
