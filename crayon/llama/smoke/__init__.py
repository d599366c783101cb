"""Does this llama.cpp add two adapters as it should? Asked once a process, in a few milliseconds."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.errors import CrayonError, LibraryError, NoMemoryError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDER = Path(__file__).parent  # base.gguf, first.gguf and second.gguf, written by tools/smoke_files.py
BASE = _FOLDER / "base.gguf"
"""The tiny model itself."""
_TOKENS = [3, 1, 4, 1, 5]
_TOLERANCE = 1e-3


@functools.cache
def check() -> None:
    """Run a tiny model without, with one and with two adapters.

    The adapters touch the output matrix only, so the logits must change by exactly the sum of what each changes
    alone. Some builds of llama.cpp fail here: they crash with several adapters, or load one and change nothing.

    Raises:
        NoMemoryError: too little memory is left for even that.
        LibraryError: they do not, or something fails on the way.
    """
    try:
        with (
            Model(BASE) as model,
            Adapter(model, _FOLDER / "first.gguf") as first,
            Adapter(model, _FOLDER / "second.gguf") as second,
            Context(model, n_ctx=32, n_batch=8, threads=1) as context,
        ):
            base = _logits(context, ())
            moved = [_logits(context, ((adapter, 1.0),)) - base for adapter in (first, second)]
            both = _logits(context, ((first, 1.0), (second, -0.5))) - base
            again = _logits(context, ((first, 0.0),)) - base
    except NoMemoryError:
        raise
    except CrayonError as error:
        raise LibraryError(f"llama.cpp's smoke test failed: {error}; reinstall llama-cpp-python") from error
    if min(float(np.abs(change).max()) for change in moved) < 0.1:
        raise LibraryError("llama.cpp's smoke test failed: an adapter was loaded and changed nothing")
    if float(np.abs(again).max()) > _TOLERANCE:
        raise LibraryError("llama.cpp's smoke test failed: an adapter of scale 0 changes the logits")
    if float(np.abs(both - moved[0] + 0.5 * moved[1]).max()) > _TOLERANCE:
        raise LibraryError("llama.cpp's smoke test failed: two adapters do not add up")


def _logits(context: Context, adapters: tuple[tuple[Adapter, float], ...]) -> NDArray[np.float32]:
    batch = Batch(len(_TOKENS))
    batch.add(_TOKENS, 0, 0, "last")
    context.clear()
    context.set_adapters(adapters)
    context.decode(batch)
    return context.logits(len(_TOKENS) - 1).copy()
