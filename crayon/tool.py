"""Tools: functions that a model may ask its caller to call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from crayon.errors import InvalidRequestError
from crayon.messages import check_unicode

MAX_TOOLS = 128
MAX_TOOL_BYTES = 2**16
"""Of one tool, as UTF-8."""
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
FIELD = "tools"
NO_ARGUMENTS = '{"type": "object", "properties": {}}'


class ToolChoice(StrEnum):
    """Whether a model calls tools."""

    AUTO = "auto"
    """As it likes."""
    NONE = "none"
    """It is not told of them."""
    REQUIRED = "required"
    """It calls one at least, and says nothing else."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One function.

    Args:
        name: letters, digits, `_`, `-` and `.`; at most 64.
        description: what it does and when to call it, for the model.
        parameters: the JSON schema of its arguments, an object's, as JSON.

    Raises:
        InvalidRequestError: one of these is something else.
    """

    name: str
    description: str = ""
    parameters: str = NO_ARGUMENTS

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            problem = f"must be 1 to 64 letters, digits, '_', '-' and '.', not {self.name!r:.80}"
            raise InvalidRequestError(f"{FIELD}.name", problem)
        for field, text in (("description", self.description), ("parameters", self.parameters)):
            if not isinstance(text, str):
                raise InvalidRequestError(f"{FIELD}.{self.name}.{field}", f"must be text, not {type(text).__name__}")
            check_unicode(f"{FIELD}.{self.name}.{field}", text)
        size = len(self.description.encode()) + len(self.parameters.encode())
        if size > MAX_TOOL_BYTES:
            problem = f"has {size} bytes of description and parameters; at most {MAX_TOOL_BYTES} are taken"
            raise InvalidRequestError(f"{FIELD}.{self.name}", problem)
        if not isinstance(self.schema.get("properties", {}), dict) or self.schema.get("type", "object") != "object":
            raise InvalidRequestError(f"{FIELD}.{self.name}.parameters", "must be the JSON schema of an object")

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments.

        Raises:
            InvalidRequestError: it is none.
        """
        try:
            found = json.loads(self.parameters)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{FIELD}.{self.name}.parameters", f"is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise InvalidRequestError(f"{FIELD}.{self.name}.parameters", "must be a JSON schema, so an object")
        return found

    @property
    def described(self) -> dict[str, Any]:
        """The tool in OpenAI's form, as chat templates read it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    @classmethod
    def of(cls, value: object, field: str) -> Tool:
        """Return a tool that is given as one, or in OpenAI's form.

        Raises:
            InvalidRequestError: it is something else.
        """
        if isinstance(value, cls):
            return value
        inner = value.get("function", value) if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or not isinstance(inner, Mapping):
            raise InvalidRequestError(field, "must be {'type': 'function', 'function': {'name', 'parameters'}}")
        if value.get("type", "function") != "function":
            problem = f"must be 'function', not {value.get('type')!r:.40}: tools of other types are not run here"
            raise InvalidRequestError(f"{field}.type", problem)
        parameters = inner.get("parameters")
        try:
            text = NO_ARGUMENTS if parameters is None else json.dumps(parameters, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{field}.parameters", f"cannot be written as JSON: {error}") from None
        return cls(inner.get("name", ""), inner.get("description") or "", text)


@dataclass(frozen=True, slots=True)
class Tools:
    """What one answer may call.

    Args:
        tools: the functions, of different names.
        choice: whether they are called.
        name: the only one that may be, and has to be; "" for any.
        parallel: whether several calls may be asked for in one answer.

    Raises:
        InvalidRequestError: none, too many, two of one name, or `name` is none of them.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice = ToolChoice.AUTO
    name: str = ""
    parallel: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.tools) <= MAX_TOOLS:
            raise InvalidRequestError(FIELD, f"must hold 1 to {MAX_TOOLS} tools, not {len(self.tools)}")
        names = [tool.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidRequestError(FIELD, f"holds two tools called {twice[0]!r}; rename one")
        if self.name and self.name not in names:
            raise InvalidRequestError("tool_choice", f"names {self.name!r}, which is none of {', '.join(names)}")

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The ones that the model is told of and may call."""
        if self.choice is ToolChoice.NONE:
            return ()
        return tuple(tool for tool in self.tools if self.name in {"", tool.name})

    @property
    def has_to(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice is ToolChoice.REQUIRED or bool(self.name)

    @property
    def texts(self) -> tuple[str, ...]:
        """All that they say, for whoever has to look at what leaves the device."""
        return tuple(text for tool in self.tools for text in (tool.name, tool.description, tool.parameters) if text)
