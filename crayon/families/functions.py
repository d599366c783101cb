"""From what callers write (OpenAI's objects, typed functions, a choice) to tools, and from a call to the function."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from crayon.constraints.response_format import tight
from crayon.errors import InvalidRequestError
from crayon.families.grammar import check_tools
from crayon.tool import FIELD, Tool, ToolChoice, Tools

if TYPE_CHECKING:
    from crayon.messages import ToolCall

ToolLike: TypeAlias = Tool | Mapping[str, Any] | Callable[..., Any]


def tools_of(
    *, tools: Iterable[ToolLike], tool_choice: object = None, parallel_tool_calls: bool | None = True
) -> Tools | None:
    """Return what a caller's keywords ask for, checked; None of no tools.

    Raises:
        InvalidRequestError: a tool, its schema or the choice is wrong.
    """
    given: object = tools
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InvalidRequestError(FIELD, f"must be a list of tools, not {type(given).__name__}")
    if not isinstance(parallel_tool_calls, bool | None):
        raise InvalidRequestError("parallel_tool_calls", f"must be True or False, not {parallel_tool_calls!r}")
    found = tuple(_tool(value, f"{FIELD}[{i}]") for i, value in enumerate(tools))
    if not found:
        return None
    choice, name = _choice(tool_choice)
    made = Tools(found, choice, name, parallel_tool_calls is not False)
    check_tools(made)
    return made


def function_tool(function: Callable[..., Any], field: str = FIELD) -> Tool:
    """Return the tool that a typed function is: its name, the first part of its docstring, its parameters' types.

    Raises:
        InvalidRequestError: a parameter cannot be given by name, or has no schema.
    """
    from pydantic import PydanticUserError, TypeAdapter

    name = getattr(function, "__name__", "")
    try:
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
                raise InvalidRequestError(
                    f"{field}.{name}", f"has {parameter.name!r}, which has no name to be given by"
                )
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
        schema = adapter.json_schema()
    except InvalidRequestError:
        raise
    except (PydanticUserError, TypeError, ValueError, NameError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidRequestError(f"{field}.{name}", f"has parameters without a schema: {said}") from None
    described = inspect.getdoc(function) or ""
    return Tool(name, described.partition("\n\n")[0], json.dumps(tight(schema), ensure_ascii=False))


def call_function(function: Callable[..., Any], call: ToolCall) -> Any:
    """Call a typed function with the arguments that a model wrote, in the types that it declares.

    Raises:
        AnswerFormatError: they are no JSON object.
        ValueError: they are not of these types.
    """
    from pydantic import validate_call

    return validate_call(function)(**call.parsed)


def result_text(value: object) -> str:
    """Return what a tool returned as a model reads it: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    from pydantic_core import to_json

    return to_json(value, fallback=str).decode()


def _tool(value: object, field: str) -> Tool:
    if callable(value) and not isinstance(value, Tool):
        return function_tool(value, field)
    return Tool.of(value, field)


def _choice(value: object) -> tuple[ToolChoice, str]:
    if value is None:
        return ToolChoice.AUTO, ""
    if isinstance(value, str):
        return (ToolChoice(value), "") if value in set(ToolChoice) else (ToolChoice.AUTO, value)
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequestError("tool_choice", "must be 'auto', 'none', 'required' or the name of a tool")
    return ToolChoice.AUTO, name
