"""How a result was made: the command, when, how long it took, and of which state of the program."""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_GIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Making:
    """Begun with a run; `done` says how it was made.

    Args:
        command: the words of the command line, without the program's own path.
    """

    command: str
    _started: float = field(default_factory=time.monotonic)
    _began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(cls, words: Sequence[str]) -> Making:
        """Begin one for the arguments of `crayon`."""
        return cls(shlex.join(["crayon", *words]))

    def done(self) -> dict[str, Any]:
        """Return command, start (UTC), seconds so far, version and commit."""
        return {
            "command": self.command,
            "began": self._began,
            "seconds": round(time.monotonic() - self._started, 1),
            "version": metadata.version("crayon-llm"),
            "commit": commit(),
        }


def commit(folder: Path | None = None) -> str:
    """Return the commit of the checkout that runs, with "+changes" where files differ; "" where it is none."""
    place = folder or Path(__file__).resolve().parent
    head = _git(place, "rev-parse", "HEAD")
    if not head:
        return ""
    return f"{head[:12]}+changes" if _git(place, "status", "--porcelain", "--untracked-files=no") else head[:12]


def _git(folder: Path, *words: str) -> str:
    try:
        # Fixed words only; where git is missing or this is no checkout, there is nothing to name.
        found = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(folder), *words],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
