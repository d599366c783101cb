"""What chat templates are written in: Jinja as transformers has it, in a sandbox, for they are of the outside world."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from crayon.errors import ChatTemplateError
from crayon.llama import budget, growth

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from jinja2.compiler import Frame
    from jinja2.parser import Parser

# Jinja's sandbox keeps a template from the interpreter, not from our time and memory: `budget` does, which is asked
# about all that a template makes, compares or loops over. These bounds are far above what a real template needs.
_MOST = 1_000_000  # items of all ranges of one rendering, characters of one repetition, size of a number
_FORM = 1000  # characters of a form for dates

_SCOPE = ("_loop_vars", "_block_vars")  # what Jinja itself gives calls beside
_TEXT_METHODS = (
    "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii "
    "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip "
    "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines "
    "startswith strip swapcase title upper zfill"
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    list: frozenset({"append", "copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    range: frozenset({"start", "stop", "step"}),
    int: frozenset(),
    float: frozenset({"is_integer"}),
}


class _Generator(CodeGenerator):
    """Writes what a template does by itself as calls that are bounded."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self._around("made", super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self._around("made", super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        if node.ctx == "load":
            self._around("made", super().visit_Tuple, node, frame)
        else:  # what is assigned to
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        if isinstance(node.arg, nodes.Slice):
            self._around("made", super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("(")
        self._around("compared", self.visit, node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write(f" {_COMPARISONS[node.op]} ")
        self._around("compared", self.visit, node.expr, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        node.iter = nodes.Call(nodes.EnvironmentAttribute("steps"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_ScopedEvalContextModifier(  # noqa: N802 - Jinja's name
        self, node: nodes.ScopedEvalContextModifier, frame: Frame
    ) -> None:
        for child in node.body:  # {% autoescape %}: a prompt is no HTML
            self.visit(child, frame)

    def _around(self, name: str, visit: Callable[..., None], node: nodes.Node, frame: Frame) -> None:
        self.write(f"environment.{name}(")
        visit(node, frame)
        self.write(")")


_COMPARISONS = {
    "eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<=", "in": "in", "notin": "not in"
}  # fmt: skip


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    code_generator_class = _Generator
    made = staticmethod(budget.made)
    compared = staticmethod(budget.compared)
    steps = staticmethod(budget.steps)
    joined = staticmethod(budget.joined)
    concat = staticmethod(budget.joined)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # Jinja's signature
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return not isinstance(obj, type) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # Jinja's signature
        return growth.bounded_format(self, value)

    def getitem(self, obj: Any, argument: Any) -> Any:  # Jinja's signature
        return super().getitem(obj, budget.compared(argument))

    def call(self, context: Any, obj: Any, /, *args: Any, **named: Any) -> Any:  # Jinja's signature
        if obj is budget.steps:
            return obj(*args)
        scope = {name: named.pop(name) for name in _SCOPE if name in named}
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, list) and name == "append":
            return budget.append(owner, *args, **named)
        if isinstance(owner, dict) and name in {"items", "keys", "values"}:
            return budget.made(list(obj()))  # a view would go on knowing the whole of it
        if isinstance(owner, str | list | tuple | dict):
            args = (owner, *args)
            if bounded := growth.METHODS.get(name) if isinstance(owner, str) else None:
                return budget.made(bounded(*args, **named))
            budget.take_call(name, (*args, *named.values()))
            return budget.made(obj(*args[1:], **named))
        budget.take_call(name, (*args, *named.values()))
        return budget.made(super().call(context, obj, *args, **named, **scope))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # Jinja's signature
        if isinstance(left, int | float) and isinstance(right, int | float):
            if (operator == "*" and abs(left) * abs(right) > _MOST**2) or (
                operator == "**" and (abs(left) > _MOST or abs(right) > 10)
            ):
                raise SecurityError(f"'{operator}' of numbers this large")
        elif operator == "*":
            sizes = [abs(side) if isinstance(side, int | float) else len(side) for side in (left, right)]
            if sizes[0] * sizes[1] > _MOST:
                raise SecurityError("'*' of values this large")
        elif operator != "+":
            raise SecurityError(f"'{operator}' of values of this kind")  # text: '%999999999d' % 1
        return budget.made(super().call_binop(context, operator, left, right))


class _Namespace(Namespace):
    def __repr__(self) -> str:
        return "<Namespace>"  # not what is in it, which may be itself


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: what is inside, for it marks only what a trainer is to learn.

    Variables that are set within are no others' in transformers; llama.cpp knows no such bounds (`_OpenGeneration`).
    """

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return self.within(body, line)

    def within(self, body: list[nodes.Node], line: int) -> nodes.Node | list[nodes.Node]:
        """Return what stands in the tag's place."""
        return nodes.Scope(body, lineno=line)


class _OpenGeneration(_Generation):
    def within(self, body: list[nodes.Node], line: int) -> nodes.Node | list[nodes.Node]:  # noqa: ARG002 - the same
        return body


def environment(*, open_generation: bool = False) -> Environment:
    """Return what compiles templates, with the settings of transformers' `apply_chat_template`.

    It compiles and renders within `budget.limited` only. `open_generation`: what is set in `{% generation %}` is known
    behind it.
    """
    made = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the output is a prompt, not HTML
        finalize=budget.text,
        optimized=False,  # looks at each part of an expression once for each that it is part of
        extensions=["jinja2.ext.loopcontrols", _OpenGeneration if open_generation else _Generation],
    )
    del made.globals["lipsum"]  # pages of filler text
    made.filters = {name: _guarded(name, filter_) for name, filter_ in growth.filters(made.filters).items()}
    tests: Any = made.tests  # typed by Jinja as functions of nothing
    made.tests = {name: _guarded(name, test) for name, test in tests.items()}
    made.globals["namespace"] = _Namespace
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _now
    return made


def values() -> dict[str, Any]:
    """Return what one rendering may use beside the messages: a bounded `range`, and what transformers always names."""
    return {"range": _bounded_range(), "tools": None, "documents": None}


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter or test that takes what it costs; what Jinja has written on it stays there."""

    def run(*args: Any, **named: Any) -> Any:
        budget.take_call(name, (*args, *named.values()))
        return budget.made(function(*args, **named))

    run.__dict__.update(getattr(function, "__dict__", {}))
    run.__name__ = name
    return run


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


def _now(form: str) -> str:
    if len(form) > _FORM or growth.is_wide(form):
        raise SecurityError("a form for dates this long or wide")
    return dt.datetime.now().astimezone().strftime(form)


def _refuse(message: str) -> NoReturn:
    raise ChatTemplateError(f"refused by the model's chat template: {message}")
