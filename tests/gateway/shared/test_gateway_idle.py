"""Models that nobody asks are unloaded, and come back."""

from __future__ import annotations

import asyncio
import time

import pytest
from gateway_tools import HELLO, asking

from crayon import AsyncCrayon
from crayon.errors import ModelFileError
from crayon.gateway.shared.gateway import Gateway
from crayon.gateway.shared.panel import Panel

CHAT = "/v1/chat/completions"
IDLE_S = 0.2


@pytest.fixture
def opened(device):
    """What was opened, in order: each client in front of the same device."""
    return []


@pytest.fixture
def gateway(device, opened):
    def reopen():
        opened.append(AsyncCrayon(device, calibration=False))
        return opened[-1]

    return Gateway(reopen(), reopen=reopen, idle_seconds=IDLE_S, panel=Panel())


async def unloaded(http) -> None:
    end = time.monotonic() + 60
    while (await http.get("/crayon/process")).json()["models"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_they_are_unloaded_and_the_next_request_loads_them(gateway, opened) -> None:
    async with asking(gateway) as http:
        assert (await http.post(CHAT, json=HELLO)).status_code == 200
        await unloaded(http)
        assert len(opened) == 1
        assert (await http.get("/health")).json()["status"] == "ok"
        assert (await http.get("/crayon/ledger")).status_code == 200
        assert (await http.get("/crayon/process")).json()["models"] == [], "who looks on wakes nobody"
        replies = await asyncio.gather(*(http.post(CHAT, json=HELLO) for _ in range(3)))
        assert [reply.status_code for reply in replies] == [200] * 3
        assert len(opened) == 2, "they are loaded once for all who wait"
        assert (await http.get("/crayon/process")).json()["models"] == ["small"]


async def test_a_list_of_models_wakes_them_too(gateway, opened) -> None:
    async with asking(gateway) as http:
        await unloaded(http)
        assert (await http.get("/v1/models")).status_code == 200
    assert len(opened) == 2


async def test_models_that_do_not_come_back_are_said_and_tried_again(gateway, opened, monkeypatch) -> None:
    async with asking(gateway) as http:
        await unloaded(http)
        with monkeypatch.context() as patch:

            async def broken(_: AsyncCrayon) -> None:
                raise ModelFileError("the file is gone")

            patch.setattr(AsyncCrayon, "load", broken)
            reply = await http.post(CHAT, json=HELLO)
        assert reply.status_code == 500
        assert "the file is gone" in reply.json()["error"]["message"]
        assert (await http.post(CHAT, json=HELLO)).status_code == 200


async def test_what_runs_is_not_unloaded(gateway, opened) -> None:
    async with asking(gateway) as http:
        with gateway.admitted("somebody"):
            await asyncio.sleep(4 * IDLE_S)
            assert (await http.get("/crayon/process")).json()["models"] == ["small"]
        await unloaded(http)
    assert len(opened) == 1


async def test_without_a_way_back_they_stay(device) -> None:
    gateway = Gateway(AsyncCrayon(device, calibration=False), idle_seconds=0.01, panel=Panel())
    async with asking(gateway) as http:
        await asyncio.sleep(0.2)
        assert (await http.get("/crayon/process")).json()["models"] == ["small"]
