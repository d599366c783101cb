"""How many requests fit, against arithmetic done by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.errors import InvalidRequestError, ModelFileError
from crayon.models.capacity import Sizes, capacity, read_sizes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
CONFIG = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
    "dtype": "bfloat16",
}
SIZES = Sizes(layers=36, kv_heads=8, head_dim=128, element_bytes=2, weight_bytes=16 * GIB)


def folder(path: Path, weights: int = 1000, **changed: Any) -> Path:
    config = {name: value for name, value in {**CONFIG, **changed}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model-1.safetensors").write_bytes(b"x" * weights)
    return path


def test_sizes_are_read(tmp_path: Path) -> None:
    sizes = read_sizes(folder(tmp_path))
    assert sizes == Sizes(layers=36, kv_heads=8, head_dim=128, element_bytes=2, weight_bytes=1000)
    # A key and a value: 2 x 36 layers x 8 heads x 128 elements x 2 bytes.
    assert sizes.kv_bytes_per_token == 147_456
    assert read_sizes(tmp_path, "fp8").kv_bytes_per_token == 147_456 // 2


def test_what_is_not_said_follows(tmp_path: Path) -> None:
    sizes = read_sizes(folder(tmp_path, num_key_value_heads=None, head_dim=None, dtype=None, torch_dtype="float32"))
    assert (sizes.kv_heads, sizes.head_dim, sizes.element_bytes) == (32, 128, 4)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}, "text_config": CONFIG}))
    assert read_sizes(tmp_path).layers == 36


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kv_lora_rank": 512}, "does not hold"),
        ({"sliding_window": 4096}, "does not hold"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "does not hold"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": "36"}, "num_hidden_layers"),
    ],
)
def test_models_it_cannot_tell_of_are_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read_sizes(folder(tmp_path, **changed))


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    assert read_sizes(folder(tmp_path, sliding_window=4096, use_sliding_window=False)).layers == 36


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_sizes(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelFileError, match="no model's configuration"):
        read_sizes(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelFileError, match="safetensors"):
        read_sizes(tmp_path)
    with pytest.raises(InvalidRequestError, match="kv_type"):
        read_sizes(folder(tmp_path), "int3")


def test_one_device() -> None:
    found = capacity(SIZES, device_bytes=80 * GIB, request_tokens=2000)
    # 0.9 x 80 GiB less 16 GiB of weights, divided by 147,456 bytes.
    assert found.tokens == int((72 - 16) * GIB // 147_456) == 407_779
    assert found.requests == 203


def test_devices_divide_weights_and_cache() -> None:
    found = capacity(SIZES, device_bytes=80 * GIB, request_tokens=2000, tensor_parallel=4, pipeline_parallel=3)
    assert found.weight_bytes == -(-16 * GIB // 12)
    assert found.kv_bytes_per_token == 147_456 // 12


def test_more_devices_than_heads_keep_heads_twice() -> None:
    eight = capacity(SIZES, device_bytes=80 * GIB, request_tokens=1, tensor_parallel=8)
    sixteen = capacity(SIZES, device_bytes=80 * GIB, request_tokens=1, tensor_parallel=16)
    assert eight.kv_bytes_per_token == sixteen.kv_bytes_per_token


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"device_bytes": 10 * GIB}, "device_bytes"),
        ({"device_bytes": 0}, "device_bytes"),
        ({"share": 1.1}, "share"),
        ({"request_tokens": 0}, "request_tokens"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"pipeline_parallel": 37}, "pipeline_parallel"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        capacity(SIZES, **{"device_bytes": 80 * GIB, "request_tokens": 1, **changed})
    assert caught.value.field == field


@given(
    st.builds(
        Sizes,
        layers=st.integers(1, 100),
        kv_heads=st.integers(1, 64),
        head_dim=st.sampled_from((64, 128)),
        element_bytes=st.sampled_from((1, 2)),
        weight_bytes=st.integers(1, 30 * GIB),
    ),
    st.integers(1, 16),
    st.integers(1, 8),
)
def test_what_is_promised_fits(sizes: Sizes, tensor: int, pipeline: int) -> None:
    if pipeline > sizes.layers:
        return
    parts = {"tensor_parallel": tensor, "pipeline_parallel": pipeline}
    found = capacity(sizes, device_bytes=80 * GIB, request_tokens=1, **parts)
    assert found.weight_bytes + found.tokens * found.kv_bytes_per_token <= 72 * GIB
    assert found.weight_bytes + (found.tokens + 1) * found.kv_bytes_per_token > 72 * GIB
    assert found.kv_bytes_per_token * tensor * pipeline >= sizes.kv_bytes_per_token
