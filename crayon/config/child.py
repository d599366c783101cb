"""What a server that belongs to a program of ours may take from the user's settings: next to nothing."""

from __future__ import annotations

import os

from crayon.config.layers import config_path, load, variable
from crayon.config.sections import PREFIX, Settings

_SHARED = ("models_dir", "log_level")


def child_environment() -> dict[str, str]:
    """Return the environment of a `crayon serve` that is a part of a demo or a bench.

    Its command line alone says what it does: a port, a pool or a number of slots of the user's own server would break
    it, or change what is measured. It finds the models where we do.

    Raises:
        ConfigError: our own settings are wrong.
    """
    settings = load().settings
    serve = f"{PREFIX}SERVE"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.upper() != serve and not name.upper().startswith(f"{serve}__")
    }
    if config_path().exists():
        environment["CRAYON_CONFIG"] = os.devnull
    for key in _SHARED:
        value = getattr(settings, key)
        if value != Settings.model_fields[key].default:
            environment[variable(key)] = str(value)
    return environment
