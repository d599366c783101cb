"""Files that only their owner may read, each written at once or not at all, and one writer in a folder at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from pathlib import Path

# Begins the names of what is being written, and of what was when a process was killed.
UNFINISHED = ".new-"
LOCK_SECONDS = 5.0
STATE_VARIABLE = "CRAYON_STATE_DIR"


def state_folder() -> Path:
    """Return the folder of `CRAYON_STATE_DIR`, else the user's folder for what programs remember."""
    given = os.environ.get(STATE_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return platformdirs.user_state_path("crayon", appauthor=False)


def gateway_socket() -> Path:
    """Return the socket file of this user's gateway; it is there while one runs."""
    return state_folder() / "gateway.sock"


def write_private(path: Path, *parts: bytes | memoryview, durable: bool = True) -> None:
    """Write a file that only its owner may read, at once or not at all.

    Args:
        path: in a folder that is there.
        parts: its contents, one after the other.
        durable: wait until the disk holds it; else a crash of the machine may leave it cut.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    # mkstemp creates with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def private_folder(path: Path) -> None:
    """Make a folder, with those above it, that only its owner may read.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The mode above is only for folders that are new, and less the umask.
    path.chmod(0o700)


def lock_folder(descriptor: int) -> None:
    """Lock an open folder for this process and thread; a file system that knows no locks goes without.

    Raises:
        OSError: another one holds it for too long.
    """
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(errno.EBUSY, f"another program has been writing there for {LOCK_SECONDS:g} s") from None
            time.sleep(0.01)
        except OSError:
            return
        else:
            return


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can be asked to.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
