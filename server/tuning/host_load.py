"""The server's own work beside the engine, imitated: what a measurement must not leave out."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from crayon.llama.model import Model

# Of one core: what tokenising, detokenising and gRPC take at some 200 tokens a second.
_BUSY_S, _IDLE_S = 0.002, 0.008
_TEXT = "The quick brown fox jumps over the lazy dog. " * 8


class HostLoad:
    """A thread that tokenises and serialises for a fifth of the time while the block runs."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crayon-host-load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            end = time.perf_counter() + _BUSY_S
            while time.perf_counter() < end:
                tokens = self._model.tokenize(_TEXT)
                json.loads(json.dumps({"tokens": tokens, "text": _TEXT}))
            self._stop.wait(_IDLE_S)
