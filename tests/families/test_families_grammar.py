"""What may be written under tools is what is read: answers made under the grammar alone, byte by byte."""

from __future__ import annotations

import random

import pytest

from crayon.constraints import Constraining
from crayon.constraints.instance import _Bytes
from crayon.errors import InvalidRequestError
from crayon.families.grammar import check_tools, tool_grammar
from crayon.families.reader import Reader
from crayon.families.table import FAMILIES, PLAIN, THOUGHTS, Family
from crayon.tool import Tool, ToolChoice, Tools

WEATHER = Tool(
    "get_weather",
    "",
    '{"type": "object", "properties": {"city": {"type": "string", "maxLength": 4}}, "required": ["city"]}',
)
NOW = Tool("now")
ALL = pytest.mark.parametrize("family", [*FAMILIES, PLAIN], ids=lambda family: family.name)


def made(family: Family, tools: Tools, seed: int, **more) -> str:
    """Return an answer drawn at random among all that the grammar allows; what can end does so at once."""
    matcher = Constraining(_Bytes()).matcher(tool_grammar(family, tools, **more), checked=True)
    rng, text = random.Random(seed), bytearray()
    while len(text) < 2000 and not (matcher.done or matcher.accepts):
        allowed = [byte for byte in matcher.mask()[:128].nonzero()[0].tolist() if byte >= 32 or byte == 10]
        byte = rng.choice(allowed)
        matcher.take([byte])
        text.append(byte)
    return text.decode()


@ALL
@pytest.mark.parametrize("seed", range(4))
def test_every_call_that_may_be_written_is_read(family: Family, seed: int) -> None:
    tools = Tools((WEATHER, NOW), ToolChoice.REQUIRED)
    answer = made(family, tools, seed)
    reader = Reader((), family, ("get_weather", "now"))
    first, rest = reader.push(answer), reader.finish()
    assert not first.text + rest.text
    calls = first.calls + rest.calls
    assert calls
    for call in calls:
        assert set(call.parsed) == ({"city"} if call.name == "get_weather" else set())


@ALL
def test_a_named_tool_is_the_only_one(family: Family) -> None:
    answer = made(family, Tools((WEATHER, NOW), name="now"), 1)
    assert "now" in answer
    assert "get_weather" not in answer


@ALL
def test_text_may_be_written_where_tools_may_be_left_alone(family: Family) -> None:
    matcher = Constraining(_Bytes()).matcher(tool_grammar(family, Tools((WEATHER,))), checked=True)
    assert matcher.accepts
    matcher.take(list(b"Hello, <world> {1}."))
    assert matcher.accepts


def test_a_model_that_thinks_may_do_so_before_it_calls() -> None:
    tools = Tools((NOW,), ToolChoice.REQUIRED)
    matcher = Constraining(_Bytes()).matcher(tool_grammar(FAMILIES[3], tools, thoughts=THOUGHTS[:1]), checked=True)
    matcher.take(list(b'<think>So?</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'))
    assert matcher.accepts


def test_control_tokens_stand_as_tokens() -> None:
    constraint = tool_grammar(
        FAMILIES[1], Tools((NOW,), ToolChoice.REQUIRED), controls=["<|tool_call|>", "<|/tool_call|>"]
    )
    assert "start:  <|tool_call|> calls" in constraint.text.replace("start: <", "start:  <")
    assert '"<|tool_call|>"' not in constraint.text


def test_a_schema_that_cannot_be_kept_names_the_tool() -> None:
    tool = Tool("odd", "", '{"type": "object", "properties": {"a": {"type": "string", "format": "nonsense"}}}')
    with pytest.raises(InvalidRequestError, match=r"tools\.odd\.parameters: .*'format'"):
        check_tools(Tools((tool,)))
