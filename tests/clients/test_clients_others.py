"""Other clients, unmodified: Anthropic's and Ollama's own, and three libraries that speak OpenAI's routes."""

from __future__ import annotations

import json

import anthropic
import litellm
import ollama
import pytest
from conftest import CITY, SCHEMA
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

ASKED = [{"role": "user", "content": "Say hello."}]
PLACE = "Which city is Norway's capital?"


def test_anthropic_asks_streams_and_counts(gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway, api_key="none")
    asked = {"model": "crayon/device", "max_tokens": 20, "messages": ASKED}
    message = client.messages.create(**asked, system="Be brief.")
    assert message.content[0].text
    assert message.crayon["source"] == "device"
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert final.usage.output_tokens > 0
    assert client.messages.count_tokens(model="crayon", messages=ASKED).input_tokens > 3


def test_anthropic_hears_errors_as_its_own(gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway, api_key="none")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", max_tokens=5, messages=ASKED)
    with pytest.raises(anthropic.BadRequestError, match="context length"):
        client.messages.create(
            model="crayon/device", max_tokens=5, messages=[{"role": "user", "content": "word " * 20_000}]
        )


def test_anthropic_gets_a_schema(gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway, api_key="none")
    message = client.messages.create(
        model="crayon/device",
        max_tokens=60,
        messages=[{"role": "user", "content": PLACE}],
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert set(json.loads(message.content[0].text)) == {"city", "large"}


def test_anthropic_calls_a_tool(gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway, api_key="none")
    tool = {"name": "weather", "description": "The weather.", "input_schema": CITY}
    given = {"model": "crayon/device", "max_tokens": 80, "tools": [tool]}
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    with client.messages.stream(messages=asked, tool_choice={"type": "any"}, **given) as stream:
        message = stream.get_final_message()
    call = next(block for block in message.content if block.type == "tool_use")
    assert (message.stop_reason, set(call.input)) == ("tool_use", {"city"})
    result = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "12 degrees"}
        for block in message.content
        if block.type == "tool_use"
    ]
    turns = [*asked, {"role": "assistant", "content": message.content}, {"role": "user", "content": result}]
    assert client.messages.create(messages=turns, **given).stop_reason


def test_ollama_lists_asks_streams_and_embeds(gateway) -> None:
    client = ollama.Client(host=gateway)
    assert "crayon" in {model.model for model in client.list().models}
    assert "completion" in client.show("crayon/device").capabilities
    assert client.ps().models
    whole = client.chat("crayon/device", messages=ASKED, options={"num_predict": 10, "temperature": 0})
    parts = list(client.chat("crayon/server", messages=ASKED, stream=True))
    assert whole.message.content
    assert "".join(part.message.content for part in parts) == "Say hello."
    assert client.generate("crayon/server", prompt="one two").response == "one two"
    assert len(client.embed("crayon", input=["a", "b"]).embeddings) == 2
    form = client.chat("crayon/device", messages=[{"role": "user", "content": PLACE}], format=SCHEMA)
    assert set(json.loads(form.message.content)) == {"city", "large"}


def test_ollama_hears_errors(gateway) -> None:
    client = ollama.Client(host=gateway)
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("llama3", messages=ASKED)
    assert caught.value.status_code == 404


def test_litellm_asks_streams_and_hears_errors(v1) -> None:
    given = {"model": "openai/crayon/device", "api_base": v1, "api_key": "none", "messages": ASKED, "max_tokens": 10}
    assert litellm.completion(**given).choices[0].message.content
    parts = litellm.completion(**given, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**{**given, "messages": [{"role": "user", "content": "word " * 20_000}]})
    vectors = litellm.embedding(model="openai/crayon", api_base=v1, api_key="none", input=["a", "b"])
    assert len(vectors.data) == 2


def test_langchain_asks_streams_and_gets_a_schema(v1) -> None:
    model = ChatOpenAI(model="crayon/device", base_url=v1, api_key="none", max_tokens=60)
    assert model.invoke("Say hello.").content
    assert "".join(chunk.content for chunk in model.stream("Say hello."))
    schema = {"title": "place", "description": "A place.", **SCHEMA}
    place = model.with_structured_output(schema, method="json_schema").invoke(PLACE)
    assert set(place) == {"city", "large"}


def test_langchain_binds_a_tool(v1) -> None:
    tool = {"name": "weather", "description": "The weather.", "parameters": CITY}
    model = ChatOpenAI(model="crayon/device", base_url=v1, api_key="none", max_tokens=80)
    called = model.bind_tools([{"type": "function", "function": tool}], tool_choice="required").invoke(
        "Weather in Oslo?"
    )
    assert set(called.tool_calls[0]["args"]) == {"city"}


def test_llama_index_asks_and_streams(v1) -> None:
    model = OpenAILike(model="crayon/server", api_base=v1, api_key="none", is_chat_model=True, context_window=4096)
    asked = [ChatMessage(role="user", content="Say hello.")]
    assert model.chat(asked).message.content == "Say hello."
    assert list(model.stream_chat(asked))[-1].message.content == "Say hello."
    assert model.complete("one two").text == "one two"
