"""A call in a thread of its own, which ends with it.

llama.cpp's compute threads belong to the thread that called (libgomp keeps a team for each). Where loading a model
computes, as laying out weights for AMX does, the caller would be left with a team; beside that of the thread which
answers later they are more threads than cores, and libgomp then lets all of them sleep at every barrier instead of
spinning: a step of 9 ms takes 14 (2 cores of a Xeon). A thread that ends takes its team with it.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def run_in_fresh_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises. Ctrl-C is heard meanwhile; the call then goes on alone."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
            answer.set_exception(error)

    thread = threading.Thread(target=run, name="crayon-fresh", daemon=True)
    thread.start()
    result = answer.result()
    thread.join()  # its team goes before anybody computes
    return result
