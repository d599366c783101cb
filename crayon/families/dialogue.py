"""What one model makes of a request beside plain messages: how it is told of tools, held to them, and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from crayon.completion import FinishReason
from crayon.families.grammar import check_tools, tool_grammar
from crayon.families.reader import Read, Reader
from crayon.families.table import HERMES, THOUGHTS, family_of, thoughts_of
from crayon.families.told import in_words, with_tools
from crayon.messages import starts_answer
from crayon.stream import Delta, Finished, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crayon.constraint import Constraint
    from crayon.engine import GenerateRequest
    from crayon.families.table import Thought
    from crayon.messages import Message
    from crayon.stream import Event, TokenSignal
    from crayon.token_options import TokenLogprob


class Template(Protocol):
    """What has to be known of a model's chat template."""

    @property
    def source(self) -> str:
        """Its text."""
        ...

    @property
    def opening(self) -> str:
        """What it puts before an answer."""
        ...

    @property
    def takes_tools(self) -> bool:
        """Whether it tells of tools."""
        ...

    @property
    def takes_calls(self) -> bool:
        """Whether it has a place for calls and their results."""
        ...


@dataclass(frozen=True, slots=True)
class Speech:
    """One request as a model is asked it.

    Args:
        messages: what is rendered.
        tools: what the template is given beside them, in OpenAI's form.
        constraint: what the answer is held to: the request's own, or the grammar of its tools.
        checked: whether `constraint` needs no check on plain bytes, since it may ask for tokens of this model's.
        reader: tells thoughts, text and calls apart; None: it is text and nothing else.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    constraint: Constraint | None = None
    checked: bool = False
    reader: Reader | None = None

    def stream(self, on_cancel: Callable[[], None]) -> Stream:
        """Return where the answer is written to."""
        return Stream(on_cancel) if self.reader is None else ReadStream(self.reader, on_cancel)


class Dialogue:
    """Prepares requests for one model.

    Args:
        template: the model's.
        controls: texts of its tokens that are no text.
    """

    def __init__(self, template: Template, controls: Collection[str] = ()) -> None:
        self._template = template
        self.family = family_of(template.source)
        self.thoughts = thoughts_of(template.source, tuple(controls))
        known = {*self.family.marks, *(mark for each in self.thoughts for mark in (each.open, each.close))}
        self.marks = frozenset(known & set(controls))
        """Control tokens that have to be seen in answers."""

    @classmethod
    def plain(cls) -> Dialogue:
        """Return that of a model without a template, for engines that have none."""
        return cls(_NoTemplate())

    def speech(self, request: GenerateRequest) -> Speech:
        """Return how the model is asked.

        Raises:
            InvalidRequestError: a tool's arguments cannot be kept to.
        """
        messages, tools = request.messages, request.tools
        offered = tools.offered if tools else ()
        if not self._template.takes_calls and any(m.tool_calls or m.role == "tool" for m in messages):
            messages = in_words(messages, self.family)
        if not offered or tools is None:
            reader = Reader(self.thoughts, thinking=self._thinking(messages)) if self.thoughts else None
            return Speech(messages, constraint=request.constraint, reader=reader)
        check_tools(tools)
        thinking = self._thinking(messages)
        names = tuple(tool.name for tool in offered)
        constraint = tool_grammar(self.family, tools, controls=self.marks, thoughts=self.thoughts, thinking=thinking)
        reader = Reader(self.thoughts, self.family, names, thinking)
        if self._template.takes_tools:
            told = tuple(tool.described for tool in offered)
            return Speech(messages, told, constraint, checked=True, reader=reader)
        return Speech(with_tools(messages, offered, self.family), (), constraint, checked=True, reader=reader)

    def _thinking(self, messages: Sequence[Message]) -> Thought | None:
        """Return the thought that the prompt ends in."""
        begun = messages[-1].content if starts_answer(messages) else ""
        end = (self._template.opening + begun).rstrip()
        for each in self.thoughts:
            if end.rfind(each.open) > end.rfind(each.close) and (begun or end.endswith(each.open)):
                return each
        return None


class _NoTemplate:
    source = f"{HERMES.begin}{THOUGHTS[0].open}{THOUGHTS[0].close}"
    opening = ""
    takes_tools = takes_calls = True


class ReadStream(Stream):
    """A stream whose engine writes what the model does, and whose reader gets thoughts, text and calls apart.

    Signals and log-probabilities are of what belongs to the answer: calls do, thoughts do not.
    """

    def __init__(self, reader: Reader, on_cancel: Callable[[], None] | None = None) -> None:
        super().__init__(on_cancel)
        self._read = reader
        self._waiting: list[TokenSignal] = []
        self._likely: list[TokenLogprob] = []
        self._thought_tokens = self._waiting_tokens = 0

    def push(self, event: Event) -> None:
        """Add an event, as `Stream.push`."""
        match event:
            case Delta():
                self._told(self._read.push(event.text), event)
            case Finished():
                self._told(self._read.finish(), Delta("", tokens=0), last=True)
                reason = event.finish_reason
                if self._read.called and reason is FinishReason.STOP:
                    reason = FinishReason.TOOL_CALLS
                usage = replace(event.usage, reasoning_tokens=self._thought_tokens)
                super().push(replace(event, finish_reason=reason, usage=usage))
            case _:
                super().push(event)

    def _told(self, read: Read, written: Delta, *, last: bool = False) -> None:
        self._waiting += written.signals
        self._likely += written.logprobs
        self._waiting_tokens += written.tokens
        if self._read.undecided and not last and not (read.text or read.reasoning or read.calls):
            return
        given, likely, count = tuple(self._waiting), tuple(self._likely), self._waiting_tokens
        self._waiting, self._likely, self._waiting_tokens = [], [], 0
        if self._read.thinking or (read.reasoning and not read.text and not read.calls):
            self._thought_tokens += count
            given, likely = (), ()
        if read.text or read.reasoning or read.calls or given or likely or count:
            super().push(Delta(read.text, given, count, read.reasoning, read.calls, likely))
