"""A gateway in front of fakes, asked in this process, and over loopback where a client hangs up."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sdk"))  # tests are no package; the fakes are shared

from sdk_fakes import Fake, FakeServer  # noqa: E402 - the path comes first

from crayon import AsyncCrayon  # noqa: E402
from crayon.config import GatewaySettings  # noqa: E402
from crayon.gateway.application import build  # noqa: E402
from crayon.gateway.gateway import Gateway  # noqa: E402
from crayon.gateway.serving import GatewayServer  # noqa: E402


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CRAYON_LOCAL_ONLY", raising=False)


def gateway_in_front_of(device=None, server=None, *, tmp_path, **options) -> Gateway:
    own = {name: options.pop(name) for name in ("fixed", "max_requests", "keep_alive") if name in options}
    client = AsyncCrayon(device, server, customizations_dir=tmp_path / "customizations", calibration=False, **options)
    return Gateway(client, **own)


@asynccontextmanager
async def asking(gateway, settings=None, tokens=None, *, load=True, host="127.0.0.1", client=("127.0.0.1", 1)):
    """Give an HTTP client of a gateway's routes, in this process."""
    app = build(gateway, settings or GatewaySettings(), tokens, loads=False)
    if load:
        await gateway.load()
    transport = httpx2.ASGITransport(app=app, client=client)
    async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}:1") as http:
        yield http
    await gateway.close()


@asynccontextmanager
async def serving(gateway, settings=None, tokens=None):
    """Give the address of a gateway that listens on loopback."""
    server = GatewayServer(gateway, settings or GatewaySettings(port=0), tokens)
    await gateway.load()
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop()
        await gateway.close()


@pytest.fixture
def device():
    return Fake("small")


@pytest.fixture
def server():
    return FakeServer("large")


@pytest.fixture
def make(tmp_path):
    def made(device=None, server=None, **options):
        return gateway_in_front_of(device, server, tmp_path=tmp_path, **options)

    return made


def chunks(text: str) -> list:
    """Return the data of server-sent events; `[DONE]` as it is."""
    found = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


HELLO = {"messages": [{"role": "user", "content": "hello"}]}
