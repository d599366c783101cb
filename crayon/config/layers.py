"""The layers, merged: flag, environment, file, default, in this order, each value remembering where it came from."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_config_path
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from crayon.config.secrets import FILES, HIDDEN, holds_password, secret_keys
from crayon.config.sections import PREFIX, TABLES, Settings
from crayon.errors import ConfigError, InvalidRequestError
from crayon.local_only import LOCAL_ONLY

# Read elsewhere, before or beside the settings.
NOT_SETTINGS = frozenset(
    {
        "CRAYON_CONFIG",
        "CRAYON_DATA",
        "CRAYON_DEBUG",
        LOCAL_ONLY,
        "CRAYON_MODELS_CATALOGUE",
        "CRAYON_POOLS_DIR",
        "CRAYON_STATE_DIR",
    }
)
DEFAULT, FILE, ENVIRONMENT, FLAG = "default", "file", "environment", "command line"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as `crayon config show` prints it."""

    key: str
    value: object
    source: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, the source of each that is no default (by dotted key), and what looks like a slip."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]
    path: Path

    def rows(self) -> Iterator[SettingRow]:
        """Yield every setting, defaults included, in the order of declaration."""
        secrets = set(secret_keys(Settings))
        for key, value in _flatten(self.settings.model_dump(mode="json")):
            secret = value is not None and (key in secrets or holds_password(value))
            yield SettingRow(key, HIDDEN if secret else value, self.sources.get(key, DEFAULT), secret)

    @contextmanager
    def blaming(self, section: str) -> Iterator[None]:
        """Say of what is wrong with a key of `section`, as the part that uses it found out, where it was read.

        Raises:
            ConfigError: the one raised inside, with the setting's whole name and its source.
        """
        try:
            yield
        except ConfigError as error:
            key = f"{section}.{error.key}"
            if error.source or key not in setting_keys():
                raise
            raise ConfigError(key, error.problem, self.sources.get(key, DEFAULT)) from None


def config_path() -> Path:
    """Return the file that is read: `CRAYON_CONFIG`, or config.toml in the user's configuration folder."""
    override = os.environ.get("CRAYON_CONFIG")
    return Path(override).expanduser() if override else user_config_path("crayon", appauthor=False) / "config.toml"


def load(flags: Mapping[str, object] | None = None) -> Configuration:
    """Return the configuration; `flags` maps dotted keys to values given on the command line.

    Raises:
        ConfigError: an unknown key, a value that does not fit, or a file that cannot be read.
    """
    path = config_path()
    known = setting_keys()
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for layer, name in (
        (_file_layer(path), FILE),
        (_environment_layer(), ENVIRONMENT),
        (dict(flags or {}), FLAG),
    ):
        for key, value in layer.items():
            source = _source(name, key, path)
            if key not in known:
                raise ConfigError(key, _unknown(key, known), source)
            if key in FILES and name != ENVIRONMENT:
                raise ConfigError(key, f"is a secret: use {variable(key)}, or a file ({FILES[key]})", source)
            values[key], sources[key] = value, source
    try:
        settings = Settings(**_nest(values))
    except ValidationError as error:
        raise _config_error(error, sources) from None
    return Configuration(settings, sources, tuple(_stray_variables(known)), path)


def setting_keys() -> tuple[str, ...]:
    """Return the dotted name of every setting, in the order of declaration."""
    return tuple(key for key, _ in _flatten(Settings().model_dump()))


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.replace(".", "__").upper()


def _file_layer(path: Path) -> dict[str, object]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if os.environ.get("CRAYON_CONFIG"):
            raise ConfigError("CRAYON_CONFIG", f"there is no {path}", "environment") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config file", f"{path} cannot be read: {error}") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config file", f"{path} is not valid TOML: {error}") from None
    return _checked_layer(table, FILE, path)


def _environment_layer() -> dict[str, object]:
    try:
        table = EnvSettingsSource(Settings)()
    except SettingsError as error:
        example = variable("device.threads")
        raise ConfigError(PREFIX + "*", f"{error}; a section's keys go as {example}=4") from None
    return _checked_layer(table, ENVIRONMENT, None)


def _checked_layer(table: Mapping[str, object], name: str, path: Path | None) -> dict[str, object]:
    for section, keys in _sections().items():
        if section in table and not isinstance(table[section], Mapping):
            problem = f"is a section; set its keys, such as {section}.{keys[0]}"
            raise ConfigError(section, problem, _source(name, section, path))
    return dict(_flatten(table))


def _sections() -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(field.annotation.model_fields)
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and prefix + key not in TABLES:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nest(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        table = nested
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
    return nested


def _source(name: str, key: str, path: Path | None) -> str:
    if name == FILE:
        return f"file {path}"
    return f"environment {variable(key)}" if name == ENVIRONMENT else name


def _unknown(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "`crayon config show` lists all settings"
    return f"is no setting; {hint}"


def _config_error(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequestError):  # from Sampling, which knows the field
        key, problem = ".".join([*location, cause.field]), cause.problem
        table = next((name for name in TABLES if key.startswith(name)), key)
        return ConfigError(key, problem, sources.get(table, DEFAULT))
    # A list's element has its index behind the key.
    key = next((k for n in range(len(location), 0, -1) if (k := ".".join(location[:n])) in sources), "")
    key = key or ".".join(location)
    # A whole section may hold a secret beside what is wrong.
    hidden = key in secret_keys(Settings) or isinstance(first["input"], Mapping)
    problem = first["msg"] if hidden else f"{first['msg']}, not {first['input']!r}"
    return ConfigError(key, problem, sources.get(key, DEFAULT))


def _stray_variables(known: Sequence[str]) -> Iterator[str]:
    names = {variable(key): key for key in known}
    sections = {PREFIX + section.upper() for section in _sections()}
    for name in sorted(os.environ):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in names and upper not in sections | NOT_SETTINGS:
            close = difflib.get_close_matches(upper, [*names, LOCAL_ONLY], n=1, cutoff=0.75)
            yield f"{name} is set but is no setting" + (f"; did you mean {close[0]}?" if close else "")
