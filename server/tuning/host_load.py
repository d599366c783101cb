"""The server's own work beside the engine, imitated: what a measurement must not leave out."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Self

from crayon.server.stream_batching import BUSY_SHARE

if TYPE_CHECKING:
    from crayon.llama.model import Model
    from crayon.server.tuning.saturation import ExpectedLoad, Steady

# Seconds of a core for each token of an answer: what all threads but the engine took of a server with 8 and 16 clients
# for detokenising, gRPC and tokenising requests (0.3 ms with SmolLM2-135M, 0.35 with Qwen2.5-Coder-0.5B).
PER_TOKEN_S = 0.00035
MOST = BUSY_SHARE
_BUSY_S = 0.001
_TEXT = "The quick brown fox jumps over the lazy dog. " * 8


def host_share(load: Steady, workload: ExpectedLoad) -> float:
    """Return the share of a core that the server's own work takes where it delivers what `load` predicts."""
    return min(MOST, PER_TOKEN_S * load.tokens_per_s * workload.answer / workload.tokens)


class HostLoad:
    """A thread that tokenises and serialises for a `share` of the time, above 0, while the block runs."""

    def __init__(self, model: Model, share: float) -> None:
        self._model = model
        self._idle = _BUSY_S * (1 - share) / share
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
            self._stop.wait(self._idle)
