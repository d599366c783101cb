"""From the reference `auto` to a model: the facts of this machine, and the fetching that the choice asks for."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crayon.device import opening, speed
from crayon.device.choice import BESIDE_BYTES, KV_BYTES, LARGER, SMALL, Facts, ModelChoice, choose_device
from crayon.errors import DownloadError, EngineError, LibraryError, ModelError
from crayon.machine import inspect_machine, memory_room
from crayon.models import Store, StoreState, default_models_dir, load_catalogue, resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crayon.device.choice import Speed
    from crayon.device.opening import Opening

logger = logging.getLogger("crayon.device")

N_CTX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How the model is to be opened: what the facts depend on. The fields are those of `DeviceEngine.open`."""

    models_dir: Path | None = None
    download: bool = True
    prepared: bool = True
    n_ctx: int = N_CTX
    threads: int | None = None

    @property
    def store(self) -> Store:
        """The folder of models."""
        return Store(self.models_dir or default_models_dir())


def pick(wish: Wish, fetch: Callable[[str], object] | None = None) -> ModelChoice:
    """Return the model to open. An absent larger one that promises to be quick enough is fetched, and then timed.

    Where it cannot be fetched, the small one is taken. What else is to be fetched is left to who opens it.

    Args:
        wish: how it is to be opened.
        fetch: fetches a model by its name; by default without telling how far it is.

    Raises:
        LibraryError: the wrong llama-cpp-python is installed.
        ModelFileError, EngineError: as `measure`.
    """
    facts = gather(wish)
    choice = choose_device(facts)
    if choice.model == LARGER and not facts.larger_here:
        try:
            if fetch is not None:
                fetch(LARGER)
            else:
                logger.info("fetching %s (%.0f MB)", LARGER, load_catalogue().find(LARGER).size / 1e6)
                resolve(LARGER, models_dir=wish.models_dir)
        except DownloadError as error:
            logger.warning("%s cannot be fetched, %s takes its place: %s", LARGER, SMALL, error)
            facts = replace(facts, may_fetch=False)
        else:
            facts = gather(wish)
        choice = choose_device(facts)
    logger.info("auto takes %s: %s", choice.model, choice.why)
    return choice


def peek(wish: Wish) -> ModelChoice | None:
    """Return what `pick` would take, from what is known without timing or hashing; None where that is not enough."""
    facts = gather(wish, timing=False)
    untimed = facts.speed is None if facts.larger_here else facts.small_here and facts.small_speed is None
    if untimed and (facts.fits if facts.larger_here else facts.promising):
        return None
    return choose_device(facts)


def gather(wish: Wish, *, timing: bool = True) -> Facts:
    """Return the facts of this machine; what the choice needs and is not known yet is timed, if `timing`.

    Raises:
        LibraryError: the wrong llama-cpp-python is installed.
    """
    store, entry, machine = wish.store, load_catalogue().find(LARGER), inspect_machine()
    larger, small = (_here(name, wish, timing=timing) for name in (LARGER, SMALL))
    size = larger.path.stat().st_size if larger else entry.size
    facts = Facts(
        larger_here=larger is not None,
        small_here=small is not None,
        may_fetch=wish.download,
        need=size + 2 * wish.n_ctx * KV_BYTES + BESIDE_BYTES,
        room=memory_room(),
        disk_need=2 * entry.size,  # joining the parts takes the size twice for a moment
        disk_room=_disk_room(store.folder),
        cores=machine.usable_cores,
        vectors=bool({"avx2", "asimddp"} & set(machine.instruction_sets)) or machine.system.startswith("Darwin"),
    )
    if larger is not None and facts.fits:
        found, undisturbed = _speed(larger, wish, timing=timing)
        return replace(facts, speed=found, undisturbed=undisturbed)
    if larger is None and small is not None and facts.promising:
        published = opening.find(SMALL, models_dir=wish.models_dir, download=False, prepared_file=False)
        found, undisturbed = _speed(published, wish, timing=timing)
        return replace(facts, small_speed=found, undisturbed=undisturbed)
    return facts


def made_for(source_sha256: str, models_dir: Path | None = None) -> str | None:
    """Return a reference to the model whose published file has this SHA-256, None where nobody knows it."""
    if not source_sha256:
        return None
    entry = load_catalogue().with_sha256(source_sha256)
    if entry is not None:
        return entry.name
    return Store(models_dir or default_models_dir()).reference_of(source_sha256)


def _here(name: str, wish: Wish, *, timing: bool) -> Opening | None:
    """Return the file that would run; None where the model is absent or damaged. Without timing nothing is hashed."""
    if not timing and wish.store.state(load_catalogue().find(name).wanted) is not StoreState.READY:
        return None
    try:
        return opening.find(name, models_dir=wish.models_dir, download=False, prepared_file=wish.prepared)
    except ModelError:
        return None


def _speed(found: Opening, wish: Wish, *, timing: bool) -> tuple[Speed | None, bool]:
    """Return the kept speed, or else the measured one, and whether nothing disturbed it; only then is it kept."""
    kept = speed.known(found, wish.models_dir, wish.threads)
    if kept is not None or not timing:
        return kept, True
    try:
        measured = speed.measure(found.path, wish.threads)
    except LibraryError:
        raise
    except (ModelError, EngineError) as error:
        logger.warning("%s cannot be timed: %s", found.name, error)
        return None, True
    if measured.undisturbed:
        speed.keep(found, wish.models_dir, wish.threads, measured.speed)
    return measured.speed, measured.undisturbed


def _disk_room(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
