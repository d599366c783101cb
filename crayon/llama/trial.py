"""A model file of the outside world, opened first in a process that may die of it.

llama.cpp ends the whole process over much that a file may say. What its header is known to say wrongly, the reader
refuses; for the rest a file that nobody vouches for is opened once in a child, and a word is read with it. So is its
chat template rendered there first, under limits of the operating system. That it went well is kept, for these bytes and
this build of the library.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from crayon.errors import CrayonError, ModelFileError
from crayon.llama import library

logger = logging.getLogger("crayon.llama")

WANTED = True  # tests make hundreds of models, all their own
_PATIENCE_S = 300.0
_WORDS = 8  # tokens that are read
# What a library ends its process with; a child that was killed from outside says nothing about the file.
_OWN_ENDS = {"SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL"}
# Of the chat template, beside its own bounds: what these leave out ends the child.
_TEMPLATE_S = 20
_TEMPLATE_BYTES = 1 << 30
_PR_SET_PDEATHSIG = 1
_TEMPLATE_ENDS = {"SIGXCPU": f"takes more than {_TEMPLATE_S} s of the processor"}


def ensure_opens(path: Path, folder: Path | None = None) -> None:
    """See that a file does not end the process, in a child the first time.

    Args:
        path: the file.
        folder: where it is kept that it went well; None: in the user's cache.

    Raises:
        ModelFileError: it does; says how.
    """
    if not WANTED:
        return
    stamp = _stamp(path, folder)
    if stamp is None or stamp.is_file():
        return
    end = _try(path)
    if end is not None:
        why = f"its chat template {_TEMPLATE_ENDS[end]}" if end in _TEMPLATE_ENDS else f"it ends llama.cpp ({end})"
        raise ModelFileError(f"{path}: {why}; it is damaged, or made to do so: take another file")
    with suppress(OSError):  # then it is tried again the next time
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


def _stamp(path: Path, folder: Path | None) -> Path | None:
    import platformdirs

    try:
        found = path.stat()
    except OSError:
        return None  # whoever opens it says so
    told = f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0{library.REQUIRED_VERSION}\0template"
    folder = folder or platformdirs.user_cache_path("crayon", appauthor=False)
    return folder / "opened" / hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _try(path: Path) -> str | None:
    """Return how a child ended that opened the file, if the library ended it."""
    command = [sys.executable, "-m", "crayon.llama.trial", os.fspath(path.absolute())]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, capture_output=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("%s cannot be tried in a child: %s", path.name, error)
        return None
    if done.returncode >= 0:
        return None
    with suppress(ValueError):
        name = signal.Signals(-done.returncode).name
        if name in _OWN_ENDS or name in _TEMPLATE_ENDS:
            return name
    return None


def _open(path: Path) -> None:
    """Load the file and read some tokens; what it raises, who opens it next is told anyway."""
    from crayon.llama.batch import Batch
    from crayon.llama.context import Context
    from crayon.llama.model import Model

    with suppress(CrayonError), Model(path) as model, Context(model, n_ctx=64, n_batch=32, threads=1) as context:
        with suppress(CrayonError):
            model.tokenize("A word, or two.", special=True)
        batch = Batch(_WORDS)
        batch.add([token % max(model.n_vocab, 1) for token in range(_WORDS)], 0, 0, "last")
        context.decode(batch)
        _limit()
        with suppress(CrayonError):
            model.check_chat()


def _limit() -> None:
    """Bound what this process may take from here on."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = sum(os.times()[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + _TEMPLATE_S, resource.RLIM_INFINITY))
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _TEMPLATE_BYTES,) * 2)


def _end_with_parent() -> None:
    """Have Linux end this process when the thread that waits for it ends: a program that is left leaves no child."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it may well end so, and nobody wants to look at that
    _open(Path(sys.argv[1]))
    # Not by way of what Python tears down: that is not asked here.
    os._exit(0)
