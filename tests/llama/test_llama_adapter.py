from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from crayon.errors import AdapterError, EngineClosedError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model

if TYPE_CHECKING:
    from pathlib import Path


def one_row() -> Batch:
    batch = Batch(1)
    batch.add([1], 0, 0, "last")
    return batch


def test_a_missing_file_and_a_folder_are_refused(tiny: Model, tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(AdapterError, match="no such file"):
            Adapter(tiny, path)


def test_a_file_that_is_no_adapter_is_refused_with_a_reason(tiny: Model, tiny_path: Path, tmp_path: Path) -> None:
    text, empty, half = tmp_path / "text.gguf", tmp_path / "empty.gguf", tmp_path / "half.gguf"
    text.write_text("not an adapter")
    empty.touch()
    half.write_bytes((tiny_path.parent / "first.gguf").read_bytes()[:700])
    for path in (text, empty, half, tiny_path):
        with pytest.raises(AdapterError, match=r"cannot be loaded for base\.gguf \(.+\)"):
            Adapter(tiny, path)


def test_a_path_beyond_ascii_loads(tiny: Model, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "añadido 漢.gguf"
    shutil.copy(tiny_path.parent / "first.gguf", path)
    with Adapter(tiny, path) as adapter:
        assert adapter.handle


def test_a_closed_adapter_is_refused_even_where_it_is_applied_already(tiny: Model, tiny_path: Path) -> None:
    with Context(tiny, n_ctx=64, threads=1) as context:
        adapter = Adapter(tiny, tiny_path.parent / "first.gguf")
        context.set_adapters([(adapter, 1.0)])
        context.decode(one_row())
        adapter.close()
        adapter.close()
        with pytest.raises(EngineClosedError, match="adapter"):
            context.set_adapters([(adapter, 1.0)])
        with pytest.raises(EngineClosedError, match="adapter"):
            context.decode(one_row())
        context.set_adapters()
        context.clear()
        context.decode(one_row())


def test_an_adapter_goes_with_its_model(tiny_path: Path) -> None:
    model = Model(tiny_path)
    adapter = Adapter(model, tiny_path.parent / "first.gguf")
    model.close()
    with pytest.raises(EngineClosedError):
        _ = adapter.handle
    adapter.close()
    assert adapter.closed
