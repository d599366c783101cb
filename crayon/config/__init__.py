"""Settings: flag, environment, file, default, in this order, each value remembering where it came from.

The file is TOML (`config_path()`), the environment is `CRAYON_*` with `__` between section and key:
`device.threads` is `CRAYON_DEVICE__THREADS`. Importing this package imports pydantic, so only what reads the
configuration imports it.
"""

from __future__ import annotations

from crayon.config.layers import NOT_SETTINGS, Configuration, Row, config_path, load, setting_keys, variable
from crayon.config.sections import BudgetSettings, ConditionsSettings, HardnessSettings, Settings

__all__ = [
    "NOT_SETTINGS",
    "BudgetSettings",
    "ConditionsSettings",
    "Configuration",
    "HardnessSettings",
    "Row",
    "Settings",
    "config_path",
    "load",
    "setting_keys",
    "variable",
]
