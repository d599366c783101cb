"""No chat template takes our time or memory, whatever it does."""

from __future__ import annotations

import sys

import pytest

from crayon.errors import ChatTemplateError
from crayon.llama import budget
from crayon.llama.template import ChatTemplate
from crayon.messages import Message

ASK = (Message("user", "go"),)
# Harmless while it is tried; the real question sets it off.
ONLY_THEN = "{% if messages[-1].content == 'go' %}BODY{% else %}{{ messages[-1].content }}{% endif %}"
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
    ],
)
def test_a_template_that_wastes_time_or_memory_is_refused(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    template = ChatTemplate(ONLY_THEN.replace("BODY", body))
    with pytest.raises(ChatTemplateError):
        template.render(ASK)
    assert sys.gettrace() is None or "limited" not in repr(sys.gettrace())


def test_what_real_templates_do_goes_on() -> None:
    body = (
        "{{ 'a' ~ 1 ~ none }}{{ ['a', 'b']|join(', ') }}{{ 'x y'.replace('x', 'z')|trim|upper }}"
        "{{ '%s!'|format('w') }}"
        "{{ {'a': [1]}|tojson(indent=2) }}{{ 'ab'|indent(2) }}{{ [1, 2, 3]|sum }}"
        "{{ 'a,b'.split(',')|first|default('n') }}"
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
        "{{ [3, 1]|sort|map('string')|join }}{{ 1 + 2 }}"
    )
    said = ChatTemplate(ONLY_THEN.replace("BODY", body)).render(ASK)
    assert said == 'a1Nonea, bZ Yw!{\n  "a": [\n    1\n  ]\n}ab6a1133'
