"""What the folder of an exported model says of itself: which model it is, for pools that were made for that one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from crayon.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "crayon.json"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Exported:
    """`source_sha256` is the hash of the published file; `quantization` that of the file that was dequantized."""

    name: str
    source_sha256: str
    quantization: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the record holds."""
        return asdict(self)


def read_exported(folder: Path) -> Exported | None:
    """Return a folder's record, None where the model did not come from `crayon models export`.

    Raises:
        ModelFileError: the record is damaged.
    """
    path = folder / RECORD
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        values = {key: raw[key] for key in Exported.__slots__}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: is damaged ({type(error).__name__}); export the model again") from None
    if not all(isinstance(value, str) for value in values.values()):
        raise ModelFileError(f"{path}: is damaged (not all texts); export the model again")
    return Exported(**values)
