"""A model's own chat template: what it makes of messages, and whether anything is lost on the way."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import jinja2
from markupsafe import escape

from crayon.errors import AnswerFormatError, ChatTemplateError, InvalidRequestError, ModelFileError
from crayon.llama import budget, dialect
from crayon.messages import Message, ToolCall, starts_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crayon.messages import Role

    Content: TypeAlias = str | list[dict[str, str]]

# Unicode's private use area: cannot be mistaken for a model's own text, and no template trims it.
_FIRST_PRIVATE, _LAST_PRIVATE = 0xE000, 0xF8FF

# What a template can make Jinja and Python raise; the last three by nesting or growing without end.
_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
    SyntaxError,
)
# Of a source. The longest known has a third as many; to compile one takes a few kilobytes.
_TOKENS = 30_000

# Conversations that a template is tried with: for each, the message that is looked for. White space within and other
# letters than ASCII's tell nothing about it; the words stand in no template.
_PROBES: Final = {
    "user": ("Wherefore quoth Ysolde?",),
    "system": ("Verily, be ye brief.", "Wherefore quoth Ysolde?"),
    "assistant": ("Wherefore quoth Ysolde?", "Forsooth, thrice.", "And Perceval?"),
}

_PROBE_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "wind_horn",
        "description": "Wakes ye hounds.",
        "parameters": {"type": "object", "properties": {"quarry": {"type": "string", "description": "Which beast."}}},
    },
}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. `is_content`: a control token's text that a message holds, and that is text there."""

    text: str
    is_content: bool


class ChatTemplate:
    """Renders messages as the model was trained to read them.

    It is tried when it is made: whether it takes contents as text or as lists of parts, and what it loses.

    Raises:
        ModelFileError: `source` is not valid Jinja.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self._source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._open(open_generation=False)
        if "user" in self.loses and "endgeneration" in source:  # written for who knows no bounds there
            self._open(open_generation=True)

    def _open(self, *, open_generation: bool) -> None:
        """Compile the template and try it."""
        try:
            environment = dialect.environment(open_generation=open_generation)
            if next(itertools.islice(environment.lex(self._source), _TOKENS, None), None):
                raise ValueError(f"it has more than {_TOKENS} tokens")
            with budget.limited():
                self._template = environment.from_string(self._source)
        except _FAILURES as error:
            raise ModelFileError(f"the model's chat template is not valid Jinja: {error}") from error
        self._typed: set[Role] = set()
        """Roles whose contents are given as lists of parts."""
        self.folds_system = False
        """Whether it has no place for what the system says, so that this goes in front of the first question."""
        self.refuses: set[Role] = set()
        """Whose messages are refused, in the plainest conversation that holds one."""
        self.loses: set[str] = set()
        """What never reaches the prompt: "user", "system", "assistant", or "earlier" for all but the last question."""
        with budget.limited():  # once for all that is tried
            self._try()

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        """Return the prompt, ending where the assistant's answer starts or goes on, whatever it lost.

        Raises:
            ChatTemplateError: the template refuses these messages (for example two user turns in a row).
        """
        begun = messages[-1].content if starts_answer(messages) else ""
        said = [self._said(m) for m in self._folded(messages[:-1] if begun else messages)]
        try:
            given: dict[str, Any] = {**dialect.values(), **self._tokens}
            if tools:
                given["tools"] = list(tools)
                if (
                    "['tools']" in self._source or "message.tools" in self._source
                ):  # Phi's is told in the system message
                    if not said or said[0]["role"] != "system":
                        said.insert(0, {"role": "system", "content": ""})
                    said[0]["tools"] = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
            with budget.limited([said, given.get("tools")]):
                rendered = self._template.render(messages=said, add_generation_prompt=True, **given)
                return rendered + begun
        except ChatTemplateError:
            raise
        except _FAILURES as error:
            raise ChatTemplateError(
                f"the model's chat template cannot render them: {str(error) or type(error).__name__}"
            ) from error

    def parts(
        self, messages: Sequence[Message], control_texts: Sequence[str], tools: Sequence[dict[str, Any]] = ()
    ) -> list[Part]:
        """Return the prompt, with all that was said in it; control texts that messages and tools hold stand apart.

        Nearly always it is one part. Where a message holds one of `control_texts`, it stands in a part of its own, and
        the template's own ones stay in the others.

        Raises:
            ChatTemplateError: the template refuses the messages, or loses some of them.
        """
        described = json.dumps(tools, ensure_ascii=False) if tools else ""
        said = "\0".join([*(text for message in messages for text in message.texts), described])
        found = [mark for mark in control_texts if mark in said]
        if not found:
            rendered = self.render(messages, tools)
            self._check(messages, rendered)
            return [Part(rendered, is_content=False)] if rendered else []
        # Where two begin alike, the longer one is meant.
        any_mark = re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))
        opened, closed = _unused(said)
        typed: list[str] = []

        def aside(match: re.Match[str]) -> str:
            typed.append(match.group())
            return f"{opened}{len(typed) - 1}{closed}"

        masked = [m.with_texts([any_mark.sub(aside, text) for text in m.texts]) for m in messages]
        rendered = self.render(masked, json.loads(any_mark.sub(aside, described)) if tools else ())
        self._check(masked, rendered)
        pieces = re.split(f"{opened}([0-9]+){closed}", rendered)
        parts = [
            Part(typed[int(piece)], is_content=True) if i % 2 else Part(piece, is_content=False)
            for i, piece in enumerate(pieces)
        ]
        return [part for part in parts if part.text]

    @property
    def source(self) -> str:
        """Its text, in Jinja."""
        return self._source

    @functools.cached_property
    def opening(self) -> str:
        """What it puts before an answer; "" where that cannot be told."""
        question = _PROBES["user"][0]
        try:
            return self.render([Message("user", question)]).rpartition(question)[2]
        except InvalidRequestError:
            return ""

    @functools.cached_property
    def takes_tools(self) -> bool:
        """Whether it tells of tools that it is given."""
        try:
            told = self.render([Message("user", _PROBES["user"][0])], [_PROBE_TOOL])
        except InvalidRequestError:
            return False
        return all(part in told for part in (_PROBE_TOOL["function"]["name"], _PROBE_TOOL["function"]["description"]))

    @functools.cached_property
    def takes_calls(self) -> bool:
        """Whether it has a place for calls of tools and their results."""
        call = ToolCall("call_1", _PROBE_TOOL["function"]["name"], '{"quarry": "hart"}')
        said = (
            Message("user", _PROBES["user"][0]),
            Message("assistant", "", (call,)),
            Message("tool", "Alack.", (), call.id),
        )
        try:
            told = self.render(said)
        except InvalidRequestError:
            return False
        return all(part in told for part in (call.name, "quarry", "hart", "Alack."))

    @functools.cached_property
    def after_answer(self) -> str:
        """What the template puts between an answer and the next question; "" where that cannot be told."""
        question, answer, following = _PROBES["assistant"]
        try:
            rendered = self.render(_conversation(_PROBES["assistant"]))
        except InvalidRequestError:
            return ""
        _, found, rest = rendered.partition(answer)
        between, followed, _ = rest.partition(following)
        return between if found and followed and question not in between else ""

    @functools.cached_property
    def own_text(self) -> str:
        """What the template writes of its own: its source, and what a conversation is rendered to."""
        rendered = ""
        with budget.limited():
            for texts in _PROBES.values():
                with contextlib.suppress(ChatTemplateError):
                    rendered += self.render(_conversation(texts))
        return self._source + rendered

    # -- what it does to messages

    def _folded(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages, with what the system says first in front of the first question if need be."""
        first = next((i for i, m in enumerate(messages) if m.role != "system"), 0)
        if not (self.folds_system and first) or messages[first].role != "user":
            return messages
        texts = [m.content for m in messages[: first + 1]]
        return [Message("user", "\n\n".join(texts)), *messages[first + 1 :]]

    def _said(self, message: Message) -> dict[str, Any]:
        """Return a message as templates read it: the arguments of calls as objects, where they are some."""
        said: dict[str, Any] = {"role": message.role, "content": self._content(message)}
        if message.tool_calls:
            said["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": _arguments(c)}}
                for c in message.tool_calls
            ]
        if message.tool_call_id:
            said["tool_call_id"] = message.tool_call_id
        if message.reasoning:
            said["reasoning_content"] = message.reasoning
        return said

    def _content(self, message: Message) -> Content:
        if message.role in self._typed:
            return [{"type": "text", "text": message.content}]
        return message.content

    def _try(self) -> None:
        """Find out which contents are to be lists, and what is refused or lost either way."""
        roles: tuple[tuple[Role, int], ...] = (("user", 0), ("system", 0), ("assistant", 1))
        for role, at in roles:
            texts = _PROBES[role]
            plain = self._holds(texts, at)
            if plain:
                continue
            self._typed.add(role)
            if not self._holds(texts, at):
                self._typed.discard(role)
                (self.refuses if plain is None else self.loses).add(role)
        if "user" not in self.loses and self._holds(_PROBES["assistant"], 0) is False:
            self.loses.add("earlier")
        if "system" in self.refuses | self.loses:
            self.folds_system = True
            if self._holds(_PROBES["system"], 0) and self._holds(_PROBES["system"], 1):
                self.refuses.discard("system")
                self.loses.discard("system")
            else:
                self.folds_system = False

    @property
    def limits(self) -> list[str]:
        """What cannot be said to the model, in words."""
        refused = [f"refuses messages of the {role}" for role in sorted(self.refuses)]
        if self.folds_system:
            refused.append("has no place for what the system says: it goes in front of the first question")
        lost = {"earlier": "leaves out all questions but the last"}
        return refused + [lost.get(each, f"leaves out what the {each} says") for each in sorted(self.loses)]

    def _holds(self, texts: Sequence[str], at: int) -> bool | None:
        """Whether a text of a conversation is in the prompt; None: the template refuses the conversation."""
        try:
            return texts[at] in self.render(_conversation(texts))
        except InvalidRequestError:
            return None

    def _check(self, messages: Sequence[Message], rendered: str) -> None:
        last = len(messages) - 1
        for i, message in enumerate(messages):
            if any(call.name not in rendered for call in message.tool_calls):
                raise ChatTemplateError("the model's chat template leaves out which tools the assistant called")
            if not message.content.strip():
                continue
            lost = message.role in self.loses or ("earlier" in self.loses and message.role == "user" and i < last)
            if lost or not any(form in rendered for form in _forms(message)):
                raise ChatTemplateError(
                    f"the model's chat template leaves out or rewrites what the {message.role} says; leave that "
                    "message out, or use another model",
                )


def _arguments(call: ToolCall) -> Any:
    try:
        return call.parsed
    except AnswerFormatError:
        return call.arguments


def _conversation(texts: Sequence[str]) -> list[Message]:
    roles: tuple[Role, ...] = ("user", "assistant", "user") if len(texts) != 2 else ("system", "user")
    return [Message(role, text) for role, text in zip(roles, texts, strict=False)]


def _forms(message: Message) -> Iterator[str]:
    """Yield what may stand in a prompt for a message, of which one must; nearly always the first does."""
    yield message.content
    text = message.content.strip()
    yield text
    if message.role == "assistant":  # what was thought before an answer is not told again
        yield re.split(r"</think(?:ing)?>", text)[-1].strip()
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
    yield str(escape(text))  # as HTML: `content | e`


def _unused(text: str) -> tuple[str, str]:
    """Return two characters of private use that a text does not hold."""
    private = (chr(code) for code in range(_FIRST_PRIVATE, _LAST_PRIVATE + 1))
    unused = (letter for letter in private if letter not in text)
    try:
        return next(unused), next(unused)
    except StopIteration:
        raise InvalidRequestError("messages", "hold every character of private use; remove some") from None
