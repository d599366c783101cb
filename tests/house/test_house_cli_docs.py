"""Every command explains itself, and docs/reference/cli.md holds what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from crayon.cli.shared.app import COMMANDS, app

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "cli_docs.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_its_help_with_its_summary(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0].startswith(f"Usage: crayon {name}") or lines[0].startswith(f"Usage: root {name}")
    assert lines[2] == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    group = typer.main.get_command(app)
    pending = [group.commands[name]]  # type: ignore[attr-defined] # our own group class
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        assert command.help, f"{command.name} says nothing"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} says nothing"


def test_docs_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_check_notices_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "cli.md"
    path.write_text("old")
    check = [sys.executable, str(TOOL), "--output", str(path)]
    done = subprocess.run([*check, "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "out of date" in done.stderr
    assert path.read_text() == "old"
    subprocess.run(check, timeout=60, check=True)
    assert subprocess.run([*check, "--check"], timeout=60).returncode == 0
