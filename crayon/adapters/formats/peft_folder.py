"""Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.adapters.folder import read_inside, refuse_pickle, write_folder
from crayon.adapters.formats.matrices import module_name, target_name
from crayon.adapters.formats.numbers import MAX_BYTES, read_safetensors
from crayon.adapters.formats.peft_config import PeftConfig, read_config
from crayon.adapters.lora import LoraTensors
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.adapters.formats.matrices import BaseShapes
    from crayon.adapters.lora import Matrix

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_MAX_CONFIG = 4 << 20
_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_OTHERS = {
    "lora_magnitude_vector": "DoRA's",
    "lora_embedding": "for the embeddings, which llama.cpp cannot adapt the way PEFT does",
    "lora_B.bias": "a bias of B (lora_bias)",
}


def read_peft(folder: Path, base: BaseShapes) -> LoraTensors:
    """Return the adapter in a PEFT folder, the rows of q and k in llama.cpp's order.

    Raises:
        AdapterError: unreadable, damaged, pickled, or of a kind that is more than B @ A; names it.
        AdapterMismatchError: made for another base.
    """
    refuse_pickle(folder)
    if not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder; a PEFT adapter is one, with {CONFIG} and {TENSORS}")
    config = read_config(_read(folder, CONFIG, _MAX_CONFIG), str(folder / CONFIG))
    tensors = read_safetensors(_read(folder, TENSORS, MAX_BYTES), str(folder / TENSORS))
    try:
        return _assemble(config, tensors, base)
    except AdapterError as error:
        raise type(error)(f"{folder}: {error}") from None  # the kind stays: a mismatch is a mismatch


def peft_base(folder: Path) -> str:
    """Return the name that the configuration gives the base, "" where it gives none.

    Raises:
        AdapterError: it cannot be read.
    """
    return read_config(_read(folder, CONFIG, _MAX_CONFIG), str(folder / CONFIG)).base_name


def write_peft(lora: LoraTensors, folder: Path, base: BaseShapes, *, base_name: str = "") -> None:
    """Write an adapter as a PEFT folder, rows in transformers' order; the folder appears whole or not at all.

    Raises:
        AdapterError: something is there already, the disk is full, or PEFT has no name for a target.
        AdapterMismatchError: the adapter is not for this base.
    """
    from safetensors.numpy import save

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdapterError(f"{folder} is there already; choose another place or remove it")
    modules: dict[str, tuple[Matrix, Matrix]] = {}
    for target, (a, b) in lora.tensors.items():
        base.check(target, a.shape, b.shape)
        module = module_name(target)
        if module is None:
            raise AdapterError(f"{target} has no counterpart in PEFT; only the seven linear matrices of a layer have")
        modules[module] = np.ascontiguousarray(a), np.ascontiguousarray(base.to_transformers(target, b))
    tensors = {}
    for module, (a, b) in modules.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"], tensors[f"{_PREFIX}{module}.lora_B.weight"] = a, b
    config = _config({module: a.shape[0] for module, (a, _) in modules.items()}, lora.scale, base_name)
    # transformers wants to be told the format.
    files = {
        TENSORS: save(tensors, metadata={"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
    }
    write_folder(folder, files)


def _read(folder: Path, name: str, most: int) -> bytes:
    """Return a file of the folder."""
    if folder.parent.name == "snapshots":
        # The hub's cache keeps files of all revisions in one folder and links to it: the repository is the folder then.
        return read_inside(folder.parent.parent, f"snapshots/{folder.name}/{name}", most)
    return read_inside(folder, name, most)


def _assemble(config: PeftConfig, tensors: dict[str, Matrix], base: BaseShapes) -> LoraTensors:
    pairs = _pairs(tensors)
    _compare(config, pairs, base)
    found: dict[str, tuple[Matrix, Matrix, float]] = {}
    for module, target in sorted((module, target_name(module) or "") for module in pairs):
        a, b = pairs[module]["A"], pairs[module]["B"]
        rank = base.check(target, a.shape, b.shape)
        if rank != config.rank(module):
            raise AdapterError(
                f"{module} has rank {rank} and {CONFIG} says {config.rank(module)}: one is of another file"
            )
        found[target] = a, base.from_transformers(target, b), config.scale(module)
    ordered = [target for target in base.targets if target in found]
    scales = {scale for _, _, scale in found.values()}
    if len(scales) == 1 and scales != {0.0}:
        return LoraTensors({target: found[target][:2] for target in ordered}, scales.pop())
    # One factor for all, so the others go into B.
    return LoraTensors({t: (found[t][0], found[t][1] * np.float32(found[t][2])) for t in ordered}, 1.0)


def _pairs(tensors: dict[str, Matrix]) -> dict[str, dict[str, Matrix]]:
    """Return A and B of each module, having refused whatever else the file holds."""
    pairs: dict[str, dict[str, Matrix]] = {}
    for key, tensor in tensors.items():
        for part, what in _OTHERS.items():
            if part in key:
                raise AdapterError(f"the tensor {key[:120]!r} is {what}; only LoRA's A and B can be read")
        match = _KEY.fullmatch(key)
        if not match:
            raise AdapterError(f"the tensor {key[:120]!r} is neither A nor B of a LoRA: it would be left out silently")
        if target_name(match[1]) is None:
            raise AdapterError(
                f"it changes {match[1][:120]!r}; only the linear layers of attention and feed-forward can be changed"
            )
        pairs.setdefault(match[1], {})[match[2]] = tensor
    for module, pair in pairs.items():
        if len(pair) != 2:
            raise AdapterError(f"{module} has only its {next(iter(pair))}: the file is not whole")
    if not pairs:
        raise AdapterError("the file holds no tensor, so the adapter changes nothing")
    return pairs


def _compare(config: PeftConfig, pairs: dict[str, dict[str, Matrix]], base: BaseShapes) -> None:
    """Refuse a file whose modules are not those that its configuration names: PEFT would compute something else."""
    known = {module for target in base.targets if (module := module_name(target))}
    expected = config.expected(known | set(pairs))
    if expected is None:
        return
    if missing := sorted(expected & known - set(pairs)):
        raise AdapterError(f"{CONFIG} names {_some(missing)}, which the file does not hold: it is not whole")
    if extra := sorted(set(pairs) - expected):
        raise AdapterError(f"the file holds {_some(extra)}, which {CONFIG} does not name: PEFT would leave it out")


def _config(ranks: dict[str, int], scale: float, base_name: str) -> dict[str, Any]:
    """Return the configuration for modules of these ranks, which all have the factor `scale` = alpha / rank."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: each for module, each in ranks.items() if each != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": others,
        "alpha_pattern": {module: scale * each for module, each in others.items()},
        "target_modules": sorted(ranks),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }


def _some(names: list[str]) -> str:
    """Return a few of the names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
