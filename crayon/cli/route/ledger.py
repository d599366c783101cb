"""`crayon route ledger`: what left this device, when, how much and to whom, and what was kept back."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console, options
from crayon.completion import Reason
from crayon.errors import InvalidRequestError
from crayon.ledger import Ledger, Sent, record, sums
from crayon.reasons import REASONS

if TYPE_CHECKING:
    from crayon.ledger import Entry, Sums

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def ledger(
    *,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE", help="Only what is not older: 30m, 12h, 7d, 4w.")
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, help="Print at most so many lines.")] = 50,
    clear: Annotated[bool, typer.Option("--clear", help="Delete all that the ledger holds.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show what left this device: when, how many bytes, to whom and why; and what was kept back.

    Every client of yours writes it, texts never. Each line is a request that was sent or an answer; below stand the
    sums. With --json it is all entries, one a line. "privacy.ledger = false" in the settings keeps none.
    Example: crayon route ledger --since 7d
    """
    kept = Ledger()
    if clear:
        kept.clear()
        console.message(f"the ledger in {kept.path.parent} is empty")
        return
    found = kept.read(0.0 if since is None else time.time() - seconds_of(since))
    if found.damaged:
        console.message(f"{found.damaged} lines in {kept.path.parent} cannot be read and are left out", "yellow")
    if as_json:
        for entry in found.entries:
            print(json.dumps(record(entry), ensure_ascii=False))
        return
    for entry in found.entries[max(len(found.entries) - last, 0) :]:
        print(console.safe(_line(entry), sys.stdout))
    if len(found.entries) > last:
        console.message(
            f"{len(found.entries) - last} older entries are not shown; --last {len(found.entries)} does", "dim"
        )
    for label, value in rows(sums(found.entries)):
        print(console.safe(f"{label:<14}{value}", sys.stdout))
    print(console.safe(f"{'kept in':<14}{kept.path}", sys.stdout))


def seconds_of(age: str) -> float:
    """Return how many seconds an age such as 12h has.

    Raises:
        InvalidRequestError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", age.strip())
    if match is None:
        raise InvalidRequestError("--since", f"must be a number with m, h, d or w behind it, such as 12h, not {age!r}")
    return float(int(match[1]) * _SECONDS[match[2]])


def rows(total: Sums) -> list[tuple[str, str]]:
    """Return sums as labels and values."""
    if not total.answers and not total.requests:
        return [("answers", "none yet")]
    found = [
        ("answers", f"{total.answers}, {total.on_device} by the device; of {total.nothing_left} nothing left it"),
        ("sent", f"{total.bytes:,} bytes in {total.requests} requests{_unreached(total)}"),
    ]
    found += [("", f"{size:,} bytes to {address}") for address, size in total.to.items()]
    if total.kept_back:
        found.append(("found in them", ", ".join(f"{kind} ({count})" for kind, count in total.kept_back.items())))
    found.append(("tokens", f"{total.device_tokens:,} on the device, {total.server_tokens:,} by servers"))
    return found


def _unreached(total: Sums) -> str:
    return f", {total.unreached:,} of them to a server that was not reached" if total.unreached else ""


def _line(entry: Entry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
    if isinstance(entry, Sent):
        status = "" if entry.status == "OK" else f", {entry.status}"
        return f"{when}  sent    {entry.bytes:>7,} bytes to {entry.to} ({entry.method}{status})"
    compared = ""
    if entry.score is not None and entry.threshold is not None:
        compared = f", {entry.score:.2f} {'>=' if entry.score >= entry.threshold else '<'} {entry.threshold:.2f}"
    found = f"; found: {', '.join(entry.found)} ({entry.action})" if entry.found else ""
    dropped = f"; {entry.dropped_turns} turns left out" if entry.dropped_turns else ""
    reason = REASONS[Reason(entry.reason)] if entry.reason in set(Reason) else entry.reason
    return f"{when}  {entry.source:<7} {entry.bytes_sent:>7,} bytes: {reason}{compared}{found}{dropped}"
