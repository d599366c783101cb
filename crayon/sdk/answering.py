"""What each side says to a labelled question: a choice by its scores, or a greedy answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crayon.customising.expectation import LONG_CHOICE_WORDS, rule_values
from crayon.engine import Delta, GenerateRequest, ScoreRequest, deadline_after, wait_for
from crayon.errors import CancelledError, EngineError, InvalidRequestError, ServerRejectedError
from crayon.messages import Message
from crayon.router.features import Features, RunningSignals, choice_features
from crayon.router.signals import DEFAULT_CHOICE, DEFAULT_TEXT, signal_value
from crayon.sdk.listing import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crayon.completion import Blend
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.expectation import Rule
    from crayon.engine import Engine, Stream
    from crayon.sampling import Sampling

    Asked = TypeVar("Asked")
    Got = TypeVar("Got")

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

    A blend's choices are scored with the end of the answer, the plain base's without, and long ones per token.

    Raises:
        PromptTooLongError: it does not fit the context.
        EngineError: the scores are unusable.
    """
    messages = asking.messages(question)
    if not choices:
        text, signals = _read(calls.generate(messages, asking.sampling, blend), asking)
        return Said(text, signal_value(DEFAULT_TEXT, Features(tokens=signals.features())))
    rule: Rule = "token" if _long(choices) else "whole" if blend is None else "ended"
    scores = calls.score(messages, choices, blend, ended=True).scores
    if len(scores) != len(choices) or any(len(score.token_logprobs) < 2 for score in scores):
        raise EngineError(f"the device gave {len(scores)} scores for {len(choices)} choices; calibration is impossible")
    try:
        return _chosen([float(value) for value in rule_values(scores, rule)], choices)
    except InvalidRequestError as error:
        raise EngineError(f"the device's scores are unusable: {error}") from None


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
            scores = wait_for(future, until, "calibrating").scores
            if len(scores) != len(choices) or not all(score.token_logprobs for score in scores):
                raise ServerRejectedError(f"the server gave {len(scores)} scores for {len(choices)} choices")
            values = [score.mean if _long(choices) else score.total for score in scores]
            try:
                found[i] = _chosen(values, choices).text
            except InvalidRequestError as error:
                raise ServerRejectedError(f"the server's scores are unusable: {error}") from None

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


def _chosen(values: Sequence[float], choices: Sequence[str]) -> Said:
    margin = choice_features(values).margin
    return Said(choices[max(range(len(values)), key=values.__getitem__)], margin)


def _long(choices: Sequence[str]) -> bool:
    return sum(len(choice.split()) for choice in choices) > LONG_CHOICE_WORDS * len(choices)


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:!?\"'`*").casefold()
