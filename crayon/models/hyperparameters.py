"""Sizes in a model's header that llama.cpp does not check, or ends the process over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.models.gguf_file import GgufInfo

# LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS.
MOST_LAYERS, MOST_EXPERTS = 512, 512
_MOST_TOKENS = 2**31 - 1
# What graphs divide by or take powers of.
_POSITIVE = ("rope.freq_base", "rope.freq_base_swa")


def check_sizes(path: Path, info: GgufInfo) -> None:
    """See that a model's sizes are possible.

    Raises:
        ModelFileError: one is not; says which.
    """

    def damaged(key: str, value: object, wanted: str) -> ModelFileError:
        return ModelFileError(f"{path} is a damaged model: {key} is {value!r}, and must be {wanted}")

    own = f"{info.architecture}."
    sizes = {key.removeprefix(own): value for key, value in info.metadata.items() if key.startswith(own)}
    for key, value in sizes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise damaged(own + key, value, "a finite number")
        if key.endswith("epsilon") and isinstance(value, int | float) and not 0 <= value <= 1:
            raise damaged(own + key, value, "from 0 to 1")
        if key in _POSITIVE and isinstance(value, int | float) and value <= 0:
            raise damaged(own + key, value, "more than 0")
    for key, most in (("block_count", MOST_LAYERS), ("context_length", _MOST_TOKENS)):
        size = sizes.get(key)
        if size is not None and (type(size) is not int or not 1 <= size <= most):
            raise damaged(own + key, size, f"from 1 to {most:,}")
    experts, used = sizes.get("expert_count", 0), sizes.get("expert_used_count", 0)
    if type(experts) is not int or not 0 <= experts <= MOST_EXPERTS:
        raise damaged(f"{own}expert_count", experts, f"from 0 to {MOST_EXPERTS}")
    if type(used) is not int or not (0 < used <= experts if experts else used == 0):
        raise damaged(f"{own}expert_used_count", used, f"from 1 to {experts}" if experts else "0 without experts")
