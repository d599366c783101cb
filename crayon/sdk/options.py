"""What a caller asks for in one call, with every default resolved once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from crayon.data.scope_files import load_scope
from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages
from crayon.router.hardness import Hardness
from crayon.router.scope import Scope
from crayon.sampling import SAMPLING_FIELDS, Sampling
from crayon.sdk.privacy import Past

if TYPE_CHECKING:
    from crayon.completion import Blend, Mode
    from crayon.constraint import Constraint
    from crayon.constraints.response_format import Form
    from crayon.customising.customization import Customization
    from crayon.sdk.privacy import Screened

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


def system_message(text: str | None) -> Message | None:
    """Return a system message for requests that bring none; none of an empty text.

    Raises:
        InvalidRequestError: it is no text.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidRequestError("system", f"must be text or None, not {type(text).__name__}")
    return normalise_messages([Message("system", text), Message("user", "?")])[0] if text else None


def check_list(field: str, value: object) -> None:
    """Raise InvalidRequestError if a value cannot be gone through."""
    if not isinstance(value, Iterable):
        raise InvalidRequestError(field, f"must be a list, not {value!r:.40}")


def check_scopes(scopes: Sequence[Scope | str]) -> tuple[Scope, ...]:
    """Return scopes, those that are named loaded.

    Raises:
        InvalidRequestError: one is wrong or unknown, or two have one name.
    """
    check_list("scopes", scopes)
    if isinstance(scopes, str | Scope):
        raise InvalidRequestError("scopes", "must be a list of scopes")
    found = []
    for i, scope in enumerate(scopes):
        if isinstance(scope, str):
            found.append(load_scope(scope))
        elif isinstance(scope, Scope):
            found.append(scope)
        else:
            raise InvalidRequestError(f"scopes[{i}]", f"must be a Scope or a name, not {type(scope).__name__}")
    if len({scope.name for scope in found}) != len(found):
        raise InvalidRequestError("scopes", "two scopes have one name; rename one")
    return tuple(found)


def check_hardness(value: Hardness | Literal[False] | None) -> Hardness | None:
    """Return the gate's settings: its defaults for None, none where it is switched off.

    Raises:
        InvalidRequestError: they are something else.
    """
    if value is None:
        return Hardness()
    if value is False:
        return None
    if not isinstance(value, Hardness):
        raise InvalidRequestError("hardness", f"must be a Hardness, None (defaults) or False (off), not {value!r}")
    return value
