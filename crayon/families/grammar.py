"""What an answer that may call tools is held to: made of the same table as what reads it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints import check_constraint
from crayon.constraints.grammar import OPTIONS
from crayon.errors import InvalidRequestError
from crayon.families.call_forms import GemmaCalls
from crayon.families.table import is_mark, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

    from crayon.families.table import Family, Thought
    from crayon.tool import Tool, Tools

_ANY = "/(?s:.*)/"
_BLANK = "BLANK: /[ \\t\\r\\n]*/"
# What Gemma's arguments are made of, beside its quotes.
_GEMMA_RULES = r"""
gemma_value: gemma_text | gemma_object | gemma_list | NUMBER | WORD
gemma_object: "{" (gemma_pair ("," gemma_pair)*)? "}"
gemma_pair: KEY ":" gemma_value
gemma_list: "[" (gemma_value ("," gemma_value)*)? "]"
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/
WORD: "true" | "false" | "null"
KEY: /[A-Za-z_][A-Za-z0-9_.-]*/
"""


def check_tools(tools: Tools) -> None:
    """Check that the arguments of every tool can be kept to.

    Raises:
        InvalidRequestError: a schema asks for what cannot be done; the field names the tool.
    """
    for tool in tools.tools:
        try:
            check_constraint(Constraint(ConstraintKind.SCHEMA, json.dumps(_schema(tool), ensure_ascii=False)))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"tools.{tool.name}.parameters", error.problem) from None


def tool_grammar(
    family: Family,
    tools: Tools,
    *,
    controls: Collection[str] = (),
    thoughts: tuple[Thought, ...] = (),
    thinking: Thought | None = None,
) -> Constraint:
    """Return what an answer may be: text or calls, or calls alone where one has to be made.

    Args:
        family: how they are written.
        tools: which ones, and whether they have to be called.
        controls: marks that are tokens of the model's which are no text.
        thoughts: what may stand before calls, where they have to be made.
        thinking: the thought that the prompt has begun.
    """
    made = _Grammar(family, controls)
    return Constraint(ConstraintKind.GRAMMAR, made.of(tools, thoughts, thinking), show=False)


class _Grammar:
    def __init__(self, family: Family, controls: Collection[str]) -> None:
        self._family = family
        self._controls = controls
        self._rules: list[str] = []

    def of(self, tools: Tools, thoughts: tuple[Thought, ...], thinking: Thought | None) -> str:
        family = self._family
        calls = self._calls(tools)
        if tools.has_to:
            start = f"{self._thought(thoughts, thinking)}{self._literal(family.begin)} calls"
        elif is_mark(family.begin):
            start = "free | opened calls"
            if family.begin in self._controls:
                self._rules += [f"opened: ANY {family.begin}", "free: ANY", f"ANY: {_ANY}"]
            else:
                self._rules += [f"free: {_ANY}", f"opened[suffix={quoted(family.begin)}]: {_ANY}"]
        else:  # what begins like a call is one
            self._rules.append(r"free: /(\s*[^\s{\[](?s:.*))?/")
            start = "free | calls"
        return "\n".join([f"start: {start}", calls, *self._rules])

    def _thought(self, thoughts: tuple[Thought, ...], thinking: Thought | None) -> str:
        """Return what a thought before the calls is, as a part of a rule."""
        usual = thinking or next(iter(thoughts), None)
        if usual is None or {usual.open, usual.close} & set(self._controls):
            return ""
        begin = "" if thinking else re.escape(usual.open)
        self._rules += [f"thought[suffix={quoted(usual.close)}]: /{begin}(?s:.*)/", _BLANK]
        return "thought BLANK " if thinking else "(thought BLANK)? "

    def _calls(self, tools: Tools) -> str:
        family = self._family
        for i, tool in enumerate(tools.offered):
            before, after = (part.replace("NAME", name) for part, name in (
                (family.before, tool.name if family.notation == "gemma" else quoted(tool.name)), (family.after, "")
            ))  # fmt: skip
            self._rules.append(f"call_{i}: {self._literal(before)} {self._arguments(tool, i)} {self._literal(after)}")
        self._rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools.offered))))
        more = f"({self._literal(family.joint)} call)*" if family.joint and tools.parallel else ""
        return f"calls: {self._literal(family.head)} call {more} {self._literal(family.closes)}"

    def _arguments(self, tool: Tool, place: int) -> str:
        schema = _schema(tool)
        if self._family.notation != "gemma":
            return "%json " + json.dumps({**schema, "x-guidance": OPTIONS}, ensure_ascii=False)
        return self._gemma(schema, place)

    def _gemma(self, schema: dict[str, Any], place: int) -> str:
        quote = self._literal(GemmaCalls.QUOTE)
        if not any(rule.startswith("gemma_text") for rule in self._rules):
            self._rules += [f"gemma_text: {quote} TEXT {quote}", "TEXT: /[^<]*/", _GEMMA_RULES.strip()]
        names = [name for name in schema.get("properties", {}) if re.fullmatch(r"[^\s:{}\[\],<\"]+", name)]
        if not names:
            return '"{}"'
        self._rules.append(f'pair_{place}: ({" | ".join(map(quoted, names))}) ":" gemma_value')
        needed = bool(schema.get("required"))
        pairs = f'pair_{place} ("," pair_{place})*'
        return f'"{{" {pairs if needed else f"({pairs})?"} "}}"'

    def _literal(self, text: str) -> str:
        """Return a text as a part of a rule; what of it is a control token stands as one."""
        marks = [mark for mark in self._controls if mark in text]
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
        return " ".join(piece if piece in marks else quoted(piece) for piece in pieces if piece)


def _schema(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **tool.schema}
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema
