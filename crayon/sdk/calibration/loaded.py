"""Calibrations in use: found beside a customisation, checked against what runs, their server share kept."""

from __future__ import annotations

import logging
import os
import random
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from crayon.completion import Source
from crayon.errors import ConfigError, InvalidRequestError, ServerError
from crayon.router.decide import CalibratedRouter
from crayon.router.drift import ShareKeeper
from crayon.router.targets import ServerShare
from crayon.sdk.calibration.binding import binding_of, server_model_of
from crayon.sdk.calibration.files import read_record, read_share, record_path, share_path, write_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.customising.customization import Customization
    from crayon.engine import Engine
    from crayon.router.record import Binding, CalibrationRecord
    from crayon.sdk.call.customizations import Customizations
    from crayon.sdk.call.engines import Engines
    from crayon.sdk.call.options import Call

    # "auto" uses what is kept where there is one, False uses none, a path uses that file.
    CalibrationLike: TypeAlias = Literal[False] | str | os.PathLike[str]

AUTO = "auto"
# After so many decisions the state of the share is written down.
KEEP_EVERY = 32

logger = logging.getLogger("crayon.sdk")


@dataclass(slots=True)
class _Active:
    """A record that was read and checked, and its keeper if it has a server share to keep."""

    record: CalibrationRecord
    path: Path
    stamp: tuple[int, int, int]
    made_of: tuple[Customization | None, Engine]
    binding: Binding
    keeper: ShareKeeper | None = None
    server_checked: bool = False
    unwritten: int = 0


class Calibrations:
    """The calibrations of one client, for any thread.

    Args:
        setting: "auto", False, or the path of a record.
        customizations: where records lie.

    Raises:
        InvalidRequestError: the setting is something else.
    """

    def __init__(self, setting: object, customizations: Customizations) -> None:
        if setting is not False and not (isinstance(setting, str | os.PathLike) and os.fspath(setting)):
            raise InvalidRequestError("calibration", f"must be 'auto', False or a path, not {setting!r:.40}")
        self._off = setting is False
        self._path = None if setting is False or setting == AUTO else Path(os.fspath(setting))
        self._customizations = customizations
        self._active: dict[str, _Active | None] = {}
        self._lock = threading.Lock()
        self._counting = threading.Lock()  # of its own: who counts must not wait for files or the server

    @property
    def off(self) -> bool:
        """Whether none is used."""
        return self._off

    def prepare(self, call: Call, engines: Engines, *, server: bool = True) -> None:
        """Read and check the record for a call that both sides may answer; blocks for files, and once for the server.

        Args:
            call: what is asked for.
            engines: the device's must be open, or is opened.
            server: whether the server may be asked, once, which model it serves. No text is sent for that.

        Raises:
            ConfigError: the record is damaged, or made for something else than what runs; says what to run.
        """
        if self._off or call.always:
            return
        custom = call.customization
        path = self._where(custom, engines)
        with self._lock:
            self._active[_key(custom)] = active = None if path is None else self._open(path, custom, engines)
            if active is not None and server:
                self._check_server(active, custom, engines)
            if active is not None and active.unwritten >= KEEP_EVERY:
                _write(active)

    def record(self, call: Call) -> CalibrationRecord | None:
        """Return the record that was prepared for such calls."""
        active = None if self._off or call.always else self._active.get(_key(call.customization))
        return None if active is None else active.record

    def router(
        self, call: Call, *, hold: bool, of_choices: bool = False, watch: Callable[[float], None] | None = None
    ) -> CalibratedRouter | None:
        """Return what decides a call, if there is a record; never blocks.

        Args:
            call: what is asked for.
            hold: whether the device's first tokens may be held back.
            of_choices: whether the answer is a choice among given texts.
            watch: is told the estimated gain in place of the share's keeper: nothing is counted.
        """
        active = None if self._off or call.always else self._active.get(_key(call.customization))
        if active is None:
            return None
        lam = None if active.keeper is None else active.keeper.lam
        coin = random.random() if active.keeper is None else 1.0  # noqa: S311 - no secret, only a share
        decided = watch if watch is not None else lambda benefit: self._count(active, benefit)
        return CalibratedRouter(active.record, lam, coin, hold, of_choices, decided)

    def keeper(self, call: Call) -> ShareKeeper | None:
        """Return the state of the share's keeper, where a share is kept."""
        active = self._active.get(_key(call.customization))
        return None if active is None else active.keeper

    def close(self) -> None:
        """Write down what has not been."""
        with self._lock:
            for active in self._active.values():
                if active is not None and active.unwritten:
                    _write(active)

    def _where(self, custom: Customization | None, engines: Engines) -> Path | None:
        """Return the record's path if there is one."""
        if self._path is not None:
            return self._path
        store = self._customizations.store
        if custom is None:
            model = engines.open(Source.DEVICE).models()[0]
            path = record_path(store.folder, None, model.source_sha256 or model.name)
        else:
            # An exported file may have a name that is taken here.
            if custom.name not in store or self._customizations.find("customization", custom.name) != custom:
                return None
            path = record_path(store.folder, custom)
        return path if path.exists() else None

    def _open(self, path: Path, custom: Customization | None, engines: Engines) -> _Active:
        stamp, device = _stamp(path), engines.open(Source.DEVICE)
        before = self._active.get(_key(custom))
        if before is not None and (before.path, before.stamp) == (path, stamp):
            known, engine = before.made_of
            if known is custom and engine is device:  # as long as neither is another one, the binding is the same
                return before
        binding = binding_of(device, custom)
        record = read_record(path).called_as(binding.profiles)
        _check(record, binding, record.binding.server_model, custom)
        keeper = None
        target = record.calibration.target
        if isinstance(target, ServerShare):
            keeper = read_share(share_path(path), record) or ShareKeeper(target.share, record.calibration.lam)
        return _Active(record, path, stamp, (custom, device), binding, keeper)

    def _check_server(self, active: _Active, custom: Customization | None, engines: Engines) -> None:
        if active.server_checked or not active.record.binding.server_model:
            return
        try:
            model = engines.open(Source.SERVER).models()[0]
        except (ServerError, TimeoutError, IndexError) as error:
            # It cannot answer either; whoever asks it next is told.
            logger.debug("the calibration's server cannot be checked now: %s", error)
            return
        _check(active.record, active.binding, server_model_of(model), custom)
        active.server_checked = True

    def _count(self, active: _Active, benefit: float) -> None:
        with self._counting:
            if active.keeper is not None:
                active.keeper = active.keeper.after(benefit)
                active.unwritten += 1


def _check(record: CalibrationRecord, running: Binding, server_model: str, custom: Customization | None) -> None:
    """See that a record holds for what runs.

    Raises:
        ConfigError: it does not.
    """
    try:
        record.check(replace(running, server_model=server_model))
    except ConfigError as error:
        command = "crayon calibrate" if custom is None else f"crayon calibrate {custom.name}"
        problem = str(error).removeprefix(f"{error.key}: ").partition("; run ")[0]
        raise ConfigError(
            error.key, f"{problem}; run `{command}` again, or pass calibration=False to do without"
        ) from None


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError("calibration", f"cannot be read: {error.strerror}", str(path)) from None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _write(active: _Active) -> None:
    if active.keeper is not None:
        write_share(share_path(active.path), active.record, active.keeper)
    active.unwritten = 0


def _key(custom: Customization | None) -> str:
    return "" if custom is None else custom.name
