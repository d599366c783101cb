"""Adapters that stay loaded for as long as somebody computes with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self, TypeAlias, overload

if TYPE_CHECKING:
    from crayon.completion import Blend
    from crayon.llama.adapter import Adapter

Scaled: TypeAlias = "tuple[Adapter, float]"
BlendResolver: TypeAlias = "Callable[[Blend], Sequence[Scaled]]"


class Lease(Sequence[Scaled]):
    """Adapters with their scales, none of which is freed before `release`. From any thread."""

    def __init__(self, adapters: Sequence[Scaled] = (), on_release: Callable[[], None] | None = None) -> None:
        self._adapters = tuple(adapters)
        self._on_release = on_release
        self._lock = threading.Lock()

    @classmethod
    def of(cls, adapters: Sequence[Scaled]) -> Lease:
        """Return what a resolver gave as a lease: one that keeps its adapters for good gives a plain sequence."""
        return adapters if isinstance(adapters, cls) else cls(adapters)

    def release(self) -> None:
        """Allow the adapters to be freed. Safe to call twice."""
        with self._lock:
            tell, self._on_release = self._on_release, None
        if tell is not None:
            tell()

    def __len__(self) -> int:
        return len(self._adapters)

    @overload
    def __getitem__(self, index: int) -> Scaled: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Scaled]: ...
    def __getitem__(self, index: int | slice) -> Scaled | Sequence[Scaled]:
        return self._adapters[index]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
