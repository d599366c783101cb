"""Calls of tools and thoughts, in each dialect: what is offered, what is asked for, and results that come back."""

from __future__ import annotations

import json

from gateway_tools import asking, chunks
from sdk_fakes import TIMINGS, Fake, answer

from crayon.completion import FinishReason, Usage
from crayon.engine import Delta, Finished
from crayon.messages import ToolCall

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}
CALLS = (ToolCall("call_1", "weather", '{"city":"Oslo"}'), ToolCall("call_2", "weather", '{"city":"Rome"}'))
ASKED = [{"role": "user", "content": "And the weather?"}]
USAGE = Usage(prompt_tokens=5, completion_tokens=9, reasoning_tokens=2)
CALLING = [
    Delta("", reasoning="Let me look."),
    Delta("I look."),
    *(Delta("", calls=(call,)) for call in CALLS),
    Finished(FinishReason.TOOL_CALLS, USAGE, TIMINGS),
]


def calling() -> Fake:
    return Fake("small", scripts=[CALLING, answer("12 degrees")])


async def test_openais_chats_name_calls_by_index_and_the_reason_of_the_end(make) -> None:
    asked = {"model": "crayon", "messages": ASKED, "tools": [{"type": "function", "function": FUNCTION}]}
    device = Fake("small", scripts=[CALLING])
    async with asking(make(device)) as http:
        whole = (await http.post("/v1/chat/completions", json={**asked, "tool_choice": "required"})).json()
        stream = await http.post("/v1/chat/completions", json={**asked, "stream": True})
    message = whole["choices"][0]["message"]
    assert (whole["choices"][0]["finish_reason"], message["content"]) == ("tool_calls", "I look.")
    assert (message["reasoning"], message["reasoning_content"]) == ("Let me look.", "Let me look.")
    assert message["tool_calls"][1]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert [tool.name for tool in device.requests[0].tools.offered] == ["weather"]
    choices = [event["choices"][0] for event in chunks(stream.text)[:-1]]
    deltas = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert [(call["index"], call["id"], call["type"]) for call in deltas] == [
        (0, "call_1", "function"),
        (1, "call_2", "function"),
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_openais_results_come_back(make) -> None:
    device = calling()
    tools = [{"type": "function", "function": FUNCTION}]
    async with asking(make(device)) as http:
        first = (
            await http.post("/v1/chat/completions", json={"model": "crayon", "messages": ASKED, "tools": tools})
        ).json()
        said = first["choices"][0]["message"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "12"} for call in said["tool_calls"]]
        asked = {"model": "crayon", "messages": [*ASKED, said, *results], "tools": tools}
        second = await http.post("/v1/chat/completions", json=asked)
    assert second.json()["choices"][0]["message"]["content"] == "12 degrees"
    assert [message.role for message in device.requests[1].messages] == ["user", "assistant", "tool", "tool"]
    assert device.requests[1].messages[1].tool_calls == CALLS


async def test_anthropics_blocks_are_calls_and_results(make) -> None:
    tool = {"name": "weather", "description": "The weather.", "input_schema": PARAMETERS}
    asked = {"model": "crayon", "max_tokens": 50, "messages": ASKED, "tools": [tool], "tool_choice": {"type": "any"}}
    device = calling()
    async with asking(make(device)) as http:
        first = (await http.post("/v1/messages", json=asked)).json()
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "12", "is_error": block["id"] == "call_2"}
            for block in first["content"][1:]
        ]
        turns = [*ASKED, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
        second = (await http.post("/v1/messages", json={**asked, "messages": turns, "tool_choice": None})).json()
    assert (first["stop_reason"], [block["type"] for block in first["content"]]) == (
        "tool_use",
        ["text", "tool_use", "tool_use"],
    )
    assert first["content"][1]["input"] == {"city": "Oslo"}
    assert device.requests[0].tools.has_to
    assert second["content"][0]["text"] == "12 degrees"
    told = device.requests[1].messages
    assert [message.role for message in told] == ["user", "assistant", "tool", "tool"]
    assert [message.content for message in told[2:]] == ["12", "error: 12"]
    assert [call.parsed for call in told[1].tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]


async def test_anthropics_stream_opens_and_closes_each_block(make) -> None:
    tool = {"name": "weather", "input_schema": PARAMETERS}
    asked = {"model": "crayon", "max_tokens": 50, "messages": ASKED, "tools": [tool], "stream": True}
    async with asking(make(calling())) as http:
        events = chunks((await http.post("/v1/messages", json=asked)).text)
    told = [(event["type"], event["index"]) for event in events if "index" in event]
    assert told == [
        (kind, index)
        for index in range(3)
        for kind in ("content_block_start", "content_block_delta", "content_block_stop")
    ]
    partial = [event["delta"]["partial_json"] for event in events if event.get("delta", {}).get("partial_json")]
    assert [json.loads(text)["city"] for text in partial] == ["Oslo", "Rome"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_responses_have_calls_as_items_and_take_their_outputs(make) -> None:
    device = calling()
    asked = {"model": "crayon", "input": "And the weather?", "tools": [{"type": "function", **FUNCTION}]}
    async with asking(make(device)) as http:
        first = (await http.post("/v1/responses", json=asked)).json()
        outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "12"} for item in first["output"][1:]
        ]
        after = {**asked, "previous_response_id": first["id"], "input": outputs}
        second = (await http.post("/v1/responses", json=after)).json()
    assert [item["type"] for item in first["output"]] == ["message", "function_call", "function_call"]
    assert (first["status"], first["tools"][0]["name"]) == ("completed", "weather")
    assert second["output"][0]["content"][0]["text"] == "12 degrees"
    assert [message.role for message in device.requests[1].messages] == ["user", "assistant", "tool", "tool"]


async def test_responses_whose_calls_are_sent_back_as_items_are_the_same_conversation(make) -> None:
    device = Fake("small", scripts=[answer("12 degrees")])
    items = [
        {"role": "user", "content": "And the weather?"},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "12"},
    ]
    async with asking(make(device)) as http:
        assert (await http.post("/v1/responses", json={"model": "crayon", "input": items})).status_code == 200
    assert [message.role for message in device.requests[0].messages] == ["user", "assistant", "tool"]
    assert device.requests[0].messages[1].tool_calls == CALLS[:1]


async def test_a_stream_of_responses_numbers_its_items(make) -> None:
    asked = {"model": "crayon", "input": "?", "tools": [{"type": "function", **FUNCTION}], "stream": True}
    async with asking(make(calling())) as http:
        events = chunks((await http.post("/v1/responses", json=asked)).text)[:-1]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert [json.loads(event["arguments"])["city"] for event in done] == ["Oslo", "Rome"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call", "function_call"]


async def test_ollamas_calls_have_arguments_as_objects(make) -> None:
    device = calling()
    asked = {
        "model": "crayon",
        "messages": ASKED,
        "tools": [{"type": "function", "function": FUNCTION}],
        "stream": False,
    }
    async with asking(make(device)) as http:
        first = (await http.post("/api/chat", json=asked)).json()
        results = [{"role": "tool", "tool_name": "weather", "content": "12"}] * 2
        second = (await http.post("/api/chat", json={**asked, "messages": [*ASKED, first["message"], *results]})).json()
    assert first["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert (first["message"]["thinking"], first["done_reason"]) == ("Let me look.", "stop")
    assert second["message"]["content"] == "12 degrees"
