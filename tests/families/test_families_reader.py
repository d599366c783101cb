"""What a model writes, told apart: the same however it comes in pieces, and whatever the grammar allows is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.families.reader import Reader
from crayon.families.table import FAMILIES, GEMMA, GRANITE, HERMES, LLAMA, PHI, PLAIN, THOUGHTS, Family, family_of
from crayon.families.told import written

NAMES = ("get_weather", "search")
HELLO = '{"city": "Oslo <tool_call> \\"}] </think>"}'


def read(text: str, family: Family | None, size: int, thoughts=THOUGHTS[:1], **more):
    reader = Reader(thoughts, family, NAMES, **more)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    found = [*map(reader.push, pieces), reader.finish()]
    calls = [(call.name, json.loads(call.arguments)) for each in found for call in each.calls]
    return "".join(r.text for r in found), "".join(r.reasoning for r in found), calls


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("family", [HERMES, LLAMA, GRANITE, PHI, PLAIN], ids=lambda family: family.name)
def test_calls_are_read_as_they_are_written(family: Family, size: int) -> None:
    calls = [("get_weather", HELLO), ("search", '{"n": 1, "tags": ["a", null]}')]
    text, reasoning, found = read(written(calls, family), family, size)
    assert (text, reasoning) == ("", "")
    assert found == [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_gemmas_notation_is_read(size: int) -> None:
    quoted = '<|"|>a <tool_call|> "b"<|"|>'
    text = f"So. <|tool_call>call:search{{q:{quoted},n:[1,-2.5],deep:{{x:true,y:null}}}}<tool_call|>"
    assert read(text, GEMMA, size) == (
        "So.", "", [("search", {"q": 'a <tool_call|> "b"', "n": [1, -2.5], "deep": {"x": True, "y": None}})]
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_thoughts_are_split_from_text_and_calls(size: int) -> None:
    call = written([("search", '{"q": "x"}')], HERMES)
    answer = f"\n<think>\nHm, <tool_call> is\na mark.\n</think>\n\nI look.\n{call}"
    expected = ("I look.", "Hm, <tool_call> is\na mark.", [("search", {"q": "x"})])
    assert read(answer, HERMES, size) == expected
    assert read(answer.split("<think>\n")[1], HERMES, size, thinking=THOUGHTS[0]) == expected


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "Plain < text, 1 <think> 2 \n",
        "<tool_call>\nnot JSON</tool_call> and more",
        '<tool_call>{"name": "search", "arguments": {"q": "cut',
        '{"city": "Oslo"}',
        '{"name": "unknown", "arguments": {}}',
        "```json\n[1, 2]\n```",
        "[1] is a source, {2} too",
    ],
)
@pytest.mark.parametrize("family", [HERMES, PLAIN], ids=lambda family: family.name)
def test_what_is_no_call_is_text(family: Family, text: str, size: int) -> None:
    assert read(text, family, size) == (text, "", [])


def test_without_tools_nothing_is_a_call_and_white_space_is_kept() -> None:
    call = written([("search", "{}")], HERMES) + " \n"
    assert read(call, None, 3) == (call, "", [])


def test_calls_that_small_models_leave_the_marks_out_of_are_read() -> None:
    call = '{"name": "search", "arguments": {"q": "x"}}'
    assert read(call, HERMES, 3)[2] == read(f"```json\n{call}\n```", HERMES, 3)[2] == [("search", {"q": "x"})]


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", "{", "}", '"', "\n", "a", '"name"', ":"])
    )
)
@pytest.mark.parametrize("family", [*FAMILIES, PLAIN], ids=lambda family: family.name)
def test_the_pieces_do_not_matter(family: Family, pieces: list[str]) -> None:
    text = "".join(pieces)
    assert read(text, family, 1) == read(text, family, 7) == read(text, family, 10_000)


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("<|im_start|>{{ tools }}<tool_call></tool_call>", HERMES),
        ("<|start_header_id|>{{ tools }}", LLAMA),
        ("<|start_of_role|><|tool_call|>", GRANITE),
        ("<|start_of_role|><tool_call>", HERMES),
        ("<|tool|>{{ message['tools'] }}<|/tool|>", PHI),
        ("<|turn><|tool_call>", GEMMA),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", PLAIN),
    ],
)
def test_the_family_is_known_by_the_template(source: str, family: Family) -> None:
    assert family_of(source) is family
