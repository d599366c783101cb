"""How many requests fit: the arithmetic of weights and cache over devices, from a model's folder.

An upper bound: what a step's own activations and the device's libraries take is only known to the engine that runs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.errors import InvalidRequestError, ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

# Bytes of one element, by the names in config.json and those that vLLM gives a cache's type.
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
_MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model weighs.

    Args:
        layers: that keep a cache.
        kv_heads: of each layer's cache.
        head_dim: elements of one head's key, and of its value.
        element_bytes: of the cache.
        weight_bytes: of all weights.
    """

    layers: int
    kv_heads: int
    head_dim: int
    element_bytes: int
    weight_bytes: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token of context takes on all devices together, unless heads are kept twice."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.element_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What fits: per device the weights and one token's cache, both in bytes; tokens and requests of one copy."""

    weight_bytes: int
    kv_bytes_per_token: int
    tokens: int
    requests: int


def read_sizes(folder: Path, kv_type: str | None = None) -> Sizes:
    """Return the sizes of a model in a folder as transformers writes it.

    Args:
        folder: with `config.json` and the weights in `*.safetensors`.
        kv_type: the cache's type; the model's own if None.

    Raises:
        ModelFileError: there is no such model, or its cache is not one of keys and values for each head.
        InvalidRequestError: the type is unknown.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelFileError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes: it is no model's configuration")
        config = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}; give a model's folder") from None
    except ValueError:
        raise ModelFileError(f"{path} is no JSON") from None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path} is no model's configuration")
    # Models that also see or hear have the text model's sizes in a table of their own.
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    kinds = config.get("layer_types") or ()
    window = config.get("sliding_window") and config.get("use_sliding_window", True)
    if config.get("kv_lora_rank") or window or any(kind != "full_attention" for kind in kinds):
        raise ModelFileError(
            f"{path}: not every layer keeps keys and values of every token, so this arithmetic does not hold; "
            "vLLM's log says how many tokens fit"
        )
    name = kv_type or str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    if name not in ELEMENT_BYTES:
        raise InvalidRequestError("kv_type", f"must be one of {', '.join(ELEMENT_BYTES)}, not {name!r}")
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not weights:
        raise ModelFileError(f"{folder} has no *.safetensors")
    heads = _number(path, config, "num_attention_heads")
    return Sizes(
        layers=_number(path, config, "num_hidden_layers"),
        kv_heads=_number(path, config, "num_key_value_heads", heads),
        head_dim=_number(path, config, "head_dim", _number(path, config, "hidden_size") // heads),
        element_bytes=ELEMENT_BYTES[name],
        weight_bytes=weights,
    )


def capacity(
    sizes: Sizes,
    *,
    device_bytes: float,
    request_tokens: int,
    share: float = 0.9,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> Capacity:
    """Return what fits into devices that hold one copy of a model together.

    Args:
        sizes: of the model.
        device_bytes: memory of each device.
        request_tokens: prompt and answer of one request, together.
        share: of a device's memory that the engine takes (vLLM's `gpu_memory_utilization`).
        tensor_parallel: devices that each layer is divided among.
        pipeline_parallel: stages that the layers are divided into.

    Raises:
        InvalidRequestError: a number is out of range, or the weights alone do not fit.
    """
    counts = {
        "request_tokens": request_tokens,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
    }
    for field, value in counts.items():
        if value < 1:
            raise InvalidRequestError(field, f"must be 1 or more, not {value}")
    if not (0 < share <= 1 and 0 < device_bytes < math.inf):
        raise InvalidRequestError(
            "share" if device_bytes > 0 else "device_bytes", "must be more than 0, a share up to 1"
        )
    if pipeline_parallel > sizes.layers:
        raise InvalidRequestError(
            "pipeline_parallel", f"the model has {sizes.layers} layers, one for each stage at most"
        )
    weights = math.ceil(sizes.weight_bytes / (tensor_parallel * pipeline_parallel))
    # The stage with most layers is the narrowest; more devices than heads keep each head more than once.
    layers = math.ceil(sizes.layers / pipeline_parallel)
    heads = math.ceil(sizes.kv_heads / tensor_parallel)
    per_token = 2 * layers * heads * sizes.head_dim * sizes.element_bytes
    left = device_bytes * share - weights
    if left < per_token:
        raise InvalidRequestError(
            "device_bytes", f"{weights / 2**30:.1f} GiB of weights for each device leave no room: take more devices"
        )
    tokens = int(left // per_token)
    return Capacity(
        weight_bytes=weights, kv_bytes_per_token=per_token, tokens=tokens, requests=tokens // request_tokens
    )


def _number(path: Path, config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelFileError(f"{path}: {name} is missing, or no number of 1 or more")
    return value
