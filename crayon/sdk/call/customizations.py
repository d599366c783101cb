"""A client's customisations: found by name when a call names them, and made from samples."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from crayon.customising.customise import check, customise
from crayon.customising.customization import Customization
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.material import Material
from crayon.customising.sample import as_samples
from crayon.customising.samples import read_samples
from crayon.customising.store import CustomizationStore, read_export
from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from crayon.customising.sample import Sample, SampleLike
    from crayon.engine import Engine
    from crayon.messages import Message

    # A file, or the samples themselves.
    SamplesLike: TypeAlias = str | os.PathLike[str] | Iterable[SampleLike]
    CustomizationLike: TypeAlias = str | os.PathLike[str] | Customization

logger = logging.getLogger("crayon.sdk")

# Samples that are kept in memory: those of customisations in use, and of drafts that were not saved. What is forgotten
# is read again where it was saved.
MOST_IN_MEMORY = 16


class Customizations:
    """Names to customisations, read again when their files change; a name that ends with .json is an exported file."""

    def __init__(self, folder: Path | str | os.PathLike[str] | None) -> None:
        self.store = CustomizationStore(None if folder is None else os.fspath(folder))
        self._known: dict[str, tuple[object, Customization]] = {}
        self._drafts: OrderedDict[str, Material] = OrderedDict()  # samples by their hash, the latest used last
        self._lock = threading.Lock()

    def find(self, field: str, value: object) -> Customization:
        """Return the customisation that a caller means.

        Raises:
            InvalidRequestError: there is none; `field` says who asked.
            AdapterError: its record is damaged.
        """
        if isinstance(value, Customization):
            return value
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise InvalidRequestError(field, f"must be the name of a customisation, not {type(value).__name__}")
        try:
            return read_export(value) if value.lower().endswith(".json") else self._load(value)
        except InvalidRequestError as error:
            raise InvalidRequestError(field, error.problem) from None

    def material(self, custom: Customization) -> tuple[Material | None, Path | None]:
        """Return the samples of a customisation, if they are on this device, and the folder they are kept in.

        A draft that is not saved has its samples in memory, and no folder.

        Raises:
            AdapterError: they are damaged.
        """
        if not custom.material:
            return None, None
        draft = self._in_memory(custom.material)
        if custom.name in self.store and self.find("customization", custom.name).material == custom.material:
            folder = self.store.folder / custom.name
            if draft is None:
                draft = self._in_memory(custom.material, self.store.material(custom.name))
            return draft, folder
        return draft, None

    def all(self) -> tuple[Customization, ...]:
        """Return those in the folder, by name; one that is damaged is left out and logged."""
        found = []
        for name in self.store.names():
            try:
                found.append(self.store.load(name))
            except AdapterError as error:
                logger.warning("customisation %s is left out: %s", name, error)
        return tuple(found)

    def make(
        self,
        engine: Engine,
        name: str,
        samples: tuple[Sample, ...],
        *,
        refine: bool,
        checked: bool,
        replace: bool,
        system: Message | None,
        patience: float | None,
        ready: Callable[[Customization], None] | None,
        progress: Callable[[str, int, int], None] | None,
        cancelled: Callable[[], bool],
    ) -> Customization:
        """Make a customisation, check it, and only then keep it; `Crayon.customize` documents the arguments."""
        if name in self.store and not replace:
            problem = f"{name!r} is taken; add replace=True to replace it, or choose another name"
            raise InvalidRequestError("name", problem)
        calls = DeviceCalls(engine, patience=patience, cancelled=cancelled)
        draft = customise(calls, name, samples)
        self._in_memory(draft.customization.material, Material(draft.samples, draft.vectors))
        found = check(
            calls,
            draft,
            refining=refine,
            quick=not (checked or refine),
            system=system,
            ready=ready or (lambda _: None),
            progress=progress or (lambda *_: None),
        )
        # Whatever ends this earlier leaves what was there.
        return self.store.save(found, draft.samples, draft.vectors, replace=replace)

    def _in_memory(self, key: str, new: Material | None = None) -> Material | None:
        """Return the samples of a hash, `new` if given, as used last; the longest unused of too many are forgotten."""
        with self._lock:
            found = self._drafts.get(key) if new is None else new
            if found is not None:
                self._drafts[key] = found
                self._drafts.move_to_end(key)
            while len(self._drafts) > MOST_IN_MEMORY:
                self._drafts.popitem(last=False)
        return found

    def _load(self, name: str) -> Customization:
        stamp = self.store.stamp(name)
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            known = self._known[name] = (stamp, self.store.load(name))
        return known[1]


def samples_of(samples: SamplesLike) -> tuple[Sample, ...]:
    """Return the samples of a file or a list.

    Raises:
        InvalidRequestError: see `read_samples` and `as_samples`.
    """
    return read_samples(samples) if isinstance(samples, str | os.PathLike) else as_samples(samples)
