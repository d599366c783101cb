"""What was spent of the budget, in a private file that survives restarts and that several processes share."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.private_file import state_folder, write_private
from crayon.router.budget import KEPT, MAX_WINDOW, SECONDS_A_DAY, SENT, Instant, Spent, nothing_spent, roll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FILE = "budget.json"
VERSION = 1
MAX_BYTES = 64 * 2**10
LOCK_SECONDS = 5.0
# A clock beyond this would be too coarse for days to end.
MAX_SECONDS = 1e11
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def instant() -> Instant:
    """Return now by this machine's clocks; the steady one goes on while it sleeps."""
    steady = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return Instant(time.time(), steady, _boot())


class BudgetStore:
    """The one budget file of this user. Whatever is wrong with it, nothing may be sent: an error, never a guess.

    Args:
        folder: where it is kept; only its owner may read it.
        clock: what the time is.
    """

    def __init__(self, folder: Path | str | None = None, clock: Callable[[], Instant] = instant) -> None:
        self.path = (state_folder() if folder is None else Path(folder)) / FILE
        self._clock = clock

    def read(self) -> Spent:
        """Return what is spent now; changes nothing and waits for nobody.

        Raises:
            ConfigError: the file is damaged or cannot be read; names it and the fix.
        """
        now = self._clock()
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return nothing_spent(now)
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror or error}; mend its permissions") from None
        return roll(self._parse(data), now)

    @contextlib.contextmanager
    def change(self) -> Iterator[list[Spent]]:
        """Yield what is spent in a list of one, for one process at a time; what is put there instead is kept.

        Raises:
            ConfigError: the file is damaged, locked for too long or cannot be written; then nothing was changed.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=LOCK_SECONDS, mode=0o600, thread_local=False):
                held = [self.read()]
                yield held
                write_private(self.path, _text(held[0]))
        except Timeout:
            raise self._unusable(f"is locked by another process for more than {LOCK_SECONDS:g} s") from None
        except OSError as error:
            raise self._unusable(f"cannot be written: {error.strerror or error}; make room, or mend it") from None

    def _parse(self, data: bytes) -> Spent:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"is larger than {MAX_BYTES} bytes")
            record = json.loads(data)
            version = record["version"]
            if version != VERSION:
                raise self._unusable(f"is of version {version!r}, this Crayon reads {VERSION}; update it, or delete it")
            return _spent(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unusable(f"is damaged ({error}); delete it to start the day's budget anew") from None

    def _unusable(self, problem: str) -> ConfigError:
        return ConfigError("budget", f"{self.path} {problem}. Until then nothing is sent to the server")


def _text(spent: Spent) -> bytes:
    record = {
        "version": VERSION,
        "tokens": spent.tokens,
        "money": spent.money,
        "queries": spent.queries,
        "at": {"wall": spent.at.wall, "steady": spent.at.steady, "boot": spent.at.boot},
    }
    return json.dumps(record).encode()


def _spent(record: Any) -> Spent:
    at, queries = record["at"], record["queries"]
    if not isinstance(queries, str) or len(queries) > MAX_WINDOW or set(queries) - {SENT, KEPT}:
        raise ValueError("queries")
    if not isinstance(at["boot"], str):
        raise TypeError("at.boot")
    wall = _number("at.wall", at["wall"], MAX_SECONDS)
    return Spent(
        at=Instant(wall, _number("at.steady", at["steady"], MAX_SECONDS), at["boot"]),
        day=int(wall // SECONDS_A_DAY),
        tokens=_whole("tokens", record["tokens"]),
        money=_number("money", record["money"]),
        queries=queries,
    )


def _number(field: str, value: object, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
        raise ValueError(field)
    return float(value)


def _whole(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(field)
    return value


def _boot() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        import psutil

        return f"{psutil.boot_time():.0f}"
