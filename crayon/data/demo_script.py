"""What `crayon demo` asks, and how."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class QuestionGroup:
    """Questions of one kind."""

    name: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoScript:
    """The groups in the order they are asked, with the system message and the longest answer of each question."""

    system: str
    max_tokens: int
    groups: tuple[QuestionGroup, ...]


def demo_script() -> DemoScript:
    """Return the script that comes with Crayon."""
    table = tomllib.loads(resources.files("crayon.data").joinpath("demo.toml").read_text(encoding="utf-8"))
    groups = tuple(QuestionGroup(group["name"], tuple(group["questions"])) for group in table["group"])
    return DemoScript(table["system"], table["max_tokens"], groups)
