"""From settings to a running `crayon.Crayon`, and to a look at the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crayon.cli.shared.device_model import device_model, fetch, suited
from crayon.completion import Mode
from crayon.errors import ConfigError, CrayonError, ServerUnavailableError, UnauthenticatedError
from crayon.local_only import local_only

if TYPE_CHECKING:
    from crayon.cli.shared.running_gateway import GatewayClient
    from crayon.client.check import ServerStatus
    from crayon.config import ServerSettings, Settings
    from crayon.sdk import Crayon, Privacy

# Modes in which the first answer may well come from the server, and the device's model can wait.
_SERVER_FIRST = {Mode.ONLY_ON_SERVER, Mode.PREFER_ON_SERVER}


def answering(settings: Settings, *, alone: bool) -> Crayon | GatewayClient:
    """Return who answers: the gateway of this user's that runs with the same settings, else a client of one's own.

    Args:
        settings: what the client is to be like.
        alone: whether a gateway is not looked for.

    Raises:
        CrayonError: as `open_client`.
    """
    from crayon.cli.shared.running_gateway import GatewayClient, usable

    return GatewayClient(settings, open_client) if not alone and usable(settings) else open_client(settings)


def open_client(settings: Settings) -> Crayon:
    """Return a client as the settings describe it; the caller closes it.

    The device's model is fetched here, with its progress shown, where the first answer needs it.

    Raises:
        CrayonError: the device's model, a scope or the server's address cannot be used.
    """
    quiet_grpc()
    from crayon.config.client import client_options
    from crayon.data import load_scope
    from crayon.sdk import Crayon

    scopes = [load_scope(name) for name in settings.scopes]
    device = fetch_device(settings)
    return Crayon(scopes=scopes, privacy=privacy_of(settings), **client_options(settings, device))


def fetch_device(settings: Settings) -> str | None:
    """Return the device's model, fetched with its progress shown where the first answer needs it; None for no device.

    Raises:
        CrayonError: it cannot be used, and no server may answer in its place.
    """
    from crayon.sdk.call.device_failures import is_devices_own

    device: str | None = settings.device.model
    if settings.mode is Mode.ONLY_ON_SERVER:
        # What must stay here and may not be answered here is refused: nothing is fetched for that.
        device = settings.device.model if settings.private else None
    elif local_only() or settings.private or settings.server.address is None or settings.mode not in _SERVER_FIRST:
        # The name and not the path: answers say which model wrote them.
        try:
            device = device_model(suited(settings, settings.customization))
            fetch(settings, device)
        except CrayonError as error:
            if not _server_may(settings) or not is_devices_own(error):
                raise
            # The client finds that out again, says so, and lets the server answer.
    return device


def _server_may(settings: Settings) -> bool:
    """Return whether the server may answer where the device cannot."""
    kept = settings.private or local_only() or settings.mode is Mode.ONLY_ON_DEVICE
    return settings.server.address is not None and not kept


def privacy_of(settings: Settings) -> Privacy:
    """Return what is looked for before the server is asked; where there is a terminal, its user can be asked.

    Raises:
        MissingExtraError: Presidio is wanted and not installed.
    """
    from crayon.cli.shared.privacy_prompt import ask_user
    from crayon.sdk import Privacy

    given = settings.privacy
    return Privacy(action=given.action, detect=given.detect, patterns=given.patterns, ask=ask_user, ledger=given.ledger)


def server_status(settings: ServerSettings, seconds: float) -> ServerStatus:
    """Look at the server, waiting at most so long; whatever is wrong with it is in the status.

    Raises:
        ConfigError: no address is set, or it or TLS or token are wrong.
    """
    if settings.address is None:
        raise ConfigError("server.address", "is not set")
    quiet_grpc()
    from crayon.client.remote import RemoteEngine
    from crayon.config.client import server_options

    engine = RemoteEngine(settings.address, **server_options(settings))
    try:
        return engine.check(seconds)
    finally:
        engine.close()


def server_report(settings: ServerSettings, seconds: float) -> str:
    """Look at the server and return what it serves, in a line.

    Raises:
        ConfigError: the address, TLS or token are wrong.
        UnauthenticatedError: it wants a token, or another one.
        ServerUnavailableError: it cannot be reached, or does not serve.
    """
    status = server_status(settings, seconds)
    from crayon.client.check import said_of_each

    address = status.address
    if status.unauthenticated:
        raise UnauthenticatedError(f"{address}: {status.problem}")
    several = said_of_each(status)
    if not status.serving:
        raise ServerUnavailableError(several or f"{address}: {status.problem}")
    names = ", ".join(f"{model.name} ({model.context_tokens} tokens)" for model in status.models)
    return f"{address} serves {names}, {status.round_trip_ms:.1f} ms away" + (f"; {several}" if several else "")


def quiet_grpc() -> None:
    """Keep gRPC's core from writing log lines of its own among ours; it reads this when it is first imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
