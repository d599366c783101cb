"""Which profile of a customisation a query belongs to, in the pool's own space."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.device_calls import PoolEngine, pool_of
from crayon.customising.space import space_for
from crayon.customising.support import ProfileSupport
from crayon.errors import AdapterError, EngineError, InvalidRequestError
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.customising.customization import Customization
    from crayon.customising.material import Material
    from crayon.customising.space import Space
    from crayon.customising.support import Support
    from crayon.engine import Engine, RawStates
    from crayon.router.scope import ScopeVerdict


def check_model(customization: Customization, engine: Engine) -> None:
    """Check that a customisation was made for the engine's model; one for a pool is told by its pool, too.

    Raises:
        AdapterMismatchError: it was made for another one; names both.
    """
    model = engine.models()[0]
    if not customization.pool_id or (model.source_sha256 and customization.base_sha256):
        customization.check_base(model.source_sha256, model.name)


def pool_for(customization: Customization, engine: Engine) -> Pool | None:
    """Return the engine's pool that a customisation is for; None where it is for a model without one.

    Raises:
        AdapterError: the engine does not have it.
        AdapterMismatchError: the engine runs another model.
    """
    check_model(customization, engine)
    if not customization.pool_id:
        return None
    try:
        if not isinstance(engine, PoolEngine):
            raise AdapterError("the device engine has no adapter pools")
        return pool_of(engine, customization.pool_id)
    except AdapterError as error:
        raise AdapterError(f"customisation {customization.name!r}: {error}; or customise again") from None


class ProfileGate:
    """The profiles of one customisation as scopes, on the engine that it was made for, and their evidence.

    Args:
        customization: whose profiles.
        engine: the device's.
        material: its samples, where they are kept: without them there is no evidence.
        folder: where what the model computes for examples may be kept.
        moved: how far each profile's threshold is moved, as a calibration says.

    Raises:
        AdapterError: the engine does not have the pool, or the centres are of another size than its keys.
        InvalidRequestError: the profiles have no centres.
    """

    def __init__(
        self,
        customization: Customization,
        engine: Engine,
        moved: Mapping[str | None, float] = MappingProxyType({}),
        *,
        material: Material | None = None,
        folder: Path | None = None,
    ) -> None:
        self._customization = customization
        self._pool = pool_for(customization, engine)
        self._space: Space | None = None
        self.supports = profile_supports(customization, material, folder)
        scopes = [profile.scope() for profile in customization.profiles]
        self._gate = ScopeGate(
            [replace(scope, threshold=scope.threshold + moved.get(scope.name, 0.0)) for scope in scopes]
        )
        if self._pool is not None and self._gate.scopes[0].centre.size != self._pool.centre.size:
            raise AdapterError(f"customisation {customization.name!r} is damaged: its centres have another size")

    @property
    def wants_everyday(self) -> bool:
        """Whether the next query's states are to come with those of everyday texts."""
        return self._pool is None and self._space is None

    def place(self, states: RawStates) -> NDArray[np.float32]:
        """Return the one query as a unit row, (D,), of the space that the profiles lie in.

        Raises:
            AdapterError: the profiles lie in another space.
            EngineError: the engine's states are unusable.
        """
        if self._space is None:
            space = space_for(self._pool, states)
            if self._customization.space not in ("", space.id):
                raise AdapterError(
                    f"customisation {self._customization.name!r} was made with another embedding; customise again"
                )
            self._space = space
        self._space.check(states)
        try:
            return np.asarray(self._space.place(states.states)[0], np.float32)
        except InvalidRequestError as error:
            raise EngineError(f"the device's embedding is unusable: {error}") from error

    def judge(self, vector: NDArray[np.float32], *, last: str | None = None) -> ScopeVerdict:
        """Return the profile that a query is closest to, and whether it is inside; `last` as in `ScopeGate`.

        Raises:
            AdapterError: the centres are of another size than the query.
            EngineError: the vector is unusable.
        """
        if self._gate.scopes[0].centre.size != vector.size:
            raise AdapterError(f"customisation {self._customization.name!r} is damaged: its centres have another size")
        try:
            return self._gate.judge(vector, last=last)
        except InvalidRequestError as error:
            raise EngineError(f"the device's embedding is unusable: {error}") from error

    def support(self, profile: str, vector: NDArray[np.float32] | None) -> Support | None:
        """Return what the samples of a profile say of a query; None where they take no part, and for "base"."""
        found = self.supports.get(profile)
        return None if found is None else found.of(vector)


def profile_supports(
    customization: Customization, material: Material | None, folder: Path | None = None
) -> dict[str, ProfileSupport]:
    """Return the evidence of each profile that has some, ready to use.

    Raises:
        AdapterError: a profile has evidence, and its samples are not there.
    """
    found = {}
    for profile in customization.profiles:
        if not profile.evidence:
            continue
        if material is None:
            raise AdapterError(
                f"customisation {customization.name!r} answers with its samples, which are not on this device; "
                f"customise again"
            )
        found[profile.name] = ProfileSupport(profile.evidence, material, folder)
    return found
