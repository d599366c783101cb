"""How fast a model file runs on this machine: measured once, in a second or two, and kept beside its prepared file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crayon.contention import BUSY, lacking, look
from crayon.device.choice import Speed
from crayon.errors import AbortedError
from crayon.machine import inspect_machine, usable_cores
from crayon.models import Store, default_models_dir, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.device.opening import Opening

logger = logging.getLogger("crayon.device")

SCHEMA = 1
PIECE = 32  # prompt tokens of one step: about a question
WRITTEN = 4  # answer tokens after each piece
ROUNDS = 4  # 128 prompt tokens and 16 answer tokens in all
ENOUGH_S = 1.5  # no further round after this
LIMIT_S = 3.0  # a step that runs then is broken off
UNEVEN = 1.3  # how much longer than the shortest a round may take on a machine that does nothing else
_MAX_RECORD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """A speed, and whether nothing disturbed it; a disturbed one is at least what the machine can do."""

    speed: Speed
    undisturbed: bool


def measure(path: Path, threads: int | None = None) -> MeasuredSpeed:
    """Time a model file: reading 128 tokens and writing 16, in 4 rounds; the shortest counts. Bounded in time.

    Raises:
        ModelFileError: the file cannot be run.
        EngineError: no memory for a context.
        LibraryError: the wrong llama-cpp-python is installed.
    """
    from crayon.llama import smoke
    from crayon.llama.batch import Batch
    from crayon.llama.context import Context
    from crayon.llama.model import Model

    smoke.check()
    threads = usable_cores() if threads is None else threads
    with Model(path) as model, Context(model, n_ctx=256, n_batch=PIECE, n_outputs_max=1, threads=threads) as context:
        # Any tokens take the same time; spread over the vocabulary so that no cache flatters the embedding rows.
        tokens = [(7919 * i) % model.n_vocab for i in range(PIECE)]
        batch = Batch(context.n_batch)
        position = 0

        def step(some: Sequence[int]) -> None:
            nonlocal position
            batch.clear()
            batch.add(some, position, 0, "last")
            context.decode(batch)
            position += len(some)

        step(tokens[:1])  # the weights come from the disk here
        timer = threading.Timer(LIMIT_S, context.abort)
        timer.daemon = True
        before = look()
        timer.start()
        try:
            rounds = time_rounds(lambda: step(tokens), lambda i: step(tokens[i : i + 1]), time.perf_counter)
        finally:
            timer.cancel()
            timer.join()
        missed = lacking(before, look(), threads)
    return MeasuredSpeed(speed_of(rounds), even(rounds) and missed < BUSY)


def time_rounds(
    read: Callable[[], None], write: Callable[[int], None], clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Return seconds to read a piece and to write its tokens: two rounds, and more while there is time.

    Where the first one is broken off, both count as long as it ran: that is far too slow already.
    """
    rounds: list[tuple[float, float]] = []
    begun = clock()
    while len(rounds) < 2 or (len(rounds) < ROUNDS and clock() - begun < ENOUGH_S):
        start = clock()
        try:
            read()
            middle = clock()
            for i in range(WRITTEN):
                write(i)
        except AbortedError:
            return rounds or [(clock() - start,) * 2]
        rounds.append((middle - start, clock() - middle))
    return rounds


def speed_of(rounds: Sequence[tuple[float, float]]) -> Speed:
    """Return the speed of the shortest times: what lengthens the others is not the model."""
    read, written = (min(times) for times in zip(*rounds, strict=True))
    return Speed(PIECE / read, WRITTEN / written)


def even(rounds: Sequence[tuple[float, float]]) -> bool:
    """Whether most rounds agree with the shortest, in reading and in writing; one alone was broken off."""
    return all(sum(t <= UNEVEN * min(times) for t in times) * 2 > len(times) for times in zip(*rounds, strict=True))


def known(found: Opening, models_dir: Path | None, threads: int | None) -> Speed | None:
    """Return the speed that was kept for this file on this machine with this library and number of threads."""
    path = _record(found, models_dir, threads)
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_RECORD_BYTES))
        numbers = float(raw["prefill_tps"]), float(raw["decode_tps"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # measured anew
    return Speed(*numbers) if all(0 < number < 1e9 for number in numbers) else None


def keep(found: Opening, models_dir: Path | None, threads: int | None, speed: Speed) -> None:
    """Keep a speed; where that is impossible it is measured again the next time."""
    path = _record(found, models_dir, threads)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**asdict(speed), **_key(found, threads)}, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        logger.debug("the speed of %s is not kept: %s", found.name, error)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _record(found: Opening, models_dir: Path | None, threads: int | None) -> Path:
    digest = hashlib.sha256(json.dumps(_key(found, threads), sort_keys=True).encode()).hexdigest()
    return Store(models_dir or default_models_dir()).prepared(found.source_sha256) / f"speed-{digest[:16]}.json"


def _key(found: Opening, threads: int | None) -> dict[str, object]:
    """Return what a speed depends on."""
    return {
        "schema": SCHEMA,
        "file": found.file_sha256,
        "machine": prepared.machine_key(),
        "cores": inspect_machine().usable_cores,
        "threads": usable_cores() if threads is None else threads,
        "library": prepared.library_version(),
    }
