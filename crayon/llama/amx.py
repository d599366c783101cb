"""Whether the library's AMX kernels run: some compilers break them, and the process then dies of SIGILL.

GCC up to 12 takes the tile configuration that ggml writes for a dead store and leaves it out, so that the first matrix
product of a prompt ends the process on a CPU with AMX (llama.cpp pull request 26954). No call can be asked for it, so a
child process tries, once for each build of the library; a model is then loaded without these kernels.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from crayon.llama import library

logger = logging.getLogger("crayon.llama")

REBUILD = (
    "CFLAGS=-U__AVX512FP16__ CXXFLAGS='-fno-dse -U__AVX512FP16__' pip install --force-reinstall --no-deps --no-cache-dir "
    f"llama-cpp-python=={library.REQUIRED_VERSION}"
)
"""What mends the library, with GCC; the Makefile says what the flags are for."""

_FLAG = "amx_int8"
_PATIENCE_S = 60.0


@functools.cache
def runs() -> bool:
    """Return whether models may be loaded for AMX; True too where the CPU or the library has none of it.

    Raises:
        LibraryError: the wrong llama-cpp-python is installed.
    """
    if not _wanted(library.load().system_info):
        return True
    stamp = _stamp()
    if stamp is not None and stamp.is_file():
        works = stamp.read_text().strip() == "runs"
    else:
        works = _try()
        if stamp is not None:
            with suppress(OSError):  # then the next process asks again
                stamp.parent.mkdir(parents=True, exist_ok=True)
                stamp.write_text("runs\n" if works else "breaks\n")
    if not works:
        logger.warning("this build of llama.cpp breaks AMX and runs without it, slower; to mend it: %s", REBUILD)
    return works


def _wanted(system_info: str) -> bool:
    if not (sys.platform == "linux" and platform.machine() == "x86_64" and "AMX_INT8 = 1" in system_info):
        return False
    try:
        return _FLAG in Path("/proc/cpuinfo").read_text().split("power management", 1)[0].split()
    except OSError:
        return True


def _stamp() -> Path | None:
    """Return where the answer for this build is kept; None: nowhere."""
    import platformdirs

    build = library.backend_file()
    if build is None:
        return None
    digest = hashlib.sha256(build.read_bytes()).hexdigest()[:32]
    return platformdirs.user_cache_path("crayon", appauthor=False) / "amx" / digest


def _try() -> bool:
    """Read a prompt of a quantized model in a process that may die of it."""
    command = [sys.executable, "-m", "crayon.llama.amx"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, capture_output=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _probe() -> None:
    from crayon.llama import smoke
    from crayon.llama.batch import Batch
    from crayon.llama.context import Context
    from crayon.llama.model import Model
    from crayon.llama.quantize import quantize

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.gguf"
        quantize(smoke.BASE, path, "Q8_0", {})
        with Model(path, extra_kernels=True) as model, Context(model, n_ctx=32, n_batch=32, threads=1) as context:
            batch = Batch(32)
            batch.add(list(range(20)), 0, 0, "last")
            context.decode(batch)
            context.logits(19)


if __name__ == "__main__":
    _probe()
    # Not by way of what Python tears down: that is not asked here.
    os._exit(0)
