"""Where calibrations are kept: a private file beside each customisation, and one for each model without any."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from typing import TYPE_CHECKING

from crayon.customising.customization import check_name
from crayon.errors import ConfigError, CrayonError
from crayon.private_file import write_private
from crayon.router import record_fields as raw
from crayon.router.drift import ShareKeeper
from crayon.router.record import CalibrationRecord
from crayon.sdk.calibration.binding import profile_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.customising.customization import Customization

RECORD = "calibration.json"
SHARE = "server-share.json"
MAX_BYTES = 4 * 2**20
# Beside the customisations, and no name of one: those begin with a letter or digit.
PLAIN = ".plain"

logger = logging.getLogger("crayon.sdk")


def record_path(folder: Path, customization: Customization | str | None, base_model: str = "") -> Path:
    """Return where a calibration is kept.

    Args:
        folder: that of the customisations.
        customization: which one, or None: then the device's model decides.
        base_model: hash or name of that model.

    Raises:
        InvalidRequestError: the name is none of a customisation.
    """
    if customization is None:
        return folder / PLAIN / hashlib.sha256(base_model.encode()).hexdigest()[:16] / RECORD
    name = customization if isinstance(customization, str) else customization.name
    return folder / check_name(name) / RECORD


def read_record(path: Path) -> CalibrationRecord:
    """Return the calibration in a file.

    Raises:
        ConfigError: it cannot be read, was edited, or is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError("calibration", f"is larger than {MAX_BYTES // 2**20} MiB: it is none of ours", str(path))
        return CalibrationRecord.from_json(data.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("calibration", f"cannot be read: {_why(error)}", str(path)) from None
    except ConfigError as error:
        if error.source:
            raise
        raise ConfigError(error.key, str(error).removeprefix(f"{error.key}: "), str(path)) from None


def kept_record(path: Path, customization: Customization | None = None) -> CalibrationRecord | None:
    """Return the calibration at a path, of this customisation, or None: there is none. Errors as `read_record`."""
    return read_record(path).called_as(profile_hashes(customization)) if path.exists() else None


def write_record(path: Path, record: CalibrationRecord) -> None:
    """Keep a calibration, at once or not at all; the share kept for an older one goes.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    try:
        plain = path.parent.parent.name == PLAIN
        for folder in (*([path.parents[2]] if plain else []), path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        write_private(path, record.to_json().encode())
        share_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError("calibration", f"cannot be written: {_why(error)}", str(path)) from None


def delete_record(path: Path) -> None:
    """Remove a calibration with the share kept for it.

    Raises:
        ConfigError: there is none, or it cannot be removed.
    """
    try:
        share_path(path).unlink(missing_ok=True)
        path.unlink()
    except FileNotFoundError:
        raise ConfigError("calibration", "there is none to delete", str(path)) from None
    except OSError as error:
        raise ConfigError("calibration", f"cannot be removed: {_why(error)}", str(path)) from None
    if path.parent.parent.name == PLAIN:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def share_path(path: Path) -> Path:
    """Return where the share's keeper of the calibration at `path` keeps its state."""
    return path.with_name(SHARE)


def read_share(path: Path, record: CalibrationRecord) -> ShareKeeper | None:
    """Return the keeper of a calibration's server share; None where it has other settings, is damaged or absent.

    Damage is logged, and nothing else: a share is learnt anew.
    """
    try:
        with path.open("rb") as file:
            data = raw.mapping(
                raw.read_json(file.read(MAX_BYTES).decode("utf-8-sig"), "share"),
                "share",
                ("record", "keeper"),
            )
        if data["record"] != stamp_of(record):
            return None
        return ShareKeeper.from_dict(data["keeper"])
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, CrayonError) as error:
        logger.warning("the server share kept in %s starts anew, it cannot be used: %s", path, error)
        return None


def write_share(path: Path, record: CalibrationRecord, keeper: ShareKeeper) -> None:
    """Keep the state of a share's keeper; where that fails it is logged, and the share is learnt anew next time."""
    text = json.dumps({"record": stamp_of(record), "keeper": keeper.to_dict()}, allow_nan=False)
    try:
        write_private(path, text.encode())
    except OSError as error:
        logger.warning("the server share cannot be kept in %s: %s", path, _why(error))


def stamp_of(record: CalibrationRecord) -> str:
    """Return what tells one calibration from another."""
    return hashlib.sha256(record.to_json().encode()).hexdigest()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
