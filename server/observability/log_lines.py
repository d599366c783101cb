"""How a line of the server's log looks: as JSON for machines, as text for people. Both keep foreign words out."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from crayon.errors import fault_report
from crayon.server.observability.request_log import FIELDS

if TYPE_CHECKING:
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class PrivateFormatter(logging.Formatter):
    """Writes exceptions as kind and place, and of foreign loggers the first line only: the rest may quote a prompt."""

    def said(self, record: logging.LogRecord) -> str:
        """Return the message."""
        text = record.getMessage()
        return text if record.name.partition(".")[0] == "crayon" else text.partition("\n")[0]

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the name in the library
        """Return kind and place of an exception, without its words."""
        return "" if ei is None or ei[1] is None else fault_report(ei[1]).rstrip()


class JsonFormatter(PrivateFormatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the record's fields, `fault` if there is one.

    A few lines of the standard library do all of it; a dependency would be one more thing that formats exceptions.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        found: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.said(record),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            found["fault"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)


class TextFormatter(PrivateFormatter):
    """`time LEVEL logger: message name=value ...`; values are quoted as in JSON where they are not plain."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{when} {record.levelname} {record.name}: {self.said(record)}"
        for name, value in getattr(record, FIELDS, {}).items():
            line += f" {name}={_plain(value)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def formatter(kind: LogFormat) -> logging.Formatter:
    """Return what writes lines of this kind."""
    return JsonFormatter() if kind is LogFormat.JSON else TextFormatter()


def _plain(value: object) -> str:
    text = str(value)
    # A caller's request id may hold anything, a line break too.
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)
