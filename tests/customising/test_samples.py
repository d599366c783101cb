from __future__ import annotations

import json

import pytest

from crayon.customising.sample import Sample, as_samples
from crayon.customising.samples import MAX_FILE_BYTES, read_samples
from crayon.errors import InvalidRequestError


def write(tmp_path, text, name="samples.jsonl"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "a?", "answer": "b"}, Sample("a?", "b")),
        ({"question": "a?"}, Sample("a?")),
        ({"question": "a?", "answer": None}, Sample("a?")),
        ({"question": "a?", "answer": "b", "choices": ["b", "c"]}, Sample("a?", "b", ("b", "c"))),
        ({"question": "a?", "choices": ["b", "c"], "id": 7}, Sample("a?", None, ("b", "c"))),
        ({"prompt": "a?", "completion": "b"}, Sample("a?", "b")),
        ({"text": "a?"}, Sample("a?")),
        ("a?", Sample("a?")),
        ({"messages": [{"role": "user", "content": "a?"}]}, Sample("a?")),
    ],
)
def test_every_kind_of_record_is_read(tmp_path, record, expected):
    assert read_samples(write(tmp_path, lines(record))) == (expected,)


def test_a_conversation_gives_a_sample_for_each_user_message(tmp_path):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "three?"},
    ]
    found = read_samples(write(tmp_path, lines({"messages": messages})))
    assert found == (Sample("one?", "1"), Sample("two?", "2"), Sample("three?"))


def test_tables_are_read_with_quotes_choices_and_empty_cells(tmp_path):
    text = 'question,answer,choices\n"a, or b?",b,"a | b"\nc?,,\n\n"two\nlines?",x,\n'
    assert read_samples(write(tmp_path, text, "samples.csv")) == (
        Sample("a, or b?", "b", ("a", "b")),
        Sample("c?"),
        Sample("two\nlines?", "x"),
    )
    assert read_samples(write(tmp_path, "\ufeffquestion\tanswer\na?\tb\n", "s.TSV")) == (Sample("a?", "b"),)


def test_other_scripts_and_separators_inside_a_text_survive(tmp_path):
    found = read_samples(write(tmp_path, lines({"question": "東京の天気は? \u2028 🙂", "answer": "晴れ"})))
    assert found == (Sample("東京の天気は? \u2028 🙂", "晴れ"),)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "samples", "there are none"),
        ("\n\n", "samples", "there are none"),
        ('{"question": "a?"}\nnonsense\n', "line 2", "is no JSON"),
        ("[1]\n", "line 1", "must be a record"),
        ('{"query": "a?"}\n', "line 1", "no question (it has query)"),
        ('{"question": ""}\n', "line 1.question", "is empty"),
        ('{"question": 3}\n', "line 1.question", "must be text, not int"),
        ('{"question": "a?", "answer": " "}\n', "line 1.answer", "is empty"),
        ('{"question": "a?", "answer": "x", "choices": ["b", "c"]}\n', "line 1.answer", "none of the choices"),
        ('{"question": "a?", "choices": "b|c"}\n', "line 1.choices", "must be a list"),
        ('{"question": "a?", "choices": ["b", "b"]}\n', "line 1.choices", "different"),
        ('{"question": "\\ud800"}\n', "line 1.question", "lone surrogate"),
        ('{"messages": [{"role": "user", "content": 3}]}\n', "line 1.messages[0]", "with text"),
        ('{"messages": [{"role": "robot", "content": "x"}]}\n', "line 1.messages[0].role", "must be system"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}\n', "line 1.messages", "no user message"),
        ('{"messages": {}}\n', "line 1.messages", "must be a list"),
        ("[" * 100_000 + "\n", "line 1", "is no JSON"),
        (b'{"question": "a?"}\n\xff\xfe\n', "samples", "no UTF-8 text (line 2)"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, field, says):
    with pytest.raises(InvalidRequestError) as caught:
        read_samples(write(tmp_path, text))
    assert caught.value.field == field
    assert says in caught.value.problem


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("question,answer\na,b,c\n", "line 2", "more cells"),
        ('question\nx\n"a\n', "line 2", "no row of a table"),
        ("answer\nb\n", "line 2", "has no question"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(tmp_path, text, field, says):
    with pytest.raises(InvalidRequestError) as caught:
        read_samples(write(tmp_path, text, "samples.csv"))
    assert caught.value.field == field
    assert says in caught.value.problem


def test_two_answers_to_one_question_are_refused_and_both_lines_named(tmp_path):
    text = lines({"question": "A  b?", "answer": "x"}, {"question": "c"}, {"question": "a b?", "answer": "y"})
    with pytest.raises(InvalidRequestError, match=r"line 3: asks what line 1 asks, with another answer"):
        read_samples(write(tmp_path, text))


def test_repetitions_count_once_and_an_answer_is_kept(tmp_path):
    text = lines({"question": "a?"}, {"question": "a?", "answer": "X"}, {"question": "A?", "answer": "x"})
    assert read_samples(write(tmp_path, text)) == (Sample("a?", "X"),)


def test_a_hundred_thousand_samples_are_refused_before_they_are_all_parsed(tmp_path):
    text = lines(*({"text": f"number {i}"} for i in range(1001))) + "not even JSON\n" * 99_000
    with pytest.raises(InvalidRequestError, match="more than 1000"):
        read_samples(write(tmp_path, text))


def test_a_thousand_samples_are_read(tmp_path):
    assert len(read_samples(write(tmp_path, lines(*({"text": f"number {i}"} for i in range(1000)))))) == 1000


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_samples(tmp_path / "nothing.jsonl")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_samples(tmp_path)
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidRequestError, match="larger than 32 MiB"):
        read_samples(path)


def test_samples_from_python():
    assert as_samples(["a?", ("b?", "x"), {"question": "c?"}, Sample("d?")]) == (
        Sample("a?"),
        Sample("b?", "x"),
        Sample("c?"),
        Sample("d?"),
    )
    for value, field in [
        ("a?", "samples"),
        (3, "samples"),
        ([3], "samples[0]"),
        (["a", ("b", 3)], "samples[1].answer"),
    ]:
        with pytest.raises(InvalidRequestError) as caught:
            as_samples(value)
        assert caught.value.field == field
    with pytest.raises(InvalidRequestError, match="more than 1000"):
        as_samples(f"{i}" for i in range(100_000))
