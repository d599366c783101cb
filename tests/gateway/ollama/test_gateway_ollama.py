from __future__ import annotations

import json

import pytest
from gateway_tools import asking
from sdk_fakes import Fake, delta

from crayon.errors import EngineError

CHAT = {"model": "crayon:latest", "messages": [{"role": "user", "content": "hello"}]}


def lines(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_chat_is_lines_of_json_unless_one_is_wanted(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post("/api/chat", json={**CHAT, "options": {"temperature": 0.5, "num_predict": 5}})
        one = await http.post("/api/chat", json={**CHAT, "stream": False})
    said = lines(reply.text)
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert "".join(line["message"]["content"] for line in said) == "hello from here"
    assert [line["done"] for line in said] == [False, False, False, True]
    assert (said[-1]["done_reason"], said[-1]["eval_count"], said[-1]["crayon"]["source"]) == ("stop", 3, "device")
    assert (device.requests[0].sampling.temperature, device.requests[0].sampling.max_tokens) == (0.5, 5)
    assert one.json()["message"]["content"] == "hello from here"


async def test_generate_asks_a_prompt_and_an_empty_one_loads(make, device) -> None:
    async with asking(make(device)) as http:
        asked = {"model": "crayon", "prompt": "hello", "system": "Be brief."}
        reply = await http.post("/api/generate", json=asked)
        empty = await http.post("/api/generate", json={"model": "crayon"})
    assert "".join(line["response"] for line in lines(reply.text)) == "hello from here"
    assert [message.role for message in device.requests[0].messages] == ["system", "user"]
    assert (empty.json()["done_reason"], len(device.requests)) == ("load", 1)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("options", {"mirostat": 1}, "options.mirostat"),
        ("options", {"num_ctx": 100000}, "options.num_ctx"),
        ("options", {"num_predict": 0}, "options.num_predict"),
        ("tools", [{"type": "function"}], "tools"),
        ("think", True, "think"),
        ("format", {"type": 5}, "format"),
        ("messages", [{"role": "user", "content": "x", "images": ["aGk="]}], "messages[0].images"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(make, device, field, value, named) -> None:
    async with asking(make(device)) as http:
        reply = await http.post("/api/chat", json={**CHAT, field: value})
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(named)


async def test_a_failure_mid_stream_is_a_line_with_the_error(make) -> None:
    device = Fake("small", scripts=[[delta("so far"), EngineError("broke")]])
    async with asking(make(device)) as http:
        said = lines((await http.post("/api/chat", json=CHAT)).text)
    assert said[-1] == {"error": "broke"}


async def test_models_are_listed_and_shown(make, device, server) -> None:
    async with asking(make(device, server)) as http:
        tags, running = (await http.get("/api/tags")).json(), (await http.get("/api/ps")).json()
        shown = await http.post("/api/show", json={"model": "crayon/device"})
        none = await http.post("/api/show", json={"model": "llama3"})
        version = (await http.get("/api/version")).json()
    assert [model["name"] for model in tags["models"]] == ["crayon", "crayon/device", "crayon/server"]
    assert running["models"][0]["context_length"] == 1024
    assert shown.json()["model_info"]["crayon.context_length"] == 1024
    assert (none.status_code, "error" in none.json()) == (404, True)
    assert version["version"].count(".") == 2
