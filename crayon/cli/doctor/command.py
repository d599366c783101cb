"""`crayon doctor`: is everything here that Crayon needs, and if not, what to do."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.exit_codes import UNEXPECTED
from crayon.errors import ConfigError

if TYPE_CHECKING:
    from crayon.cli.doctor.checks import CheckResult

app = typer.Typer(add_completion=False)

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.command()
def doctor(
    *,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check this machine, the library, the models and the server.

    Each finding is ok, warn or fail; the exit code is 1 if any of them is fail.
    """
    from crayon.cli.doctor import checks
    from crayon.config import Settings, load
    from crayon.machine import inspect_machine
    from crayon.models import default_models_dir

    findings: list[checks.CheckResult] = []
    try:
        given = {**options.server_flags(server, tls, ca_file, token_file), "device.model": device}
        configuration = load({key: value for key, value in given.items() if value is not None})
        settings = configuration.settings
        found = [
            checks.CheckResult("settings", checks.Status.WARN, text, "unset it") for text in configuration.warnings
        ]
        findings += found or [checks.CheckResult("settings", checks.Status.OK, str(configuration.path))]
    except ConfigError as error:
        settings = Settings()
        fix = "mend it; the checks below use the defaults"
        findings.append(checks.CheckResult("settings", checks.Status.FAIL, str(error), fix))
    folder = settings.models_dir or default_models_dir()
    machine = inspect_machine()
    python = f"Python {sys.version.split()[0]} on {machine.system}"
    findings += [checks.CheckResult("system", checks.Status.OK, python)]
    findings += checks.check_cpu(machine)
    findings += checks.check_cores(machine, settings.device.threads)
    findings += checks.check_memory(machine)
    findings += checks.check_disk(folder)
    library = checks.check_library()
    findings += library
    runs = all(finding.status is not checks.Status.FAIL for finding in library)
    found, settings = checks.check_device(settings, timing=runs)
    findings += found
    findings += checks.check_models(settings, folder)
    findings += checks.check_privacy(settings)
    findings += checks.check_server(settings)
    _print(findings, as_json=as_json)
    if any(finding.status is checks.Status.FAIL for finding in findings):
        raise typer.Exit(UNEXPECTED)


def _print(findings: list[CheckResult], *, as_json: bool) -> None:
    if as_json:
        failed = any(finding.status == "fail" for finding in findings)
        record = {"ok": not failed, "findings": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(record, ensure_ascii=False, indent=2))
        return
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        status = console.paint(f"{finding.status:<4}", _COLOURS[finding.status], stream=sys.stdout)
        print(f"{status}  {finding.subject:<{width}}  {console.safe(finding.detail, sys.stdout)}")
        if finding.fix:
            print(f"{'':4}  {'':<{width}}  -> {finding.fix}")
