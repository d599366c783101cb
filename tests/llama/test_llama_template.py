from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError, ModelFileError
from crayon.llama.template import ChatTemplate, Part
from crayon.messages import Message

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
HELLO = Message("user", "Hello, 漢字 {{ 1 }}")
TURNS = (Message("system", "Be brief."), HELLO, Message("assistant", "Hi."), Message("user", "Bye"))


def test_chatml_with_the_default_system_turn() -> None:
    assert ChatTemplate(CHATML).render([HELLO]) == (
        "<|im_start|>system\nYou help.<|im_end|>\n"
        "<|im_start|>user\nHello, 漢字 {{ 1 }}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_chatml_of_several_turns() -> None:
    assert ChatTemplate(CHATML).render(TURNS) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello, 漢字 {{ 1 }}<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_bos_and_eos_are_the_models_own() -> None:
    template = ChatTemplate(STRICT, bos="<s>", eos="</s>")
    assert template.render([Message("user", "  a "), Message("assistant", "b"), Message("user", "c")]) == (
        "<s>[INST] a [/INST] b</s>[INST] c [/INST]"
    )


def test_a_template_refuses_messages_in_its_own_words() -> None:
    with pytest.raises(InvalidRequestError, match=r"messages: refused by .*roles must alternate") as caught:
        ChatTemplate(STRICT).render([Message("user", "a"), Message("user", "b")])
    assert caught.value.field == "messages"


def test_blocks_are_trimmed_and_loops_can_be_left_as_templates_expect() -> None:
    leave = "    {% if loop.index0 == 1 %}\n{% break %}\n{% endif %}\n"
    source = "{% for m in messages %}\n" + leave + "{{ m.content }}\n{% endfor %}"
    assert ChatTemplate(source).render(TURNS) == "Be brief.\n"


def test_json_is_written_as_it_is_not_for_html() -> None:
    assert ChatTemplate("{{ messages | tojson }}").render([Message("user", "a<b>'é'")]) == (
        '[{"role": "user", "content": "a<b>\'é\'"}]'
    )


def test_the_date_is_todays() -> None:
    years = {str(dt.datetime.now().astimezone().year)}
    found = ChatTemplate("{{ strftime_now('%Y') }}").render([HELLO])
    years.add(str(dt.datetime.now().astimezone().year))  # the year may end between the two
    assert found in years


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ x", "{% unknown %}", "{{ x | no_such_filter }}", "{{ " + "(" * 20_000 + " }}"]
)
def test_a_template_that_is_not_jinja_is_the_files_fault(source: str) -> None:
    with pytest.raises(ModelFileError, match="chat template is not valid Jinja"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__ }}", id="class of a value"),
        pytest.param("{{ cycler.__init__.__globals__ }}", id="globals of a method"),
        pytest.param("{{ strftime_now.__globals__['os'] }}", id="globals of our function"),
        pytest.param("{{ messages.append(1) }}", id="changing what it was given"),
        pytest.param("{% include 'x' %}", id="other files"),
        pytest.param("{{ nothing.x }}", id="undefined"),
        pytest.param("{{ messages[0]['content'] + 1 }}", id="wrong types"),
        pytest.param("{{ 1 / 0 }}", id="division by zero"),
        pytest.param("{{ messages[99].role }}", id="no such message"),
        pytest.param("{% for i in range(10**9) %}x{% endfor %}", id="a giant range"),
        pytest.param(
            "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", id="nested ranges"
        ),
        pytest.param("{{ 'a' * 10**12 }}", id="a giant text"),
        pytest.param("{{ [1] * 10**12 }}", id="a giant list"),
        pytest.param("{{ '%999999999d' % 1 }}", id="a giant field"),
        pytest.param("{{ 9 ** 9 ** 9 }}", id="a giant number"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", id="endless recursion"),
        pytest.param("{{ lipsum(n=100000) }}", id="filler text"),
    ],
)
def test_a_template_reaches_neither_the_interpreter_nor_all_of_its_time(source: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"chat template cannot render them: .+"):
        ChatTemplate(source).render([HELLO])


@pytest.mark.parametrize(
    "source", ["{{ messages.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ ''|attr('__class__') }}",
               "{{ '{0.__class__}'.format(messages) }}", "{{ self._TemplateReference__context }}"]
)  # fmt: skip
def test_hidden_attributes_are_undefined(source: str) -> None:
    assert ChatTemplate(source).render([HELLO]) == ""


def test_ordinary_arithmetic_stays() -> None:
    source = (
        "{{ 7 % 2 }} {{ 3 * 4 }} {{ '-' * 5 }} {{ 2 ** 8 }} {{ 2.5 * 2 }}{% for i in range(3) %} {{ i }}{% endfor %}"
    )
    assert ChatTemplate(source).render([HELLO]) == "1 12 ----- 256 5.0 0 1 2"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_parts_join_to_the_rendering_and_keep_contents_apart(contents: list[str]) -> None:
    messages = [Message("user", content) for content in contents]
    parts = ChatTemplate(CHATML).render_parts(messages)
    if any(mark in content for content in contents for mark in "\ue000\ue001"):
        assert parts is None
        return
    assert parts is not None
    assert "".join(part.text for part in parts) == ChatTemplate(CHATML).render(messages)
    assert [part.text for part in parts if part.is_content] == [content for content in contents if content]


def test_parts_of_one_message() -> None:
    assert ChatTemplate(CHATML).render_parts([Message("system", "S"), Message("user", "<|im_end|>")]) == [
        Part("<|im_start|>system\n", is_content=False),
        Part("S", is_content=True),
        Part("<|im_end|>\n<|im_start|>user\n", is_content=False),
        Part("<|im_end|>", is_content=True),
        Part("<|im_end|>\n<|im_start|>assistant\n", is_content=False),
    ]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{% for m in messages %}{{ m.content | upper }}{% endfor %}", id="rewrites"),
        pytest.param("{% for m in messages %}{{ m.content | trim }}{% endfor %}", id="trims"),
        pytest.param("{{ messages[-1].content }}", id="leaves one out"),
        pytest.param("{{ messages[1].content }}{{ messages[0].content }}", id="turns round"),
    ],
)
def test_there_are_no_parts_where_the_template_alters_contents(source: str) -> None:
    assert ChatTemplate(source).render_parts([Message("user", " straße "), Message("user", " b ")]) is None
