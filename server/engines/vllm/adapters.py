"""Adapters that requests may name, as vLLM knows them: blends made when they are first asked for, and PEFT folders."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.adapters.blend import check_blend
from crayon.errors import AdapterError, EngineClosedError
from crayon.server.engines.vllm.lora_folder import write_blend, write_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from crayon.adapters.formats.matrices import BaseShapes
    from crayon.adapters.pool import Pool
    from crayon.completion import Blend

_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing of it is at a known name: mkdtemp makes a folder of our own in it


@dataclass(slots=True, eq=False)
class Lora:
    """An adapter as vLLM is told of it: `number` is never used again, `folder` lies there until nobody holds it."""

    name: str
    number: int
    folder: Path
    leases: int = 0
    added: bool = False
    """Whether vLLM has read it, and it was found to be sound."""


class Adapters:
    """Turns a request's blend into a folder that vLLM reads, held as long as it is computed with. Thread-safe.

    The folders lie in memory (`/dev/shm`) where there is such a place, else among the temporary files; only this user
    can read them. Up to `capacity` blends are kept. Beyond that the one not used for longest is forgotten, never one
    that is held: then there are more for a while. A number is never given twice, so that vLLM, which keeps adapters
    by their numbers, cannot compute with another one than the request's.

    Args:
        pools: made for the model.
        shapes: of the model (None: there are no pools).
        named: folders of PEFT's that requests name as their model.
        model: the model's folder, if the base needs an adapter too (see `write_nothing`).
        max_rank: of a blend.
        capacity: blends that are kept.
        forget: told of each that was forgotten.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        shapes: BaseShapes | None,
        *,
        named: Mapping[str, Path] | None = None,
        model: Path | None = None,
        max_rank: int = 16,
        capacity: int = 32,
        forget: Callable[[Lora], None] = lambda _: None,
    ) -> None:
        self._pools = {pool.id: pool for pool in pools}
        self._shapes = shapes
        self._max_rank = max_rank
        self._capacity = max(capacity, 1)
        self._forget = forget
        self._numbers = itertools.count(1)
        self.named = {name: Lora(name, next(self._numbers), folder) for name, folder in (named or {}).items()}
        self._table: OrderedDict[Blend, Lora] = OrderedDict()  # least recently used first
        self._making: dict[Blend, threading.Event] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._folder: Path | None = None
        self.base: Lora | None = None
        """What the base is computed with; None: with no adapter."""
        if pools or model is not None:
            place = _MEMORY if _MEMORY.is_dir() else None
            self._folder = Path(tempfile.mkdtemp(prefix="crayon-blends-", dir=place))  # mode 0700
        if model is not None and self._folder is not None:
            self.base = Lora("base", next(self._numbers), self._folder / "base")
            write_nothing(model, self.base.folder)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools, in the order given."""
        return tuple(self._pools.values())

    @property
    def loaded(self) -> int:
        """How many blends are kept."""
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

    def hold(self, blend: Blend) -> Lora:
        """Return a blend that `normal` passed, for as long as it is not given back; makes it where there is none.

        Takes some milliseconds where it has to be made: not for an event loop.

        Raises:
            AdapterError: it cannot be written.
            EngineClosedError: after `close`.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise EngineClosedError("the engine is closed")
                found = self._table.get(blend)
                if found is not None:
                    self._table.move_to_end(blend)
                    found.leases += 1
                    return found
                others = self._making.get(blend)
                if others is None:
                    mine = self._making[blend] = threading.Event()
                    break
            others.wait()  # somebody makes it already; where they fail it is tried again
        try:
            made = self._make(blend)
            with self._lock:
                self._table[blend] = made
        finally:
            with self._lock:
                del self._making[blend]
            mine.set()
        self._evict()
        return made

    def give_back(self, lora: Lora) -> None:
        """Allow an adapter that was held to be forgotten."""
        with self._lock:
            lora.leases -= 1
        self._evict()

    def drop(self, lora: Lora) -> None:
        """Forget a blend that turned out to be unusable, to make it anew next time; requests that hold it keep it."""
        with self._lock:
            for blend, kept in self._table.items():
                if kept is lora:
                    del self._table[blend]
                    break
            else:
                return
        self._forget(lora)
        shutil.rmtree(lora.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove every folder: when nothing computes any more. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._table.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, blend: Blend) -> Lora:
        if self._folder is None or self._shapes is None:
            raise AdapterError("there are no pools here")
        number = next(self._numbers)
        folder = self._folder / str(number)
        try:
            write_blend(self._pools[blend.pool_id], blend.weights, folder, self._shapes, self._max_rank)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Lora(f"blend-{number}", number, folder, leases=1)

    def _evict(self) -> None:
        with self._lock:
            excess = len(self._table) - self._capacity
            spare = [(blend, lora) for blend, lora in self._table.items() if not lora.leases][: max(excess, 0)]
            for blend, _ in spare:
                del self._table[blend]
        for _, lora in spare:
            self._forget(lora)
            shutil.rmtree(lora.folder, ignore_errors=True)
