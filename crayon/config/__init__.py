"""Settings: flag, environment, file, default, in this order, each value remembering where it came from.

The file is TOML (`config_path()`), the environment is `CRAYON_*` with `__` between section and key:
`device.threads` is `CRAYON_DEVICE__THREADS`. Importing this package imports pydantic, so only what reads the
configuration imports it.
"""

from __future__ import annotations

from crayon.config.child import child_environment
from crayon.config.fields import Section
from crayon.config.flags import Flag, flags
from crayon.config.gateway import GatewaySettings
from crayon.config.layers import NOT_SETTINGS, Configuration, SettingRow, config_path, load, setting_keys, variable
from crayon.config.sections import BudgetSettings, ConditionsSettings, HardnessSettings, ServerSettings, Settings
from crayon.config.serve import EngineKind, KvCache, Overlap, ServeSettings, VllmScheduler
from crayon.config.toml_text import toml_text

__all__ = [
    "NOT_SETTINGS",
    "BudgetSettings",
    "ConditionsSettings",
    "Configuration",
    "EngineKind",
    "Flag",
    "GatewaySettings",
    "HardnessSettings",
    "KvCache",
    "Overlap",
    "Section",
    "ServeSettings",
    "ServerSettings",
    "SettingRow",
    "Settings",
    "VllmScheduler",
    "child_environment",
    "config_path",
    "flags",
    "load",
    "setting_keys",
    "toml_text",
    "variable",
]
