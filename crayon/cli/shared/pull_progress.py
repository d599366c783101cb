"""A pull's progress on standard error: a bar with speed and time left, or plain lines where no terminal is."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crayon.cli.shared import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.models import Progress, ProgressCallback


@contextmanager
def pull_progress(title: str) -> Iterator[ProgressCallback]:
    """Give a callback for `resolve` that shows what it is told; nothing is drawn when nothing is fetched."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Lines(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, visible=False)

        def show(progress: Progress) -> None:
            bars.update(
                task,
                completed=progress.done_bytes,
                total=progress.total_bytes,
                description=f"{title}: {progress.label}",
                visible=True,
            )

        yield show


class _Lines:
    """A line whenever something new is done in a tenth of the whole not yet told."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._told: tuple[int, str] | None = None

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 0
        kind = progress.label.partition(" ")[0]
        if (tenth, kind) != self._told:
            self._told = (tenth, kind)
            done = f"{progress.done_bytes / 1e6:,.0f} MB"
            whole = f" of {progress.total_bytes / 1e6:,.0f} MB" if progress.total_bytes else ""
            console.message(f"{self._title}: {progress.label}, {done}{whole}")
