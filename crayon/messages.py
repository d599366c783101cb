"""Chat messages: what callers pass in, in OpenAI's form, checked once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

from crayon.errors import AnswerFormatError, InvalidRequestError

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)
MAX_CALLS = 128
"""Tool calls of one message."""
MAX_NAME_CHARS = 64
"""Of a tool's name, and of a call's id."""
_DEVELOPER = "developer"  # OpenAI's newer word for the system
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning", "reasoning_content")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for.

    Args:
        id: what the message with the result refers to; unique in a conversation.
        name: which tool.
        arguments: as the model wrote them: a JSON object, where it wrote one.
    """

    id: str
    name: str
    arguments: str = "{}"

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            AnswerFormatError: the model wrote something else than a JSON object; it stands in `partial`.
        """
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            problem = f"the arguments of the call of {self.name!r} are no JSON: {error}"
            raise AnswerFormatError(problem, self.arguments) from None
        if not isinstance(value, dict):
            raise AnswerFormatError(f"the arguments of the call of {self.name!r} are no JSON object", self.arguments)
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: who speaks: "tool" is the result of a call.
        content: what is said.
        tool_calls: of an assistant: what it asked for.
        tool_call_id: of a tool: which call this is the result of.
        reasoning: of an assistant: what it thought before it answered. Models are not told again what they thought,
            unless a call asks for it.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says, for whoever has to look at what leaves the device; the content comes first."""
        return (self.content, *([self.reasoning] if self.reasoning else ()), *(c.arguments for c in self.tool_calls))

    def with_texts(self, texts: Sequence[str]) -> Message:
        """Return it with other texts, as many as `texts` has and in that order."""
        if tuple(texts) == self.texts:
            return self
        calls = texts[len(texts) - len(self.tool_calls) :]
        return replace(
            self,
            content=texts[0],
            reasoning=texts[1] if self.reasoning else "",
            tool_calls=tuple(replace(c, arguments=text) for c, text in zip(self.tool_calls, calls, strict=True)),
        )

    @property
    def size(self) -> int:
        """Characters of all that it says."""
        return sum(map(len, self.texts))


MessageLike: TypeAlias = Message | Mapping[str, Any]
MessagesLike: TypeAlias = str | MessageLike | Iterable[MessageLike]


def normalise_messages(value: MessagesLike) -> tuple[Message, ...]:
    """Return `value` as checked messages; a bare string is one user message.

    As with OpenAI, a content may be a list of text parts, which are joined; the role "developer" is the system; several
    system messages become one, in front; and a last message of the assistant's is the beginning of the answer.

    Raises:
        InvalidRequestError: no messages, an unknown role, content that is not text or is empty, the result of a call
            that was not made, or nothing to answer. The field names the message by index.
    """
    if isinstance(value, str):
        value = (Message("user", value),)
    elif isinstance(value, Message | Mapping):
        value = (value,)
    try:
        items = list(value)
    except TypeError:
        raise InvalidRequestError("messages", "must be a string or a list of {'role', 'content'}") from None
    if not items:
        raise InvalidRequestError("messages", "is empty; pass a string or at least one user message")
    messages = tuple(_message(item, f"messages[{i}]") for i, item in enumerate(items))
    _check_results(messages)
    _check_last(messages)
    return _merged(messages)


def starts_answer(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer, which goes on from there."""
    return bool(messages) and messages[-1].role == "assistant"


def question(messages: Sequence[Message]) -> str:
    """Return what the user asked last: what a conversation is about."""
    asked = [message.content for message in messages if message.role == "user"]
    return asked[-1] if asked else messages[-1].content


def with_question(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """Return messages in which the user asked `text` last."""
    at = max((i for i, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    return (*messages[:at], replace(messages[at], content=text), *messages[at + 1 :])


def check_unicode(field: str, text: str) -> None:
    """Check that `text` can be written as UTF-8, as every engine and the wire will.

    Raises:
        InvalidRequestError: it holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequestError(field, "holds a lone surrogate, which is not valid Unicode") from None


def check_name(field: str, value: object, *, what: str = "a name") -> str:
    """Return the name of a tool or the id of a call.

    Raises:
        InvalidRequestError: it is no text, empty, too long, or cannot be printed.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS or not value.isprintable():
        raise InvalidRequestError(field, f"must be {what} of 1 to {MAX_NAME_CHARS} printable characters")
    return value


def _message(item: object, field: str) -> Message:
    if isinstance(item, Message):
        found = {key: getattr(item, key) for key in ("role", "content", "tool_calls", "tool_call_id", "reasoning")}
    elif isinstance(item, Mapping):
        # Answers of other libraries, sent back as they came, name all that they do not have.
        found = {str(key): value for key, value in item.items() if value is not None and value != []}
        extra = sorted(set(found) - set(_KEYS))
        if extra or ("name" in found and found.get("role") != "tool"):
            name = extra[0] if extra else "name"
            raise InvalidRequestError(f"{field}.{name}", f"is unknown; a message has {', '.join(_KEYS[:4])}")
        found.setdefault("reasoning", found.get("reasoning_content", ""))
    else:
        raise InvalidRequestError(field, f"must be {{'role', 'content'}}, not {type(item).__name__}")
    role = "system" if found.get("role") == _DEVELOPER else found.get("role")
    if role not in ROLES:
        raise InvalidRequestError(f"{field}.role", f"must be one of {', '.join((*ROLES, _DEVELOPER))}, not {role!r}")
    calls = _calls(found.get("tool_calls") or (), f"{field}.tool_calls")
    content = found.get("content", "" if calls else None)
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = _joined(content, f"{field}.content")
    if not isinstance(content, str):
        raise InvalidRequestError(f"{field}.content", f"must be text, not {type(content).__name__}")
    if role == "user" and not content.strip():
        raise InvalidRequestError(f"{field}.content", "is empty; there is nothing to answer")
    check_unicode(f"{field}.content", content)
    reasoning = found.get("reasoning") or ""
    if not isinstance(reasoning, str):
        raise InvalidRequestError(f"{field}.reasoning", f"must be text, not {type(reasoning).__name__}")
    check_unicode(f"{field}.reasoning", reasoning)
    of_call = found.get("tool_call_id") or ""
    for key, given, owner in (("tool_calls", calls, "assistant"), ("tool_call_id", of_call, "tool"),
                              ("reasoning", reasoning, "assistant")):  # fmt: skip
        if given and role != owner:
            raise InvalidRequestError(f"{field}.{key}", f"belongs to a message of the {owner}, not of the {role}")
    if of_call:
        check_name(f"{field}.tool_call_id", of_call, what="an id")
    return Message(cast("Role", role), content, calls, str(of_call), reasoning)


def _joined(parts: Sequence[object], field: str) -> str:
    """Return the text of a content that is given in parts."""
    texts: list[str] = []
    for i, part in enumerate(parts):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and kind in _TEXT_PARTS:
            text = part.get("text")
            if not isinstance(text, str):
                raise InvalidRequestError(f"{field}[{i}].text", f"must be text, not {type(text).__name__}")
            texts.append(text)
        else:
            problem = f"is a part of the kind {kind!r:.40}; this model reads text only, so leave it out"
            raise InvalidRequestError(f"{field}[{i}]", problem)
    return "\n".join(texts)


def _calls(value: object, field: str) -> tuple[ToolCall, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidRequestError(field, f"must be a list of calls, not {type(value).__name__}")
    items = list(value)
    if len(items) > MAX_CALLS:
        raise InvalidRequestError(field, f"at most {MAX_CALLS} calls, not {len(items)}")
    return tuple(_call(item, f"{field}[{i}]", i) for i, item in enumerate(items))


def _call(item: object, field: str, place: int) -> ToolCall:
    inner: object
    name: object
    arguments: object
    if isinstance(item, ToolCall):
        known, name, arguments = item.id, item.name, item.arguments
    else:
        inner = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(inner, Mapping):
            raise InvalidRequestError(field, "must be {'id', 'type': 'function', 'function': {'name', 'arguments'}}")
        if item.get("type", "function") != "function":
            raise InvalidRequestError(f"{field}.type", f"must be 'function', not {item.get('type')!r:.40}")
        known = item.get("id") or f"call_{place}"
        name, arguments = inner.get("name"), inner.get("arguments", "{}")
    if isinstance(arguments, Mapping):
        try:
            arguments = json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{field}.arguments", f"cannot be written as JSON: {error}") from None
    if not isinstance(arguments, str):
        raise InvalidRequestError(f"{field}.arguments", f"must be JSON as text, not {type(arguments).__name__}")
    check_unicode(f"{field}.arguments", arguments)
    return ToolCall(check_name(f"{field}.id", known, what="an id"), check_name(f"{field}.name", name), arguments)


def _check_results(messages: Sequence[Message]) -> None:
    """Check that each result is of a call just before it."""
    calls: tuple[ToolCall, ...] = ()
    for i, message in enumerate(messages):
        if message.role == "assistant":
            calls = message.tool_calls
        elif message.role == "user":
            calls = ()
        elif message.role == "tool":
            if not calls:
                raise InvalidRequestError(
                    f"messages[{i}].role", "is the result of a tool, and no call stands before it"
                )
            if message.tool_call_id and all(call.id != message.tool_call_id for call in calls):
                known = ", ".join(call.id for call in calls)
                problem = f"{message.tool_call_id!r} is none of the calls before it: {known}"
                raise InvalidRequestError(f"messages[{i}].tool_call_id", problem)


def _check_last(messages: Sequence[Message]) -> None:
    last = len(messages) - 1
    while last >= 0 and messages[last].role == "system":
        last -= 1
    if last < 0:
        last, problem = len(messages) - 1, "there are messages of the system only; ask something"
    elif messages[last].role == "assistant" and messages[last].tool_calls:
        problem = "the last message asks for tools, and there are no results yet; append them"
    elif messages[last].role == "assistant" and not messages[last].content.strip():
        problem = "the last message is the beginning of the answer, and empty; leave it out"
    elif not any(message.role == "user" for message in messages):
        problem = "no message is the user's, there is nothing to answer"
    else:
        return
    raise InvalidRequestError(f"messages[{last}].role", problem)


def _merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages with what the system says in one message, in front."""
    system = [message for message in messages if message.role == "system"]
    if not system or (len(system) == 1 and messages[0].role == "system"):
        return messages
    said = Message("system", "\n\n".join(message.content for message in system if message.content.strip()))
    return (said, *(message for message in messages if message.role != "system"))
