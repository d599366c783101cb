"""The space that texts are compared in: a layer of the device's model, a centre and a head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.whitening import whitening
from crayon.engine import POOLING, EverydayStates
from crayon.errors import AdapterError, InvalidRequestError
from crayon.router.scope import unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crayon.adapters.pool import Pool
    from crayon.engine import RawStates

# Of the mean eigenvalue, added where everyday texts even the spread out; 0.2 to 0.5 do equally well on four models.
SHRINK = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Where texts are comparable by cosine; made by `space_of_pool` or `everyday_space`.

    Args:
        id: vectors of two spaces of one model are comparable if these have one id.
        layer: whose states are compared, counted from 0.
        centre: (D,) float32, subtracted from states.
        head: (D, D) float32 that centred states, rows, are multiplied with; None: they are taken as they are.
    """

    id: str
    layer: int
    centre: NDArray[np.float32]
    head: NDArray[np.float32] | None = None

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self.centre.size

    def place(self, states: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return states (n, D), as an engine's `encode_raw` gives them, as unit rows (n, D).

        Raises:
            InvalidRequestError: other dimensions, or a state that is not finite.
        """
        if states.ndim != 2 or states.shape[1] != self.centre.size:
            raise InvalidRequestError(
                "samples", f"have states of shape {states.shape}, the space has {self.centre.size} dimensions"
            )
        centred = np.asarray(states, np.float64) - self.centre
        return unit_rows("samples", centred if self.head is None else centred @ self.head)

    def check(self, states: RawStates) -> None:
        """Check that an engine's states are of the layer that is compared.

        Raises:
            AdapterError: they are of another layer, or of another model.
        """
        width = states.states.shape[1]
        if (states.layer, width) != (self.layer, self.dimensions):
            raise AdapterError(
                f"texts are compared by layer {self.layer} ({self.dimensions} numbers), the engine reads layer "
                f"{states.layer} ({width} numbers): open the model with the pool that this was made with, or customise "
                f"again"
            )


def space_of_pool(pool: Pool) -> Space:
    """Return the space of a pool's keys.

    Raises:
        AdapterError: it has no keys, or they were made by an encoder of former times.
    """
    encoder = pool.manifest.encoder
    if encoder is None:
        raise AdapterError(f"pool {pool.id} has no keys, so samples cannot be compared with its members")
    if encoder.kind != POOLING:
        raise AdapterError(
            f"pool {pool.id}: its keys are of encoder.kind {encoder.kind!r}, texts are read as {POOLING!r} now; "
            f"make them anew with `crayon pool rekey`, or train the pool again"
        )
    head = b"" if pool.head is None else pool.head.tobytes()
    numbers = hashlib.sha256(pool.centre.tobytes() + head).hexdigest()[:12]
    return Space(_id(encoder.layer, numbers), encoder.layer, pool.centre, pool.head)


@lru_cache(maxsize=4)  # the engine hands out one object, and a head is some tenths of a second of work
def everyday_space(states: EverydayStates, layer: int) -> Space:
    """Return a space for a model without a pool, from everyday texts alone.

    The centre is the mean of all texts; the head evens out how the wordings of one intent differ. Its id names texts
    and rule, not the numbers, whose last digits differ with the machine: the model is to be checked beside it.

    Args:
        states: as an engine gives them.
        layer: whose states they are.

    Raises:
        AdapterError: there are fewer than two texts.
    """
    groups = [np.asarray(rows, np.float64) for rows in states.groups if len(rows)]
    if sum(map(len, groups)) < 2:
        raise AdapterError("the engine has no everyday texts to compare the samples with; open it by reference")
    centre = np.asarray(np.concatenate(groups).mean(axis=0), np.float32)
    return Space(_id(layer, f"everyday-{SHRINK:g}-{states.texts}"), layer, centre, whitening(groups, SHRINK))


def space_for(pool: Pool | None, states: RawStates) -> Space:
    """Return the space of a pool's keys, or without a pool the model's own, checked to be that of `states`.

    Raises:
        AdapterError: the states are of another layer than the pool's keys, or came without those of everyday texts.
    """
    if pool is None:
        return everyday_space(states.everyday or EverydayStates((), ""), states.layer)
    space = space_of_pool(pool)
    space.check(states)
    return space


def _id(layer: int, rest: str) -> str:
    return f"{POOLING.replace('_', '-')}-{layer}-{rest}"
