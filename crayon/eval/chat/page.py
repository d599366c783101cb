"""The chats side by side, to be read, and the figures above them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.eval import tables
from crayon.eval.chat.run import SIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.eval.tables import Record

_FIGURES = (
    ("words (median)", "words", 0),
    ("cut off, %", "cut_off", 0),
    ("refused, %", "refused", 0),
    ("not English, %", "not_english", 0),
    ("failed, %", "failed", 0),
    ("the one right answer, %", "exact_right", 0),
    ("seconds (median)", "seconds", 1),
    ("by the server, %", "server_share", 0),
    ("server tokens", "server_tokens", 0),
    ("bytes sent", "bytes_sent", 0),
)


def markdown(record: Record) -> str:
    """Return the page: figures, then every chat."""
    lines = ["# Chats, side by side", "", *sections(record), "## Chats", ""]
    for chat in record["chats"]:
        lines += [f"### {chat['id']}, {chat['category']}", ""]
        for turn, text in enumerate(chat["turns"]):
            replies = [chat["replies"][side][turn] for side in SIDES]
            lines += [f"**Turn {turn + 1}.** {_cell(text)}", ""]
            lines += [*tables.table(list(SIDES), [[_cell(_text(reply)) for reply in replies]], left=3)]
            lines += [f"| {' | '.join(_note(reply) for reply in replies)} |", ""]
    return "\n".join(lines).rstrip() + "\n"


def sections(record: Record) -> list[str]:
    """Return the figures as lines."""
    rows: list[Record] = record["rows"]
    body = [
        [title, *(tables.figure(tables.find(rows, metric=metric, variant=side), digits) for side in SIDES)]
        for title, metric, digits in _FIGURES
    ]
    exact = tables.find(rows, metric="exact_right")
    note = f" {exact['n']} turns have exactly one right answer, which the text has to end in." if exact else ""
    return [
        f"A turn on average. Nobody graded these answers: read them.{note}",
        "",
        *tables.table(["", *SIDES], body),
        *tables.how(record),
    ]


def _text(reply: Record) -> str:
    return str(reply["text"]) if not reply["failed"] else f"(no answer: {reply['failed']})"


def _note(reply: Record) -> str:
    checks = reply["checks"]
    parts = [
        f"{reply['source']}, {reply['reason']}" if reply["source"] else "",
        f"{checks['words']} words, {reply['seconds']:.1f} s",
        "cut off" if checks["cut"] else "",
        "refuses" if checks["refused"] else "",
        "not English" if checks["foreign"] else "",
        {True: "right", False: "not the right answer", None: ""}[checks["exact"]],
    ]
    return f"*{'; '.join(part for part in parts if part)}*"


def _cell(text: str) -> str:
    """Return a text that stays in one cell of a table, as it was written."""
    escaped = text.strip().replace("\\", "\\\\")
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        escaped = escaped.replace(sign, instead)
    return "<br>".join(escaped.splitlines()) or "(nothing)"


def side_names() -> Sequence[str]:
    """Return the sides in the order of the columns."""
    return tuple(SIDES)
