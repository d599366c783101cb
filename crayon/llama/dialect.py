"""What chat templates are written in: Jinja as transformers has it, in a sandbox, for they are of the outside world."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crayon.errors import ChatTemplateError
from crayon.llama import budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from jinja2.compiler import Frame
    from jinja2.parser import Parser

# Jinja's sandbox keeps a template from the interpreter, not from our time and memory: `budget` does.
# These bounds are far above what a real template needs.
_MOST = 1_000_000  # items of all ranges of one rendering, characters of one repetition, size of a number


class _Generator(CodeGenerator):
    """Writes `~` as a call that is bounded."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Generator
    joined = staticmethod(budget.joined)
    concat = staticmethod(budget.joined)

    def call(self, context: Any, obj: Any, /, *args: Any, **named: Any) -> Any:  # Jinja's signature
        budget.check_call(obj, args, named)
        return budget.sized(super().call(context, obj, *args, **named))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # Jinja's signature
        if operator == "+":
            return budget.sized(super().call_binop(context, operator, left, right))
        sizes = [abs(side) if isinstance(side, int | float) else len(side) for side in (left, right)]
        if (
            (operator == "*" and sizes[0] * sizes[1] > _MOST)
            or (operator == "**" and (sizes[0] > _MOST or sizes[1] > 10))
            or (operator == "%" and not isinstance(left, int | float))  # text: '%999999999d' % 1
        ):
            raise SecurityError(f"'{operator}' of values this large or of this kind")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: what is inside, for it marks only what a trainer is to learn."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def environment() -> Environment:
    """Return what compiles templates, with the settings of transformers' `apply_chat_template`."""
    made = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=["jinja2.ext.loopcontrols", _Generation]
    )  # not escaped: the output is a prompt, not HTML
    del made.globals["lipsum"]  # pages of filler text
    made.filters["tojson"] = _to_json
    made.filters.update({name: budget.guarded(filter_) for name, filter_ in made.filters.items()})
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: dt.datetime.now().astimezone().strftime(form)
    return made


def values() -> dict[str, Any]:
    """Return what one rendering may use beside the messages: a bounded `range`, and what transformers always names."""
    return {"range": _bounded_range(), "tools": None, "documents": None}


def _bounded_range() -> Callable[..., range]:
    """Return a `range` for one rendering, so that loops in loops end too."""
    left = _MOST

    def bounded(*bounds: int) -> range:
        nonlocal left
        found = range(*bounds)
        left -= len(found)
        if left < 0:
            raise SecurityError(f"its ranges have more than {_MOST} items")
        return found

    return bounded


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise ChatTemplateError(f"refused by the model's chat template: {message}")
