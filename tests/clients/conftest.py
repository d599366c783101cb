"""A real gateway over loopback: SmolLM2 on the device, an echo behind gRPC as its server, a JSON schema, no network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CRAYON = ROOT / ".venv" / "bin" / "crayon"
# In the environment of `make test` there is nothing to ask with.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("openai") is None else []
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


def _started(folder: Path, name: str, *arguments: str) -> tuple[subprocess.Popen, str]:
    """Start the program and return it with the address that it tells."""
    ready, log = folder / f"{name}.ready", folder / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CRAYON_")}
    environment |= {"CRAYON_STATE_DIR": str(folder / "state"), "CRAYON_CUSTOMIZATIONS_DIR": str(folder / "custom")}
    environment.pop("PYTHONPATH", None)
    with log.open("w") as file:
        command = [CRAYON, name, *arguments, "--port", "0", "--ready-file", ready]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    until = time.monotonic() + 200
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(f"crayon {name} did not start:\n{log.read_text()}")
        time.sleep(0.1)
    return process, ready.read_text().strip()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory) -> str:
    """The gateway's address, without a path."""
    folder = tmp_path_factory.mktemp("gateway")
    server, address = _started(folder, "serve", "--engine", "echo")
    try:
        process, url = _started(folder, "gateway", "--device", "smollm2-135m-instruct", "--server", address)
        try:
            yield url
        finally:
            process.terminate()
            assert process.wait(60) == 0
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="session")
def v1(gateway: str) -> str:
    return f"{gateway}/v1"
