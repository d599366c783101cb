"""The loop of an answer that calls functions: what is asked next, and where it ends; nothing is asked or run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from crayon.completion import Reason
from crayon.errors import CrayonError, DeadlineExceededError, InvalidRequestError
from crayon.families.call_forms import calls_of
from crayon.families.functions import call_function, function_tool, result_text
from crayon.messages import Message, ToolCall, normalise_messages
from crayon.sdk.call.options import check_timeout

if TYPE_CHECKING:
    from crayon.completion import Completion
    from crayon.messages import MessagesLike
    from crayon.sdk.call.options import CallOptions

Function: TypeAlias = Callable[..., Any]
MAX_ROUNDS = 8
_WORDS = r"[\p{L}\p{N}](?s:.)*"
"""What an answer that may not call is held to: it begins with a word, so like none of the families' calls."""
_STAYS = (Reason.PRIVATE, Reason.SENSITIVE, Reason.LOCAL_ONLY)


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What came of a conversation in which the model could call functions.

    Args:
        completion: the last answer, in words.
        messages: the whole conversation, with the calls, their results and the answer.
        rounds: how often the model was asked.
        stopped: why no more was called: "answered", "rounds" (there were as many as were allowed), "repeated" (it
            asked for a call that it had made before, with the same arguments; that was not made again) or "unknown" (of
            a function that there is not).
    """

    completion: Completion
    messages: tuple[Message, ...] = field(repr=False)
    rounds: int
    stopped: str = "answered"

    @property
    def text(self) -> str:
        """The last answer's text."""
        return self.completion.text

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """All that was called, in order."""
        return tuple(call for message in self.messages for call in message.tool_calls)

    def __str__(self) -> str:
        return self.text


class ToolLoop:
    """One run.

    Args:
        messages: the conversation so far.
        functions: typed ones.
        options: of each call; the timeout is that of all together.
        patience: seconds where the options say nothing.
        max_rounds: how often the model is asked at most; the last time it can only answer.
        private_results: names of functions whose results must not leave the device.

    Raises:
        InvalidRequestError: an argument is wrong.
    """

    def __init__(
        self,
        messages: MessagesLike,
        functions: Iterable[Function],
        options: CallOptions,
        *,
        patience: float | None,
        max_rounds: int = MAX_ROUNDS,
        private_results: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.messages = list(normalise_messages(messages))
        self._functions = _functions(functions)
        if options.get("tools") is not None:
            raise InvalidRequestError("tools", "are the functions here; give them as such")
        if isinstance(max_rounds, bool) or not isinstance(max_rounds, int) or max_rounds < 1:
            raise InvalidRequestError("max_rounds", f"must be a whole number from 1, not {max_rounds!r}")
        if isinstance(private_results, str):
            raise InvalidRequestError("private_results", "must be a list of names, not one text")
        self._private_results = frozenset(private_results)
        if unknown := sorted(self._private_results - set(self._functions)):
            raise InvalidRequestError("private_results", f"names {unknown[0]!r}, which is none of the tools")
        timeout = options.get("timeout")
        seconds = patience if timeout is None else check_timeout(timeout)
        self._clock = clock
        self._until = None if seconds is None else clock() + seconds
        self._options: dict[str, Any] = {"tool_choice": "auto", **options}
        self._most = max_rounds
        self._rounds = 0
        self._before: frozenset[tuple[str, str]] = frozenset()
        self._stopped = "answered"
        self.completion: Completion | None = None
        self.done = False
        """Whether the last answer was given."""

    def ask(self) -> tuple[tuple[Message, ...], CallOptions]:
        """Return what is asked next.

        Raises:
            DeadlineExceededError: the time of all rounds is over.
        """
        self._rounds += 1
        told = dict(self._options)
        if self._until is not None:
            left = self._until - self._clock()
            if left <= 0:
                raise DeadlineExceededError(f"the time for calling tools was over after {self._rounds - 1} rounds")
            told["timeout"] = left
        if self._rounds >= self._most or self._stopped != "answered":
            self._stopped = "rounds" if self._stopped == "answered" else self._stopped
            # Told of no tools, a small model writes calls all the same.
            del told["tool_choice"]
            return tuple(self.messages), cast("CallOptions", {**told, "regex": _WORDS})
        return tuple(self.messages), cast("CallOptions", {**told, "tools": list(self._functions.values())})

    def answered(self, completion: Completion) -> tuple[ToolCall, ...]:
        """Take an answer; return what is to be called."""
        self.completion = completion
        if completion.route.reason in _STAYS:  # what is called for it stays as well
            self._options["private"] = True
        choice = self._options["tool_choice"]
        if not (isinstance(choice, str) and choice in {"auto", "none"}):
            self._options["tool_choice"] = "auto"  # one call was asked for, not one in each round
        calls = frozenset((call.name, call.arguments) for call in completion.tool_calls)
        if calls & self._before:  # it goes round in circles: these are not run
            self._stopped = "repeated"
            return ()
        self._before |= calls
        if not calls and self._stopped == "answered" and calls_of(completion.text.strip("`json \n"), ()):
            self._stopped = "unknown"
            return ()
        self.messages.append(completion.message)
        self.done = not calls
        return completion.tool_calls

    def function(self, call: ToolCall) -> Function | None:
        """Return what a call calls, bound to its arguments; None where there is no such function."""
        function = self._functions.get(call.name)
        return None if function is None else lambda: call_function(function, call)

    def took(self, call: ToolCall, result: object) -> None:
        """Take what a call returned, or the exception that it raised."""
        if call.name in self._private_results:
            self._options["private"] = True
        said = f"error: {_problem(result)}" if isinstance(result, Exception) else result_text(result)
        self.messages.append(Message("tool", said, (), call.id))

    def unknown(self, call: ToolCall) -> Exception:
        """Return what a call of no function comes to."""
        return LookupError(f"there is no function {call.name!r}; there are {', '.join(self._functions)}")

    @property
    def run(self) -> ToolRun:
        """What came of it, after the last answer."""
        if self.completion is None:
            raise InvalidRequestError("run", "is there after the last answer")
        return ToolRun(self.completion, tuple(self.messages), self._rounds, self._stopped)


def _functions(functions: Iterable[Function]) -> dict[str, Function]:
    given: object = functions
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidRequestError("functions", f"must be a list of functions, not {type(given).__name__}")
    found: dict[str, Function] = {}
    for i, function in enumerate(functions):
        if not callable(function):
            raise InvalidRequestError(f"functions[{i}]", "must be a function, since it is called here")
        found[function_tool(function, f"functions[{i}]").name] = function
    if not found:
        raise InvalidRequestError("functions", "is empty; pass at least one function, or use `ask`")
    return found


def _problem(error: Exception) -> str:
    """Return what a model is told of a failure, so that it can do better."""
    said = str(error) if isinstance(error, CrayonError | ValueError | LookupError) else type(error).__name__
    return " ".join(said.split())[:500]
