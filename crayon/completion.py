"""What comes back: the answer or the choice, where it came from and why, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from crayon.errors import AnswerFormatError, InvalidRequestError
from crayon.messages import Message, ToolCall

if TYPE_CHECKING:
    from crayon.token_options import TokenLogprob

MAX_POOL_ID_CHARS = 256
MAX_WEIGHTS = 1024


class FinishReason(StrEnum):
    """Why an answer ended. Failures are errors, never finish reasons."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """It asks for tools."""


class Source(StrEnum):
    """Which side answered."""

    DEVICE = "device"
    SERVER = "server"


class Mode(StrEnum):
    """What the caller allows, in the four words users of hybrid runtimes know."""

    PREFER_ON_DEVICE = "prefer_on_device"
    ONLY_ON_DEVICE = "only_on_device"
    PREFER_ON_SERVER = "prefer_on_server"
    ONLY_ON_SERVER = "only_on_server"


class Reason(StrEnum):
    """Why a source was chosen."""

    MODE = "mode"
    """The mode leaves no choice, or prefers this side."""
    PRIVATE = "private"
    """The request is private and stays on the device."""
    SENSITIVE = "sensitive"
    """Something sensitive was found, and the query stays on the device."""
    LOCAL_ONLY = "local_only"
    """CRAYON_LOCAL_ONLY is on: everything stays on the device."""
    NO_SERVER = "no_server"
    """No server is configured, so the device answers."""
    NO_DEVICE = "no_device"
    """No device model is configured, so the server answers."""
    SERVER_AWAY = "server_away"
    """The server is known to be away (its circuit breaker is open)."""
    SERVER_FAILED = "server_failed"
    """The server failed before its first token; the device answered instead."""
    DEVICE_FAILED = "device_failed"
    """The device could not take the prompt, or failed before it showed any text; the server answered instead."""
    IN_SCOPE = "in_scope"
    """The query is like the examples of a scope or a profile, and the answer was sure enough."""
    CONFIDENT = "confident"
    """No scope is set, and the answer was sure enough."""
    OUT_OF_SCOPE = "out_of_scope"
    """The query is unlike the examples of every scope and profile."""
    UNSURE = "unsure"
    """The device's first tokens were too unsure, or its choice was too close."""
    SERVER_BETTER = "server_better"
    """By the calibration the server is more often right on this profile, however sure the device is."""
    NO_GAIN = "no_gain"
    """By the calibration nothing is gained by sending the query, so the device answers."""
    BUDGET = "budget"
    """The budget for the server is used up, so the device answers."""
    LONG = "long"
    """The prompt does not fit the device's context, or is longer than the caller wants it to read."""
    LANGUAGE = "language"
    """The query is in a language that the device was not chosen for."""
    DEVICE_SLOW = "device_slow"
    """The device would take long, and the server is clearly faster."""
    LOW_BATTERY = "low_battery"
    """The device's battery is low, and the server is no slower."""
    NETWORK_SLOW = "network_slow"
    """The way to the server is slow or loses requests, so the device answers."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written, as OpenAI counts them.

    `cached_tokens` is the part of the prompt not recomputed, `shown_tokens` the part that told the model of the
    request's constraint, `forced_tokens` the part of the answer that the constraint left no choice about, and
    `reasoning_tokens` the part of it that was thought and not said.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    shown_tokens: int = 0
    forced_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds, all from the engine that answered.

    `queue_ms` waiting for a slot, `prompt_ms` reading the uncached prompt up to the first token, `decode_ms` from
    the first token to the last. `prompt_steps` and `decode_steps` are the engine's steps in the last two; 0 where they
    are not known, as in an answer from a server.
    """

    queue_ms: float = 0.0
    prompt_ms: float = 0.0
    decode_ms: float = 0.0
    prompt_steps: int = 0
    decode_steps: int = 0


@dataclass(frozen=True, slots=True)
class Blend:
    """K weights over the members of an adapter pool.

    Raises:
        InvalidRequestError: no pool, no weights, too many, or one that is not a finite number.
    """

    pool_id: str
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.pool_id, str) or not 1 <= len(self.pool_id) <= MAX_POOL_ID_CHARS:
            raise InvalidRequestError("blend.pool_id", f"must be a text of 1 to {MAX_POOL_ID_CHARS} characters")
        given: object = self.weights
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InvalidRequestError("blend.weights", "must be a list of numbers, one for each member of the pool")
        if not 1 <= len(given) <= MAX_WEIGHTS:
            raise InvalidRequestError("blend.weights", f"must hold 1 to {MAX_WEIGHTS} numbers, not {len(given)}")
        for i, weight in enumerate(given):
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise InvalidRequestError(f"blend.weights[{i}]", f"must be a finite number, not {weight!r}")
        object.__setattr__(self, "weights", tuple(float(weight) for weight in given))


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """What was found in a query before it could leave the device; kinds only, never text.

    Args:
        found: kinds found, in all messages, and names of detectors that could not decide.
        action: what that meant: "keep" (on the device), "redact" or "send" (what a server gets).
        dropped_turns: earlier turns that the server was not sent.
    """

    found: tuple[str, ...] = ()
    action: str = "keep"
    dropped_turns: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """How a query was routed; every answer carries one.

    Args:
        source: which side's text this is.
        reason: why.
        score: the number that decided (scope similarity, mean token log-probability, a choice's margin; calibrated,
            also how much more often the device is estimated to be right than the server), if one did.
        threshold: what `score` was compared with; at or above it the device answers.
        scope: name of the closest scope, if any scope is set.
        fallback_from: the side that was tried first and failed, or None.
        fallback_error: what that side said.
        blend: adapter weights that were applied on the device.
        customization: the customisation whose profile was applied on the device (or sent with the query).
        profile: that profile; "base" if the query is outside all of them and the plain base answered.
        evidence: what of the profile's samples took part on the device: "examples" in the prompt, "classes" of the
            question's embedding, "answers" of a closed set; () for none.
        switched_from: the profile of the turn before, if it was another one: the conversation was read anew.
        server: address of the server that answered.
        bytes_sent: bytes of request handed to the server's connection; 0 means that nothing left the device. An upper
            bound where the server could not be reached; a request tried again counts once.
        encode_ms: time for the scope gate's embedding.
        holdback_ms: how long the device's first token was held back by the hardness gate.
        discarded_tokens: device tokens computed and never shown.
        privacy: what was found in the query, if something was or turns were left out; None too where no server
            could have been asked, since nothing is looked for then.
    """

    source: Source
    reason: Reason
    score: float | None = None
    threshold: float | None = None
    scope: str | None = None
    fallback_from: Source | None = None
    fallback_error: str | None = None
    blend: Blend | None = None
    customization: str | None = None
    profile: str | None = None
    evidence: tuple[str, ...] = ()
    switched_from: str | None = None
    server: str | None = None
    bytes_sent: int = 0
    encode_ms: float | None = None
    holdback_ms: float | None = None
    discarded_tokens: int = 0
    privacy: PrivacyReport | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What an answer in JSON says: `value`, or the `problem` with it."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole answer.

    `probability` is how likely the device finds the answer among a customisation's closed set; None where a text was
    written. `withheld` is how much of its probability the device's model gave to what the call's constraint did not
    allow, on average over the tokens that it chose: near 1 where it wanted to say something else. None without a
    constraint, and of a server's answer. `reasoning` is what the model thought first, where it does so aloud;
    `tool_calls` are the tools that it asks for. `logprobs` are how likely the answering model found each token of the
    answer, where the call asked for `top_logprobs`; what a server wrote is told as it wrote it, with placeholders.
    """

    text: str
    route: Route
    model: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    probability: float | None = None
    document: Document | None = field(default=None, repr=False)
    withheld: float | None = None
    reasoning: str = field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)

    @property
    def message(self) -> Message:
        """The answer as the next message of its conversation."""
        return Message("assistant", self.text, self.tool_calls, reasoning=self.reasoning)

    @property
    def parsed(self) -> Any:
        """What the answer says, by the call's `response_format`: an object of its type, or plain values; else None.

        Raises:
            AnswerFormatError: the answer was cut, or is not what was asked for; what there is stands in `partial`.
        """
        if self.document is None:
            return None
        if self.document.problem:
            raise AnswerFormatError(f"the answer {self.document.problem}", self.text)
        return self.document.value

    @property
    def tokens_per_s(self) -> float:
        """Decoding rate after the first token (0 where the answer had one token)."""
        steps = self.usage.completion_tokens - 1
        return 1000.0 * steps / self.timings.decode_ms if steps > 0 and self.timings.decode_ms > 0 else 0.0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Chosen:
    """The likeliest of given texts.

    Args:
        text: the choice.
        index: its place among the choices.
        probabilities: the softmax over the choices, in their order: how the model divides its belief among them, if it
            must take one. Not calibrated.
        margin: the largest of them minus the second largest.
        route: which side chose, and why.
        model: who chose.
        total_ms: from the call to the choice.
    """

    text: str
    index: int
    probabilities: tuple[float, ...]
    margin: float
    route: Route
    model: str
    total_ms: float = 0.0

    def __str__(self) -> str:
        return self.text
