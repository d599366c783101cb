"""`crayon route`: what decides where questions go."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from crayon.cli.route.explain import explain
from crayon.cli.route.ledger import ledger
from crayon.cli.shared import console, options

if TYPE_CHECKING:
    from crayon.client.check import ServerStatus
    from crayon.machine import Battery
    from crayon.sdk.budget.guard import BudgetStatus

SERVER_SECONDS = 5.0

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def route() -> None:
    """Show what decides where questions go."""


app.command("explain")(explain)
app.command("ledger")(ledger)


@app.command()
def status(
    *,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show the server, what is left of the budget, and the battery.

    Looks at the server, asks it nothing and charges nothing.
    """
    from crayon.cli.shared.client import server_status
    from crayon.config.client import budget_of
    from crayon.machine import battery
    from crayon.sdk.budget.guard import BudgetGuard
    from crayon.sdk.budget.store import BudgetStore

    settings = options.load_settings(options.server_flags(server, tls, ca_file, token_file))
    store = BudgetStore()
    left = BudgetGuard(budget_of(settings.budget), store).status()
    address = settings.server.address
    found = None if address is None else server_status(settings.server, SERVER_SECONDS)
    power = battery()
    if as_json:
        print(json.dumps(_record(found, left, str(store.path), power), ensure_ascii=False, indent=2))
        return
    rows = [*_servers(found), *_budget(left, str(store.path)), ("battery", _battery(power))]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {console.safe(value, sys.stdout)}")


def _record(
    server: ServerStatus | None, budget: BudgetStatus | None, path: str, power: Battery | None
) -> dict[str, Any]:
    found = None
    if server is not None:
        found = {
            "address": server.address,
            "serving": server.serving,
            "round_trip_ms": round(server.round_trip_ms, 3),
            "models": [model.name for model in server.models],
            "problem": server.problem,
            "each": [
                {"address": each.address, "serving": each.serving, "problem": each.problem} for each in server.each
            ],
        }
    left = None if budget is None else {**dataclasses.asdict(budget), "file": path}
    return {"server": found, "budget": left, "battery": None if power is None else dataclasses.asdict(power)}


def _servers(found: ServerStatus | None) -> list[tuple[str, str]]:
    if found is None:
        return [("server", "none is set (server.address); everything stays on the device")]
    return [("server", _server(each)) for each in found.each or (found,)]


def _server(found: ServerStatus) -> str:
    if not found.serving:
        return f"{found.address}: {found.problem}"
    names = ", ".join(model.name for model in found.models)
    return f"{found.address} serves {names}, {found.round_trip_ms:.1f} ms away"


def _budget(left: BudgetStatus | None, path: str) -> list[tuple[str, str]]:
    if left is None:
        return [("budget", "none is set; whatever the router wants may go to the server")]
    parts = [
        None if left.queries is None else f"{left.queries} queries in the window",
        None if left.tokens is None else f"{left.tokens} tokens today",
        None if left.money is None else f"{left.money:.4f} of money today",
    ]
    rows = [("budget", f"left: {', '.join(part for part in parts if part is not None)}")]
    if left.problem:
        rows.append(("used up", f"{left.limit}: {left.problem}"))
    return [*rows, ("kept in", path)]


def _battery(power: Battery | None) -> str:
    if power is None:
        return "none, or the platform does not tell"
    plugged = {True: "charging", False: "not charging", None: "charging unknown"}[power.plugged]
    return f"{power.percent:.0f} %, {plugged}"
