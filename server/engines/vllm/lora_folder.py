"""A blend, or any adapter, as the folder that vLLM reads: PEFT's format, one rank, its factor already in B."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.adapters.blend import blend as blend_tensors
from crayon.adapters.blend import truncate
from crayon.adapters.folder import read_inside, write_folder
from crayon.adapters.formats.matrices import BaseShapes
from crayon.adapters.formats.peft_config import read_config
from crayon.adapters.formats.peft_folder import CONFIG, TENSORS, write_peft
from crayon.adapters.lora import LoraTensors
from crayon.errors import AdapterError, AdapterMismatchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from crayon.adapters.pool import Pool

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""
_MAX_CONFIG = 4 << 20


def shapes_of(folder: Path, pools: Iterable[Pool]) -> BaseShapes:
    """Return what adapters have to know of the model in a folder.

    Raises:
        AdapterMismatchError: of an architecture whose order of rows is not known, or another than a pool's.
        ConfigError: no configuration can be read there.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8-sig"))
        heads = int(config["num_attention_heads"])
        architecture = str(config["model_type"])
        layers = int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("model", f"{folder}/config.json cannot be read ({type(error).__name__})") from None
    targets: dict[str, tuple[int, int]] = {}
    for pool in pools:
        base = pool.manifest.base
        if base.architecture != architecture or base.n_layer != layers:
            raise AdapterMismatchError(
                f"pool {pool.id!r} is for {base.name}, {base.architecture} of {base.n_layer} layers; the model in "
                f"{folder} is {architecture} of {layers}"
            )
        targets |= {target.name: (target.outputs, target.inputs) for target in pool.manifest.targets}
    return BaseShapes(architecture, heads, int(config.get("num_key_value_heads") or heads), targets, folder.name)


def rank_needed(pools: Iterable[Pool], folders: Iterable[Path]) -> int:
    """Return the least of `RANKS` that holds every blend of these pools and every one of these adapters.

    The ranks of an independent pool's members add up in a blend; beyond the largest of `RANKS` a blend is cut down.

    Raises:
        AdapterError: an adapter's configuration cannot be read, is more than B @ A, or has too high a rank.
    """
    most = 1
    for pool in pools:
        ranks = [member.rank for member in pool.manifest.members]
        most = max(most, pool.manifest.rank if pool.manifest.kind == "shared" else min(sum(ranks), RANKS[-1]))
    for folder in folders:
        config = read_config(read_inside(folder, CONFIG, _MAX_CONFIG), str(folder / CONFIG))
        rank = max([config.r, *config.ranks.values()])
        if rank > RANKS[-1]:
            raise AdapterError(f"{folder}: has rank {rank}, vLLM takes at most {RANKS[-1]}")
        most = max(most, rank)
    return next(rank for rank in RANKS if rank >= most)


def write_blend(pool: Pool, weights: Sequence[float], folder: Path, base: BaseShapes, max_rank: int) -> None:
    """Write a blend as a folder that vLLM takes.

    Raises:
        AdapterError: there is no room for it, or PEFT has no name for one of its matrices.
    """
    lora = blend_tensors(pool, weights)
    if lora.rank > max_rank:
        lora, _ = truncate(lora, max_rank)
    write_peft(_evened(lora), folder, base)


def write_nothing(model: Path, folder: Path) -> None:
    """Write an adapter that changes nothing, for the model in a folder.

    vLLM's kernels for CPUs compute a row that has no adapter with that of the last slot (0.32.0: the index -1), where
    others in the batch have adapters. So there the base has an adapter too.

    Raises:
        AdapterError: there is no room for it.
        ConfigError: the model's configuration does not say its sizes.
    """
    from safetensors.numpy import save

    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text("utf-8-sig"))
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        outputs = heads * int(config.get("head_dim") or width // heads)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("model", f"{model}/config.json cannot be read ({type(error).__name__})") from None
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = np.zeros((1, width), np.float32), np.zeros((outputs, 1), np.float32)
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "bias": "none"}
    files = {TENSORS: save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, metadata={"format": "pt"})}
    write_folder(folder, files | {CONFIG: json.dumps(settings).encode()})


def _evened(lora: LoraTensors) -> LoraTensors:
    """Return the same adapter with one rank everywhere: vLLM knows no other ranks than the one of the whole."""
    rank = lora.rank
    if all(len(a) == rank for a, _ in lora.tensors.values()):
        return lora
    padded = {
        name: (np.pad(a, ((0, rank - len(a)), (0, 0))), np.pad(b, ((0, 0), (0, rank - b.shape[1]))))
        for name, (a, b) in lora.tensors.items()
    }
    return LoraTensors(padded, lora.scale)
