"""The families: by what a model is known to be of one, what it writes around thoughts and calls, and who reads it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.families.call_forms import GemmaCalls, JsonCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.families.call_forms import CallForm


@dataclass(frozen=True, slots=True)
class Thought:
    """What stands around a model's thoughts."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one family call tools.

    Args:
        name: of the family.
        known_by: texts of chat templates: all of one of these groups stand in those of this family.
        opens: what begins a call. A mark may stand anywhere; what is no mark ("{") is a call of its own at the start of
            an answer, and is read with it.
        form: makes what reads on behind one of `opens`, given the names of the tools.
        begin, head: what the grammar has stand before the first call: a mark, and what follows it.
        before, after: what it has each call begin and end with; `NAME` stands for the name as JSON.
        joint: what stands between two calls.
        closes: what stands behind the last one.
        notation: of arguments: "json", or "gemma".
    """

    name: str
    known_by: tuple[tuple[str, ...], ...]
    opens: tuple[str, ...]
    form: Callable[[str, tuple[str, ...]], CallForm]
    begin: str = ""
    head: str = ""
    before: str = '{"name": NAME, "arguments": '
    after: str = "}"
    joint: str = ""
    closes: str = ""
    notation: str = "json"

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that have to be seen in an answer, whatever kind of token they are."""
        written = "".join((self.begin, self.head, self.joint, self.closes, self.after, *self.opens))
        found = re.findall(r"<\|?/?[a-z_]+\|?>", written)
        return tuple(dict.fromkeys([*found, *([GemmaCalls.QUOTE] if self.notation == "gemma" else [])]))


def is_mark(text: str) -> bool:
    """Whether what opens a call is one wherever it stands."""
    return text.startswith("<")


def _hermes(opened: str, names: tuple[str, ...]) -> CallForm:
    if opened == "<tool_call>":
        return JsonCalls("</tool_call>")
    return JsonCalls("```" if opened.startswith("`") else "", names=names)


HERMES = Family(
    "hermes",
    (("<tool_call>",),),
    ("<tool_call>", "{", "```json"),  # small models leave the marks out
    _hermes,
    begin="<tool_call>",
    before='\n{"name": NAME, "arguments": ',
    after="}\n</tool_call>",
    joint="\n<tool_call>",
)
LLAMA = Family(
    "llama3",
    (("<|start_header_id|>", "tools"),),
    ("<|python_tag|>", "{"),
    lambda _, names: JsonCalls(separator=";", names=names),
    before='{"name": NAME, "parameters": ',
    joint="; ",
)
GRANITE = Family(
    "granite",
    (("<|start_of_role|>", "<|tool_call|>"),),
    ("<|tool_call|>", "<tool_call>"),
    lambda opened, _: JsonCalls("</tool_call>" if opened == "<tool_call>" else ""),
    begin="<|tool_call|>",
    head="[",
    joint=", ",
    closes="]",
)
PHI = Family(
    "phi",
    (("<|tool|>", "<|/tool|>"), ("<|tool_call|>", "<|/tool_call|>")),
    ("<|tool_call|>",),
    lambda _, __: JsonCalls("<|/tool_call|>"),
    begin="<|tool_call|>",
    head="[",
    joint=", ",
    closes="]<|/tool_call|>",
)
GEMMA = Family(
    "gemma4",
    (("<|tool_call>",),),
    ("<|tool_call>",),
    lambda _, __: GemmaCalls("<tool_call|>"),
    begin="<|tool_call>",
    before="call:NAME",
    after="<tool_call|>",
    joint="<|tool_call>",
    notation="gemma",
)
PLAIN = Family(
    "plain",
    (),
    ("{", "[", "```json"),
    lambda opened, names: JsonCalls("```" if opened.startswith("`") else "", separator=";", names=names),
    joint="; ",
)
FAMILIES = (GEMMA, PHI, GRANITE, HERMES, LLAMA)
"""The more special first."""

THOUGHTS = (
    Thought("<think>", "</think>"),
    Thought("<thinking>", "</thinking>"),
    Thought("[THINK]", "[/THINK]"),
    Thought("<|channel>thought", "<channel|>"),
    Thought("<|channel|>analysis<|message|>", "<|end|>"),
    Thought("<seed:think>", "</seed:think>"),
    Thought("<reasoning>", "</reasoning>"),
)


def family_of(template: str) -> Family:
    """Return the family that a chat template is of, by its source; `PLAIN` where it is of none."""
    for family in FAMILIES:
        if any(all(mark in template for mark in marks) for marks in family.known_by):
            return family
    return PLAIN


def thoughts_of(template: str, marks: Sequence[str] = ()) -> tuple[Thought, ...]:
    """Return what models of a template put around their thoughts; () where they do not think aloud.

    Args:
        template: its source.
        marks: texts of the model's own tokens that are no plain text, which know of thoughts where a template does not.
    """
    known = "\n".join((template, *marks))
    return tuple(each for each in THOUGHTS if each.close in known and each.open.split("<|message|>")[0] in known)


def quoted(name: str) -> str:
    """Return a name as JSON."""
    return json.dumps(name, ensure_ascii=False)
