"""What `crayon demo` asks, and how."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any


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


@dataclass(frozen=True, slots=True)
class DemoTask:
    """A user's task: samples to customise with, and questions to ask before and after, each with its answer.

    `pooled`: the task is that of a member of the shipped pool, so it needs that pool.
    """

    name: str
    title: str
    max_tokens: int
    samples: tuple[tuple[str, str], ...]
    questions: tuple[tuple[str, str], ...]
    pooled: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers that samples and questions have, in their order."""
        return tuple(dict.fromkeys(answer for _, answer in (*self.samples, *self.questions)))


def demo_script() -> DemoScript:
    """Return the script that comes with Crayon."""
    table = _read("demo.toml")
    groups = tuple(QuestionGroup(group["name"], tuple(group["questions"])) for group in table["group"])
    return DemoScript(table["system"], table["max_tokens"], groups)


def demo_task() -> DemoTask:
    """Return the user's task that a member of the shipped pool knows."""
    return _task("demo_task.toml", pooled=True)


def demo_stranger() -> DemoTask:
    """Return a user's task that nothing was trained for."""
    return _task("demo_stranger.toml", pooled=False)


def _task(name: str, *, pooled: bool) -> DemoTask:
    table = _read(name)
    samples, questions = (tuple((text, answer) for text, answer in table[key]) for key in ("samples", "questions"))
    return DemoTask(table["name"], table["title"], table["max_tokens"], samples, questions, pooled)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("crayon.data").joinpath(name).read_text(encoding="utf-8"))
