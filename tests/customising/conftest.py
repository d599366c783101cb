from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from keyed_pool import BACKGROUND, keyed_pool
from tiny_chat import write_model

from crayon.device import DeviceEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.adapters import Pool


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="session")
def pool(model_path: Path) -> Pool:
    return keyed_pool(model_path)


@pytest.fixture(scope="session")
def engine(model_path: Path, pool: Pool) -> Iterator[DeviceEngine]:
    with DeviceEngine(model_path, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND, pools=[pool]) as engine:
        yield engine
