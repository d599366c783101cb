"""One look at a query's embedding: whether it is in scope, and which profile answers it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from crayon.customising.device_calls import on_this_device
from crayon.customising.profiles import BASE
from crayon.engine import EncodeResult, RawStates
from crayon.errors import EngineError, InvalidRequestError
from crayon.text_form import one_form

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from crayon.completion import Blend
    from crayon.customising.customization import Customization
    from crayon.customising.profile_gate import ProfileGate
    from crayon.customising.support import Support
    from crayon.engine import EncodeRequest, Engine
    from crayon.router.scope import ScopeGate, ScopeVerdict
    from crayon.sdk.call.options import Call


Embedding: TypeAlias = EncodeResult | RawStates


@dataclass(frozen=True, slots=True)
class ChosenProfile:
    """What the device answers with: a profile of a customisation, its weights and evidence; or the plain base."""

    customization: str
    profile: str
    blend: Blend | None
    support: Support | None = None

    def for_text(self) -> ChosenProfile:
        """Return it for a written text: without a closed set's answers, and without the member that reads examples."""
        if self.support is None or not self.support.answers:
            return self
        # Weights behind examples are the pool's reader's, who writes what examples show.
        return replace(self, blend=None if self.support.turns else self.blend, support=None)


@dataclass(frozen=True, slots=True)
class QueryVerdict:
    """`scope`: the closest scope or profile, if being outside of all matters; `choice`, if there are profiles."""

    scope: ScopeVerdict | None
    choice: ChosenProfile | None = None


def choice_of(customization: Customization, profile: str, support: Support | None = None) -> ChosenProfile:
    """Return what a profile, or "base", stands for."""
    return ChosenProfile(customization.name, profile, customization.blend(profile), support)


class QueryGate:
    """Judges queries by the caller's scopes, and by the profiles of the call's customisation.

    A query outside every profile gets the plain base, unless the call always wants the customisation: then the closest
    profile, and its profiles keep nothing from the device.

    Args:
        scopes: the caller's, in the engine's own space.
        profiles: those of the customisation.
        call: what is asked for.
    """

    def __init__(self, scopes: ScopeGate | None, profiles: ProfileGate | None, call: Call) -> None:
        self._scopes = scopes
        self._profiles = profiles
        self._call = call

    def encode(self, engine: Engine, request: EncodeRequest) -> Future[Embedding]:
        """Start embedding: once, whatever is judged by it, and in the form that samples and scopes are kept in."""
        request = replace(request, texts=tuple(map(one_form, request.texts)))
        if self._profiles is None:
            own: Future[Any] = engine.encode(request)
        else:
            own = on_this_device(engine).encode_raw(replace(request, everyday=self._profiles.wants_everyday))
        return cast("Future[Embedding]", own)  # it is only read, so what else it could be set to does not matter

    def judge(self, embedding: Embedding) -> QueryVerdict:
        """Return the verdict on the one query.

        Raises:
            EngineError: the engine's vector is unusable.
            AdapterError: it is of another layer than the pool's keys.
        """
        scope = None if self._scopes is None else _judge(self._scopes, _vector(embedding))
        custom = self._call.customization
        if self._profiles is None or custom is None or isinstance(embedding, EncodeResult):
            return QueryVerdict(scope)
        vector = self._profiles.place(embedding)
        profile = self._profiles.judge(vector, last=self._call.last_profile)
        name = profile.name if profile.inside or self._call.always else BASE
        choice = choice_of(custom, name, self._profiles.support(name, vector))
        return QueryVerdict(scope if self._call.always else _closest(profile, scope), choice)


def _judge(gate: ScopeGate, vector: NDArray[np.float32]) -> ScopeVerdict:
    try:
        return gate.judge(vector)
    except InvalidRequestError as error:
        raise EngineError(f"the device's embedding is unusable: {error}") from error


def _vector(embedding: Embedding) -> NDArray[np.float32]:
    """Return the one query's vector as the engine's `encode` gives it; its length does not matter."""
    if isinstance(embedding, EncodeResult):
        return np.asarray(embedding.vectors[0], np.float32)
    state, background = embedding.states[0], embedding.background
    return np.asarray(state - background.mean(axis=0) if len(background) else state, np.float32)


def _closest(one: ScopeVerdict, other: ScopeVerdict | None) -> ScopeVerdict:
    if other is None:
        return one
    best = max(one, other, key=lambda verdict: verdict.score - verdict.threshold)
    return replace(best, similarity={**other.similarity, **one.similarity})
