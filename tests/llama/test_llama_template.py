from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import ChatTemplateError, InvalidRequestError, ModelFileError
from crayon.llama.template import ChatTemplate, Part
from crayon.messages import Message, ToolCall

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


def test_what_a_template_writes_as_html_or_gathers_in_a_list_is_in_the_prompt() -> None:
    ask = [Message("user", 'is 1 < 2 & "3"?')]
    escaped = ChatTemplate("{% for m in messages %}{{ m.content|e }}{% endfor %}")
    assert [part.text for part in escaped.parts(ask, ())] == ["is 1 &lt; 2 &amp; &#34;3&#34;?"]
    gathered = "{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.content) %}{% endfor %}{{ l|join('|') }}"
    assert [part.text for part in ChatTemplate(gathered).parts([*ask, *ask], ())] == ["|".join([ask[0].content] * 2)]


def test_what_is_set_where_a_trainer_learns_is_known_behind_it_if_nothing_else_holds_what_was_said() -> None:
    body = "{% for m in messages %}{% generation %}{% set x = m.content %}{% endgeneration %}{{ x }}|{% endfor %}"
    assert [part.text for part in ChatTemplate(body).parts(TURNS[1:2], ())] == [TURNS[1].content + "|"]
    inner = "{% set x = 'out' %}{% generation %}{% set x = 'in' %}{% endgeneration %}{{ x }}{{ messages[-1].content }}"
    assert ChatTemplate(inner).render([HELLO]).startswith("out"), "as transformers has it"


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


# -- what stands in a message is text, and all of it is in the prompt

MARKS = ("<|im_end|>", "<|im_start|>", "<|im_|>")
TRIMMED = CHATML.replace("message['content'] +", "message['content'] | trim +")


@given(st.lists(st.text(max_size=20).filter(str.strip), min_size=1, max_size=4), st.sampled_from([CHATML, TRIMMED]))
def test_parts_join_to_the_rendering(contents: list[str], source: str) -> None:
    messages = [Message("user", content) for content in contents]
    template = ChatTemplate(source)
    parts = template.parts(messages, [content.strip() for content in contents])
    assert "".join(part.text for part in parts) == template.render(messages)
    assert [part.text for part in parts if part.is_content]


@pytest.mark.parametrize("source", [CHATML, TRIMMED])
@pytest.mark.parametrize("around", ["{}", "what is {}?\n", "  {}", "\n{} {}", "<|im_{}end|>"])
def test_control_texts_of_a_message_stand_apart_whatever_is_around(source: str, around: str) -> None:
    text = around.replace("{}", "<|im_end|>")
    template = ChatTemplate(source)
    messages = [Message("system", "S"), Message("user", text), Message("assistant", "<|im_|>"), Message("user", "b")]
    parts = template.parts(messages, MARKS)
    assert "".join(part.text for part in parts) == template.render(messages)
    assert [part.text for part in parts if part.is_content] == ["<|im_end|>"] * around.count("{}") + ["<|im_|>"]


def test_a_prompt_without_control_texts_is_one_part() -> None:
    assert ChatTemplate(CHATML).parts([Message("user", "a \ue000")], MARKS) == [
        Part(ChatTemplate(CHATML).render([Message("user", "a \ue000")]), is_content=False)
    ]


def test_the_longer_of_two_control_texts_is_meant() -> None:
    parts = ChatTemplate(CHATML).parts([Message("user", "<|a|><|a|>b \ue000")], ("<|a|>", "<|a|>b"))
    assert [part.text for part in parts if part.is_content] == ["<|a|>", "<|a|>b"]


TYPED = (
    "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
MIXED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' %}{{ m.content[0].text }}{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}"
)
EITHER = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}"
    "{% else %}{{ m.content[0]['text'] }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("source", [TYPED, MIXED, EITHER])
def test_contents_are_given_in_the_form_that_the_template_takes(source: str) -> None:
    template = ChatTemplate(source)
    assert not template.loses
    assert "".join(part.text for part in template.parts(TURNS, ())) == (
        "<system>Be brief.<user>Hello, 漢字 {{ 1 }}<assistant>Hi.<user>Bye"
    )


@pytest.mark.parametrize(
    ("source", "loses", "role"),
    [
        ("{% for m in messages %}{{ m.role }}{% endfor %}", {"user", "system", "assistant"}, "system"),
        ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}", {"assistant"}, "assistant"),
        ("{{ messages[0].content }} {{ messages[-1].content }}", {"assistant"}, "assistant"),
        ("{{ messages[-1].content }}", {"assistant", "earlier"}, "user"),
    ],
)
def test_a_message_that_does_not_reach_the_prompt_is_named(source: str, loses: set[str], role: str) -> None:
    template = ChatTemplate(source)
    assert template.loses == loses
    system = [Message("system", "a")] if "system" in loses else []
    with pytest.raises(ChatTemplateError, match=f"leaves out or rewrites what the {role} says"):
        template.parts([*system, HELLO, Message("assistant", "a"), Message("user", "a")], ())


@pytest.mark.parametrize(
    "source",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + CHATML,
        CHATML.replace("for message in messages", "for message in messages if message.role != 'system'"),
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}",
    ],
    ids=["refuses", "leaves out", "leaves out, typed"],
)
def test_what_a_system_says_without_a_place_for_it_goes_in_front_of_the_first_question(source: str) -> None:
    template = ChatTemplate(source)
    folded = [Message("user", "Be brief.\n\n<|im_end|>"), *TURNS[2:]]
    said = [TURNS[0], Message("user", "<|im_end|>"), *TURNS[2:]]
    assert template.folds_system
    assert template.render(said) == template.render(folded)
    assert template.parts(said, MARKS) == template.parts(folded, MARKS)
    assert len(template.limits) == 1
    assert not ChatTemplate(CHATML).folds_system


def test_a_system_that_speaks_later_is_refused_as_ever() -> None:
    refuses = "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="no system role here"):
        ChatTemplate(refuses + CHATML).parts([HELLO, TURNS[2], TURNS[0], HELLO], ())


def test_a_text_that_is_rewritten_is_an_error() -> None:
    template = ChatTemplate("{{ messages[-1].content | replace('ten', '10') }}")
    assert template.parts([Message("user", "five")], ())
    with pytest.raises(InvalidRequestError, match="rewrites what the user says"):
        template.parts([Message("user", "often")], ())


def test_what_was_thought_before_an_answer_may_be_left_out() -> None:
    source = CHATML.replace("message['content'] +", "message['content'].split('</think>')[-1].lstrip() +")
    messages = [HELLO, Message("assistant", "<think>well</think>\n\nHi."), Message("user", "b")]
    assert "well" not in ChatTemplate(source).parts(messages, ())[0].text


def test_contents_may_be_written_as_json() -> None:
    assert ChatTemplate("{{ messages | tojson }}").parts([Message("user", 'say "a"\nor é')], ())


@pytest.mark.parametrize("open_tag", ["{% generation %}", "{%- generation -%}"])
def test_what_marks_the_answer_for_training_is_passed_over(open_tag: str) -> None:
    source = CHATML.replace("{{'<|im_start|>'", open_tag + "{{'<|im_start|>'").replace(
        "'\n'}}", "'\n'}}{% endgeneration %}"
    )
    assert ChatTemplate(source).render(TURNS) == ChatTemplate(CHATML).render(TURNS)


def test_a_mark_that_is_not_closed_is_not_valid() -> None:
    with pytest.raises(ModelFileError, match="not valid Jinja"):
        ChatTemplate("{% generation %}a")


def test_what_transformers_names_is_named() -> None:
    source = (
        "{% if tools is not none or documents is not none %}wrong{% endif %}"
        "{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true, separators=(',', ':')) }}"
    )
    assert ChatTemplate(source).render([HELLO]) == '{"a":1,"b":"é"}'


@pytest.mark.parametrize(
    ("source", "between"),
    [
        (CHATML, "<|im_end|>\n<|im_start|>user\n"),
        (STRICT, "</s>[INST] "),
        (TYPED, "<user>"),
        ("{{ messages[-1].content }}", ""),
        ("{{ raise_exception('never') }}", ""),
    ],
)
def test_what_follows_an_answer_is_told(source: str, between: str) -> None:
    assert ChatTemplate(source, eos="</s>").after_answer == between


def test_what_a_template_cannot_do_is_known_when_it_is_made() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users only') }}{% endif %}{{ m.content }}"
        "{% endfor %}"
    )
    assert (template.refuses, template.loses, template.folds_system) == ({"assistant"}, set(), True)
    assert template.limits == [
        "refuses messages of the assistant",
        "has no place for what the system says: it goes in front of the first question",
    ]
    template = ChatTemplate("{{ messages[0].content }}")
    assert (template.refuses, template.loses) == (set(), {"assistant"})
    assert not ChatTemplate(CHATML).limits


TOOLS_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALLED = (
    Message("user", "When?"),
    Message("assistant", "", (ToolCall("c1", "now", '{"zone": "</user>"}'),)),
    Message("tool", "12:00", (), "c1"),
)


def test_an_answer_that_was_begun_goes_on_where_it_stopped() -> None:
    template = ChatTemplate(TOOLS_TEMPLATE)
    begun = (Message("user", "When?"), Message("assistant", "At </user>"))
    (first, typed) = template.parts(begun, ["</user>"])
    assert first == Part("<user>When?</user><assistant>At ", is_content=False)
    assert typed == Part("</user>", is_content=True)


def test_calls_and_results_are_rendered_and_what_they_hold_is_text() -> None:
    parts = ChatTemplate(TOOLS_TEMPLATE).parts(CALLED, ["</user>"])
    whole = "".join(part.text for part in parts)
    assert '[now {"zone": "</user>"}]</assistant><tool>12:00</tool><assistant>' in whole
    assert [part.text for part in parts if part.is_content] == ["</user>"]


def test_a_template_that_leaves_calls_out_refuses_them() -> None:
    plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="leaves out which tools the assistant called"):
        ChatTemplate(plain).parts(CALLED, [])
