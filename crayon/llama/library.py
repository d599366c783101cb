"""The pinned llama.cpp library: loaded once, checked, its log lines sent into `logging`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import threading
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import LibraryError, NoMemoryError
from crayon.llama.scarce import is_memory_short

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

REQUIRED_VERSION = "0.3.36"
# Measured with SmolLM2 on 2 cores, tokens/s idle and beside two processes that burn a core: 218 and 7 with libgomp's
# default, 223 and 65 with 300, 130 and 44 with 100.
SPINS = "300"
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

logger = logging.getLogger("crayon.llama")

# ggml's levels; 5 continues the line before. Each is one lower here: ggml writes a page of INFO for every model and
# warns of what is no fault (a context shorter than the model's longest). Its errors belong to a call that fails: the
# exception carries them, and an abort that we asked for is no error at all.
_DEBUG, _INFO, _WARN, _ERROR = 1, 2, 3, 4
_LEVELS = {_DEBUG: logging.DEBUG, _INFO: logging.DEBUG, _WARN: logging.INFO, _ERROR: logging.INFO}


class LogTap:
    """Receives ggml's log lines; keeps the latest errors so that a failed call can say why."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: deque[str] = deque(maxlen=8)
        self._level = _DEBUG
        self._line = ""

    def receive(self, level: int, text: bytes) -> None:
        """Take one fragment from ggml; fragments without a line end are joined."""
        with self._lock:
            if level in _LEVELS:
                self._level = level
            self._line += text.decode("utf-8", "replace")
            *lines, self._line = self._line.split("\n")
            if len(self._line) > 4096:  # progress dots without an end
                self._line = ""
            if self._level == _ERROR:
                self._errors.extend(line for line in lines if line.strip())
            written = _LEVELS[self._level]
        for line in lines:
            if line.strip():
                logger.log(written, "%s", line.rstrip())

    def take_errors(self) -> str:
        """Return and forget the latest error lines, joined."""
        with self._lock:
            text = "; ".join(line.strip() for line in self._errors)
            self._errors.clear()
        return text


class Library:
    """The bindings (`api`), ggml's base library (`ggml`), the `folder` of both, and the log tap; never unloaded."""

    def __init__(self, api: ModuleType) -> None:
        self.api: Any = api
        self.log = LogTap()
        tap = self.log

        @api.llama_log_callback  # type: ignore[untyped-decorator]  # no type information upstream
        def receive(level: int, text: bytes, _: object) -> None:
            tap.receive(level, text)

        self._receive = receive  # ctypes does not keep callbacks alive
        api.llama_log_set(receive, None)
        api.llama_backend_init()
        self.folder = Path(api.__file__ or "").parent / "lib"
        self.ggml = _ggml_base(self.folder)

    @property
    def system_info(self) -> str:
        """What the CPU backend was built with and found, as llama.cpp prints it."""
        return str(self.api.llama_print_system_info().decode())


def backend_file() -> Path | None:
    """Return the file of ggml's CPU backend, or None if it is not where llama-cpp-python has it.

    Raises:
        LibraryError: as `load`.
    """
    return next(iter(sorted(load().folder.glob("libggml-cpu.*"))), None)


_LOADING = threading.Lock()


def load() -> Library:
    """Return the library; the first call loads and checks it.

    Raises:
        LibraryError: llama-cpp-python is missing, has another version than the pinned one, or does not load.
        NoMemoryError: there is too little memory for it.
    """
    with _LOADING:  # two libraries at once would leave llama.cpp with the log callback of the one thrown away
        return _load()


@functools.cache
def _load() -> Library:
    try:
        found = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != REQUIRED_VERSION:
        raise LibraryError(
            f"llama-cpp-python {REQUIRED_VERSION} is needed, found {found}: its structures follow llama.cpp's "
            f"headers, so another version would read memory wrongly. "
            f"Run: pip install llama-cpp-python=={REQUIRED_VERSION}"
        )
    try:
        with _brief_spinning():
            from llama_cpp import llama_cpp as api  # loads a shared library: only where an engine is wanted
    except (ImportError, OSError, RuntimeError) as error:
        if is_memory_short(str(error)):
            raise NoMemoryError(f"too little memory for llama.cpp's shared library: {error}") from error
        raise LibraryError(f"llama.cpp's shared library does not load: {error}") from error
    return Library(api)


@contextlib.contextmanager
def _brief_spinning() -> Iterator[None]:
    """Let libgomp, which reads its settings while it is loaded, wait briefly at barriers before a thread sleeps.

    By default it spins 300,000 times. Beside one other busy process, whose turn it is then, that costs ten times more
    than sleeping; some hundred spins cost nothing on an idle machine. Who has set the variables keeps them, and child
    processes do not inherit ours.
    """
    if any(name in os.environ for name in _WAITING):
        yield
        return
    os.environ[_WAITING[0]] = SPINS
    try:
        yield
    finally:
        del os.environ[_WAITING[0]]


def _ggml_base(folder: Path) -> ctypes.CDLL:
    """Bind the four ggml calls that llama-cpp-python leaves out (needed to read a tensor while a graph runs)."""
    candidates = [path for path in folder.glob("libggml-base.*") if path.suffix in {".so", ".dylib"}]
    if not candidates:
        raise LibraryError(f"ggml's base library is missing in {folder}; reinstall llama-cpp-python")
    ggml = ctypes.CDLL(str(candidates[0]))
    ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
    ggml.ggml_get_name.restype = ctypes.c_char_p
    ggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
    ggml.ggml_nbytes.restype = ctypes.c_size_t
    ggml.ggml_backend_tensor_get.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
    ]
    ggml.ggml_backend_tensor_get.restype = None
    return ggml
