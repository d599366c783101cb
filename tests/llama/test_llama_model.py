from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from crayon.errors import EngineClosedError, ModelFileError
from crayon.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_shapes_and_metadata_are_those_of_the_file(tiny: Model) -> None:
    assert (tiny.n_vocab, tiny.n_embd, tiny.n_layer, tiny.n_ctx_train) == (32, 32, 1, 64)
    assert tiny.metadata["general.architecture"] == "llama"
    assert tiny.metadata["llama.feed_forward_length"] == "64"
    assert tiny.size_bytes == 4 * tiny.n_params
    assert tiny.description


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"GG", id="two bytes"),
        pytest.param(lambda data: b"PK\x03\x04" + data[4:], id="another format"),
        pytest.param(lambda data: data[:4], id="magic only"),
        pytest.param(lambda data: data[:100], id="cut in the metadata"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut in the weights"),
        pytest.param(lambda data: data[:4] + b"\xff" * 4 + data[8:], id="a version from the future"),
        pytest.param(
            lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0alpaca"[:13]), id="kind"
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(tiny_path: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(tiny_path.read_bytes()))
    with pytest.raises(ModelFileError, match=r"damaged\.gguf: "):
        Model(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="no such file"):
            Model(path)


def test_an_adapter_file_is_no_model(tiny_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"first\.gguf"):
        Model(tiny_path.parent / "first.gguf")


def test_a_model_without_a_vocabulary_refuses_text(tiny: Model) -> None:
    uses: list[Callable[[], object]] = [
        lambda: tiny.tokenize("hello"),
        lambda: tiny.piece(3),
        lambda: tiny.token_text(3),
        lambda: tiny.is_end(3),
        lambda: tiny.control_texts,
    ]
    for use in uses:
        with pytest.raises(ModelFileError, match="no vocabulary"):
            use()
    with pytest.raises(ModelFileError, match="no chat template"):
        _ = tiny.template


def test_the_vocabulary_alone_loads_without_weights(tiny_path: Path) -> None:
    with Model(tiny_path, vocab_only=True) as model:
        assert model.metadata["llama.block_count"] == "1"


def test_a_path_beyond_ascii_loads(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "modèle 漢.gguf"
    shutil.copy(tiny_path, path)
    with Model(path) as model:
        assert model.n_vocab == 32


def test_use_after_close_is_an_error_and_closing_twice_is_not(tiny_path: Path) -> None:
    model = Model(tiny_path)
    model.close()
    model.close()
    assert model.closed
    uses: list[Callable[[], object]] = [
        lambda: model.handle,
        lambda: model.vocab,
        lambda: model.metadata,
        lambda: model.description,
        lambda: model.tokenize("hello"),
        lambda: model.is_end(0),
    ]
    for use in uses:
        with pytest.raises(EngineClosedError, match="model is closed"):
            use()
