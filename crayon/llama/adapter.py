"""A LoRA adapter file loaded for one model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.errors import AdapterError, EngineClosedError
from crayon.llama import library

if TYPE_CHECKING:
    from crayon.llama.model import Model


class Adapter:
    """A GGUF LoRA adapter. Close it after the contexts that use it; closing its model frees it too.

    Args:
        model: what it is for. One thread at a time loads or closes adapters of a model.
        path: the file; it is copied, so it may be one in memory that goes at once.
        name: what errors call it (default: the path).

    Raises:
        AdapterError: the file is missing, not an adapter, or does not fit the model.
    """

    def __init__(self, model: Model, path: Path | str, *, name: str = "") -> None:
        self.path = Path(path)
        self.name = name or str(self.path)
        self._model = model
        lib = library.load()
        self._api = lib.api
        if not self.path.is_file():
            raise AdapterError(f"{self.name}: no such file")
        lib.log.take_errors()
        self._handle: Any = self._api.llama_adapter_lora_init(model.handle, os.fsencode(self.path))
        if not self._handle:
            why = lib.log.take_errors() or "llama.cpp gives no reason"
            raise AdapterError(f"{self.name}: cannot be loaded for {model.path.name} ({why})")

    @property
    def handle(self) -> Any:  # an opaque C pointer
        """The C pointer."""
        if self.closed:
            raise EngineClosedError("the adapter is closed")
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether it was freed, by `close` or with its model."""
        return self._handle is None or self._model.closed

    def close(self) -> None:
        """Free the adapter. Safe to call twice, and after its model."""
        if not self.closed:
            self._api.llama_adapter_lora_free(self._handle)
        self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
