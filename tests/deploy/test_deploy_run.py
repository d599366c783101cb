"""The server as the deployment files start it: a home it cannot write to, a service manager that listens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from deploy_tools import image_environment
from serving_tools import PATIENCE, until

if TYPE_CHECKING:
    from pathlib import Path

CRAYON = [sys.executable, "-c", "from crayon.cli import main; main()"]


@pytest.mark.parametrize("abstract", [False, True])
def test_a_server_without_a_home_tells_its_manager_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, abstract: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    name = f"@crayon-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CRAYON_", "XDG_"))}
    environment |= {key: value.replace("/var/lib/crayon", str(state)) for key, value in image_environment().items()}
    # Nobody can make a folder there, not even root.
    environment |= {"HOME": "/proc/nobody", "NOTIFY_SOCKET": name}
    del environment["CRAYON_SERVE__HEALTH_PORT"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if abstract else name)
        manager.settimeout(PATIENCE)
        ready = tmp_path / "ready"
        command = [*CRAYON, "serve", "--engine", "echo", "--port", "0", "--ready-file", str(ready)]
        process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True)
        try:
            assert manager.recv(100) == b"READY=1"
            until(ready.exists)
            health = [*CRAYON, "health", ready.read_text().strip()]
            asked = subprocess.run(health, env=environment, cwd="/", capture_output=True, text=True, timeout=PATIENCE)
            assert (asked.returncode, asked.stdout) == (0, "SERVING\n"), asked.stderr
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            process.wait(PATIENCE)
            assert process.returncode == 0, process.communicate()
        finally:
            process.kill()
            process.communicate()
    assert list(state.iterdir()) == []
