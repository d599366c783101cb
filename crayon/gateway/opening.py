"""From settings to a gateway: the client behind it, and whose tokens it takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from crayon.completion import Mode
from crayon.config.fingerprint import fingerprint
from crayon.gateway.shared.gateway import Gateway
from crayon.gateway.shared.panel import Panel

if TYPE_CHECKING:
    from crayon.config import GatewaySettings, Settings
    from crayon.sdk import AsyncCrayon, Privacy
    from crayon.server.tokens import TokenStore


def gateway_of(settings: Settings) -> Gateway:
    """Return a gateway in front of the device and the server that the settings describe; nothing is opened yet.

    Raises:
        CrayonError: a setting, a scope or a customisation cannot be used.
    """
    own = settings.gateway
    return Gateway(
        client_of(settings),
        reopen=lambda: client_of(settings),
        idle_seconds=60 * own.idle_minutes or math.inf,
        max_requests=own.max_requests,
        max_tokens=own.max_tokens,
        keep_alive=own.keep_alive_seconds,
        panel=Panel(settings.models_dir, settings.server.address, fingerprint(settings)),
        stored_responses=own.stored_responses,
    )


def client_of(settings: Settings) -> AsyncCrayon:
    """Return a client as the settings describe it.

    Raises:
        CrayonError: as `gateway_of`.
    """
    from crayon.config.client import client_options
    from crayon.data import load_scope
    from crayon.sdk import AsyncCrayon

    only_server = settings.mode is Mode.ONLY_ON_SERVER and not settings.private
    device = None if only_server else settings.device.model
    scopes = [load_scope(name) for name in settings.scopes]
    return AsyncCrayon(scopes=scopes, privacy=_privacy_of(settings), **client_options(settings, device))


def tokens_of(settings: GatewaySettings) -> TokenStore | None:
    """Return the tokens that are taken; None where none are set up.

    Raises:
        ConfigError: they cannot be used.
    """
    from crayon.server.tokens import TokenStore
    from crayon.wire.tokens import Secret

    if settings.tokens_file is None and not settings.tokens:
        return None
    return TokenStore(settings.tokens_file, tuple(Secret(token.get_secret_value()) for token in settings.tokens))


def _privacy_of(settings: Settings) -> Privacy:
    """Return what is looked for before a server is asked. Nobody sits here who could be asked: that is "keep"."""
    from crayon.sdk import Privacy

    given = settings.privacy
    action = "keep" if given.action == "ask" else given.action
    return Privacy(action=action, detect=given.detect, patterns=given.patterns, ledger=given.ledger)
