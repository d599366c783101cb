"""Blends of adapter pools, loaded into llama.cpp when they are first asked for and kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from crayon.adapters.blend import blend as blend_tensors
from crayon.adapters.blend import blend_vector, check_blend
from crayon.adapters.image import AdapterImage, gguf_bytes
from crayon.adapters.memory_file import MemoryFile
from crayon.blending.lease import Lease
from crayon.errors import EngineClosedError
from crayon.llama.adapter import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from crayon.adapters.image import FloatType
    from crayon.adapters.pool import Pool
    from crayon.completion import Blend
    from crayon.llama.context import Context
    from crayon.llama.model import Model

    Weights: TypeAlias = NDArray[np.float32]

CAPACITY = 8


@dataclass(slots=True)
class _Loaded:
    """A blend in llama.cpp's memory and how many leases it is out on."""

    adapter: Adapter
    leases: int = 0


class PoolBlends:
    """Turns a request's blend into a loaded adapter, held by a lease. Thread-safe.

    Up to `capacity` blends stay loaded. Beyond that the one not used for longest is freed, unless a lease holds it or
    a context still applies it: then there are more for a while.

    Args:
        model: what the adapters are loaded for; close this before it.
        pools: made for that model (see `check_bases`).
        contexts: those whose adapters come from here; each computes with an adapter only while it has a lease.
        capacity: blends that stay loaded.
    """

    def __init__(
        self,
        model: Model,
        pools: Sequence[Pool],
        *,
        contexts: Sequence[Context] = (),
        capacity: int = CAPACITY,
    ) -> None:
        self._model = model
        self._pools = {pool.id: pool for pool in pools}
        self._contexts = tuple(contexts)
        self._capacity = max(capacity, 1)
        self._images: dict[str, AdapterImage] = {}
        self._table: OrderedDict[Blend, _Loaded] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()  # the table; never held for long, so that releasing never waits for a blend
        self._building = threading.Lock()  # images, and what llama.cpp keeps of a model's adapters
        self._closed = False

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools, in the order given."""
        return tuple(self._pools.values())

    @property
    def loaded(self) -> int:
        """How many blends are loaded."""
        with self._lock:
            return len(self._table)

    def normal(self, blend: Blend) -> Blend | None:
        """Return the blend, checked; None where all its weights are 0, which is the plain base.

        Raises:
            AdapterError: no such pool is here, or it has another number of members.
            InvalidRequestError: the weights are too large.
        """
        _, weights = check_blend(self._pools, blend)
        return blend if weights.any() else None

    def identity(self, blend: Blend) -> str:
        """Return what names a blend's effect, in this process and in others.

        Raises:
            AdapterError, InvalidRequestError: as `normal`.
        """
        pool, _ = check_blend(self._pools, blend)
        return " ".join([pool.id, pool.manifest.tensors_sha256, *(weight.hex() for weight in blend.weights)])

    def __call__(self, blend: Blend) -> Lease:
        """Return the blend as an adapter of scale 1, loaded until the lease is released; no adapter for the base.

        Raises:
            AdapterError: as `normal`, or llama.cpp cannot load it.
            InvalidRequestError: the weights are too large.
            EngineClosedError: after `close`.
        """
        pool, weights = check_blend(self._pools, blend)
        if not weights.any():
            return Lease()
        lease = self._lease(blend)
        if lease is None:
            with self._building:
                lease = self._lease(blend)  # another thread may have been quicker
                if lease is None:
                    adapter = self._load(pool, weights)
                    with self._lock:
                        self._table[blend] = _Loaded(adapter)
                    lease = self._lease(blend)
                    self._evict()
        if lease is None:
            raise EngineClosedError("the engine is closed")
        return lease

    def close(self) -> None:
        """Free every adapter: when nothing computes any more. Safe to call twice."""
        with self._building, self._lock:
            self._closed = True
            while self._table:
                self._table.popitem()[1].adapter.close()
            self._images.clear()

    def _lease(self, blend: Blend) -> Lease | None:
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            loaded = self._table.get(blend)
            if loaded is None:
                return None
            self._table.move_to_end(blend)
            loaded.leases += 1
        return Lease([(loaded.adapter, 1.0)], on_release=lambda: self._release(loaded))

    def _release(self, loaded: _Loaded) -> None:
        with self._lock:
            loaded.leases -= 1

    def _load(self, pool: Pool, weights: Weights) -> Adapter:
        with MemoryFile(self._bytes(pool, weights)) as file:  # llama.cpp copies what it reads
            return Adapter(self._model, file.path, name=f"a blend of pool {pool.id}")

    def _bytes(self, pool: Pool, weights: Weights) -> bytes | memoryview:
        if pool.manifest.kind != "shared":
            return gguf_bytes(blend_tensors(pool, weights), pool.manifest.base.architecture)
        image = self._images.get(pool.id)
        if image is None:
            # As precise as the pool's own file: half the bytes to fill in and to load, where that is float16.
            kind: FloatType = "f16" if pool.manifest.precision == "F16" else "f32"
            image = self._images[pool.id] = AdapterImage.of(pool, a_type=kind, b_type=kind)
        return image.fill(blend_vector(pool, weights))

    def _evict(self) -> None:
        """Free what is too much. Only called while building, so that llama.cpp's own list is changed by one thread."""
        with self._lock:
            # A context takes up an adapter only under a lease, so one that is on no lease and not applied stays so.
            applied = {id(adapter) for context in self._contexts for adapter, _ in context.adapters}
            for blend in list(self._spare(applied)):
                self._table.pop(blend).adapter.close()

    def _spare(self, applied: set[int]) -> Iterator[Blend]:
        excess = len(self._table) - self._capacity
        for blend, loaded in self._table.items():
            if excess > 0 and not loaded.leases and id(loaded.adapter) not in applied:
                excess -= 1
                yield blend
