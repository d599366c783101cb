from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from eval_tools import toy_pool, write_data
from tiny_chat import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.adapters import Pool


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="session")
def pool(model_path: Path) -> Pool:
    return toy_pool(model_path)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_data(tmp_path / "data")
    monkeypatch.setenv("CRAYON_DATA", str(folder))
    return folder
