"""No chat template takes our time or memory, whatever it does."""

from __future__ import annotations

import tracemalloc

import pytest

from crayon.errors import ChatTemplateError, ModelFileError
from crayon.llama import budget
from crayon.llama.template import ChatTemplate
from crayon.messages import Message

ASK = (Message("user", "go"),)
# Harmless while it is tried; the real question sets it off.
ONLY_THEN = "{% if messages[-1].content == 'go' %}BODY{% else %}{{ messages[-1].content }}{% endif %}"
NESTING = "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='ab' * 1000) %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"


@pytest.mark.parametrize(
    "body",
    [
        DOUBLING.replace("OP", "~"),
        DOUBLING.replace("OP", "+"),
        "{{ 'a'|center(10 ** 9) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a'.zfill(999999999) }}",
        "{{ '{:999999999}'.format('a') }}",
        "{{ '%999999999d'|format(1) }}",
        "{% set a = 'a' * 100000 %}{{ a|replace('a', a) }}",
        "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
        "{{ ('a\\n' * 1000)|indent(999999) }}",
        "{{ messages|tojson(indent=999999999) }}",
        "{% set a = 'a' * 10000 %}{{ a.join(a|list) }}",
        "{% set a = 'a' * 10000 %}{{ a|list|join(a) }}",
        (
            "{% set a = ('a' * 1000)|list %}"
            "{% for b in a %}{% for c in a %}{% for d in a %}{% endfor %}{% endfor %}{% endfor %}"
        ),
        "{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{{ a }}{% endfor %}",
        "{% set a = 'a' * 1000000 %}{% set b %}{% for i in range(100000) %}{{ a }}{% endfor %}{% endset %}",
        (
            "{% macro f(n) %}{% for i in [1, 2, 3, 4] %}{% if n %}{{ f(n - 1) }}{% endif %}{% endfor %}{% endmacro %}"
            "{{ f(40) }}"
        ),
        NESTING + "{{ n.l|tojson }}",
        NESTING + "{{ n.l }}",
        NESTING + "{{ n.l|string }}",
        NESTING + "{{ n.l|join }}",
        NESTING.replace("[n.l, n.l]", "{'a': n.l, 'b': n.l}") + "{{ n.l|tojson }}",
        NESTING.replace("[n.l, n.l]", "(n.l, n.l)") + "{{ {n.l: 1} }}",
        NESTING + "{% set m = n.l %}" + NESTING + "{{ m == n.l }}",
        "{% set l = [] %}{% for i in range(60) %}{% set _ = l.append([l, l]) %}{% endfor %}{{ l|tojson }}",
        "{% set a = [] %}{% set b = [a, a] %}{% set _ = a.append(1) %}{{ b }}",
        "{% set l = [] %}{% for i in range(9 ** 6) %}{% set _ = l.append(i) %}{% endfor %}",
        "{{ '{0:>999999999}'.format('x') }}",
        "{{ '{0:>{1}}'.format('x', 999999) }}",
        "{{ '{x:>99999}'.format_map({'x': 1}) }}",
        "{% set f = '{:>999999999}'.format %}{{ f(1) }}",
        "{{ ['x']|map('format', 1)|first }}{{ '%*d'|format(999999, 1) }}",
        "{% set a = 'a' * 100000 %}{{ ('{0}' * 1000).format(a) }}",
        "{% set a = 'a' * 100000 %}{{ a.translate({97: a}) }}",
        "{{ {}.fromkeys(range(900000), 'x') }}",
        "{{ (1).to_bytes(999999, 'big') }}",
        "{{ 'a'.encode() }}",
        "{{ ('x' * 900000)|wordwrap(1) }}",
        "{{ range(900000)|map('string')|sort|join }}",
        "{% set a = 'a' * 1000000 %}{{ range(1000)|map('string')|join(a) }}",
        "{{ ([[1] * 1000] * 1000)|sum(start=[]) }}",
        "{{ ('x' * 900000)|list|batch(1)|list }}",
        "{% set a = 'a' * 900000 %}{{ " + " ~ ".join(["a[1:]|length"] * 300) + " }}",
        "{% set l = ('a' * 900000)|list %}{{ " + " or ".join(["'b' in l"] * 100) + " }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ strftime_now('%Y' * 100000) }}",
        "{{ [[1]]|tojson(separators=('x' * 900000, ':')) }}",
        "{% set r = range(900000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop('x' * 900000) }}{% endfor %}",
    ],
)
def test_a_template_that_wastes_time_or_memory_is_refused(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.5)
    monkeypatch.setattr(budget, "MEMORY", 4 << 20)
    template = ChatTemplate(ONLY_THEN.replace("BODY", body))
    tracemalloc.start()
    try:
        with pytest.raises(ChatTemplateError):
            template.render(ASK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20, "what it makes, what is kept about it, and the last thing that was too much"


@pytest.mark.parametrize(
    "source",
    ["{{ a" + " ~ a" * 40_000 + " }}", "{% for a in b %}" * 30 + "{% endfor %}" * 30, "{{ " + "9" * 9999 + " }}"],
    ids=["long", "nested", "number"],
)
def test_a_source_that_is_costly_to_compile_is_the_files_fault(source: str) -> None:
    with pytest.raises(ModelFileError, match="chat template is not valid Jinja"):
        ChatTemplate(source)


def test_what_is_tried_at_the_opening_shares_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    before = budget.RenderBudget.__init__

    def counted(self: budget.RenderBudget, given: int) -> None:
        made.append(given)
        before(self, given)

    monkeypatch.setattr(budget.RenderBudget, "__init__", counted)
    ChatTemplate("{{ raise_exception('no') }}")
    assert len([given for given in made if given < 1 << 20]) == 2, "to compile and to try"


def test_the_longer_a_conversation_the_more_a_template_may_make() -> None:
    template = ChatTemplate("{% for m in messages %}" + "{{ m.content|trim }}" * 3 + "{% endfor %}")
    text = "word " * 2_000_000
    assert len(template.render([Message("user", text)])) == 3 * len(text.strip())


def test_what_real_templates_do_goes_on() -> None:
    body = (
        "{{ 'a' ~ 1 ~ none }}{{ ['a', 'b']|join(', ') }}{{ 'x y'.replace('x', 'z')|trim|upper }}"
        "{{ '%s!'|format('w') }}"
        "{{ {'a': [1]}|tojson(indent=2) }}{{ 'ab'|indent(2) }}{{ [1, 2, 3]|sum }}"
        "{{ 'a,b'.split(',')|first|default('n') }}"
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
        "{{ [3, 1]|sort|map('string')|join }}{{ 1 + 2 }}"
        "{% set l = [] %}{% for i in range(2) %}{% set _ = l.append([i]) %}{% endfor %}{{ l }}"
        "{% for k, v in messages[0].items() %}{{ k }}{{ loop.length }}{% endfor %}{{ 'role' in messages[0].keys() }}"
        "{{ '{:>3}{}'.format('a', [1]) }}{{ 'a\\tb'.expandtabs(2) }}{{ 'b'.center(3) }}{{ 'a b'|wordwrap(1) }}"
        "{{ ('a', 'b')[::-1] }}{{ [1, 2] == [1, 2] }}{{ 1 < 2 < 3 }}{{ '<'|e ~ ('<'|safe) }}"
        "{% autoescape true %}{{ '<' }}{% endautoescape %}"
    )
    said = ChatTemplate(ONLY_THEN.replace("BODY", body)).render(ASK)
    assert said == (
        'a1Nonea, bZ Yw!{\n  "a": [\n    1\n  ]\n}ab6a1133[[0], [1]]role2content2True  a[1]a b b a\nb'
        "('b', 'a')TrueTrue&lt;<<"
    )
