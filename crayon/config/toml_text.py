"""Settings as a TOML file that says where each value came from, and can be read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crayon.config.layers import SettingRow


def toml_text(rows: Iterable[SettingRow]) -> str:
    """Return the rows as TOML, sections after what stands in none, each source a comment.

    What is not set, and what is secret, is a comment as a whole: TOML knows no null, and a secret is not shown.
    """
    sections: dict[str, list[SettingRow]] = {"": []}
    for row in rows:
        sections.setdefault(row.key.rpartition(".")[0], []).append(row)
    blocks = []
    for section, members in sections.items():
        if members:
            lines = [_line(row) for row in members]
            blocks.append("\n".join([f"[{section}]", *lines] if section else lines))
    return "\n\n".join(blocks) + "\n"


def _line(row: SettingRow) -> str:
    name = row.key.rpartition(".")[2]
    # A file's name may hold anything, and must not end the comment.
    source = "".join(char if char.isprintable() else "?" for char in row.source)
    if row.secret:
        return f"# {name} is secret and not shown  # {source}"
    if row.value is None:
        return f"# {name} is not set  # {source}"
    return f"{name} = {_value(row.value)}  # {source}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # A JSON string is a TOML string, but for the one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _pairs(table: dict[str, object]) -> Iterator[str]:
    for key, value in table.items():
        yield f"{_value(key)} = {_value(value)}"
