"""What rendering a chat template may cost: time of the processor, and memory of all that it makes."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Value = TypeVar("Value")

SECONDS = 2.0
"""Of the processor, in this thread: a busy neighbour does not count."""
MEMORY = 128 << 20
"""Bytes of all that one rendering makes, even of what it lets go again: it never holds more than that."""
PER_GIVEN = 16
"""Bytes that it may make beside for each byte of the messages: a template copies a text several times."""
NUMBER = 1_000_000
"""Largest number that a function or filter is given: widths and counts."""
# Writing a value as text makes at most so many bytes of one (a control character is six letters in JSON).
WRITTEN = 6
_ITEM = 64  # bytes of a list's item, and of the smallest text
_STEP = 256  # of a loop, in the bytes that are made in the time
_CONTAINERS = (list, tuple, dict, set, frozenset)
_PLAIN = (int, float, type(None), Undefined, range)  # what is written in a few letters


class RenderBudget:
    """What is left to one rendering.

    Args:
        given: bytes of the messages.
    """

    def __init__(self, given: int) -> None:
        self._left = MEMORY + PER_GIVEN * given
        self._end = time.thread_time() + SECONDS
        # By identity, with the container itself, so that no other one gets its place in memory.
        self._weights: dict[int, tuple[object, int]] = {}
        self._held: set[int] = set()

    def spend(self, size: int) -> None:
        """Take so many bytes, or as many steps.

        Raises:
            SecurityError: there are not as many left, or the time is over.
        """
        self.expect(size)
        self._left -= size
        if time.thread_time() > self._end:
            raise SecurityError(f"it runs for more than {SECONDS:g} s")

    def expect(self, size: int) -> None:
        """See that as many bytes are left, for what is about to be made.

        Raises:
            SecurityError: there are not.
        """
        if size > self._left:
            raise SecurityError(f"it makes more than {MEMORY >> 20} MiB of text")

    def weigh(self, value: object) -> int:
        """Return the bytes of a value with all that is in it, counted as often as it is in it.

        Lists in lists can stand for far more than they take: [[l, l], [l, l]]. What compares or writes them goes
        through all of it, so that a container this heavy is refused when it is made.

        Raises:
            SecurityError: it is too heavy.
        """
        if not isinstance(value, _CONTAINERS):
            return _ITEM if isinstance(value, float | bool | type(None)) else sys.getsizeof(value, _ITEM)
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        self.spend(_ITEM * (len(value) + 1))
        items = itertools.chain(value, value.values()) if isinstance(value, dict) else iter(value)
        weight = _ITEM + sum(_ITEM + self._weigh_inner(item) for item in items)
        self._keep(value, weight)
        return weight

    def append(self, items: list[Any], value: object) -> None:
        """Append to a list of the template's own that is part of no other value.

        Raises:
            SecurityError: it is not such a list, or becomes too heavy.
        """
        known = self._weights.get(id(items))
        if known is None or id(items) in self._held or value is items:
            raise SecurityError("a list is changed that is not the template's own, or is part of another value")
        weight = known[1] + _ITEM + self._weigh_inner(value)
        if id(items) in self._held:
            raise SecurityError("a list is put into itself")
        self.spend(_ITEM)
        self._keep(items, weight)
        items.append(value)

    def _weigh_inner(self, item: object) -> int:
        weight = self.weigh(item)
        if isinstance(item, _CONTAINERS):
            self._held.add(id(item))
        return weight

    def _keep(self, value: object, weight: int) -> None:
        self.expect(weight)
        self._weights[id(value)] = (value, weight)


_current: ContextVar[RenderBudget] = ContextVar("budget of a chat template")


@contextlib.contextmanager
def limited(given: object = ()) -> Iterator[None]:
    """Bound what is compiled and rendered within this block; a block within it shares its bounds.

    Args:
        given: the messages. The template may make more of longer ones, and may not change them.
    """
    if _current.get(None) is not None:
        yield
        return
    size = RenderBudget(sys.maxsize >> 8).weigh(given)  # they are ours: shallow, and of a length that was seen to
    made = RenderBudget(size)
    made.weigh([given])  # held: not to be changed
    token = _current.set(made)
    try:
        yield
    finally:
        _current.reset(token)


def spend(size: int) -> None:
    """Take so many bytes or steps from the rendering at hand; see `RenderBudget.spend`."""
    _current.get().spend(size)


def expect(size: int) -> None:
    """See that the rendering at hand has as many bytes left; see `RenderBudget.expect`."""
    _current.get().expect(size)


def weigh(value: object) -> int:
    """Return the bytes of a value with all that is in it; see `RenderBudget.weigh`."""
    return _current.get().weigh(value)


def append(items: list[Any], value: object) -> None:
    """Append to a list of the template's own; see `RenderBudget.append`."""
    _current.get().append(items, value)


def made(value: Value) -> Value:
    """Return a value that the template has made, and take what it costs.

    Raises:
        SecurityError: there is not as much left.
    """
    budget = _current.get()
    weight = budget.weigh(value)  # of a container, this takes what it costs
    if not isinstance(value, _CONTAINERS):
        budget.spend(weight)
    return value


def compared(value: Value) -> Value:
    """Return one side of a comparison, and take the steps that going through it costs."""
    if isinstance(value, str | list | tuple | dict | set | frozenset | range):
        spend(_steps(value))
    return value


def steps(items: Iterable[Value]) -> Iterator[Value]:
    """Yield what a loop goes through, and take what a step costs."""
    budget = _current.get()
    for item in items:
        budget.spend(_STEP)
        yield item


def text(value: object) -> str:
    """Return a value as a template writes it.

    Raises:
        SecurityError: it would be too long.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, _CONTAINERS):
        expect(WRITTEN * weigh(value))
        return str(value)
    # Of anything else a template needs no more than to see its mistake.
    return str(value) if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"


def joined(parts: Iterable[object]) -> str:
    """Return values in one text, as `~` writes them, and as what a template writes is put together.

    Raises:
        SecurityError: it would be too long.
    """
    budget = _current.get()
    texts: list[str] = []
    for part in parts:
        texts.append(text(part))
        budget.spend(sys.getsizeof(texts[-1]))
    budget.expect(4 * sum(map(len, texts)) if any(not each.isascii() for each in texts) else 0)
    return "".join(texts)


def take_call(name: str, values: Iterable[object]) -> None:
    """Take the steps of a call of a function that goes through what it is given, and see that its result has room.

    Args:
        name: of the function, filter or test.
        values: all that it is given.

    Raises:
        SecurityError: a number is too large, or there is not as much left.
    """
    budget = _current.get()
    cost = _ITEM
    for value in values:
        if isinstance(value, int | float) and abs(value) > NUMBER:
            raise SecurityError(f"a number of more than {NUMBER}")
        if isinstance(value, int):
            cost += 8 * abs(value)
        elif name not in _AT_ONCE and isinstance(value, str | range | list | tuple | dict):
            if not isinstance(value, range):
                budget.expect(WRITTEN * budget.weigh(value))
            cost += _steps(value)
    budget.spend(cost)


# What looks at a value without going through it. They are often called for each message, with all messages.
_NAMES = (
    "length count first last default d defined undefined string mapping iterable sequence none number boolean true "
    "false integer float callable sameas raise_exception"
)
_AT_ONCE = frozenset(_NAMES.split())


def _steps(value: Any) -> int:
    """Return what going through a value once costs, in the bytes that are made in the time."""
    if isinstance(value, str):
        return len(value) // 8
    return 8 * len(value) if isinstance(value, range) else weigh(value) // 8
