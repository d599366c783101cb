"""From settings to a running `crayon.Crayon`, and to a look at the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from crayon.cli.shared.device_model import device_model, fetch, suited
from crayon.completion import Mode
from crayon.errors import ConfigError, CrayonError, ServerUnavailableError, UnauthenticatedError
from crayon.local_only import local_only

if TYPE_CHECKING:
    from crayon.client.access import AccessOptions
    from crayon.client.check import ServerStatus
    from crayon.config import BudgetSettings, ConditionsSettings, HardnessSettings, ServerSettings, Settings
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.hardness import Hardness
    from crayon.sdk import Crayon, Privacy

# Modes in which the first answer may well come from the server, and the device's model can wait.
_SERVER_FIRST = {Mode.ONLY_ON_SERVER, Mode.PREFER_ON_SERVER}


def open_client(settings: Settings) -> Crayon:
    """Return a client as the settings describe it; the caller closes it.

    The device's model is fetched here, with its progress shown, where the first answer needs it.

    Raises:
        CrayonError: the device's model, a scope or the server's address cannot be used.
    """
    quiet_grpc()
    from crayon.data import load_scope
    from crayon.sdk import Crayon
    from crayon.sdk.device_failures import is_devices_own

    scopes = [load_scope(name) for name in settings.scopes]
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
    return Crayon(
        device=device,
        server=settings.server.address,
        mode=settings.mode,
        scopes=scopes,
        customization=settings.customization if device is not None else None,
        customizations_dir=settings.customizations_dir,
        calibration="auto" if settings.calibration else False,
        hardness=hardness_of(settings.hardness),
        budget=budget_of(settings.budget),
        conditions=conditions_of(settings.conditions),
        private=settings.private,
        privacy=privacy_of(settings),
        timeout=settings.timeout,
        device_options=device_options(settings),
        server_options=server_options(settings.server),
        **settings.sampling.model_dump(),
    )


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


def hardness_of(settings: HardnessSettings) -> Hardness | Literal[False]:
    """Return the hardness gate's settings; False where it is off. What is not set is the router's default."""
    from crayon.router.hardness import Hardness

    if not settings.enabled:
        return False
    given: dict[str, Any] = settings.model_dump(exclude={"enabled"})
    return Hardness(**{name: value for name, value in given.items() if value is not None})


def budget_of(settings: BudgetSettings) -> Budget:
    """Return the budget that the settings describe.

    Raises:
        InvalidRequestError: the settings do not fit together.
    """
    from crayon.router.budget import Budget

    return Budget(**settings.model_dump())


def conditions_of(settings: ConditionsSettings) -> Conditions:
    """Return the conditions that the settings describe.

    Raises:
        InvalidRequestError: a language cannot be told from others.
    """
    from crayon.router.conditions import Conditions

    return Conditions(**settings.model_dump())


def server_options(settings: ServerSettings) -> AccessOptions:
    """Return the keywords for the connection to the server: TLS and token.

    Raises:
        ConfigError: a token and a file for it are both given.
    """
    token = None if settings.token is None else settings.token.get_secret_value()
    if token is not None and settings.token_file is not None:
        raise ConfigError("server.token", "and server.token_file are both set; leave one of them away")
    return {
        "tls": settings.tls,
        "ca_file": settings.ca_file,
        "client_cert": settings.client_cert,
        "client_key": settings.client_key,
        "token": token,
        "token_file": settings.token_file,
    }


def server_status(settings: ServerSettings, seconds: float) -> ServerStatus:
    """Look at the server, waiting at most so long; whatever is wrong with it is in the status.

    Raises:
        ConfigError: no address is set, or it or TLS or token are wrong.
    """
    if settings.address is None:
        raise ConfigError("server.address", "is not set")
    quiet_grpc()
    from crayon.client.remote import RemoteEngine

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


def device_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords that open the device's model as the settings say."""
    given = {
        "threads": settings.device.threads,
        "n_ctx": settings.device.context,
        "models_dir": settings.models_dir,
        "pools": None if settings.device.pools == type(settings.device)().pools else settings.device.pools,
    }
    return {name: value for name, value in given.items() if value is not None}
