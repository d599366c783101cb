"""Every quantization of a model in turn: requantized, measured in a process of its own, removed again."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.device.prepare import write
from crayon.lab.eval.customize import EvalReport
from crayon.lab.eval.quantized.child import run_probe
from crayon.lab.eval.quantized.choice import Advice, Quantized, recommend
from crayon.lab.eval.quantized.exams import exams
from crayon.lab.eval.quantized.probe import Order, ProbeResult
from crayon.lab.eval.quantized.rows import rows
from crayon.lab.eval.quantized.settings import BIAS, SOURCE, TRUTH
from crayon.models import prepared
from crayon.models.partial import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.adapters.pool import Pool
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import Tell
    from crayon.lab.eval.quantized.exams import Exam
    from crayon.lab.eval.quantized.settings import QuantizedSettings
    from crayon.models import LocalModel

BENCH = "eval device"
_TELL_EVERY_S = 10.0


@dataclass(slots=True)
class DeviceReport(EvalReport):
    """A report with what is recommended, and the types whose figures no other type beats."""

    advice: Advice | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        advice = {} if self.advice is None else {"recommended": asdict(self.advice)}
        return {**EvalReport.as_json(self), **advice}


def evaluate_device(
    local: LocalModel,
    settings: QuantizedSettings,
    cache: AnswerCache,
    folder: Path,
    *,
    pool: Pool | None = None,
    pool_folder: Path | None = None,
    memory_mib: float | None = None,
    tokens_per_s: float | None = None,
    measure: Callable[[Order, Callable[[], None]], ProbeResult] = run_probe,
    tell: Tell = lambda _: None,
) -> DeviceReport:
    """Measure each type, and recommend one.

    Args:
        local: the published model.
        settings: how much to measure.
        cache: keeps what was measured of each type; a run that was killed goes on with the next one.
        folder: where requantized files lie while they are measured.
        pool: whose members answer their own tasks, and
        pool_folder: where it lies.
        memory_mib: the most memory that the recommended type may take.
        tokens_per_s: the least rate at which it has to write.
        measure: measures one file.
        tell: takes lines about the progress.

    Raises:
        ModelFileError: the model cannot be requantized.
        EngineError: a type cannot be measured.
        DownloadError: the disk refuses; NoSpaceError where it is full.
    """
    todo = exams(settings, pool.manifest if pool is not None and pool_folder is not None else None)
    progress = _Progress(tell, len(settings.types))
    found = []
    hashes: dict[str, str] = {}
    for number, name in enumerate(settings.types):
        order = Order(
            "", f"{local.name} {name}", local.sha256, str(pool_folder) if pool_folder and pool else None, tuple(todo),
            settings.windows, settings.runs, settings.prompt_tokens, settings.answer_tokens,
        )  # fmt: skip
        progress.begin(number, name, order.steps)
        size, sha256, measured = _measured(local, name, order, cache, folder, pool, measure, progress.step)
        hashes[f"{local.name} {name}"] = sha256
        right = {exam.name: _right(exam, measured) for exam in todo if exam.name not in (BIAS, TRUTH)}
        found.append(Quantized(name, size, sha256, measured, right))
        cache.save()
    advice = recommend(
        found, memory_mib=memory_mib, tokens_per_s=tokens_per_s, prompt=settings.prompt_tokens,
        answer=settings.answer_tokens,
    )  # fmt: skip
    models = {local.name: local.sha256, **hashes}
    if pool is not None and pool_folder is not None:
        models[f"pool {pool.id}"] = pool.manifest.tensors_sha256
    budget = {"memory_mib": memory_mib, "tokens_per_s": tokens_per_s}
    return DeviceReport(
        BENCH,
        models,
        list(rows(found, todo, local.name, settings)),
        settings={**asdict(settings), **budget},
        advice=advice,
    )


def _measured(
    local: LocalModel,
    name: str,
    order: Order,
    cache: AnswerCache,
    folder: Path,
    pool: Pool | None,
    measure: Callable[[Order, Callable[[], None]], ProbeResult],
    step: Callable[[], None],
) -> tuple[int, str, ProbeResult]:
    """Return size and hash of a type's file, and what was measured of it: kept from before, or now."""
    made_of = [local.sha256, name, prepared.library_version(), prepared.machine_key()]
    members = pool.manifest.tensors_sha256 if pool is not None and order.pool else ""
    what = {**asdict(order), "pool": members}
    key = cache.key("quantized-1", made_of, what, [[item.id for item in exam.items()] for exam in order.exams])
    kept = cache.get(key)
    if kept is None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="quantized-", dir=folder) as work:
                path = local.path
                if name != SOURCE:
                    path = Path(work) / f"{name}.gguf"
                    write(local.path, path, name, local.sha256)
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                measured = measure(replace(order, path=str(path)), step)
                kept = json.dumps([path.stat().st_size, sha256, asdict(measured)]).encode()
        cache.put(key, kept)
    size, sha256, raw = json.loads(kept)
    return int(size), str(sha256), ProbeResult.parse(raw)


def _right(exam: Exam, measured: ProbeResult) -> np.ndarray[Any, np.dtype[np.float64]]:
    taken: Sequence[int] = measured.answers[exam.name]
    return np.array([100.0 * (answer == item.answer) for answer, item in zip(taken, exam.items(), strict=True)])


class _Progress:
    """Tells now and then how far it is and how long the rest will take."""

    def __init__(self, tell: Tell, types: int) -> None:
        self._tell = tell
        self._types = types
        self._number = self._done = self._of_type = self._steps = 0
        self._name = ""
        self._started = self._told = time.monotonic()

    def begin(self, number: int, name: str, steps: int) -> None:
        """Go on to the next type."""
        self._number, self._name, self._steps, self._of_type = number, name, steps, 0
        self._tell(f"{name}: type {number + 1} of {self._types}")

    def step(self) -> None:
        """Count one answer of a type."""
        self._done += 1
        self._of_type += 1
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_S:
            return
        self._told = now
        rest = self._steps - self._of_type + (self._types - self._number - 1) * self._steps
        left = (now - self._started) * max(rest, 0) / self._done
        minutes = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
        self._tell(f"{self._name}: {self._of_type:,} of {self._steps:,} steps; all types about {minutes} left")
