"""Which profile of a customisation a query belongs to, in the pool's own space."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from crayon.customising.device_calls import PoolEngine, check_layer, pool_of
from crayon.customising.profiles import pool_vectors
from crayon.errors import AdapterError, EngineError, InvalidRequestError
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.adapters.pool import Pool
    from crayon.customising.customization import Customization
    from crayon.engine import Engine, RawStates
    from crayon.router.scope import ScopeVerdict


def pool_for(customization: Customization, engine: Engine) -> Pool:
    """Return the engine's pool that a customisation is for.

    Raises:
        AdapterError: the engine does not have it.
    """
    try:
        if not isinstance(engine, PoolEngine):
            raise AdapterError("the device engine has no adapter pools")
        return pool_of(engine, customization.pool_id)
    except AdapterError as error:
        raise AdapterError(f"customisation {customization.name!r}: {error}; or customise again") from None


class ProfileGate:
    """The profiles of one customisation as scopes, on the engine that has its pool.

    Args:
        customization: whose profiles.
        engine: the device's.
        moved: how far each profile's threshold is moved, as a calibration says.

    Raises:
        AdapterError: the engine does not have the pool, or the centres are of another size than its keys.
        InvalidRequestError: the profiles have no centres.
    """

    def __init__(
        self, customization: Customization, engine: Engine, moved: Mapping[str | None, float] = MappingProxyType({})
    ) -> None:
        self._pool = pool_for(customization, engine)
        scopes = [profile.scope() for profile in customization.profiles]
        self._gate = ScopeGate(
            [replace(scope, threshold=scope.threshold + moved.get(scope.name, 0.0)) for scope in scopes]
        )
        if self._gate.scopes[0].centre.size != self._pool.centre.size:
            raise AdapterError(f"customisation {customization.name!r} is damaged: its centres have another size")

    def judge(self, states: RawStates, *, last: str | None = None) -> ScopeVerdict:
        """Return the profile that the one query is closest to, and whether it is inside; `last` as in `ScopeGate`.

        Raises:
            EngineError: the engine's states are unusable.
        """
        check_layer(self._pool, states)
        try:
            return self._gate.judge(pool_vectors(states.states, self._pool.centre, self._pool.head)[0], last=last)
        except InvalidRequestError as error:
            raise EngineError(f"the device's embedding is unusable: {error}") from error
