"""What a training has done so far, in a folder: each part under a hash of all that it follows from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from crayon.errors import AdapterError, ConfigError
from crayon.training.descent import TrainState
from crayon.training.trainer import Accuracy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Changed whenever equal recipes would train to other numbers than before.
SCHEMA = 2


class Checkpoints:
    """Keeps results, and trainings that are not finished.

    Args:
        folder: is made if it is not there.
        common: what every part follows from.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, common: Sequence[Any]) -> None:
        self._folder = folder
        self._common = [SCHEMA, *common]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("work", f"{folder} cannot be made: {error.strerror}") from None

    def trained(
        self,
        name: str,
        made_of: Sequence[Any],
        train: Callable[[TrainState | None, Callable[[TrainState], None]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Return what `train` returned once, or let it go on from where it last saved.

        Raises:
            AdapterError: a checkpoint is damaged or cannot be written.
        """
        path = self._path(name, made_of, "safetensors")
        resume = None
        if path.is_file():
            try:
                found = load(path.read_bytes())
                if "done" in found:
                    return np.ascontiguousarray(found["b"].numpy())
                resume = TrainState(int(found["step"]), found["b"], found["mean"], found["square"])
            except (OSError, SafetensorError, KeyError) as error:
                raise AdapterError(f"{path}: is damaged ({error}); delete it to train {name} again") from None

        def keep(state: TrainState) -> None:
            tensors = {"b": state.b, "mean": state.mean, "square": state.square, "step": torch.tensor(state.step)}
            _write(path, save(tensors))

        b = train(resume, keep)
        _write(path, save({"b": torch.from_numpy(b), "done": torch.tensor(1)}))
        return b

    def measured(self, name: str, made_of: Sequence[Any], measure: Callable[[], Accuracy]) -> Accuracy:
        """Return what `measure` returned once.

        Raises:
            AdapterError: a checkpoint is damaged or cannot be written.
        """
        path = self._path(f"score-{name}", made_of, "json")
        if path.is_file():
            try:
                return Accuracy(**json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                raise AdapterError(f"{path}: is damaged ({error}); delete it to measure {name} again") from None
        found = measure()
        _write(path, json.dumps(asdict(found)).encode())
        return found

    def _path(self, name: str, made_of: Sequence[Any], kind: str) -> Path:
        return self._folder / f"{name}-{digest(json.dumps([*self._common, name, *made_of]).encode())}.{kind}"


def digest(data: bytes | NDArray[Any]) -> str:
    """Return 16 letters that stand for these bytes or numbers."""
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise AdapterError(f"{path}: cannot be written ({error.strerror}); what was kept before is unchanged") from None
