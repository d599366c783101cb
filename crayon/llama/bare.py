"""llama.cpp in the barest loop Python allows: what the benches compare the runtime with."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any, Self

from crayon.errors import EngineError
from crayon.llama import library
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from pathlib import Path


class BareLoop:
    """One model, one context, `llama_batch_get_one` and nothing else: no sampling, no text, as `llama-bench` does."""

    def __init__(self, path: Path, *, n_ctx: int, n_batch: int, threads: int | None = None) -> None:
        api = self._api = library.load().api
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model: Any = api.llama_model_load_from_file(str(path).encode(), params)
        context = api.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = n_ctx, n_batch, n_batch
        context.n_threads = context.n_threads_batch = threads or usable_cores()
        context.no_perf = True
        self._context: Any = api.llama_init_from_model(self._model, context) if self._model else None
        if not self._context:
            raise EngineError(f"{path}: the bare loop cannot load it")
        self.n_vocab = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))
        self.n_batch = n_batch

    def run(self, prompt: int, answer: int) -> tuple[float, float]:
        """Return seconds to read `prompt` tokens and to write `answer` more, one at a time."""
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)  # noqa: FBT003 - C call
        tokens = (ctypes.c_int32 * prompt)(*((7919 * i) % self.n_vocab for i in range(prompt)))
        start = time.perf_counter()
        for at in range(0, prompt, self.n_batch):
            n = min(self.n_batch, prompt - at)
            self._decode((ctypes.c_int32 * n)(*tokens[at : at + n]), n)
        middle = time.perf_counter()
        one = (ctypes.c_int32 * 1)()
        for i in range(answer):
            one[0] = tokens[i % prompt]
            self._decode(one, 1)
        return middle - start, time.perf_counter() - middle

    def _decode(self, tokens: Any, n: int) -> None:
        code = self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, n))
        if code != 0:
            raise EngineError(f"llama_decode failed with code {code}")
        self._api.llama_synchronize(self._context)

    def close(self) -> None:
        """Free everything."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
