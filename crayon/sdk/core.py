"""What the sync and the async client share: settings, lazily opened engines, fitted scopes, and no waiting style."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crayon.completion import Blend, Source
from crayon.data.scope_files import load_scope
from crayon.data.texts import background_texts
from crayon.engine import EncodeRequest, Engine, ScoreRequest
from crayon.errors import EngineError, InvalidRequestError
from crayon.messages import Message, normalise_messages
from crayon.router.hardness import Hardness
from crayon.router.policy import Allowed, allowed_sources, parse_mode
from crayon.router.scope import Scope, ScopeGate, ScopeVerdict, fit_scope
from crayon.sampling import Sampling
from crayon.sdk.engines import Engines
from crayon.sdk.options import Call, check_timeout, resolve_private, resolve_sampling
from crayon.sdk.turn import Turn
from crayon.sdk.waiting import wait_for

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from crayon.completion import Mode
    from crayon.engine import EncodeResult
    from crayon.messages import MessagesLike


class Core:
    """Settings, engines and scopes of one client, for any thread; `Crayon` documents the arguments."""

    def __init__(
        self,
        device: str | os.PathLike[str] | Engine | None,
        server: str | Engine | None,
        *,
        mode: Mode | str,
        scopes: Sequence[Scope | str],
        hardness: Hardness | Literal[False] | None,
        system: str | None,
        timeout: float | None,
        private: bool,
        device_options: Mapping[str, Any] | None,
        server_options: Mapping[str, Any] | None,
        sampling: Mapping[str, Any],
    ) -> None:
        self._mode = parse_mode(mode)
        self._timeout = check_timeout(timeout)
        self._private = resolve_private(private)
        self._sampling = resolve_sampling(Sampling(), sampling)
        self._system = _system(system)
        self._scopes = _scopes(scopes)
        self._hardness = _hardness(hardness)
        self.engines = Engines(device, server, device_options or {}, server_options or {})
        self._gate: ScopeGate | None = None
        self._fitting = threading.Lock()

    def load(self) -> None:
        """Open everything now: engines and scopes."""
        for source in Source:
            if self.engines.configured(source):
                self.engines.open(source)
        if self._scopes and self.engines.configured(Source.DEVICE):
            self.scope_gate(None if self._timeout is None else time.monotonic() + self._timeout)

    # -- calls

    def call(
        self,
        messages: MessagesLike,
        *,
        blend: Blend | None,
        mode: Mode | str | None,
        private: bool | None,
        timeout: float | None,
        sampling: Mapping[str, Any],
    ) -> tuple[Call, Allowed]:
        """Resolve every default and ask the policy.

        Raises:
            InvalidRequestError, PrivacyError, ServerUnavailableError: see `allowed_sources` and `Sampling`.
        """
        self.engines.check_open()
        call = Call(
            messages=self._with_system(normalise_messages(messages)),
            sampling=resolve_sampling(self._sampling, sampling),
            mode=self._mode if mode is None else parse_mode(mode),
            private=resolve_private(self._private, private),
            timeout=self._timeout if timeout is None else check_timeout(timeout),
            blend=_checked(blend),
        )
        allowed = allowed_sources(
            call.mode,
            private=call.private,
            device=self.engines.configured(Source.DEVICE),
            server=self.engines.configured(Source.SERVER),
            server_away=self.engines.server_away,
        )
        return call, allowed

    def turn(self, call: Call, allowed: Allowed) -> Turn:
        """Return a turn whose time starts now."""
        return Turn(
            call,
            allowed,
            scoped=bool(self._scopes),
            hardness=self._hardness,
            server=self.engines.server_address,
            request_bytes=self.engines.request_bytes,
        )

    def needed_first(self, allowed: Allowed) -> tuple[Source, ...]:
        """Return the engines to open before the clock starts: a server is quick to open, a fallback device waits."""
        return tuple(source for source in allowed.sources if source is Source.SERVER or source is allowed.sources[0])

    def score_request(self, call: Call, continuations: Iterable[str]) -> ScoreRequest:
        """Return the request of a `score` call; its time starts now."""
        if isinstance(continuations, str):
            raise InvalidRequestError("continuations", "must be a list of texts, not one text")
        _check_list("continuations", continuations)
        return ScoreRequest(
            messages=call.messages,
            continuations=tuple(continuations),
            blend=call.blend,
            deadline=None if call.timeout is None else time.monotonic() + call.timeout,
        )

    def encode_call(self, *, private: bool | None, timeout: float | None) -> tuple[Source, float | None]:
        """Return which side embeds, the device if there is one, and the patience in seconds."""
        self.engines.check_open()
        source = Source.DEVICE
        private = resolve_private(self._private, private)
        if not self.engines.configured(source):
            allowed = allowed_sources(self._mode, private=private, device=False, server=True)
            source = allowed.sources[0]
        return source, self._timeout if timeout is None else check_timeout(timeout)

    def encode_request(self, texts: str | Iterable[str], timeout: float | None) -> EncodeRequest:
        """Return the request of an `encode` call; its time starts now."""
        _check_list("texts", texts)  # a text is one too
        return EncodeRequest(
            texts=(texts,) if isinstance(texts, str) else tuple(texts),
            deadline=None if timeout is None else time.monotonic() + timeout,
        )

    # -- scopes

    @property
    def fitted(self) -> bool:
        """Whether `scope_gate` returns without delay."""
        return self._gate is not None

    def scope_gate(self, until: float | None) -> ScopeGate:
        """Return the scope gate, fitting it on first use: one pass over all examples and the background texts.

        Raises:
            InvalidRequestError: the device sees too little difference between a scope's examples.
            DeadlineExceededError: `until` passed.
        """
        if self._gate is not None:
            return self._gate
        device = self.engines.open(Source.DEVICE)
        with self._fitting:
            if self._gate is None:
                background = background_texts()
                texts = [text for scope in self._scopes for text in scope.examples]
                request = EncodeRequest(texts=(*texts, *background), deadline=until)
                vectors = wait_for(device.encode(request), until).vectors
                fitted, start = [], 0
                for scope in self._scopes:
                    own = vectors[start : start + len(scope.examples)]
                    fitted.append(fit_scope(scope.name, own, vectors[len(texts) :], threshold=scope.threshold))
                    start += len(scope.examples)
                self._gate = ScopeGate(fitted)
            return self._gate

    # -- inside

    def _with_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if self._system is None or any(message.role == "system" for message in messages):
            return messages
        return (self._system, *messages)


def judge(gate: ScopeGate, result: EncodeResult) -> ScopeVerdict:
    """Return the gate's verdict on one embedded query.

    Raises:
        EngineError: the engine's vector is unusable.
    """
    try:
        return gate.judge(result.vectors[0])
    except InvalidRequestError as error:
        raise EngineError(f"the device's embedding is unusable: {error}") from error


def _system(text: str | None) -> Message | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidRequestError("system", f"must be text or None, not {type(text).__name__}")
    return normalise_messages([Message("system", text), Message("user", "?")])[0] if text else None


def _checked(blend: object) -> Blend | None:
    if blend is None or isinstance(blend, Blend):
        return blend
    raise InvalidRequestError("blend", f"must be a crayon.Blend, not {type(blend).__name__}")


def _check_list(field: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise InvalidRequestError(field, f"must be a list, not {value!r:.40}")


def _scopes(scopes: Sequence[Scope | str]) -> tuple[Scope, ...]:
    _check_list("scopes", scopes)
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


def _hardness(value: Hardness | Literal[False] | None) -> Hardness | None:
    if value is None:
        return Hardness()
    if value is False:
        return None
    if not isinstance(value, Hardness):
        raise InvalidRequestError("hardness", f"must be a Hardness, None (defaults) or False (off), not {value!r}")
    return value
