from __future__ import annotations

import pytest
from gateway_tools import asking, chunks
from sdk_fakes import Fake, answer, delta

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Finished
from crayon.errors import EngineError, OverloadedError, PromptTooLongError

MESSAGES = "/v1/messages"
HELLO = {"model": "crayon", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
CUT = Finished(FinishReason.LENGTH, Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4), Timings())


async def test_a_message_has_its_blocks_usage_and_route(make) -> None:
    device = Fake("small", scripts=[[delta("so"), delta(" far"), CUT]])
    async with asking(make(device)) as http:
        body = (await http.post(MESSAGES, json={**HELLO, "system": [{"type": "text", "text": "Be brief."}]})).json()
    assert (body["type"], body["role"], body["stop_reason"]) == ("message", "assistant", "max_tokens")
    assert body["content"] == [{"type": "text", "text": "so far", "citations": None}]
    assert (body["usage"]["input_tokens"], body["usage"]["cache_read_input_tokens"]) == (5, 4)
    assert body["crayon"]["source"] == "device"
    assert [(m.role, m.content) for m in device.requests[0].messages] == [("system", "Be brief."), ("user", "hello")]
    assert device.requests[0].sampling.max_tokens == 20


async def test_a_stream_is_named_events_in_their_order(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(MESSAGES, json={**HELLO, "stream": True})
    events = chunks(reply.text)
    names = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    texts = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(texts) == "hello from here"
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert (events[-2]["usage"]["output_tokens"], events[-2]["crayon"]["source"]) == (3, "device")


async def test_a_failure_mid_stream_is_an_error_event(make) -> None:
    device = Fake("small", scripts=[[delta("so far"), EngineError("broke")]])
    async with asking(make(device)) as http:
        reply = await http.post(MESSAGES, json={**HELLO, "stream": True})
    assert reply.text.rstrip().splitlines()[-2] == "event: error"
    assert chunks(reply.text)[-1]["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (PromptTooLongError(900, 511), 400, "invalid_request_error"),
        (OverloadedError("full"), 429, "rate_limit_error"),
    ],
)
async def test_errors_are_anthropics(make, error, status, kind) -> None:
    async with asking(make(Fake("small", scripts=[[error]]))) as http:
        reply = await http.post(MESSAGES, json=HELLO)
        unknown = await http.post(MESSAGES, json={**HELLO, "model": "claude"})
    assert (reply.status_code, reply.json()["type"], reply.json()["error"]["type"]) == (status, "error", kind)
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("max_tokens", None, "max_tokens"),
        ("tools", [{"type": "web_search_20250305", "name": "f"}], "tools[0].type"),
        ("thinking", {"type": "enabled", "budget_tokens": 1024}, "thinking"),
        ("stop_sequences", [""], "stop_sequences"),
        ("messages", [{"role": "user", "content": [{"type": "image", "source": {}}]}], "messages[0].content[0].type"),
        ("top", 1, "top"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(make, device, field, value, named) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(MESSAGES, json={**HELLO, field: value})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith(f"{named}:")


async def test_a_schema_reaches_the_engine(make) -> None:
    device = Fake("small", scripts=[answer('{"a":1}')])
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    async with asking(make(device)) as http:
        reply = await http.post(MESSAGES, json={**HELLO, "output_config": {"format": form}})
    assert reply.status_code == 200
    assert device.requests[0].constraint is not None


async def test_tokens_are_counted_by_the_device(make, server) -> None:
    class Counting(Fake):
        def count_tokens(self, messages):
            return sum(len(message.content.split()) for message in messages)

    asked = {"model": "crayon", "system": "be brief", "messages": [{"role": "user", "content": "one two three"}]}
    async with asking(make(Counting("small"))) as http:
        counted = await http.post("/v1/messages/count_tokens", json=asked)
    async with asking(make(None, server)) as http:
        nobody = await http.post("/v1/messages/count_tokens", json=asked)
    assert counted.json() == {"input_tokens": 5}
    assert nobody.status_code == 400
