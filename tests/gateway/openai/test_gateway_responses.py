from __future__ import annotations

import pytest
from gateway_tools import asking, chunks, gateway_in_front_of
from sdk_fakes import Fake, delta

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Finished
from crayon.errors import EngineError
from crayon.server.tokens import TokenStore
from crayon.wire.tokens import Secret

RESPONSES = "/v1/responses"
HELLO = {"model": "crayon", "input": "hello"}


async def test_a_response_has_one_message_usage_and_route(make, device) -> None:
    async with asking(make(device)) as http:
        body = (await http.post(RESPONSES, json={**HELLO, "instructions": "Be brief.", "metadata": {"a": "b"}})).json()
    assert (body["object"], body["status"], body["error"]) == ("response", "completed", None)
    assert body["output"][0]["content"][0]["text"] == "hello from here"
    assert body["usage"]["total_tokens"] == 8
    assert (body["instructions"], body["metadata"], body["crayon"]["source"]) == ("Be brief.", {"a": "b"}, "device")
    assert [(m.role, m.content) for m in device.requests[0].messages] == [("system", "Be brief."), ("user", "hello")]


async def test_a_stream_is_numbered_events_in_their_order(make, device) -> None:
    async with asking(make(device)) as http:
        events = chunks((await http.post(RESPONSES, json={**HELLO, "stream": True})).text)
    assert events.pop() == "[DONE]"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "hello from here"
    assert events[-1]["response"]["crayon"]["source"] == "device"


async def test_an_answer_that_was_cut_is_incomplete(make) -> None:
    device = Fake("small", scripts=[[delta("so"), Finished(FinishReason.LENGTH, Usage(), Timings())]])
    async with asking(make(device)) as http:
        body = (await http.post(RESPONSES, json={**HELLO, "max_output_tokens": 1})).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_a_failure_mid_stream_is_an_error_and_a_failed_response(make) -> None:
    device = Fake("small", scripts=[[delta("so far"), EngineError("broke")]])
    async with asking(make(device)) as http:
        events = chunks((await http.post(RESPONSES, json={**HELLO, "stream": True})).text)
    assert [event["type"] for event in events[-3:-1]] == ["error", "response.failed"]
    assert events[-3]["error"]["code"] == "engine_failed"


async def test_a_later_request_goes_on_from_an_answer(make, device) -> None:
    async with asking(make(device)) as http:
        first = (await http.post(RESPONSES, json={**HELLO, "instructions": "Be brief."})).json()
        second = await http.post(RESPONSES, json={**HELLO, "input": "and now", "previous_response_id": first["id"]})
        shown = await http.get(f"{RESPONSES}/{first['id']}")
        gone = await http.delete(f"{RESPONSES}/{first['id']}")
        missing = await http.get(f"{RESPONSES}/{first['id']}")
        after = await http.post(RESPONSES, json={**HELLO, "previous_response_id": first["id"]})
    assert second.json()["previous_response_id"] == first["id"]
    assert [(m.role, m.content) for m in device.requests[1].messages] == [
        ("user", "hello"),
        ("assistant", "hello from here"),
        ("user", "and now"),
    ]
    assert (shown.json()["id"], gone.json()["deleted"], missing.status_code) == (first["id"], True, 404)
    assert (after.status_code, after.json()["error"]["param"]) == (400, "previous_response_id")


async def test_nothing_is_kept_that_is_not_to_be_and_the_oldest_go(device, tmp_path) -> None:
    gateway = gateway_in_front_of(device, tmp_path=tmp_path, stored_responses=2)
    async with asking(gateway) as http:
        await http.post(RESPONSES, json={**HELLO, "store": False})
        assert len(gateway.responses) == 0
        names = [(await http.post(RESPONSES, json=HELLO)).json()["id"] for _ in range(3)]
        found = [(await http.get(f"{RESPONSES}/{name}")).status_code for name in names]
    assert found == [404, 200, 200]


async def test_an_answer_is_nobody_elses(make, device) -> None:
    mine, yours = "a-token-of-some-length", "another-token-of-length"
    tokens = TokenStore(None, [Secret(f"me:{mine}"), Secret(f"you:{yours}")])
    async with asking(make(device), tokens=tokens) as http:
        me, you = ({"authorization": f"Bearer {token}"} for token in (mine, yours))
        name = (await http.post(RESPONSES, json=HELLO, headers=me)).json()["id"]
        statuses = [(await http.get(f"{RESPONSES}/{name}", headers=who)).status_code for who in (me, you)]
    assert statuses == [200, 404]


async def test_a_form_is_one_level_higher_than_in_chats(make, device) -> None:
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}
    async with asking(make(device)) as http:
        assert (await http.post(RESPONSES, json={**HELLO, "text": {"format": form}})).status_code == 200
    assert device.requests[0].constraint is not None


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("tools", [{"type": "web_search"}], "tools[0].type"),
        ("truncation", "auto", "truncation"),
        ("background", True, "background"),
        ("reasoning", {"effort": "high"}, "reasoning"),
        ("input", [{"type": "item_reference", "id": "a"}], "input[0].type"),
        ("input", 5, "input"),
        ("text", {"format": {"type": "xml"}}, "text.format.type"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("stop", "x", "stop"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(make, device, field, value, param) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(RESPONSES, json={**HELLO, field: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
