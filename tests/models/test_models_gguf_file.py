from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_tools import text, tiny_gguf

from crayon.errors import ModelFileError
from crayon.models import check_model, read_gguf
from crayon.models.ggml_types import BLOCKS, FILE_TYPES

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_header_is_read(tmp_path: Path) -> None:
    info = check_model(write(tmp_path / "a.gguf", tiny_gguf(1000)))
    assert (info.version, info.tensor_count, info.parameters, info.architecture) == (3, 1, 1000, "llama")
    assert (info.name, info.context_length, info.block_count, info.file_type) == ("Tiny", 2048, 2, "F32")
    assert info.has_chat_template
    assert info.embedding_length is None
    assert "tokenizer.ggml.tokens" not in info.metadata


def test_file_of_the_reference_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(77)
    writer.add_array("an.array.of.texts", ["x" * 100] * 50)
    writer.add_array("an.array.of.numbers", list(range(100)))
    writer.add_tensor("a", np.ones((3, 64), np.float32))
    writer.add_tensor("b", np.zeros((5, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    info = check_model(path)
    assert (info.architecture, info.context_length, info.tensor_count) == ("qwen2", 77, 2)
    assert info.parameters == 3 * 64 + 5 * 32
    assert not info.has_chat_template
    whole = path.read_bytes()
    # The writer pads the last tensor up to the alignment; its own bytes must be there.
    with pytest.raises(ModelFileError, match="truncated"):
        read_gguf(write(path, whole[:-32]))


def test_block_sizes_are_those_of_the_reference() -> None:
    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == BLOCKS


def test_file_types_are_those_of_the_reference() -> None:
    names = {int(kind): kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    expected = {
        kind: name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE") for kind, name in names.items()
    }
    assert expected == FILE_TYPES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GG", "not a GGUF"),
        (b"PK\3\4" + bytes(100), "not a GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "claims"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99), "unknown value type"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "array of the unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**61), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**61), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 9), "9 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 1, 999, 0), "unknown type 999"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0), "shape"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 8, 7), "shape or place"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.alignment") + struct.pack("<II", 4, 3),
            "alignment is 3",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no weights"),
    ],
)
def test_foreign_and_damaged_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_model(write(tmp_path / "a.gguf", data))


def test_every_truncation_is_called_truncated(tmp_path: Path) -> None:
    whole = tiny_gguf(64)
    for length in (*range(24, len(whole) - 256, 7), len(whole) - 1):
        with pytest.raises(ModelFileError, match=r"truncated: it has [\d,]+ bytes"):
            read_gguf(write(tmp_path / "a.gguf", whole[:length]))
    read_gguf(write(tmp_path / "a.gguf", whole))


def test_adapter_is_no_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", tiny_gguf(kind="adapter"))
    assert read_gguf(path).kind == "adapter"
    with pytest.raises(ModelFileError, match="'adapter', not a model"):
        check_model(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_gguf(tmp_path / "none.gguf")


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 4500))
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int
) -> None:
    data = bytearray(tiny_gguf(1024))
    data[position] = value
    path = write(tmp_path_factory.getbasetemp() / "damaged.gguf", bytes(data[: max(cut, 1)]))
    try:
        info = read_gguf(path)
    except ModelFileError:
        return
    assert info.size == path.stat().st_size
