"""What a caller asks for in one call, with every default resolved once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

from crayon.completion import Mode
from crayon.data.scope_files import load_scope
from crayon.errors import InvalidRequestError
from crayon.messages import Message, normalise_messages
from crayon.router.hardness import Hardness
from crayon.router.policy import parse_mode
from crayon.router.scope import Scope
from crayon.sampling import SAMPLING_FIELDS, Sampling
from crayon.token_options import check_logit_bias, check_top_logprobs

if TYPE_CHECKING:
    from crayon.completion import Blend, PrivacyReport
    from crayon.constraint import Constraint
    from crayon.constraints.response_format import Form
    from crayon.customising.customization import Customization
    from crayon.families.functions import ToolLike
    from crayon.router.policy import Allowed
    from crayon.token_options import LogitBias
    from crayon.tool import Tools

    BlendLike: TypeAlias = Blend | Customization | str


class SideOptions(TypedDict, total=False):
    """The keywords of every call, one that writes no text too: who may answer, with what, and for how long.

    `Crayon.ask` says what each does. None stands for what the client does anyway.
    """

    blend: BlendLike | None
    last_profile: str | None
    mode: Mode | str | None
    private: bool | None
    timeout: float | None


class SamplingOptions(TypedDict, total=False):
    """The sampling keywords of every call; `Sampling` says what each does."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float | None
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


class ToolOptions(TypedDict, total=False):
    """What a model may call.

    `tools` are in OpenAI's form, `Tool`s, or typed functions. `tool_choice` is "auto", "none", "required", the name of
    the one that has to be called, or OpenAI's object around it; `parallel_tool_calls` whether an answer may ask for
    several (True).
    """

    tools: Iterable[ToolLike] | None
    tool_choice: Any
    parallel_tool_calls: bool


class TokenOptions(TypedDict, total=False):
    """What a call asks of single tokens.

    `top_logprobs` asks how likely each token was, and which so many were the likeliest in its place (0 to 20; None asks
    for neither). `logit_bias` maps numbers of tokens, in the vocabulary of the model that answers, to what is added to
    their logits (-100 bans one, 100 forces it).
    """

    top_logprobs: int | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None


class CallOptions(SideOptions, SamplingOptions, FormatOptions, ToolOptions, TokenOptions, total=False):
    """Everything that a call for an answer can be told; `Crayon.ask` says what each keyword does.

    A function that hands keywords on to a client is typed `**options: Unpack[CallOptions]`.
    """

    free: bool
    keep_reasoning: bool


SIDE_FIELDS = tuple(SideOptions.__annotations__)
CALL_FIELDS = tuple(CallOptions.__annotations__)
_FORMAT_FIELDS = tuple(FormatOptions.__annotations__)
_TOOL_FIELDS = tuple(ToolOptions.__annotations__)
_SHOW_FORMAT = "show_format"  # says how a format is kept, and asks for none


@dataclass(frozen=True, slots=True)
class Past:
    """What a conversation knows of its messages, by index: which must stay, and which answers a server wrote."""

    private: frozenset[int] = frozenset()
    clean: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Screened:
    """A call that was looked at: what a server may be sent, and what its placeholders stand for.

    `others` are the call's further texts, such as choices, as they may be sent.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    others: tuple[str, ...] = ()
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)
    report: PrivacyReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a client does where a call says nothing; `timeout` in seconds, or None to wait for ever."""

    mode: Mode
    private: bool
    timeout: float | None
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One resolved call; `timeout` in seconds, or None to wait for ever.

    `allowed`: which sides may answer, as far as is known yet. `always`: the caller named the customisation, so it is
    applied whatever the query is like. `free`: a text is wanted even where the customisation's answers are a closed
    set. `last_profile`: the profile that the conversation is in. `past`: what a conversation knows of its messages.
    `screened`: what a server may be sent, once it was looked at. `form`: what the answer must look like. `tools`: what
    it may call. `keep_reasoning`: whether the model is told again what it thought in earlier turns. `logit_bias` and
    `top_logprobs`: as in a request.
    """

    messages: tuple[Message, ...]
    allowed: Allowed
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
    tools: Tools | None = None
    keep_reasoning: bool = False
    logit_bias: LogitBias = ()
    top_logprobs: int | None = None

    @property
    def constraint(self) -> Constraint | None:
        """What the engine has to keep."""
        return self.form.constraint if self.form else None

    @property
    def wants_text(self) -> bool:
        """Whether the answer is written, even where the customisation's answers are a closed set."""
        told = self.form is not None or self.tools is not None
        return self.free or told or bool(self.logit_bias) or self.top_logprobs is not None


def resolve_format(options: Mapping[str, Any]) -> Form | None:
    """Return what the answer must look like, if the options ask for something.

    Raises:
        InvalidRequestError: it cannot be kept; the message names the keyword.
    """
    given = {name: value for name, value in options.items() if name in _FORMAT_FIELDS}
    if not given:
        return None
    from crayon.constraints.response_format import form_of

    return form_of(**given)


def resolve_tools(options: Mapping[str, Any]) -> Tools | None:
    """Return what a call may call, if the options name something.

    Raises:
        InvalidRequestError: a tool or the choice is wrong; the message names it.
    """
    given = {name: value for name, value in options.items() if name in _TOOL_FIELDS}
    if given.get("tools") is None:
        choice = given.get("tool_choice")
        if choice is not None and not (isinstance(choice, str) and choice in {"auto", "none"}):
            raise InvalidRequestError("tool_choice", "chooses among tools, and there are none; pass `tools`")
        return None
    from crayon.families.functions import tools_of

    return tools_of(**given)


def check_names(given: Iterable[str], known: Sequence[str], what: str = "a call") -> None:
    """Raise InvalidRequestError for a keyword that `what` does not take; the message names those that are near."""
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise InvalidRequestError(name, f"is unknown; {meant}{what} takes {', '.join(known)}")


def resolve_options(options: CallOptions, defaults: Defaults) -> dict[str, Any]:
    """Return what a call was told as fields of `Call`, with the client's defaults; `blend` is looked up elsewhere.

    Raises:
        InvalidRequestError: a keyword is unknown, or its value is wrong.
    """
    check_names(options, CALL_FIELDS)
    mode, timeout = options.get("mode"), options.get("timeout")
    return {
        "mode": defaults.mode if mode is None else parse_mode(mode),
        "private": resolve_private(defaults.private, options.get("private")),
        "timeout": defaults.timeout if timeout is None else check_timeout(timeout),
        "last_profile": check_profile(options.get("last_profile")),
        "free": check_flag("free", options.get("free", False)),
        "form": resolve_format(options),
        "tools": resolve_tools(options),
        "keep_reasoning": check_flag("keep_reasoning", options.get("keep_reasoning", False)),
        "logit_bias": check_logit_bias(options.get("logit_bias")),
        "top_logprobs": check_top_logprobs(options.get("top_logprobs")),
        "sampling": resolve_sampling(
            defaults.sampling, {name: value for name, value in options.items() if name in SAMPLING_FIELDS}
        ),
    }


def lasting(options: CallOptions) -> CallOptions:
    """Return checked options that can be used for several calls: choices are gone through once.

    Raises:
        InvalidRequestError: a keyword is unknown, or its value is wrong.
    """
    kept = options.copy()
    choices: object = options.get("choices")
    if isinstance(choices, Iterable) and not isinstance(choices, str):
        kept["choices"] = tuple(choices)
    resolve_options(kept, Defaults(mode=Mode.PREFER_ON_DEVICE, private=False, timeout=None, sampling=Sampling()))
    return kept


def merged(base: CallOptions, own: CallOptions) -> CallOptions:
    """Return a turn's own options over those of its conversation; a format of its own takes the other's place."""
    wishes = {name: value for name, value in own.items() if value is not None or name not in SIDE_FIELDS}
    ruled = any(own.get(name) is not None for name in _FORMAT_FIELDS if name != _SHOW_FORMAT)
    kept = {name: value for name, value in base.items() if not (ruled and name in _FORMAT_FIELDS)}
    return cast("CallOptions", {**kept, **wishes})


def resolve_sampling(base: Sampling, changes: Mapping[str, Any]) -> Sampling:
    """Return `base` with `changes` applied.

    Raises:
        InvalidRequestError: an unknown keyword, or a value out of range.
    """
    check_names(changes, SAMPLING_FIELDS, "sampling")
    stop = changes.get("stop", ())
    if not isinstance(stop, str | Sequence):
        raise InvalidRequestError("stop", f"must be a text or a list of texts, not {type(stop).__name__}")
    return replace(base, **changes)


def resolve_private(default: bool | None, change: bool | None = False) -> bool:  # noqa: FBT001, FBT002 # both are one flag
    """Return whether a call is private: its own flag can add to the default (None: no wish), never lift it.

    Raises:
        InvalidRequestError: a flag is no boolean. Nothing was sent.
    """
    for flag in (default, False if change is None else change):
        if not isinstance(flag, bool):
            raise InvalidRequestError("private", f"must be True or False, not {flag!r}; nothing was sent")
    return default is True or change is True


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


def check_flag(name: str, value: object) -> bool:
    """Return a value that is True or False, or raise InvalidRequestError."""
    if not isinstance(value, bool):
        raise InvalidRequestError(name, f"must be True or False, not {value!r}")
    return value


def check_profile(name: object) -> str | None:
    """Return the name of a profile or None, or raise InvalidRequestError."""
    if name is None or isinstance(name, str):
        return name
    raise InvalidRequestError("last_profile", f"must be the name in `Route.profile`, not {type(name).__name__}")


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
