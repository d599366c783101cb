"""The device's model, from the settings: which one `auto` takes, fetched with its progress shown."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crayon.cli.shared.pull_progress import pull_progress

if TYPE_CHECKING:
    from crayon.config import Settings
    from crayon.device.auto import Wish

logger = logging.getLogger("crayon.cli")


def wish_of(settings: Settings) -> Wish:
    """Return how the settings want the device's model to be opened."""
    from crayon.device.auto import N_CTX, Wish

    device = settings.device
    return Wish(models_dir=settings.models_dir, n_ctx=device.context or N_CTX, threads=device.threads)


def suited(settings: Settings, blend: str | None) -> Settings:
    """Return settings for using a customisation: where `auto` is set, with the model that it was made for.

    Args:
        settings: any.
        blend: the customisation's name or file; None and "base" for none.

    Raises:
        InvalidRequestError: there is no such customisation.
        AdapterError: its record is damaged.
    """
    from crayon.customising.profiles import BASE
    from crayon.device.auto import made_for
    from crayon.models import is_auto
    from crayon.sdk.call.customizations import Customizations

    if not blend or blend.lower() == BASE or not is_auto(settings.device.model):
        return settings
    custom = Customizations(settings.customizations_dir).find("customization", blend)
    own = made_for(custom.base_sha256, settings.models_dir)
    if own is None:
        return settings
    logger.debug("auto takes %s: customisation %s was made for it", own, custom.name)
    return settings.model_copy(update={"device": settings.device.model_copy(update={"model": own})})


def device_model(settings: Settings, reference: str | None = None) -> str:
    """Return a reference to the device's model: the one that is set (or `reference`), or what `auto` takes.

    The larger model is fetched on the way where it is absent and promises to be quick enough: only then it is known.

    Raises:
        ModelError, EngineError: as `crayon.device.auto.pick`.
    """
    from crayon.device import auto
    from crayon.models import is_auto

    reference = reference or settings.device.model
    if not is_auto(reference):
        return reference
    return auto.pick(wish_of(settings), lambda name: fetch(settings, name)).model


def fetch(settings: Settings, reference: str) -> None:
    """Have a model on this machine, with its size and progress shown where it is fetched.

    Raises:
        ModelError: it cannot be found, fetched or read.
    """
    from crayon.models import resolve

    with pull_progress(reference) as progress:
        resolve(reference, progress=progress, models_dir=settings.models_dir)
