"""What the settings say of a client, as keywords of `crayon.Crayon`: its gates, budget, connection and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from crayon.config.sections import BudgetSettings, ConditionsSettings, HardnessSettings, ServerSettings, Settings
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.hardness import Hardness


def client_options(settings: Settings, device: str | None) -> dict[str, Any]:
    """Return the keywords of a client with this device: all but its scopes and what it looks for before it sends.

    Raises:
        ConfigError: a token and a file for it are both given.
        InvalidRequestError: the settings do not fit together.
    """
    return {
        "device": device,
        "server": settings.server.address,
        "mode": settings.mode,
        "customization": None if device is None else settings.customization,
        "customizations_dir": settings.customizations_dir,
        "calibration": "auto" if settings.calibration else False,
        "hardness": hardness_of(settings.hardness),
        "budget": budget_of(settings.budget),
        "conditions": conditions_of(settings.conditions),
        "private": settings.private,
        "timeout": settings.timeout,
        "device_options": device_options(settings),
        "server_options": server_options(settings.server),
        **settings.sampling.model_dump(),
    }


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


def server_options(settings: ServerSettings) -> dict[str, Any]:
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


def device_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords that open the device's model as the settings say."""
    given = {
        "threads": settings.device.threads,
        "n_ctx": settings.device.context,
        "models_dir": settings.models_dir,
        "pools": None if settings.device.pools == type(settings.device)().pools else settings.device.pools,
    }
    return {name: value for name, value in given.items() if value is not None}
