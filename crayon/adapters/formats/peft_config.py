"""`adapter_config.json` of a PEFT directory: what changes the numbers is understood or refused by name."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from crayon.adapters.formats.matrices import MODULES, target_name
from crayon.adapters.manifest import MAX_RANK
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

# Read here, or without influence on what the finished adapter computes.
_KNOWN = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "init_lora_weights",
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
}
# What to say of settings that make an adapter more than B @ A.
_REFUSED = {
    "use_dora": "DoRA (use_dora) rescales whole weights; train it without",
    "modules_to_save": "it replaces whole modules (modules_to_save); train it without",
    "lora_bias": "B has a bias of its own (lora_bias); train it without",
    "fan_in_fan_out": "it is for transposed layers (fan_in_fan_out), which the models here do not have",
}
# These begin with a changed base: without it, the adapter is quietly wrong.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# A pattern may be any regular expression, and a hostile one takes forever. Without repeated groups and with few
# repetitions it cannot.
_SAFE = re.compile(r"[\w.\\^$|?:*+()\[\]-]{1,200}")
_MAX_EXPRESSIONS = 16
_MAX_PATTERNS = 2_000
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The settings that matter. `rank` and `scale` say what a module has; `targets` is None where it is unknown."""

    r: int
    alpha: float
    rslora: bool = False
    ranks: Mapping[re.Pattern[str], int] = field(default_factory=dict)
    alphas: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    targets: frozenset[str] | None = None
    layers: frozenset[int] | None = None
    base_name: str = ""

    def rank(self, module: str) -> int:
        """Return the rank of a module."""
        return _first(self.ranks, module, self.r)

    def scale(self, module: str) -> float:
        """Return the factor of B @ A of a module."""
        alpha, rank = _first(self.alphas, module, self.alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def expected(self, modules: Collection[str]) -> set[str] | None:
        """Return those of the base's modules that PEFT would adapt, None where a regular expression says it."""
        if self.targets is None:
            return None
        return {
            module
            for module in modules
            if (self.layers is None or int(module.split(".")[2]) in self.layers)
            and any(module == name or module.endswith(f".{name}") for name in self.targets)
        }


def read_config(data: bytes, where: str) -> PeftConfig:
    """Return the settings in the bytes of an `adapter_config.json`.

    Raises:
        AdapterError: not JSON, out of bounds, or a kind of adapter that is more than B @ A; names it.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise AdapterError(f"{where}: is not JSON ({why})") from None
    try:
        return parse_config(value)
    except AdapterError as error:
        raise AdapterError(f"{where}: {error}") from None


def parse_config(config: object) -> PeftConfig:
    """Return the settings that an object of JSON holds.

    Raises:
        AdapterError: as `read_config`.
    """
    if not isinstance(config, dict):
        raise AdapterError("must be a JSON object")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"peft_type is {_short(kind)}; only LORA adapters can be read")
    for name, why in _REFUSED.items():
        if config.get(name):
            raise AdapterError(why)
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"bias is {_short(config['bias'])}: it changes biases of the base; train it with bias='none'"
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise AdapterError(
            f"init_lora_weights is {_short(start)}, which changes the base too; "
            "save it with path_initial_model_for_weight_conversion"
        )
    for name, value in config.items():
        if name not in _KNOWN and value:
            raise AdapterError(
                f"{_short(name)} is set, which is not understood here: the adapter may be more than B @ A"
            )
    r = config.get("r")
    return PeftConfig(
        _rank(r, "r"),
        _alpha(config.get("lora_alpha"), "lora_alpha"),
        _flag(config.get("use_rslora", False), "use_rslora"),
        _patterns(config, "rank_pattern", _rank),
        _patterns(config, "alpha_pattern", _alpha),
        _targets(config),
        _layers(config),
        base if isinstance(base := config.get("base_model_name_or_path"), str) else "",
    )


def _first(patterns: Mapping[re.Pattern[str], N], module: str, default: N) -> N:
    """Return what the first pattern that fits says, as PEFT does."""
    return next((value for pattern, value in patterns.items() if pattern.match(module)), default)


def _patterns(config: dict[str, Any], name: str, read: Callable[[object, str], N]) -> dict[re.Pattern[str], N]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise AdapterError(f"{name} must be a JSON object of at most {_MAX_PATTERNS:,} patterns")
    odd = [key for key in patterns if not re.fullmatch(r"[\w.]{1,200}", key)]
    if len(odd) > _MAX_EXPRESSIONS:
        raise AdapterError(
            f"{name} has {len(odd)} regular expressions, at most {_MAX_EXPRESSIONS}: write out the modules"
        )
    found = {}
    for key, value in patterns.items():
        repeats, groups = len(re.findall(r"[*+]|(?<!\()\?", key)), key.count("(")
        slow = repeats > 2 or groups > 1 or re.search(r"\)[*+?]|[*+?]{2}", key)
        try:
            # PEFT's own way to read it.
            pattern = None if slow or not _SAFE.fullmatch(key) else re.compile(rf"(.*\.)?({key})$")
        except re.error:
            pattern = None
        if pattern is None:
            raise AdapterError(f"{name} has the pattern {_short(key)}, too intricate to read: write out the modules")
        found[pattern] = read(value, name)
    return found


def _targets(config: dict[str, Any]) -> frozenset[str] | None:
    wanted = config.get("target_modules")
    pattern = config.get("layers_pattern") or "layers"
    if wanted is None or config.get("exclude_modules") or pattern not in ("layers", ["layers"]):
        return None
    if isinstance(wanted, list) and all(isinstance(name, str) for name in wanted):
        return frozenset(wanted)
    if not isinstance(wanted, str):
        raise AdapterError("target_modules must be a list of names, 'all-linear' or a regular expression")
    if wanted.lower() == "all-linear":
        return frozenset(module.rpartition(".")[2] for module in MODULES)
    return frozenset([wanted]) if target_name(wanted) else None


def _layers(config: dict[str, Any]) -> frozenset[int] | None:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return None
    listed = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed):
        raise AdapterError("layers_to_transform must be whole numbers")
    return frozenset(listed)


def _rank(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise AdapterError(f"{name} is {_short(value)}; it must be a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e6:
        raise AdapterError(f"{name} is {_short(value)}; it must be a number of at most 1,000,000")
    return float(value)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise AdapterError(f"{name} is {_short(value)}; it must be true or false")
    return value


def _short(value: object) -> str:
    return repr(value)[:80]


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
