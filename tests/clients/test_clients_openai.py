"""OpenAI's own client, unmodified: the installed one, and the newest (`make test-gateway` runs this file with both)."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from conftest import CITY, SCHEMA

ASKED = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(v1) -> openai.OpenAI:
    return openai.OpenAI(base_url=v1, api_key="none", max_retries=2)


def test_models(client) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"crayon", "crayon/device", "crayon/server"} <= set(models)
    assert models["crayon/device"].context_length >= 2048
    assert "json_schema" in client.models.retrieve("crayon/device").capabilities


def test_a_chat_by_each_side(client) -> None:
    device = client.chat.completions.create(model="crayon/device", messages=ASKED, max_tokens=20)
    server = client.chat.completions.create(model="crayon/server", messages=ASKED)
    assert device.choices[0].message.content
    assert (device.crayon["source"], device.crayon["bytes_sent"]) == ("device", 0)
    assert server.choices[0].message.content == "Say hello."
    assert server.crayon["source"] == "server"
    assert server.crayon["bytes_sent"] > 0


def test_wishes_and_headers(client) -> None:
    wish = {"crayon": {"mode": "only_on_server"}}
    raw = client.chat.completions.with_raw_response.create(model="crayon", messages=ASKED, extra_body=wish)
    assert raw.headers["x-crayon-source"] == "server"
    assert raw.headers["x-request-id"]
    kept = client.chat.completions.create(
        model="crayon", messages=ASKED, max_tokens=5, extra_headers={"x-crayon-private": "true"}
    )
    assert kept.crayon["reason"] == "private"


def test_a_stream_with_usage(client) -> None:
    stream = client.chat.completions.create(
        model="crayon/device", messages=ASKED, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens > 0) == ([], True)
    assert chunks[-1].crayon["source"] == "device"


def test_a_json_schema(client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    reply = client.chat.completions.create(
        model="crayon/device",
        messages=[{"role": "user", "content": "Which city is Norway's capital?"}],
        response_format=form,
    )
    assert set(json.loads(reply.choices[0].message.content)) == {"city", "large"}


def test_tools_and_their_results(client) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}]
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    given = {"model": "crayon/device", "tools": tools, "max_tokens": 80}
    first = client.chat.completions.create(messages=asked, tool_choice="required", **given).choices[0]
    stream = client.chat.completions.create(messages=asked, tool_choice="required", stream=True, **given)
    deltas = [call for chunk in stream if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    call = first.message.tool_calls[0]
    assert (first.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert (deltas[0].index, deltas[0].function.arguments) == (0, call.function.arguments)
    results = [{"role": "tool", "tool_call_id": each.id, "content": "12 degrees"} for each in first.message.tool_calls]
    after = [*asked, first.message.model_dump(exclude_none=True), *results]
    assert client.chat.completions.create(messages=after, **given).choices[0].finish_reason


def test_completions(client) -> None:
    whole = client.completions.create(model="crayon/server", prompt="one two three")
    parts = client.completions.create(model="crayon/server", prompt="one two three", stream=True)
    assert whole.choices[0].text == "one two three"
    assert "".join(part.choices[0].text for part in parts) == "one two three"


def test_embeddings_are_the_same_in_both_encodings(client) -> None:
    packed = client.embeddings.create(model="crayon", input=["a cat", "a dog"])  # base64, unless one asks
    plain = client.embeddings.create(model="crayon", input=["a cat", "a dog"], encoding_format="float")
    assert len(packed.data) == 2
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="crayon", input="a cat", dimensions=8)
    assert caught.value.param == "dimensions"


def test_responses_and_what_follows_them(client) -> None:
    first = client.responses.create(model="crayon/server", input="one two")
    second = client.responses.create(model="crayon/server", input="three", previous_response_id=first.id)
    assert (first.output_text, second.output_text) == ("one two", "three")
    assert client.responses.retrieve(first.id).id == first.id
    events = list(client.responses.create(model="crayon/device", input="Say hello.", max_output_tokens=10, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in {"response.completed", "response.incomplete"}
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == events[-1].response.output_text


def test_errors(client) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="crayon", messages=ASKED, n=2)
    assert caught.value.param == "n"
    long = [{"role": "user", "content": "word " * 20_000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="crayon/device", messages=long, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.body["n_prompt_tokens"] > caught.value.body["n_ctx"]
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="crayon/server", messages=ASKED, extra_body={"crayon": {"private": True}})


def test_the_asynchronous_client(v1) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=v1, api_key="none") as client:
            stream = await client.chat.completions.create(model="crayon/server", messages=ASKED, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert asyncio.run(ask()) == "Say hello."
