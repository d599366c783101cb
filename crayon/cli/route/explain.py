"""`crayon route explain`: who would answer a question and why, without sending anything."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.route.calibration_lines import target_text
from crayon.cli.shared import console, options
from crayon.errors import InvalidRequestError
from crayon.messages import Message
from crayon.reasons import REASONS

if TYPE_CHECKING:
    from crayon.sdk.explain import Explanation


def explain(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help="The question.")],
    *,
    choice: Annotated[
        list[str] | None,
        typer.Option("--choice", "-c", metavar="TEXT", help="One of 2 to 100 answers to choose from; give each."),
    ] = None,
    mode: options.ModeOption = None,
    private: options.PrivateOption = None,
    system: options.SystemOption = None,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    scope: options.ScopeOption = None,
    customization: options.CustomizationOption = None,
    blend: options.BlendOption = None,
    timeout: options.TimeoutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show who would answer a question and why, without sending anything.

    The device embeds the question and decodes the tokens that would be held back; no server is contacted. Every signal
    is shown with its threshold: at or above it the device answers. With --choice it is shown who would choose, by which
    margin. Example: crayon route explain "Book me a flight" --customization travel --server localhost:50051
    """
    from crayon.cli.shared.client import open_client
    from crayon.cli.shared.device_model import suited
    from crayon.sdk.call.choosing import check_choices

    flags = {
        "mode": mode,
        "private": private,
        **options.server_flags(server, tls, ca_file, token_file),
        "device.model": device,
        "scopes": scope,
        "customization": customization,
        "timeout": timeout,
    }
    settings = options.load_settings(flags)
    question = " ".join(text)
    if not question.strip():
        raise InvalidRequestError("text", "is empty; type a question")
    messages = [*([Message("system", system)] if system else []), Message("user", question)]
    choices = check_choices(choice) if choice else None  # before a model is fetched for nothing
    with open_client(suited(settings, blend)) as client:
        found = client.explain(messages, choices=choices, blend=blend)
    if as_json:
        print(json.dumps(explanation_json(found), ensure_ascii=False))
        return
    rows = explanation_rows(found)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(console.safe(f"{label.ljust(width)}  {value}", sys.stdout))


def explanation_rows(found: Explanation) -> list[tuple[str, str]]:
    """Return an explanation as labels and values: the decision first, then what it rests on."""
    rows = [
        ("decision", f"{found.source}: {REASONS[found.reason]}{_compared(found.score, found.threshold)}"),
        ("allowed", f"{', then '.join(found.allowed)} ({REASONS[found.allowed_reason]})"),
    ]
    if found.scope is not None:
        place = "inside" if found.scope.inside else "outside"
        rows.append(("scope", f"{place} {found.scope.name}{_compared(found.scope.score, found.scope.threshold)}"))
        others = {name: value for name, value in found.scope.similarity.items() if name != found.scope.name}
        rows += [("", f"{name} {value:.2f}") for name, value in sorted(others.items(), key=lambda item: -item[1])]
    if found.profile is not None:
        plain = found.profile == "base"
        rows.append(("device", f"{found.customization}, {'plain base' if plain else f'profile {found.profile}'}"))
    if found.hold is not None:
        of = f"{found.choices} choices" if found.choices else f"{found.hold.tokens} tokens"
        read = f"{found.hold.signal} of {of}"
        rows.append(("hardness", f"{read}{_compared(found.hold.score, found.hold.threshold)}"))
    if found.calibration is not None:
        used = found.calibration
        rows.append(("calibration", f"of {used.date[:10]}, for {target_text(used.target)}"))
        if used.benefit is not None:
            rows.append(("gain", f"{used.benefit:+.2f} if it is sent; sent above {used.lam:.2f}"))
        if used.share is not None:
            rows.append(("share", f"{used.share:.1%} sent so far"))
    rows += [(f"signal {name}", f"{value:.3f}") for name, value in found.signals.items()]
    return rows


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Return an explanation as plain JSON values."""
    record = dataclasses.asdict(found)
    if found.calibration is not None:
        record["calibration"]["target"] = target_text(found.calibration.target)
    return record


def _compared(score: float | None, threshold: float | None) -> str:
    if score is None or threshold is None:
        return ""
    return f", {score:.2f} {'>=' if score >= threshold else '<'} {threshold:.2f}"
