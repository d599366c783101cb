"""What a caller asks for in one call, with every default resolved once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from crayon.errors import InvalidRequestError
from crayon.sampling import SAMPLING_FIELDS, Sampling
from crayon.sdk.privacy import Past

if TYPE_CHECKING:
    from crayon.completion import Blend, Mode
    from crayon.constraint import Constraint
    from crayon.constraints.response_format import Form
    from crayon.customising.customization import Customization
    from crayon.messages import Message
    from crayon.sdk.privacy import Screened

    # Weights, a customisation or its name (or exported file), or "base" for the plain base.
    BlendLike: TypeAlias = Blend | Customization | str


class SamplingOptions(TypedDict, total=False):
    """The sampling keywords of every call; `Sampling` says what each does."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    ignore_eos: bool


class FormatOptions(TypedDict, total=False):
    """What an answer must look like: one of the first four keywords.

    `response_format` is "json", a JSON schema, OpenAI's object around one, or a type: a Pydantic model, a dataclass, a
    TypedDict, or what else pydantic knows. `regex` is an expression, `choices` texts of which one is written, `grammar`
    one in Lark's syntax. `show_format` says whether the model is told in its prompt (True).
    """

    response_format: Any
    regex: str | None
    choices: Iterable[str] | None
    grammar: str | None
    show_format: bool


class AnswerOptions(SamplingOptions, FormatOptions, total=False):
    """The keywords of every call that has an answer written: how it is drawn, and what it must look like."""


_FORMAT_FIELDS = frozenset(FormatOptions.__annotations__)


def resolve_format(options: Mapping[str, Any]) -> tuple[Form | None, dict[str, Any]]:
    """Return what the answer must look like, and the options that say something else.

    Raises:
        InvalidRequestError: it cannot be kept; the message names the keyword.
    """
    given = {name: value for name, value in options.items() if name in _FORMAT_FIELDS}
    rest = {name: value for name, value in options.items() if name not in _FORMAT_FIELDS}
    if not given:
        return None, rest
    from crayon.constraints.response_format import form_of

    return form_of(**given), rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One resolved call; `timeout` in seconds, or None to wait for ever.

    `always`: the caller named the customisation, so it is applied whatever the query is like. `free`: a text is wanted
    even where the customisation's answers are a closed set. `last_profile`: the
    profile that the conversation is in. `past`: what a conversation knows of its messages. `screened`: what a server
    may be sent, once it was looked at. `form`: what the answer must look like.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    mode: Mode
    private: bool
    timeout: float | None
    blend: Blend | None = None
    customization: Customization | None = None
    always: bool = False
    free: bool = False
    last_profile: str | None = None
    past: Past = field(default_factory=Past)
    screened: Screened | None = None
    form: Form | None = None

    @property
    def constraint(self) -> Constraint | None:
        """What the engine has to keep."""
        return self.form.constraint if self.form else None

    @property
    def wants_text(self) -> bool:
        """Whether the answer is written, even where the customisation's answers are a closed set."""
        return self.free or self.form is not None


def resolve_sampling(base: Sampling, changes: Mapping[str, Any]) -> Sampling:
    """Return `base` with `changes` applied.

    Raises:
        InvalidRequestError: an unknown keyword, or a value out of range.
    """
    for name in changes:
        if name not in SAMPLING_FIELDS:
            raise InvalidRequestError(name, f"is unknown; sampling takes {', '.join(SAMPLING_FIELDS)}")
    stop = changes.get("stop", ())
    if not isinstance(stop, str | Sequence):
        raise InvalidRequestError("stop", f"must be a text or a list of texts, not {type(stop).__name__}")
    return replace(base, **changes)


def resolve_private(default: bool, change: bool | None = False) -> bool:  # noqa: FBT001, FBT002 # both are one flag
    """Return whether a call is private: its own flag can add to the default (None: no wish), never lift it.

    Raises:
        InvalidRequestError: a flag is no boolean. Nothing was sent.
    """
    for flag in (default, False if change is None else change):
        if not isinstance(flag, bool):
            raise InvalidRequestError("private", f"must be True or False, not {flag!r}; nothing was sent")
    return default or change is True


def check_timeout(seconds: float | None) -> float | None:
    """Return a patience in seconds; None and infinity mean for ever.

    Raises:
        InvalidRequestError: it is zero, negative or no number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequestError("timeout", f"must be more than 0 seconds, not {seconds!r}")
    return None if math.isinf(seconds) else float(seconds)
