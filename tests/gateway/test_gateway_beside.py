"""`crayon serve --http`: the server's own model over HTTP, in one process and loop with gRPC."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx2
import pytest
from gateway_tools import chunks

from crayon import AsyncCrayon
from crayon.config import GatewaySettings
from crayon.gateway.beside import HttpBeside
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.limits import Limits
from crayon.server.serve import Server

CHAT = "/v1/chat/completions"
HELLO = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


@asynccontextmanager
async def serving(engine=None, **config):
    """Give both addresses of a server and its engine."""
    engine = engine or EchoEngine()
    beside = HttpBeside(GatewaySettings(port=0, drain_seconds=5), default_deadline=30, max_deadline=60)
    server = Server(ServeConfig(port=0, drain_seconds=5, **config), beside)
    address = await server.start()
    async with httpx2.AsyncClient(base_url=beside.address, timeout=30) as http:
        loading = await http.post(CHAT, json=HELLO)
        assert (loading.status_code, loading.json()["error"]["code"]) == (503, "loading")
        await server.load(lambda: engine)
        try:
            yield address, http, engine
        finally:
            await server.stop()


async def test_one_engine_answers_both() -> None:
    async with serving() as (address, http, _):
        models = (await http.get("/v1/models")).json()["data"]
        whole = await http.post(CHAT, json=HELLO)
        stream = await http.post(CHAT, json={**HELLO, "stream": True})
        async with AsyncCrayon(None, address) as client:
            over_grpc = await client.ask("one two three")
    assert [model["id"] for model in models] == ["echo"]
    assert whole.json()["choices"][0]["message"]["content"] == over_grpc.text == "one two three"
    assert (whole.json()["crayon"]["source"], whole.headers["x-crayon-source"]) == ("server", "server")
    assert (
        "".join(each["choices"][0]["delta"].get("content", "") for each in chunks(stream.text)[:-1]) == over_grpc.text
    )


async def test_a_server_is_nobodys_device() -> None:
    async with serving() as (_, http, _engine):
        private = await http.post(CHAT, json={**HELLO, "crayon": {"private": True}})
        device = await http.post(CHAT, json={**HELLO, "crayon": {"mode": "only_on_device"}})
        blend = await http.post(CHAT, json={**HELLO, "crayon": {"blend": "school"}})
        own = await http.post(CHAT, json={**HELLO, "crayon": {"mode": "only_on_server"}})
    assert [reply.status_code for reply in (private, device, blend, own)] == [403, 403, 400, 200]


async def test_who_hangs_up_frees_the_row_within_a_step() -> None:
    said = []

    class Counting(EchoEngine):
        def generate(self, request):
            stream = super().generate(request)
            push = stream.push
            stream.push = lambda event: (said.append(event), push(event))[1]
            return stream

    async with serving(Counting(delay=0.05)) as (_, http, engine):
        asked = {**HELLO, "stream": True, "messages": [{"role": "user", "content": "word " * 400}]}
        async with http.stream("POST", CHAT, json=asked) as reply:
            async for part in reply.aiter_text():
                if part.count("word") >= 1:
                    break
        async with asyncio.timeout(10):
            while engine.running:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(0.005)
        steps = len(said)
    assert steps < 40  # of 400: those that were on their way, whatever the machine does beside


async def test_callers_are_held_to_the_servers_limits_and_charged() -> None:
    async with serving(limits=Limits(tokens_per_minute=5)) as (_, http, _engine):
        first = await http.post(CHAT, json=HELLO)
        second = await http.post(CHAT, json=HELLO)
    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1


async def test_the_engine_knows_each_caller_and_the_latest_end() -> None:
    seen = []

    class Noting(EchoEngine):
        def generate(self, request):
            seen.append(request)
            return super().generate(request)

    async with serving(Noting()) as (_, http, _engine):
        await http.post(CHAT, json={**HELLO, "crayon": {"timeout": 100000}})
        long = {**HELLO, "messages": [{"role": "user", "content": "x " * 9000}]}
        too_long = await http.post(CHAT, json=long)
    assert seen[0].client == "ipv4:127.0.0.1"
    assert seen[0].deadline - asyncio.get_running_loop().time() < 61
    assert too_long.json()["error"]["code"] == "context_length_exceeded"


async def test_embeddings_come_from_the_server() -> None:
    async with serving() as (_, http, _engine):
        reply = await http.post("/v1/embeddings", json={"model": "echo", "input": ["a", "b"]})
        ollama = await http.post("/api/chat", json={**HELLO, "stream": False})
    assert (len(reply.json()["data"]), reply.headers["x-crayon-source"]) == (2, "server")
    assert ollama.json()["message"]["content"] == "one two three"


async def test_a_stop_waits_for_answers_and_closes_both_ports() -> None:
    beside = HttpBeside(GatewaySettings(port=0, drain_seconds=5), default_deadline=30, max_deadline=60)
    server = Server(ServeConfig(port=0, drain_seconds=5), beside)
    await server.start()
    engine = EchoEngine(delay=0.05)
    await server.load(lambda: engine)
    async with httpx2.AsyncClient(base_url=beside.address, timeout=30) as http:
        asked = asyncio.create_task(http.post(CHAT, json=HELLO))
        async with asyncio.timeout(10):
            while not engine.running:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(0.005)
        await server.stop()
        assert (await asked).json()["choices"][0]["message"]["content"] == "one two three"
        with pytest.raises(httpx2.ConnectError):
            await http.get("/health")
