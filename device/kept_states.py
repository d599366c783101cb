"""States of texts of ours, kept on disk between runs."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.engine import POOLING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

logger = logging.getLogger("crayon.device")


class KeptStates:
    """Pooled states of one model file and one layer: only a cache, so what cannot be read is computed again.

    Args:
        folder: where they are kept; None keeps none.
        model: the model file.
        layer: that is read.
        dimensions: numbers of a state.
        source_sha256: hash of the published file that the model is, or was prepared from; "" if it is not known.
    """

    def __init__(self, folder: Path | None, model: Path, layer: int, dimensions: int, source_sha256: str = "") -> None:
        self._folder, self._model, self._layer, self._dimensions = folder, model, layer, dimensions
        self._source_sha256 = source_sha256

    def load(self, name: str, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the states of texts, shape (texts, dimensions), if they come with Crayon or are kept, and sound."""
        shipped = shipped_states(self._source_sha256, self._layer, texts, self._dimensions)
        if shipped is not None:
            return shipped
        path = self._path(name, texts)
        if path is None:
            return None
        try:
            return _sound(np.load(path, allow_pickle=False), (len(texts), self._dimensions))
        except (OSError, ValueError, EOFError):  # EOFError: an empty file
            return None

    def store(self, name: str, texts: Sequence[str], states: NDArray[np.float32]) -> None:
        """Keep the states of texts, shape (texts, dimensions); a folder that cannot be written is logged."""
        path = self._path(name, texts)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Its own folder: two processes may be writing the same states.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{name}-") as folder:
                partial = Path(folder) / path.name
                np.save(partial, states, allow_pickle=False)
                partial.replace(path)
        except OSError as error:  # the next run computes it again
            logger.warning("the embedding's %s texts cannot be kept in %s: %s", name, path.parent, error)

    def _path(self, name: str, texts: Sequence[str]) -> Path | None:
        if self._folder is None or not texts:
            return None
        stat = self._model.stat()
        identity = (
            f"{self._model.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{POOLING}|{self._layer}|{texts_hash(texts)}"
        )
        return self._folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"


def shipped_states(source_sha256: str, layer: int, texts: Sequence[str], dimensions: int) -> NDArray[np.float32] | None:
    """Return the states of texts that come with Crayon for a model's published file, (texts, dimensions), if any do.

    They hold for files prepared from it, too: what these differ by is far below what texts differ by.
    """
    if not source_sha256:
        return None
    file = resources.files("crayon.data").joinpath("states", shipped_name(source_sha256, layer, texts))
    try:
        with file.open("rb") as stream:
            return _sound(np.load(stream, allow_pickle=False), (len(texts), dimensions))
    except (OSError, ValueError, EOFError):
        return None


def shipped_name(source_sha256: str, layer: int, texts: Sequence[str]) -> str:
    """Return the name of a file of states: it changes with model, pooling, layer and texts."""
    return f"{source_sha256[:12]}-{POOLING.replace('_', '-')}-{layer}-{texts_hash(texts)}.npy"


def _sound(found: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float32] | None:
    if found.shape != shape or found.dtype not in (np.float16, np.float32) or not np.isfinite(found).all():
        return None
    return np.asarray(found, np.float32)


def texts_hash(texts: Sequence[str]) -> str:
    """Return a hash of texts in their order, 12 hex digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
