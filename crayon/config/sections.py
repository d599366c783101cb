"""The sections of the settings, and all of them together: names, types, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

# Not only for type checking: pydantic evaluates the annotations at run time.
from crayon.completion import Mode
from crayon.config.fields import (
    EMPTY_IS_NONE,
    JOINED,
    Float,
    Int,
    OptionalInt,
    OptionalPath,
    OptionalText,
    Section,
    Texts,
)
from crayon.config.gateway import GatewaySettings
from crayon.config.serve import ServeSettings
from crayon.errors import InvalidRequestError
from crayon.privacy.finding import KINDS
from crayon.privacy.patterns import compile_pattern
from crayon.privacy.scanner import PRESIDIO
from crayon.sampling import SAMPLING_FIELDS, Sampling

PREFIX = "CRAYON_"
# Settings that are tables themselves, with keys of the user's own.
TABLES = frozenset({"privacy.patterns"})

_SAMPLING = Sampling()


class DeviceSettings(Section):
    """The model on this machine."""

    model: Annotated[str, Field(min_length=1)] = "auto"
    threads: Annotated[Int | None, Field(ge=1, le=1024), EMPTY_IS_NONE] = None
    context: Annotated[Int | None, Field(ge=16), EMPTY_IS_NONE] = None
    pools: Texts = ("auto",)


class ServerSettings(Section):
    """The server that takes what the device should not answer, or several of them; no address, no server."""

    address: Annotated[str | None, EMPTY_IS_NONE, JOINED] = None
    tls: bool = False
    ca_file: OptionalPath = None
    client_cert: OptionalPath = None
    client_key: OptionalPath = None
    token: Annotated[SecretStr | None, EMPTY_IS_NONE] = None
    token_file: OptionalPath = None


class PrivacySettings(Section):
    """What is looked for in a query before the server is asked, and what is done where it is found."""

    action: Literal["keep", "redact", "ask", "off"] = "keep"
    detect: Texts = KINDS
    patterns: dict[str, str] = Field(default_factory=dict)
    ledger: bool = True

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


class HardnessSettings(Section):
    """The gate that holds back the device's first tokens; no threshold means the router's own."""

    enabled: bool = True
    threshold: Annotated[Float | None, Field(le=0), EMPTY_IS_NONE] = None
    hold_tokens: Annotated[Int | None, Field(ge=1, le=64), EMPTY_IS_NONE] = None
    choice_margin: Annotated[Float | None, Field(ge=0, le=1), EMPTY_IS_NONE] = None


class BudgetSettings(Section):
    """How much may go to the server, as `crayon.Budget`; what is not set is no limit."""

    share: Annotated[Float | None, Field(ge=0, le=1), EMPTY_IS_NONE] = None
    window: Annotated[Int, Field(ge=1, le=1000)] = 200
    tokens_per_day: Annotated[Int | None, Field(ge=0), EMPTY_IS_NONE] = None
    money_per_day: Annotated[Float | None, Field(ge=0), EMPTY_IS_NONE] = None
    prompt_price: Annotated[Float, Field(ge=0)] = 0.0
    answer_price: Annotated[Float, Field(ge=0)] = 0.0


class ConditionsSettings(Section):
    """When circumstances have a say in who answers, as `crayon.Conditions`."""

    speed: bool = False
    slow_seconds: Annotated[Float, Field(ge=0)] = 10.0
    slow_factor: Annotated[Float, Field(ge=1)] = 2.0
    network_seconds: Annotated[Float, Field(ge=0)] = 1.0
    max_loss: Annotated[Float, Field(ge=0, le=1)] = 0.5
    low_battery: Annotated[Float, Field(ge=0, le=100)] = 20.0
    max_prompt_tokens: Annotated[Int | None, Field(ge=1), EMPTY_IS_NONE] = None
    device_languages: Texts = ()


class SamplingSettings(Section):
    """Defaults of `crayon.Sampling`, under the same names."""

    max_tokens: Int = _SAMPLING.max_tokens
    temperature: Float = _SAMPLING.temperature
    top_p: Float = _SAMPLING.top_p
    top_k: Int = _SAMPLING.top_k
    min_p: Float = _SAMPLING.min_p
    repeat_penalty: Annotated[Float | None, EMPTY_IS_NONE] = _SAMPLING.repeat_penalty
    presence_penalty: Float = _SAMPLING.presence_penalty
    frequency_penalty: Float = _SAMPLING.frequency_penalty
    stop: Texts = _SAMPLING.stop
    seed: OptionalInt = _SAMPLING.seed
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
    timeout: Annotated[Float, Field(gt=0)] = 120.0
    scopes: Texts = ()
    customization: OptionalText = None
    calibration: bool = True
    customizations_dir: OptionalPath = None
    models_dir: OptionalPath = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    device: DeviceSettings = DeviceSettings()
    server: ServerSettings = ServerSettings()
    serve: ServeSettings = ServeSettings()
    gateway: GatewaySettings = GatewaySettings()
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
