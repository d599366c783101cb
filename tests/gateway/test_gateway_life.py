"""What a gateway does when its client hangs up, when there is too much, and when it stops."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx2
import pytest
from gateway_tools import HELLO, asking, chunks, serving
from sdk_fakes import DONE, Fake, Hang, delta

from crayon.config import GatewaySettings
from crayon.errors import ConfigError, ModelFileError
from crayon.gateway.serving import GatewayServer

CHAT = "/v1/chat/completions"


async def until(told, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not told():  # noqa: ASYNC110 - another thread changes it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
async def test_who_hangs_up_frees_the_row(make, stream) -> None:
    device = Fake("small", scripts=[[delta("so far"), Hang]])
    gateway = make(device, hardness=False)
    async with serving(gateway) as address:
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        body = json.dumps({**HELLO, "stream": stream})
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        if stream:
            await reader.readuntil(b"so far")
        else:
            await until(lambda: device.streams)
        assert (gateway.running, device.streams[0].cancelled) == (1, False)
        writer.close()
        await until(lambda: device.streams[0].cancelled)
        await until(lambda: gateway.running == 0)


async def test_a_client_that_gives_up_waiting_frees_the_row(make) -> None:
    device = Fake("small", scripts=[[Hang]])
    gateway = make(device)
    async with serving(gateway) as address, httpx2.AsyncClient(base_url=address) as http:
        asked = asyncio.create_task(http.post(CHAT, json=HELLO))
        await until(lambda: device.streams)
        asked.cancel()
        await until(lambda: device.streams[0].cancelled)


async def test_silence_is_broken_by_comments_before_the_first_token(make) -> None:
    go = threading.Event()
    device = Fake("small", scripts=[[go, delta("late"), DONE]])
    async with (
        serving(make(device, hardness=False, keep_alive=0.05)) as address,
        httpx2.AsyncClient(base_url=address) as http,
        http.stream("POST", CHAT, json={"stream": True, **HELLO}) as reply,
    ):
        text = ""
        async for part in reply.aiter_text():
            text += part
            if text.count(": keep-alive") >= 2:
                go.set()
    assert reply.status_code == 200
    assert "x-crayon-source" not in reply.headers  # nobody knew yet
    events = chunks(text)
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["crayon"]["source"] == "device"


async def test_too_many_at_once_are_told_when_to_come_back(make) -> None:
    device = Fake("small", scripts=[[Hang]])
    async with serving(make(device, max_requests=1)) as address, httpx2.AsyncClient(base_url=address) as http:
        first = asyncio.create_task(http.post(CHAT, json=HELLO))
        await until(lambda: device.streams)
        second = await http.post(CHAT, json=HELLO)
        first.cancel()
    assert (second.status_code, second.json()["error"]["code"]) == (429, "overloaded")
    assert int(second.headers["retry-after"]) >= 1


async def test_a_server_answers_where_the_device_cannot_be_opened(make, server, monkeypatch) -> None:
    def broken(*_: object, **__: object):
        raise ModelFileError("damaged")

    monkeypatch.setattr("crayon.device.DeviceEngine.open", broken)
    async with asking(make("somewhere.gguf", server)) as http:
        reply = await http.post(CHAT, json=HELLO)
        models = await http.get("/v1/models")
    assert (reply.status_code, reply.json()["crayon"]["source"]) == (200, "server")
    assert next(m for m in models.json()["data"] if m["id"] == "crayon/device")["context_length"] is None


async def test_without_anybody_to_answer_it_says_why(make, monkeypatch) -> None:
    def broken(*_: object, **__: object):
        raise ModelFileError("damaged")

    monkeypatch.setattr("crayon.device.DeviceEngine.open", broken)
    gateway = make("somewhere.gguf")
    with pytest.raises(ModelFileError):
        await gateway.load()
    async with asking(gateway, load=False) as http:
        reply = await http.post(CHAT, json=HELLO)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "load_failed")
    assert reply.headers["x-should-retry"] == "false"


async def test_a_port_that_is_taken_is_said_before_anything_is_loaded(make, device) -> None:
    first = GatewayServer(make(device), GatewaySettings(port=0))
    await first.start()
    try:
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(ConfigError, match="--port"):
            GatewayServer(make(device), GatewaySettings(port=port))
    finally:
        await first.stop()


async def test_models_have_context_and_capabilities(make, device, server) -> None:
    async with asking(make(device, server)) as http:
        listed = (await http.get("/v1/models")).json()
        one, none = await http.get("/v1/models/crayon/device"), await http.get("/v1/models/nobody")
    assert [model["id"] for model in listed["data"]] == ["crayon", "crayon/device", "crayon/server"]
    assert all(model["context_length"] == 1024 for model in listed["data"])
    assert one.json() == listed["data"][1]
    assert none.status_code == 404
