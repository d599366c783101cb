"""What the model is told of a constraint: a grammar alone makes a small model write nonsense that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crayon.constraint import ConstraintKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.constraint import Constraint
    from crayon.messages import Message


def shown(messages: Sequence[Message], constraint: Constraint | None) -> tuple[Message, ...]:
    """Return messages whose last one ends with what is wanted, where the constraint is to be shown."""
    told = instruction(constraint) if constraint is not None and constraint.show else ""
    if not told:
        return tuple(messages)
    last = messages[-1]
    return (*messages[:-1], replace(last, content=f"{last.content}\n\n{told}"))


def read_prompt(
    messages: Sequence[Message], constraint: Constraint | None, tokenize: Callable[[Sequence[Message]], list[int]]
) -> tuple[list[int], int]:
    """Return a request's prompt, with its constraint where that is to be shown, and how many tokens this takes."""
    told = shown(messages, constraint)
    tokens = tokenize(told)
    return tokens, len(tokens) - len(tokenize(messages)) if told != tuple(messages) else 0


def instruction(constraint: Constraint) -> str:
    """Return a constraint in words, "" for one that no model would understand."""
    match constraint.kind:
        case ConstraintKind.SCHEMA:
            return f"Answer with JSON that fits this JSON schema, and with nothing else:\n{constraint.text}"
        case ConstraintKind.JSON:
            return "Answer with a JSON object, and with nothing else."
        case ConstraintKind.CHOICES:
            return "Answer with one of these, and with nothing else:\n" + "\n".join(constraint.choices)
        case _:
            return ""
