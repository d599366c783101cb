"""Which sides may answer at all, by mode, privacy, what is configured and whether the server is away."""

from __future__ import annotations

from dataclasses import dataclass

from crayon.completion import Mode, Reason, Source
from crayon.errors import InvalidRequestError, PrivacyError, ServerUnavailableError


@dataclass(frozen=True, slots=True)
class Allowed:
    """Sides that may answer, the preferred one first, and why that one is first; `kept`: no gate may change that."""

    sources: tuple[Source, ...]
    reason: Reason
    kept: bool = False

    @property
    def gated(self) -> bool:
        """Whether the gates may move the query from the device to the server."""
        return self.sources == (Source.DEVICE, Source.SERVER) and not self.kept


def is_private(*flags: object) -> bool:
    """Return whether any flag asks for privacy; only the very value False does not (0, None and "no" do)."""
    return any(flag is not False for flag in flags)


def parse_mode(value: object) -> Mode:
    """Return `value` as a mode.

    Raises:
        InvalidRequestError: there is no such mode.
    """
    try:
        return Mode(str(value))
    except ValueError:
        raise InvalidRequestError("mode", f"must be one of {', '.join(Mode)}, not {value!r}") from None


def allowed_sources(
    mode: Mode | str,
    *,
    private: object = True,
    device: bool,
    server: bool,
    server_away: bool = False,
    local_only: object = False,
) -> Allowed:
    """Return the sides that may answer, in order of preference.

    Privacy fails closed: the server is considered only when `private` is the very value False.

    Args:
        mode: what the caller allows.
        private: whether the request must stay on the device.
        device: whether a device engine is configured.
        server: whether a server is configured.
        server_away: whether the server is known to be away (its circuit breaker is open).
        local_only: whether the hard switch is on; it comes before all else, and anything but False is on.

    Raises:
        PrivacyError: the request is private, or the switch is on, and no device may answer it.
        InvalidRequestError: no such mode, or the mode asks for a side that is not configured.
        ServerUnavailableError: only the server may answer, and it is away.
    """
    mode = parse_mode(mode)
    if is_private(local_only):
        return _stays(mode, "CRAYON_LOCAL_ONLY is on", Reason.LOCAL_ONLY, device=device)
    if is_private(private):
        return _stays(mode, "the request is private", Reason.PRIVATE, device=device)
    if mode is Mode.ONLY_ON_DEVICE:
        if not device:
            raise InvalidRequestError("mode", "only_on_device needs a device model; pass device=...")
        return Allowed((Source.DEVICE,), Reason.MODE)
    if mode is Mode.ONLY_ON_SERVER:
        if not server:
            raise InvalidRequestError("mode", "only_on_server needs a server; pass server='host:port'")
        return _server_only(Reason.MODE, away=server_away)
    if not server:
        if not device:
            raise InvalidRequestError("device", "neither a device model nor a server is configured")
        return Allowed((Source.DEVICE,), Reason.NO_SERVER)
    if not device:
        return _server_only(Reason.NO_DEVICE, away=server_away)
    if server_away:
        return Allowed((Source.DEVICE,), Reason.SERVER_AWAY)
    if mode is Mode.PREFER_ON_SERVER:
        return Allowed((Source.SERVER, Source.DEVICE), Reason.MODE)
    return Allowed((Source.DEVICE, Source.SERVER), Reason.MODE)


def _stays(mode: Mode, why: str, reason: Reason, *, device: bool) -> Allowed:
    if mode is Mode.ONLY_ON_SERVER:
        raise PrivacyError(f"{why} and the mode is only_on_server: drop one of the two; nothing was sent")
    if not device:
        raise PrivacyError(f"{why} and no device model is configured; nothing was sent")
    return Allowed((Source.DEVICE,), reason)


def _server_only(reason: Reason, *, away: bool) -> Allowed:
    if away:
        raise ServerUnavailableError(
            "the server failed several times in a row and is left alone for a moment; try again shortly"
        )
    return Allowed((Source.SERVER,), reason)
