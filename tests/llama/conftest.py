from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crayon.llama import smoke
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = Path(smoke.__file__).parent


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    """A one-layer model of 32 tokens without a vocabulary; adapters first.gguf and second.gguf lie beside it."""
    return TINY / "base.gguf"


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[Model]:
    """The one-layer model."""
    with Model(tiny_path) as model:
        yield model
