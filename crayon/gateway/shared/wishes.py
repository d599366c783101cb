"""What a request wants of the router: its model's name, the object `crayon`, and `x-crayon-*` headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from crayon.completion import Blend, Mode
from crayon.errors import InvalidRequestError, PrivacyError
from crayon.gateway.shared.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crayon.gateway.shared.models import VirtualModel

# What requests call the fields that the SDK has other names for.
NAMES = {"mode": "crayon.mode", "private": "crayon.private", "timeout": "crayon.timeout", "blend": "crayon.blend"}
# A name in the store of customisations; a path or an exported file is none, for whoever asks may be far away.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FORM = ("regex", "grammar", "choices", "show_format")
_HEADERS = ("mode", "private", "blend", "free", "timeout")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def wishes(model: VirtualModel, fields: Fields, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the keywords of `AsyncCrayon.stream` that say who answers and how; `fields` loses its object `crayon`.

    Raises:
        InvalidRequestError: a wish is wrong, or contradicts another one.
    """
    own = fields.fields("crayon") or Fields({}, "crayon")
    wanted: dict[str, Any] = {
        "mode": _mode(own.text("mode"), own.name("mode")),
        "private": own.flag("private"),
        "blend": _blend(own),
        "free": own.flag("free"),
        "timeout": own.number("timeout"),
    }
    forms = {name: own.take(name) for name in _FORM if name in own}
    own.end()
    for name, value in _of_headers(headers).items():
        # Private is never lifted; whatever else is said twice has to be the same.
        if name == "private":
            wanted[name] = bool(wanted[name]) or value
        elif wanted[name] is not None and wanted[name] != value:
            raise InvalidRequestError(f"crayon.{name}", f"and the header x-crayon-{name} differ; leave one away")
        else:
            wanted[name] = value
    for name, value in (("mode", model.mode), ("blend", model.blend)):
        if value is not None and wanted[name] not in {None, value}:
            raise InvalidRequestError(f"crayon.{name}", f"contradicts the model {model.id!r}; leave one away")
        wanted[name] = wanted[name] if value is None else value
    found = {name: value for name, value in wanted.items() if value is not None}
    return {**(_of_a_server(found) if model.own else found), **forms}


def _of_a_server(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return wishes as far as they mean something to a server's own model; it is nobody's device.

    Raises:
        PrivacyError: the request was to stay on a device.
        InvalidRequestError: it names a customisation, which are on devices.
    """
    if wanted.pop("private", False) or wanted.pop("mode", None) is Mode.ONLY_ON_DEVICE:
        raise PrivacyError("this is a server, and the request was to stay on the device that sent it; nothing was done")
    if isinstance(wanted.get("blend"), str):
        raise InvalidRequestError("crayon.blend", "customisations are on devices; give {'pool_id', 'weights'} here")
    return wanted


def _of_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    given = {name: headers[f"x-crayon-{name}"].strip() for name in _HEADERS if f"x-crayon-{name}" in headers}
    for key in headers:
        if key.startswith("x-crayon-") and key.removeprefix("x-crayon-") not in _HEADERS:
            known = ", ".join(f"x-crayon-{name}" for name in _HEADERS)
            raise InvalidRequestError(key, f"is unknown; there are {known}")
    found: dict[str, Any] = {}
    for name, text in given.items():
        where = f"x-crayon-{name}"
        if name == "mode":
            found[name] = _mode(text, where)
        elif name == "blend":
            found[name] = _blend_name(text, where)
        elif name == "timeout":
            found[name] = _seconds(text, where)
        elif text.lower() in _FLAGS:
            found[name] = _FLAGS[text.lower()]
        else:
            raise InvalidRequestError(where, f"must be true or false, not {text[:40]!r}")
    return found


def _mode(text: str | None, where: str) -> Mode | None:
    if text is None:
        return None
    if text not in set(Mode):
        raise InvalidRequestError(where, f"must be one of {', '.join(Mode)}, not {text[:40]!r}")
    return Mode(text)


def _seconds(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequestError(where, f"must be seconds, not {text[:40]!r}") from None


def _blend(own: Fields) -> Blend | str | None:
    if "blend" not in own:
        return None
    where, value = own.name("blend"), own.take("blend")
    if isinstance(value, str):
        return _blend_name(value, where)
    weights = Fields(value, where)
    blend = Blend(weights.take("pool_id"), weights.take("weights"))
    weights.end()
    return blend


def _blend_name(text: str, where: str) -> str:
    if not _NAME.fullmatch(text) or text.lower().endswith(".json"):
        raise InvalidRequestError(where, f"must be the name of a customisation, or 'base', not {text[:40]!r}")
    return text
