"""A calibration as it is kept: its thresholds, what they were made for, and a digest that shows later edits.

What a score means depends on the model, its quantization, the blend and the prompt; how often the server is right on
the server. So a record carries hashes of all of these, and is refused where one differs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError
from crayon.router import record_fields as raw
from crayon.router.calibration import Calibration, Report
from crayon.router.device_map import DeviceMap
from crayon.router.features import MAX_HELD
from crayon.router.metrics import Interval
from crayon.router.rules import ProfileRule
from crayon.router.signals import SIGNALS
from crayon.router.targets import Best, MaxDeviceError, MinQuality, ServerShare, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
AGAIN = "run `crayon calibrate` again"
_MOST = 1024
_TARGETS: Mapping[str, type[Target]] = {
    "best": Best,
    "server_share": ServerShare,
    "min_quality": MinQuality,
    "max_device_error": MaxDeviceError,
}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a calibration holds for: hashes or names, all compared as texts; "" where there is none.

    Args:
        base_model: hash of the device's model as published.
        quantization: its type, and the hash of the file that runs where it is known.
        pool_id: the pool of adapters.
        profiles: hash of the blend's weights of each profile, by name.
        prompt_template: hash of the device's prompt template.
        server_model: the server's model, by name.
    """

    base_model: str
    quantization: str = ""
    pool_id: str = ""
    profiles: Mapping[str, str] = field(default_factory=dict)
    prompt_template: str = ""
    server_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """A calibration with what it is bound to.

    Args:
        binding: what it holds for.
        calibration: rules, thresholds, target, counts and curve.
        signal: the hardness signal that `sure` was, by name in `SIGNALS`.
        date: when it was made, ISO 8601.
        hold_tokens: over how many tokens the signal was read (1 to 64); at run time it has to be as many.

    Raises:
        ConfigError: the date is none, the signal is unknown, or the tokens are out of range.
    """

    binding: Binding
    calibration: Calibration
    signal: str
    date: str
    hold_tokens: int = 8

    def __post_init__(self) -> None:
        if not _DATE.fullmatch(self.date):
            raise ConfigError("calibration.date", f"must be as 2026-11-25 or 2026-11-25T16:00:00Z, not {self.date!r}")
        if self.signal not in SIGNALS:
            raise ConfigError("calibration.signal", f"must be one of {', '.join(SIGNALS)}")
        if isinstance(self.hold_tokens, bool) or not 1 <= self.hold_tokens <= MAX_HELD:
            raise ConfigError("calibration.hold_tokens", f"must be 1 to {MAX_HELD}, not {self.hold_tokens!r}")

    def called_as(self, now: Mapping[str, str]) -> CalibrationRecord:
        """Return the record with its profiles called as they are now, hashes by name: a renamed one has its hash."""
        mine = self.binding.profiles
        names = {value: name for name, value in now.items() if name not in mine}
        new = {name: names[value] for name, value in mine.items() if name not in now and value in names}
        if not new:
            return self
        rules = tuple(
            replace(rule, profile=new.get(rule.profile or "", rule.profile)) for rule in self.calibration.rules
        )
        return replace(
            self,
            binding=replace(self.binding, profiles={new.get(name, name): value for name, value in mine.items()}),
            calibration=replace(self.calibration, rules=rules),
        )

    def check(self, binding: Binding) -> None:
        """See that the record holds for what is running.

        Raises:
            ConfigError: something differs; it is named.
        """
        made, now = _flat(self.binding), _flat(binding)
        for name in dict.fromkeys([*made, *now]):
            if made.get(name, "") != now.get(name, ""):
                was, runs = made.get(name) or "none", now.get(name) or "none"
                raise ConfigError(f"calibration.{name}", f"was made for {was}, but {runs} is running; {AGAIN}")

    def to_json(self) -> str:
        """Return it as JSON text, its digest included."""
        content = {
            "version": VERSION,
            "date": self.date,
            "signal": self.signal,
            "hold_tokens": self.hold_tokens,
            "binding": {**_texts(self.binding), "profiles": dict(self.binding.profiles)},
            "calibration": _calibration_out(self.calibration),
        }
        return json.dumps({**content, "digest": _digest(content)}, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CalibrationRecord:
        """Return the record that `to_json` wrote.

        Raises:
            ConfigError: it was changed since, or a field is missing, unknown, of another type or out of range.
        """
        data = raw.read_json(text, "calibration")
        if data.get("version") != VERSION:
            raise ConfigError("calibration.version", f"must be {VERSION}, not {data.get('version')!r:.40}; {AGAIN}")
        names = ("version", "date", "signal", "hold_tokens", "binding", "calibration", "digest")
        # Records made when signals could be combined hold a null of that name, which their digest counts.
        old = ("combiner",) if data.get("combiner", "") is None else ()
        raw.mapping(data, "calibration", (*names, *old))
        content = {name: value for name, value in data.items() if name != "digest"}
        digest = raw.text(data["digest"], "calibration.digest")
        if not hmac.compare_digest(digest.encode(), _digest(content).encode()):
            raise ConfigError("calibration.digest", f"does not fit: the record was edited or damaged; {AGAIN}")
        return cls(
            binding=_binding_in(data["binding"]),
            calibration=_calibration_in(data["calibration"]),
            signal=raw.text(data["signal"], "calibration.signal"),
            date=raw.text(data["date"], "calibration.date"),
            hold_tokens=raw.count(data["hold_tokens"], "calibration.hold_tokens"),
        )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _flat(binding: Binding) -> dict[str, str]:
    return _texts(binding) | {f"profiles.{name}": value for name, value in binding.profiles.items()}


def _texts(binding: Binding) -> dict[str, str]:
    return {name: getattr(binding, name) for name in Binding.__slots__ if name != "profiles"}


def _calibration_out(found: Calibration) -> dict[str, Any]:
    kind = next(name for name, target in _TARGETS.items() if isinstance(found.target, target))
    return {
        "lam": found.lam,
        "tie": found.tie,
        "target": {"kind": kind, **asdict(found.target)},
        "rules": [asdict(rule) for rule in found.rules],
        "outside": asdict(found.outside) if found.outside else None,
        "report": asdict(found.report),
    }


def _binding_in(data: object) -> Binding:
    where = "calibration.binding"
    fields = raw.mapping(data, where, Binding.__slots__)
    profiles = raw.mapping(fields["profiles"], f"{where}.profiles")
    texts = {n: raw.text(fields[n], f"{where}.{n}") for n in Binding.__slots__ if n != "profiles"}
    hashes = {name: raw.text(value, f"{where}.profiles.{name}") for name, value in profiles.items()}
    return Binding(**texts, profiles=hashes)


def _calibration_in(data: object) -> Calibration:
    where = "calibration"
    fields = raw.mapping(data, where, ("lam", "tie", "target", "rules", "outside", "report"))
    rules = tuple(_rule_in(entry) for entry in raw.items(fields["rules"], f"{where}.rules", _MOST))
    if len({rule.profile for rule in rules}) < len(rules):
        raise ConfigError(f"{where}.rules", "has two rules for one profile")
    return Calibration(
        rules=rules,
        outside=None if fields["outside"] is None else _rule_in(fields["outside"]),
        lam=raw.number(fields["lam"], f"{where}.lam", 0, 1),
        tie=raw.number(fields["tie"], f"{where}.tie", 0, 1),
        target=_target_in(fields["target"]),
        report=_report_in(fields["report"]),
    )


def _target_in(data: object) -> Target:
    where = "calibration.target"
    kind = raw.text(raw.mapping(data, where).get("kind"), f"{where}.kind")
    if kind not in _TARGETS:
        raise ConfigError(f"{where}.kind", f"must be one of {', '.join(_TARGETS)}, not {kind!r}")
    made = _TARGETS[kind]
    names = [field.name for field in dataclass_fields(made)]
    given = raw.mapping(data, where, ("kind", *names))
    return made(*(raw.number(given[name], f"{where}.{name}", 0, 1) for name in names))


def _rule_in(data: object) -> ProfileRule:
    where = "calibration.rules"
    fields = raw.mapping(data, where, ProfileRule.__slots__)
    device = raw.mapping(fields["device"], f"{where}.device", DeviceMap.__slots__)
    return ProfileRule(
        profile=None if fields["profile"] is None else raw.text(fields["profile"], f"{where}.profile"),
        scope=raw.number(fields["scope"], f"{where}.scope", -2, 2),
        device=DeviceMap(
            slope=raw.number(device["slope"], f"{where}.device.slope", 0),
            intercept=raw.number(device["intercept"], f"{where}.device.intercept"),
            mean=raw.number(device["mean"], f"{where}.device.mean", 0, 1),
            n=raw.count(device["n"], f"{where}.device.n"),
        ),
        server=raw.number(fields["server"], f"{where}.server", 0, 1),
        server_n=raw.count(fields["server_n"], f"{where}.server_n"),
        hardness=_optional(fields["hardness"], f"{where}.hardness"),
    )


def _report_in(data: object) -> Report:
    where = "calibration.report"
    fields = raw.mapping(data, where, Report.__slots__)
    points = []
    for point in raw.items(fields["curve"], f"{where}.curve", _MOST):
        share, accuracy = (raw.number(value, f"{where}.curve", 0, 1) for value in _pair(point, f"{where}.curve"))
        points.append((share, accuracy))
    counts = {n: raw.count(fields[n], f"{where}.{n}") for n in ("cases", "duplicates", "server_labelled")}
    shares = {n: raw.number(fields[n], f"{where}.{n}", 0, 1) for n in ("device", "share")}
    others = {n: _optional(fields[n], f"{where}.{n}") for n in ("server", "random", "floor", "bound")}
    return Report(
        cases=counts["cases"],
        duplicates=counts["duplicates"],
        server_labelled=counts["server_labelled"],
        device=shares["device"],
        share=shares["share"],
        server=others["server"],
        random=others["random"],
        floor=others["floor"],
        bound=others["bound"],
        accuracy=_interval_in(fields["accuracy"], f"{where}.accuracy"),
        gain=_interval_in(fields["gain"], f"{where}.gain"),
        curve=tuple(points),
        notes=tuple(raw.text(note, f"{where}.notes") for note in raw.items(fields["notes"], where, 64)),
    )


def _pair(value: object, where: str) -> list[Any]:
    found = raw.items(value, where, 2)
    if len(found) != 2:
        raise ConfigError(where, "must be pairs of share and accuracy")
    return found


def _interval_in(data: object, where: str) -> Interval | None:
    if data is None:
        return None
    fields = raw.mapping(data, where, Interval.__slots__)
    return Interval(**{name: raw.number(fields[name], f"{where}.{name}", -1, 1) for name in Interval.__slots__})


def _optional(value: object, where: str) -> float | None:
    return None if value is None else raw.number(value, where)
