"""Filters and methods of chat templates whose result can be far longer than what they are given, bounded beforehand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Undefined
from jinja2.sandbox import SandboxedFormatter
from jinja2.utils import pass_environment
from markupsafe import escape

from crayon.llama import budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jinja2 import Environment

_WIDE = 3  # digits of a width in a form; more are refused
_SHORT = 16  # characters of what stands between the items of JSON
_LETTER = 4  # most bytes of a character
# Not for prompts, and slow or long for some texts: HTML, pretty printing.
_LEFT_OUT = frozenset({"forceescape", "pprint", "striptags", "urlencode", "urlize", "xmlattr"})


def filters(known: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return Jinja's filters, some of them written anew, some left out."""
    kept = {name: filter_ for name, filter_ in known.items() if name not in _LEFT_OUT}
    escaped = dict.fromkeys(("e", "escape"), _escape)
    return {
        **kept,
        **escaped,
        "safe": budget.text,
        "string": budget.text,
        "tojson": _to_json,
        "join": _join_filter,
        "replace": _replace,
        "indent": _before("indent", kept["indent"]),
        "wordwrap": _before("wordwrap", kept["wordwrap"]),
        "format": _before("format", kept["format"]),
        "sum": _before("sum", kept["sum"]),
    }


def is_wide(form: str) -> bool:
    """Whether a form for numbers, texts or dates holds a width of more than three digits."""
    return any(len(digits) > _WIDE for digits in re.findall("[0-9]+", form))


def bounded_format(env: Environment, value: object) -> Callable[..., str] | None:
    """Return a bounded `format` for a text's own one, which is `value`; None: it is not that."""
    owner, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
    if not isinstance(owner, str) or name not in {"format", "format_map"} or not callable(value):
        return None

    def format(*args: Any, **named: Any) -> str:  # noqa: A001 - as templates call it
        if name == "format_map":
            (named,), args = args, ()
        return str(_Formatter(env).vformat(owner, args, named))

    return format


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if is_wide(format_spec):
            raise SecurityError("a width of more than a thousand")
        made: str = super().format_field(value, format_spec) if format_spec else budget.text(value)
        budget.spend(_LETTER * len(made))
        return made

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            budget.expect(budget.WRITTEN * budget.weigh(value))
        return super().convert_field(value, conversion)


def _replace(text: object, old: object, new: object, count: int | None = None) -> str:
    held, old, new = budget.text(text), budget.text(old), budget.text(new)
    times = held.count(old)
    _fits(len(held) + times * len(new), held, new)
    return held.replace(old, new, -1 if count is None else count)


@pass_environment
def _join_filter(env: Environment, value: Iterable[Any], d: object = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(env, attribute), value)
    return _join(budget.text(d), map(budget.text, () if isinstance(value, Undefined) else value))


def _join(between: str, parts: Iterable[str]) -> str:
    found = list(budget.steps(parts))
    letters = sum(len(part) for part in found if isinstance(part, str))
    _fits(letters + len(found) * len(between), between, *found)
    return between.join(found)


def _expandtabs(text: str, tabsize: int = 8) -> str:
    _fits(len(text) + text.count("\t") * max(0, tabsize), text)
    return text.expandtabs(tabsize)


def _justified(name: str) -> Callable[..., str]:
    def justify(text: str, width: int, *fill: str) -> str:
        _fits(max(len(text), width), text, *fill)
        made: str = getattr(text, name)(width, *fill)
        return made

    return justify


def _escape(text: object) -> str:
    return str(escape(budget.text(text)))


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
) -> str:
    between = [*(separators or ()), indent if isinstance(indent, str) else " " * min(indent or 0, _SHORT + 1)]
    if any(len(each) > _SHORT for each in between):
        raise SecurityError(f"more than {_SHORT} characters between the items of JSON")
    budget.expect(budget.WRITTEN * budget.weigh(value))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    # Indented, each line of what is nested deeply is long: so it is put together bit by bit.
    return encoder.encode(value) if indent is None else budget.joined(encoder.iterencode(value))


def _before(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return one of Jinja's filters, which is asked first whether its result has room."""

    def run(*args: Any, **named: Any) -> Any:
        _CHECKS[name](*args, **named)
        return filter_(*args, **named)

    run.__dict__.update(getattr(filter_, "__dict__", {}))
    return run


def _check_indent(s: object, width: int | str = 4, *_: object, **__: object) -> None:
    text = budget.text(s)
    _fits(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else width), text)


def _check_wordwrap(_: object, s: object, *args: object, **named: object) -> None:
    text = budget.text(s)
    longest = max(map(len, text.split()), default=0)
    budget.spend(longest * longest // 64)  # Python's textwrap looks at a long word once for each of its letters
    between = max((len(each) for each in (*args, *named.values()) if isinstance(each, str)), default=1)
    _fits(len(text) * (1 + between), text)


def _check_format(value: object, *args: object, **named: object) -> None:
    form = budget.text(value)
    if is_wide(form) or "*" in form:
        raise SecurityError("a width of more than a thousand")
    longest = max((budget.WRITTEN * budget.weigh(each) for each in (*args, *named.values())), default=0)
    budget.expect(_LETTER * len(form) + form.count("%") * (longest + 10**_WIDE))


def _check_sum(*args: object, start: object = 0, **_: object) -> None:
    # After the environment, the items and the attribute.
    if not all(isinstance(each, int | float) for each in (start, *args[3:])):
        raise SecurityError("a sum of other things than numbers")


_CHECKS: dict[str, Callable[..., None]] = {
    "indent": _check_indent,
    "wordwrap": _check_wordwrap,
    "format": _check_format,
    "sum": _check_sum,
}

METHODS: dict[str, Callable[..., str]] = {
    "replace": _replace,
    "join": _join,
    "expandtabs": _expandtabs,
    **{name: _justified(name) for name in ("center", "ljust", "rjust", "zfill")},
}
"""Methods of texts, which get the text first."""


def _fits(letters: int, *texts: str) -> None:
    """See that a text of so many letters, of the kinds that these hold, has room."""
    budget.expect(letters * (1 if all(isinstance(text, str) and text.isascii() for text in texts) else _LETTER))
