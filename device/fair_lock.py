"""Something that one job holds at a time, though jobs advance in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


class FairLock:
    """Lets jobs use it one after the other, first come first served. For one thread: no lock, jobs give way instead."""

    def __init__(self) -> None:
        self._line: list[object] = []

    def held(self, steps: Generator[None, None, T]) -> Generator[None, None, T]:
        """Run `steps` once all who came before are done, giving way until then; return what `steps` returns."""
        place = object()
        self._line.append(place)
        try:
            while self._line[0] is not place:
                yield
            return (yield from steps)
        finally:
            self._line.remove(place)
