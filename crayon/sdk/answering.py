"""What each side says to a labelled question: a choice by its scores, or a greedy answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.engine import Delta, GenerateRequest, ScoreRequest, deadline_after, wait_for
from crayon.errors import CancelledError, EngineError, ServerRejectedError
from crayon.messages import Message
from crayon.router.features import Features, RunningSignals
from crayon.router.signals import DEFAULT_CHOICE, DEFAULT_TEXT, signal_value
from crayon.sdk.choosing import ranking
from crayon.sdk.listing import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crayon.completion import Blend
    from crayon.customising.device_calls import DeviceCalls
    from crayon.engine import Engine, Stream
    from crayon.sampling import Sampling

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
class Said:
    """An answer, and how sure the side was of it: `margin` of a choice, `mean_logprob` of a text."""

    text: str
    sure: float | None


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are the same but for case, spaces, and marks at their ends."""
    return _plain(one) == _plain(other)


def device_says(calls: DeviceCalls, asking: Asking, question: str, choices: Sequence[str], blend: Blend | None) -> Said:
    """Return the device's answer under a blend: among choices by their scores, else what it writes.

    Raises:
        PromptTooLongError: it does not fit the context.
        EngineError: the scores are unusable.
    """
    messages = asking.messages(question)
    if not choices:
        text, signals = _read(calls.generate(messages, asking.sampling, blend), asking)
        return Said(text, signal_value(DEFAULT_TEXT, Features(tokens=signals.features())))
    # As `choose` compares them: the plain base was never taught where an answer ends.
    ended = blend is not None
    found = ranking(choices, calls.score(messages, choices, blend, ended=ended).scores, ended=ended)
    return Said(choices[found.index], found.margin)


def server_says(
    engine: Engine, asking: Asking, questions: Sequence[tuple[str, Sequence[str]]], step: Callable[[], None]
) -> list[str]:
    """Return the server's answers to (question, choices) pairs: it is asked with the options listed.

    Raises:
        ServerError: it cannot be reached, or answers with what are no scores.
    """
    found = [""] * len(questions)
    with_choices = [i for i, (_, choices) in enumerate(questions) if choices]
    # Alike prompts one after the other: the server keeps what they share.
    with_choices.sort(key=lambda i: tuple(questions[i][1]))

    def score(i: int) -> Callable[[], None]:
        question, choices = questions[i]
        until = deadline_after(asking.patience)
        messages = asking.messages(listed(question, choices))
        future = engine.score(ScoreRequest(messages=messages, continuations=tuple(choices), deadline=until))

        def wait() -> None:
            try:
                best = ranking(choices, wait_for(future, until, "calibrating").scores, ended=False)
            except EngineError as error:
                raise ServerRejectedError(f"the server's scores are unusable: {error}") from None
            found[i] = choices[best.index]

        return wait

    def write(i: int) -> Callable[[], None]:
        request = GenerateRequest(
            messages=asking.messages(questions[i][0]),
            sampling=asking.sampling,
            deadline=deadline_after(asking.patience),
        )
        stream = engine.generate(request)

        def wait() -> None:
            found[i] = _read(stream, asking)[0]

        return wait

    _in_flight(with_choices, score, asking, step)
    _in_flight([i for i, (_, choices) in enumerate(questions) if not choices], write, asking, step)
    return found


def signal_of(choices: bool) -> str:  # noqa: FBT001 # there are two kinds
    """Return the name of the signal that `Said.sure` is."""
    return DEFAULT_CHOICE if choices else DEFAULT_TEXT


def _in_flight(
    indices: Iterable[int], start: Callable[[int], Callable[[], None]], asking: Asking, step: Callable[[], None]
) -> None:
    """Start a few ahead, and wait for them in order."""
    running: deque[Callable[[], None]] = deque()

    def settle() -> None:
        running.popleft()()
        step()

    for i in indices:
        if asking.cancelled():
            raise CancelledError("calibrating was cancelled")
        running.append(start(i))
        if len(running) >= AT_ONCE:
            settle()
    while running:
        settle()


def _read(stream: Stream, asking: Asking) -> tuple[str, RunningSignals]:
    signals, parts = RunningSignals(), []
    with stream:
        for event in stream:
            if asking.cancelled():
                raise CancelledError("calibrating was cancelled")
            if isinstance(event, Delta):
                parts.append(event.text)
                for signal in event.signals:
                    if signals.tokens < asking.hold_tokens:
                        signals.add(signal)
    return "".join(parts), signals


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:!?\"'`*").casefold()
