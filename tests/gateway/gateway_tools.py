"""A gateway in front of fakes, asked in this process, and over loopback where a client hangs up."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx2

from crayon import AsyncCrayon
from crayon.config import GatewaySettings
from crayon.gateway.application import build
from crayon.gateway.serving import GatewayServer
from crayon.gateway.shared.gateway import Gateway


def gateway_in_front_of(device=None, server=None, *, tmp_path, **options) -> Gateway:
    own = {
        name: options.pop(name)
        for name in ("fixed", "max_requests", "keep_alive", "stored_responses")
        if name in options
    }
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


def chunks(text: str) -> list:
    """Return the data of server-sent events; `[DONE]` as it is."""
    found = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


HELLO = {"model": "crayon", "messages": [{"role": "user", "content": "hello"}]}
