"""A pool out of adapters that were trained elsewhere, each with an A of its own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.folder import refuse_pickle
from crayon.adapters.formats.gguf_adapter import gguf_base, read_gguf_adapter
from crayon.adapters.formats.peft_folder import peft_base, read_peft
from crayon.adapters.lora import LoraTensors
from crayon.adapters.manifest import BaseModel, Manifest, Member, Target
from crayon.adapters.pool import Pool
from crayon.errors import AdapterError
from crayon.models.gguf_file import check_model
from crayon.models.prepared import SOURCE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.adapters.formats.matrices import BaseShapes
    from crayon.adapters.lora import Matrix
    from crayon.adapters.manifest import EncoderRecord


def read_adapter(path: Path | str, base: BaseShapes) -> LoraTensors:
    """Return the adapter in a PEFT folder or in a GGUF file.

    Raises:
        AdapterError: neither, or not readable.
        AdapterMismatchError: made for another base.
    """
    path = Path(path)
    refuse_pickle(path)
    if path.suffix.lower() == ".safetensors":
        raise AdapterError(f"{path} is only a part of an adapter; name its folder, which has its configuration too")
    return read_peft(path, base) if path.is_dir() else read_gguf_adapter(path, base)


def claimed_base(path: Path | str) -> str:
    """Return the base that an adapter's files say they were made for, as one printable line; "" where they do not.

    Matrices of the same shapes cannot tell a model from its finetuned sibling: show this to whoever imports it.

    Raises:
        AdapterError: not readable.
    """
    path = Path(path)
    claimed = peft_base(path) if path.is_dir() else gguf_base(path)
    line = "".join(letter if letter.isprintable() else " " for letter in claimed[:200])
    return line.strip()


def read_base(path: Path, name: str = "", source_sha256: str = "") -> BaseModel:
    """Return what a pool says of its base.

    Args:
        path: the model file, prepared or not.
        name: to show; the file's own name without it.
        source_sha256: of the source file; without it a prepared file says it, and any other is hashed.

    Raises:
        ModelFileError: not a readable model.
    """
    info = check_model(path)
    if not source_sha256:
        source_sha256 = str(info.metadata.get(SOURCE_KEY, "")) or _sha256(path)
    return BaseModel(
        name or path.stem, source_sha256, info.architecture, info.block_count or 0, info.embedding_length or 0
    )


def member_name(text: str) -> str:
    """Return a name for a member out of a file's or a title's: letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:80] or "adapter"


def pool_from_adapters(
    adapters: Mapping[str, LoraTensors],
    base: BaseModel,
    shapes: BaseShapes,
    *,
    name: str,
    title: str = "",
    encoder: EncoderRecord | None = None,
    keys: Matrix | None = None,
    centre: Matrix | None = None,
) -> Pool:
    """Return an independent pool of one or more adapters, exactly as they are.

    Args:
        adapters: member to adapter; the order is that of the weights.
        base: the model that they were made for.
        shapes: its matrices.
        name: of the pool.
        title: for people.
        encoder: with `keys` and `centre`; without them weights cannot be chosen by samples, only given.
        keys: (K, D) unit rows.
        centre: (D,).

    Raises:
        AdapterError: no adapters, a bad name, or a number out of bounds.
        AdapterMismatchError: an adapter is not for this base.
    """
    if not adapters:
        raise AdapterError("a pool needs at least one adapter")
    folded: list[LoraTensors] = []
    for member, lora in adapters.items():
        for target, (a, b) in lora.tensors.items():
            try:
                shapes.check(target, a.shape, b.shape)
            except AdapterError as error:
                raise type(error)(f"{member}: {error}") from None
        folded.append(_positive(lora))
    members = tuple(
        Member(name=member, title=member, rank=lora.rank, alpha=lora.scale * lora.rank)
        for member, lora in zip(adapters, folded, strict=True)
    )
    widest = max(members, key=lambda member: member.rank)
    manifest = Manifest(
        name=name,
        title=title or name,
        kind="independent",
        base=base,
        rank=widest.rank,
        alpha=widest.alpha,
        targets=tuple(
            Target(target, *shape)
            for target, shape in shapes.targets.items()
            if any(target in lora.tensors for lora in folded)
        ),
        members=members,
        encoder=encoder,
        # Other people's adapters are kept as they are: B's small numbers are below what F16 can tell apart.
        precision="F16" if all(_fits_f16(lora) for lora in folded) else "F32",
    )
    return Pool.independent(manifest, folded, keys=keys, centre=centre)


def _positive(lora: LoraTensors) -> LoraTensors:
    """Return the same adapter with a factor above 0, which alpha has to be: llama.cpp takes 0 for "none given"."""
    if lora.scale > 0.0:
        return lora
    return LoraTensors({target: (a, b * np.float32(lora.scale)) for target, (a, b) in lora.tensors.items()})


def _fits_f16(lora: LoraTensors) -> bool:
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(matrix.astype(np.float16).astype(np.float32), matrix)
            for pair in lora.tensors.values()
            for matrix in pair
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
