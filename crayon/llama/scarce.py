"""Whether memory is too short for a model: told beforehand by the limit of the process, else by the log."""

from __future__ import annotations

from crayon.errors import NoMemoryError
from crayon.machine import address_space_left

_SAID = ("allocate", "insufficient memory", "out of memory", "bad_alloc", "failed to reserve", "failed to map segment")
# Threads' stacks and compute buffers; a process that is refused them inside a C library is ended by that.
_BESIDE = 48 << 20


def is_memory_short(log: str) -> bool:
    """Return whether a log of a failed call speaks of memory that was not to be had: llama.cpp has no code for that."""
    return any(said in log.lower() for said in _SAID)


def check_room(name: str, size: int) -> None:
    """See that the process's own limit (`ulimit -v`) leaves room for a file of so many bytes.

    Raises:
        NoMemoryError: it does not.
    """
    left = address_space_left()
    if left is not None and left < size + _BESIDE:
        raise NoMemoryError(
            f"too little memory to load {name}: this process may take {left / 1e6:,.0f} MB more, and "
            f"{(size + _BESIDE) / 1e6:,.0f} MB are needed; raise its limit (ulimit -v), or take a smaller model"
        )
