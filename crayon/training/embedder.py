"""Questions as the device itself embeds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TEXTS_AT_ONCE = 200
MAX_LETTERS = 1000  # of a text: its start says what it is about, and more might not fit the context


class Embedder:
    """Embeds texts with a model file.

    Args:
        path: the file that the device runs.
        progress: told how far it is, 0 to 1.
        threads: compute threads (None: the cores this process may use).
    """

    def __init__(self, path: Path, progress: Callable[[float], None], threads: int | None = None) -> None:
        self._path, self._progress, self._threads = path, progress, threads
        self.layer = 0  # that was read, known after the first texts

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return pooled states (texts, D), not centred."""
        found = []
        with DeviceEngine(self._path, pools=(), threads=self._threads) as engine:
            for at in range(0, len(texts), TEXTS_AT_ONCE):
                part = tuple(text[:MAX_LETTERS] for text in texts[at : at + TEXTS_AT_ONCE])
                raw = engine.encode_raw(EncodeRequest(texts=part)).result()
                found.append(raw.states)
                self.layer = raw.layer
                self._progress(min(1.0, (at + TEXTS_AT_ONCE) / len(texts)))
        return np.concatenate(found)
