"""What each side says to a labelled question: a choice by its scores, or a greedy answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crayon.completion import Source
from crayon.engine import Delta, GenerateRequest, ScoreRequest, deadline_after, wait_for
from crayon.errors import CancelledError, CrayonError, EngineError, ServerRejectedError
from crayon.messages import Message
from crayon.router.features import Features, RunningSignals
from crayon.router.signals import DEFAULT_CHOICE, DEFAULT_TEXT, signal_value
from crayon.sdk.call.choosing import listed, ranking
from crayon.text_form import same_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from crayon.completion import Blend
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.support import Support
    from crayon.engine import Engine, Event, ScoreResult, Stream
    from crayon.sampling import Sampling
    from crayon.sdk.budget.usage import UsageTracker

# More would only wait in the server's queue.
AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How both sides are asked.

    Args:
        system: what stands before each question, if anything.
        sampling: of greedy answers.
        hold_tokens: over how many of its first tokens the device's sureness is read.
        patience: seconds for one answer; None waits for ever.
        cancelled: whether the caller has given up.
    """

    system: Message | None
    sampling: Sampling
    hold_tokens: int
    patience: float | None
    cancelled: Callable[[], bool]

    def messages(self, text: str) -> tuple[Message, ...]:
        """Return the conversation that asks a text."""
        return (*((self.system,) if self.system else ()), Message("user", text))


@dataclass(frozen=True, slots=True)
class SideAnswer:
    """An answer, and how sure the side was of it: `margin` of a choice, `mean_logprob` of a text."""

    text: str
    sure: float | None


def asked(question: str) -> str:
    """Return what two questions have in common that are the same but for case and spaces."""
    return " ".join(same_key(question).split())


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are the same but for case, spaces, and marks at their ends."""
    return _plain(one) == _plain(other)


def device_answer(
    calls: DeviceCalls,
    asking: Asking,
    question: str,
    choices: Sequence[str],
    blend: Blend | None,
    support: Support | None = None,
) -> SideAnswer:
    """Return the device's answer under a blend: among choices by their scores, else what it writes.

    `support` is what a customisation's samples say of the question.

    Raises:
        PromptTooLongError: it does not fit the context.
        EngineError: the scores are unusable.
    """
    messages = asking.messages(question)
    if support is not None:
        messages = support.before(messages)
    if not choices:
        text, signals = _read(calls.generate(messages, asking.sampling, blend), asking)
        return SideAnswer(text, signal_value(DEFAULT_TEXT, Features(tokens=signals.features())))
    # As `choose` compares them: the plain base was never taught where an answer ends.
    ended = blend is not None or support is not None
    scores = calls.score(messages, choices, blend, ended=ended).scores
    found = ranking(choices, scores, ended=ended, support=support)
    return SideAnswer(choices[found.index], found.margin)


def server_answer(
    engine: Engine,
    tracker: UsageTracker,
    asking: Asking,
    questions: Sequence[tuple[str, Sequence[str]]],
    step: Callable[[], None],
) -> list[str]:
    """Return the server's answers to (question, choices) pairs: it is asked with the options listed.

    Args:
        engine: the connection.
        tracker: where the requests are charged.
        asking: how it is asked.
        questions: what it is asked.
        step: is called for each answer.

    Raises:
        BudgetError: the budget is used up on the way.
        ServerError: it cannot be reached, or answers with what are no scores.
    """
    found = [""] * len(questions)

    def start(i: int) -> _Running:
        question, choices = questions[i]
        until = deadline_after(asking.patience)
        if choices:
            messages = asking.messages(listed(question, choices))
            scored = ScoreRequest(messages=messages, continuations=tuple(choices), deadline=until)
            return _Scoring(tracker.paid(Source.SERVER, scored, engine.score), choices, until)
        messages = asking.messages(question)
        request = GenerateRequest(messages=messages, sampling=asking.sampling, deadline=until, signals=False)
        return _Writing(engine, tracker, request, asking)

    running: deque[tuple[int, _Running]] = deque()

    def settle() -> None:
        i, one = running[0]
        found[i] = one.wait()
        running.popleft()
        step()

    # Alike prompts one after the other: the server keeps what they share.
    order = sorted(range(len(questions)), key=lambda i: tuple(questions[i][1]))
    try:
        for i in order:
            if asking.cancelled():
                raise CancelledError("calibrating was cancelled")
            running.append((i, start(i)))
            if len(running) >= AT_ONCE:
                settle()
        while running:
            settle()
    finally:
        for _, one in running:
            one.cancel()
    return found


class _Running(Protocol):
    """A request on its way."""

    def wait(self) -> str:
        """Return the answer."""
        ...

    def cancel(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, slots=True)
class _Scoring:
    future: Future[ScoreResult]
    choices: Sequence[str]
    until: float | None

    def wait(self) -> str:
        scores = wait_for(self.future, self.until, "calibrating").scores
        try:
            return self.choices[ranking(self.choices, scores, ended=False).index]
        except EngineError as error:
            raise ServerRejectedError(f"the server's scores are unusable: {error}") from None

    def cancel(self) -> None:
        self.future.cancel()


class _Writing:
    def __init__(self, engine: Engine, tracker: UsageTracker, request: GenerateRequest, asking: Asking) -> None:
        self._asking = asking
        self._account = tracker.open(Source.SERVER, request)
        try:
            self._stream = engine.generate(request)
            self._account.sent = True
        except CrayonError as error:
            self._settle(error)
            raise

    def wait(self) -> str:
        try:
            text, _ = _read(self._stream, self._asking, self._account.saw)
        except CrayonError as error:
            self._settle(error)
            raise
        self._settle()
        return text

    def cancel(self) -> None:
        self._stream.cancel()
        self._settle()

    def _settle(self, error: CrayonError | None = None) -> None:
        left = self._account.close(error)
        if left is not None:
            left()


def signal_of(choices: bool) -> str:  # noqa: FBT001 # there are two kinds
    """Return the name of the signal that `SideAnswer.sure` is."""
    return DEFAULT_CHOICE if choices else DEFAULT_TEXT


def _read(stream: Stream, asking: Asking, saw: Callable[[Event], None] = lambda _: None) -> tuple[str, RunningSignals]:
    signals, parts = RunningSignals(), []
    with stream:
        for event in stream:
            if asking.cancelled():
                raise CancelledError("calibrating was cancelled")
            saw(event)
            if isinstance(event, Delta):
                parts.append(event.text)
                for signal in event.signals:
                    if signals.tokens < asking.hold_tokens:
                        signals.add(signal)
    return "".join(parts), signals


def _plain(text: str) -> str:
    return " ".join(same_key(text).split()).strip(" .,;:!?\"'`*")
