"""What is said in place of a chat template that has no words for tools, calls or their results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from crayon.families.table import quoted
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.families.table import Family
    from crayon.tool import Tool


def with_tools(messages: Sequence[Message], tools: Sequence[Tool], family: Family) -> tuple[Message, ...]:
    """Return messages whose system message tells of the tools, and of how to call them."""
    listed = "\n".join(json.dumps(tool.described["function"], ensure_ascii=False) for tool in tools)
    form = written([("NAME", "{...}")], family)
    told = (
        f"You can call functions. To call one, answer with this and nothing else:\n{form}\n"
        f"Call one only where it helps to answer; otherwise answer in words. These are the functions:\n{listed}"
    )
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{told}".strip()), *messages[1:])
    return (Message("system", told), *messages)


def in_words(messages: Sequence[Message], family: Family) -> tuple[Message, ...]:
    """Return messages in which calls and their results are what the assistant and the user say."""
    names: dict[str, str] = {}
    made: list[Message] = []
    last = ""
    for message in messages:
        if message.tool_calls:
            names.update({call.id: call.name for call in message.tool_calls})
            last = message.tool_calls[0].name
            calls = written([(call.name, call.arguments) for call in message.tool_calls], family)
            made.append(Message("assistant", f"{message.content}\n{calls}".strip(), reasoning=message.reasoning))
        elif message.role == "tool":
            said = f"{names.get(message.tool_call_id, last)} returned: {message.content}"
            if made and made[-1].role == "user" and last:  # results of one turn stand together
                made[-1] = Message("user", f"{made[-1].content}\n{said}")
            else:
                made.append(Message("user", said))
        else:
            made.append(message)
            last = ""
    return tuple(made)


def written(calls: Sequence[tuple[str, str]], family: Family) -> str:
    """Return calls, as name and arguments in JSON, as a model of the family writes them."""
    bodies = [f"{family.before.replace('NAME', quoted(name))}{arguments}{family.after}" for name, arguments in calls]
    return f"{family.begin}{family.head}{family.joint.join(bodies)}{family.closes}".strip()
