from __future__ import annotations

import pytest
from gateway_tools import HELLO, asking, chunks
from sdk_fakes import UNSURE, Fake, answer, delta

from crayon.errors import (
    DeadlineExceededError,
    EngineError,
    OverloadedError,
    PromptTooLongError,
    ServerRejectedError,
    ServerUnavailableError,
)

CHAT = "/v1/chat/completions"


async def test_a_whole_answer_has_the_shape_and_the_route(make, device, server) -> None:
    async with asking(make(device, server, hardness=False)) as http:
        reply = await http.post(CHAT, json=HELLO)
    body = reply.json()
    assert (reply.status_code, body["object"], body["model"]) == (200, "chat.completion", "crayon")
    assert body["choices"][0]["message"]["content"] == "hello from here"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 8
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert (body["crayon"]["source"], body["crayon"]["reason"], body["crayon"]["model"]) == ("device", "mode", "small")
    assert (reply.headers["x-crayon-source"], reply.headers["x-crayon-bytes-sent"]) == ("device", "0")
    assert reply.headers["x-request-id"]


async def test_a_stream_begins_with_the_role_and_ends_with_usage_route_and_done(make, device, server) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}, **HELLO}
    async with asking(make(device, server, hardness=False)) as http:
        reply = await http.post(CHAT, json=asked)
    events = chunks(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-crayon-source"] == "device"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in events[:-2]) == "hello from here"
    assert events[-3]["choices"][0]["finish_reason"] == "stop"
    assert events[-3]["crayon"]["source"] == "device"
    assert (events[-2]["choices"], events[-2]["usage"]["completion_tokens"]) == ([], 3)
    assert events[-1] == "[DONE]"
    assert len({each["id"] for each in events[:-1]}) == 1


async def test_without_include_usage_no_chunk_has_any(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={"stream": True, **HELLO})
    assert not any("usage" in each for each in chunks(reply.text)[:-1])


async def test_an_unsure_device_is_told_with_score_and_threshold(make, server) -> None:
    device = Fake("small", scripts=[answer("perhaps so or so or so", UNSURE)])
    async with asking(make(device, server)) as http:
        reply = await http.post(CHAT, json=HELLO)
    assert (reply.headers["x-crayon-source"], reply.headers["x-crayon-reason"]) == ("server", "unsure")
    assert float(reply.headers["x-crayon-score"]) < float(reply.headers["x-crayon-threshold"])
    assert int(reply.headers["x-crayon-bytes-sent"]) == len("hello")
    assert reply.json()["crayon"]["bytes_sent"] == len("hello")


@pytest.mark.parametrize(
    ("model", "source"), [("crayon/device", "device"), ("crayon/server", "server"), ("crayon", "device")]
)
async def test_models_name_the_side(make, device, server, model, source) -> None:
    async with asking(make(device, server, hardness=False)) as http:
        reply = await http.post(CHAT, json={**HELLO, "model": model})
    assert reply.json()["crayon"]["source"] == source


async def test_wishes_come_as_fields_and_as_headers(make, device, server) -> None:
    async with asking(make(device, server, hardness=False)) as http:
        by_field = await http.post(CHAT, json={"crayon": {"mode": "only_on_server"}, **HELLO})
        by_header = await http.post(CHAT, json=HELLO, headers={"x-crayon-mode": "only_on_server"})
        private = await http.post(CHAT, json=HELLO, headers={"x-crayon-private": "true"})
        both = await http.post(
            CHAT, json={"crayon": {"mode": "only_on_server"}, **HELLO}, headers={"x-crayon-private": "true"}
        )
        odd = await http.post(
            CHAT, json={"crayon": {"mode": "only_on_server"}, **HELLO}, headers={"x-crayon-mode": "only_on_device"}
        )
        against = await http.post(CHAT, json={**HELLO, "model": "crayon/device"}, headers={"x-crayon-mode": "nowhere"})
    assert [reply.json()["crayon"]["source"] for reply in (by_field, by_header, private)] == [
        "server",
        "server",
        "device",
    ]
    assert private.json()["crayon"]["reason"] == "private"
    assert (both.status_code, both.json()["error"]["code"]) == (403, "private")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "crayon.mode")
    assert (against.status_code, against.json()["error"]["param"]) == (400, "x-crayon-mode")


async def test_sampling_reaches_the_engine(make, device) -> None:
    given = {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 11,
        "stop": "END",
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
    }
    async with asking(make(device)) as http:
        assert (await http.post(CHAT, json={**given, **HELLO})).status_code == 200
        assert (await http.post(CHAT, json=HELLO)).status_code == 200
    sampling = device.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.5, 0.9, 4)
    assert (sampling.seed, sampling.stop, sampling.repeat_penalty) == (11, ("END",), 1.1)
    assert device.requests[1].sampling.max_tokens == 1024


async def test_roles_and_parts_are_read_as_clients_write_them(make, device) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None, "annotations": []},
        {"role": "system", "content": "In English."},
        {"role": "user", "content": "four"},
    ]
    async with asking(make(device)) as http:
        assert (await http.post(CHAT, json={"model": "crayon", "messages": messages})).status_code == 200
    assert [(message.role, message.content) for message in device.requests[0].messages] == [
        ("system", "Be brief.\n\nIn English."),
        ("user", "one\ntwo"),
        ("assistant", "three"),
        ("user", "four"),
    ]


async def test_a_json_schema_reaches_the_engine_as_its_constraint(make) -> None:
    device = Fake("small", scripts=[answer('{"a":1}')])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={"response_format": form, **HELLO})
        plain = await http.post(CHAT, json={"response_format": {"type": "text"}, **HELLO})
        odd = await http.post(CHAT, json={"response_format": {"type": "yaml"}, **HELLO})
    assert reply.json()["choices"][0]["message"]["content"] == '{"a":1}'
    assert device.requests[0].constraint is not None
    assert (plain.status_code, device.requests[1].constraint) == (200, None)
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "response_format")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 2, "n"),
        ("logprobs", True, "logprobs"),
        ("logit_bias", {"5": 1}, "logit_bias"),
        ("tools", [{"type": "web_search"}], "tools[0].type"),
        ("store", True, "store"),
        ("modalities", ["text", "audio"], "modalities"),
        ("temprature", 1, "temprature"),
        ("temperature", "hot", "temperature"),
        ("temperature", 9, "temperature"),
        ("max_tokens", 0, "max_tokens"),
        ("stream", "yes", "stream"),
        ("seed", -1, "seed"),
        ("stop", 5, "stop"),
        ("stop", [""], "stop"),
        ("crayon", {"budget": 1}, "crayon.budget"),
        ("crayon", {"blend": "/etc/passwd.json"}, "crayon.blend"),
        ("crayon", {"blend": "nobody-made-this"}, "crayon.blend"),
        ("crayon", "device", "crayon"),
        ("stream_options", {"sometimes": True}, "stream_options.sometimes"),
        ("messages", [], "messages"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": "x", "weight": 1}], "messages[0].weight"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(make, device, field, value, param) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={**HELLO, field: value})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert not device.requests


async def test_what_changes_no_answer_passes(make, device) -> None:
    given = {"n": 1, "logprobs": False, "tools": [], "store": False, "user": "me", "metadata": {}, "seed": None}
    async with asking(make(device)) as http:
        assert (await http.post(CHAT, json={**given, **HELLO})).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code", "again"),
    [
        (PromptTooLongError(900, 511), 400, "context_length_exceeded", None),
        (OverloadedError("full", 2.5), 429, "overloaded", True),
        (DeadlineExceededError(), 408, "deadline_exceeded", False),
        (ServerUnavailableError("away"), 503, "unavailable", True),
        (ServerRejectedError("no"), 502, "server_rejected", False),
        (EngineError("broke"), 500, "engine_failed", False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_token_are_statuses(make, error, status, code, again, stream) -> None:
    device = Fake("small", scripts=[[error]])
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={"stream": stream, **HELLO})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in reply.headers) is bool(again)
    assert (reply.headers.get("x-should-retry") == "false") is (again is False)


async def test_an_over_long_prompt_is_told_both_numbers(make) -> None:
    async with asking(make(Fake("small", scripts=[[PromptTooLongError(900, 511)]]))) as http:
        error = (await http.post(CHAT, json=HELLO)).json()["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"], error["param"]) == (900, 512, "messages")
    assert "maximum context length is 512 tokens" in error["message"]


async def test_a_failure_mid_stream_is_an_error_event(make) -> None:
    device = Fake("small", scripts=[[delta("so far"), EngineError("broke")]])
    async with asking(make(device, hardness=False)) as http:
        reply = await http.post(CHAT, json={"stream": True, **HELLO})
    events = chunks(reply.text)
    assert reply.status_code == 200
    assert events[1]["choices"][0]["delta"]["content"] == "so far"
    assert (events[2]["error"]["code"], events[3]) == ("engine_failed", "[DONE]")


async def test_what_is_no_error_of_ours_is_told_without_its_words(make, caplog) -> None:
    class Odd(Fake):
        def generate(self, request):
            raise RuntimeError(f"cannot say {request.messages[-1].content}")

    async with asking(make(Odd("small"))) as http:
        reply = await http.post(CHAT, json={"model": "crayon", "messages": [{"role": "user", "content": "my secret"}]})
    assert reply.status_code == 500
    assert "my secret" not in reply.text + caplog.text


async def test_an_unknown_model_is_404_with_those_that_there_are(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={**HELLO, "model": "gpt-5"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "crayon/device" in error["message"]


async def test_a_request_without_a_model_is_told_which_there_are(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post(CHAT, json={"messages": HELLO["messages"]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")


async def test_completions_ask_the_prompt_as_a_user(make, device) -> None:
    async with asking(make(device)) as http:
        reply = await http.post("/v1/completions", json={"model": "crayon", "prompt": "hello", "max_tokens": 3})
        stream = await http.post("/v1/completions", json={"model": "crayon", "prompt": ["hello"], "stream": True})
        odd = await http.post("/v1/completions", json={"model": "crayon", "prompt": [1, 2]})
        filled = await http.post("/v1/completions", json={"model": "crayon", "prompt": "a", "suffix": "b"})
    body = reply.json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "hello from here")
    assert [(message.role, message.content) for message in device.requests[0].messages] == [("user", "hello")]
    events = chunks(stream.text)
    assert "".join(each["choices"][0]["text"] for each in events[:-1]) == "hello from here"
    assert (events[-2]["crayon"]["source"], events[-1]) == ("device", "[DONE]")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "prompt")
    assert (filled.status_code, filled.json()["error"]["param"]) == (400, "suffix")
