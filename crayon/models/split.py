"""Models in several files, NAME-00001-of-00003.gguf and so on: llama.cpp finds the others by the first's name."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crayon.models.gguf_file import GgufInfo, TensorInfo

MOST_PARTS = 1000
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts_of(path: Path) -> tuple[Path, ...]:
    """Return the files that a name stands for, itself first: several where it is that of the first of several parts."""
    found = _PART.fullmatch(path.name)
    if found is None or int(found["number"]) != 1 or not 1 < int(found["count"]) <= MOST_PARTS:
        return (path,)
    count = found["count"]
    return tuple(path.with_name(f"{found['stem']}-{i:05d}-of-{count}.gguf") for i in range(1, int(count) + 1))


def whole(path: Path, first: GgufInfo, read: Callable[[Path], GgufInfo]) -> GgufInfo:
    """Return what all parts of a model hold together; a model in one file as it is.

    Args:
        path: the first part.
        first: what its header says.
        read: reads another part's header.

    Raises:
        ModelFileError: it is another part than the first, or parts are missing, or are not of one model.
    """
    count, number = _whole_number(first, "split.count"), _whole_number(first, "split.no")
    if count in (None, 0, 1):
        return first
    if number != 0:
        raise ModelFileError(f"{path} is part {(number or 0) + 1} of {count} of a model; name its first part")
    paths = parts_of(path)
    if len(paths) != count:
        raise ModelFileError(
            f"{path} is the first of {count} parts of a model, and is not called NAME-00001-of-{count:05d}.gguf, by "
            "which the others are found"
        )
    infos = [first]
    for i, part in enumerate(paths[1:], start=1):
        if not part.is_file():
            raise ModelFileError(f"{path} is the first of {count} parts of a model, and {part.name} is not beside it")
        info = read(part)
        if (_whole_number(info, "split.count"), _whole_number(info, "split.no")) != (count, i):
            raise ModelFileError(f"{part} is not part {i + 1} of {count} of the model that {path.name} begins")
        infos.append(info)
    names: dict[str, TensorInfo] = {}
    for info in infos:
        for name, tensor in info.tensors.items():
            if name in names:
                raise ModelFileError(f"{path} is a damaged model: two of its parts hold the tensor {name!r}")
            names[name] = tensor
    tensors = sum(info.tensor_count for info in infos)
    promised = _whole_number(first, "split.tensors.count")
    if promised is not None and promised != tensors:
        raise ModelFileError(
            f"{path} promises {promised} tensors, and its {count} parts hold {tensors}: fetch it again"
        )
    return replace(
        first,
        size=sum(info.size for info in infos),
        tensor_count=tensors,
        parameters=sum(info.parameters for info in infos),
        parts=len(infos),
        tensors=names,
    )


def _whole_number(info: GgufInfo, key: str) -> int | None:
    value = info.metadata.get(key)
    return value if type(value) is int else None
