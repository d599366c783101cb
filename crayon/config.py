"""Settings: flag, environment, file, default, in this order, each value remembering where it came from.

The file is TOML (`config_path()`), the environment is `CRAYON_*` with `__` between section and key:
`device.threads` is `CRAYON_DEVICE__THREADS`. Importing this module imports pydantic, so only what reads the
configuration imports it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_config_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

# Not only for type checking: pydantic evaluates the annotations at run time.
from crayon.completion import Mode
from crayon.errors import ConfigError, InvalidRequestError
from crayon.local_only import LOCAL_ONLY
from crayon.privacy.finding import KINDS
from crayon.privacy.patterns import compile_pattern
from crayon.privacy.scanner import PRESIDIO
from crayon.sampling import SAMPLING_FIELDS, Sampling

PREFIX = "CRAYON_"
# Read elsewhere, before or beside the settings.
NOT_SETTINGS = frozenset(
    {"CRAYON_CONFIG", "CRAYON_DATA", "CRAYON_DEBUG", "CRAYON_MODELS_CATALOGUE", "CRAYON_POOLS_DIR", "CRAYON_STATE_DIR"}
    | {LOCAL_ONLY}
)
# Settings that are tables themselves, with keys of the user's own.
TABLES = frozenset({"privacy.patterns"})
# Settings that no file of settings may hold and no message may show.
SECRETS = {"server.token": "server.token_file", "serve.tokens": "serve.tokens_file"}
DEFAULT, FILE, ENVIRONMENT, FLAG = "default", "file", "environment", "command line"

_SAMPLING = Sampling()


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _split_list(value: object) -> object:
    """Allow `a,b` where a list is wanted: that is how an environment variable says it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_EMPTY = BeforeValidator(_empty_is_none)
_Int = Annotated[int, BeforeValidator(_refuse_bool)]
_Float = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
_OptionalInt = Annotated[_Int | None, _EMPTY]
_OptionalFloat = Annotated[_Float | None, _EMPTY]
_OptionalText = Annotated[str | None, _EMPTY]
_OptionalPath = Annotated[Path | None, _EMPTY]
_Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeviceSettings(_Section):
    """The model on this machine."""

    model: Annotated[str, Field(min_length=1)] = "smollm2-135m-instruct"
    threads: Annotated[_Int | None, Field(ge=1, le=1024), _EMPTY] = None
    context: Annotated[_Int | None, Field(ge=16), _EMPTY] = None
    pools: _Texts = ("auto",)


class ServerSettings(_Section):
    """The server that takes what the device should not answer; no address, no server."""

    address: _OptionalText = None
    tls: bool = False
    ca_file: _OptionalPath = None
    client_cert: _OptionalPath = None
    client_key: _OptionalPath = None
    token: Annotated[SecretStr | None, _EMPTY] = None
    token_file: _OptionalPath = None


class ServeSettings(_Section):
    """What `crayon serve` offers."""

    pools: _Texts = ()
    tokens: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_list)] = ()
    tokens_file: _OptionalPath = None
    tls_cert: _OptionalPath = None
    tls_key: _OptionalPath = None
    tls_client_ca: _OptionalPath = None
    insecure_plain_text: bool = False
    insecure_no_tokens: bool = False
    client_concurrent: Annotated[_Int | None, Field(ge=1), _EMPTY] = None
    client_requests_per_minute: Annotated[_Int | None, Field(ge=1), _EMPTY] = None
    client_tokens_per_minute: Annotated[_Int | None, Field(ge=1), _EMPTY] = None


class PrivacySettings(_Section):
    """What is looked for in a query before the server is asked, and what is done where it is found."""

    action: Literal["keep", "redact", "ask", "off"] = "keep"
    detect: _Texts = KINDS
    patterns: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.detect:
            if name not in {*KINDS, PRESIDIO}:
                raise InvalidRequestError("detect", f"knows {', '.join(KINDS)} and {PRESIDIO}, not {name!r}")
        for name, pattern in self.patterns.items():
            try:
                compile_pattern(name, pattern)
            except InvalidRequestError as error:
                raise InvalidRequestError(error.field.removeprefix("privacy."), error.problem) from None
        return self


class HardnessSettings(_Section):
    """The gate that holds back the device's first tokens; no threshold means the router's own."""

    enabled: bool = True
    threshold: Annotated[_Float | None, Field(le=0), _EMPTY] = None
    hold_tokens: Annotated[_Int | None, Field(ge=1, le=64), _EMPTY] = None
    choice_margin: Annotated[_Float | None, Field(ge=0, le=1), _EMPTY] = None


class BudgetSettings(_Section):
    """How much may go to the server, as `crayon.Budget`; what is not set is no limit."""

    share: Annotated[_Float | None, Field(ge=0, le=1), _EMPTY] = None
    window: Annotated[_Int, Field(ge=1, le=1000)] = 200
    tokens_per_day: Annotated[_Int | None, Field(ge=0), _EMPTY] = None
    money_per_day: Annotated[_Float | None, Field(ge=0), _EMPTY] = None
    prompt_price: Annotated[_Float, Field(ge=0)] = 0.0
    answer_price: Annotated[_Float, Field(ge=0)] = 0.0


class ConditionsSettings(_Section):
    """When circumstances have a say in who answers, as `crayon.Conditions`."""

    speed: bool = False
    slow_seconds: Annotated[_Float, Field(ge=0)] = 10.0
    slow_factor: Annotated[_Float, Field(ge=1)] = 2.0
    network_seconds: Annotated[_Float, Field(ge=0)] = 1.0
    max_loss: Annotated[_Float, Field(ge=0, le=1)] = 0.5
    low_battery: Annotated[_Float, Field(ge=0, le=100)] = 20.0
    max_prompt_tokens: Annotated[_Int | None, Field(ge=1), _EMPTY] = None
    device_languages: _Texts = ()


class SamplingSettings(_Section):
    """Defaults of `crayon.Sampling`, under the same names."""

    max_tokens: _Int = _SAMPLING.max_tokens
    temperature: _Float = _SAMPLING.temperature
    top_p: _Float = _SAMPLING.top_p
    top_k: _Int = _SAMPLING.top_k
    min_p: _Float = _SAMPLING.min_p
    repeat_penalty: _Float = _SAMPLING.repeat_penalty
    presence_penalty: _Float = _SAMPLING.presence_penalty
    frequency_penalty: _Float = _SAMPLING.frequency_penalty
    stop: _Texts = _SAMPLING.stop
    seed: _OptionalInt = _SAMPLING.seed
    ignore_eos: bool = _SAMPLING.ignore_eos

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        self.build()
        return self

    def build(self) -> Sampling:
        """Return the checked sampling values."""
        return Sampling(**{name: getattr(self, name) for name in SAMPLING_FIELDS})


class Settings(BaseSettings):
    """Everything that can be configured. Build it with `load`, which knows the sources."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    mode: Mode = Mode.PREFER_ON_DEVICE
    private: bool = False
    timeout: Annotated[_Float, Field(gt=0)] = 120.0
    scopes: _Texts = ()
    customization: _OptionalText = None
    calibration: bool = True
    customizations_dir: Annotated[Path | None, _EMPTY] = None
    models_dir: Annotated[Path | None, _EMPTY] = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    device: DeviceSettings = DeviceSettings()
    server: ServerSettings = ServerSettings()
    serve: ServeSettings = ServeSettings()
    hardness: HardnessSettings = HardnessSettings()
    budget: BudgetSettings = BudgetSettings()
    conditions: ConditionsSettings = ConditionsSettings()
    privacy: PrivacySettings = PrivacySettings()
    sampling: SamplingSettings = SamplingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - signature of the library
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of the library
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of the library
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of the library
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from `load` only: it merges the layers itself, to remember each value's source."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as `crayon config show` prints it."""

    key: str
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, the source of each that is no default (by dotted key), and what looks like a slip."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]
    path: Path

    def rows(self) -> Iterator[Row]:
        """Yield every setting, defaults included, in the order of declaration."""
        for key, value in _flatten(self.settings.model_dump(mode="json")):
            yield Row(key, value, self.sources.get(key, DEFAULT))


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
    layers = ((_file_layer(path), FILE), (_environment_layer(), ENVIRONMENT), (dict(flags or {}), FLAG))
    for layer, name in layers:
        for key, value in layer.items():
            source = _source(name, key, path)
            if key not in known:
                raise ConfigError(key, _unknown(key, known), source)
            if key in SECRETS and name != ENVIRONMENT:
                raise ConfigError(key, f"is a secret: use {variable(key)}, or a file ({SECRETS[key]})", source)
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
        text = path.read_bytes().decode("utf-8")
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
            example = f"{section}.{keys[0]}"
            raise ConfigError(section, f"is a section; set its keys, such as {example}", _source(name, section, path))
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
    hidden = key in SECRETS or isinstance(first["input"], Mapping)
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
