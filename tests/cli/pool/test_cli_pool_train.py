"""`crayon pool train` where torch is not installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest

from crayon.cli.shared.app import app

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from typer.testing import CliRunner


@pytest.mark.parametrize("missing", ["torch", "transformers", "accelerate"])
def test_what_is_missing_is_said_at_once(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        if name in {"torch", "transformers", "accelerate"}:
            return None if name == missing else found("json")
        return found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    before = set(sys.modules)
    result = runner.invoke(app, ["pool", "train", "no-such-recipe"])
    assert result.exit_code == 3, result.output
    assert "pip install 'crayon-llm[train]'" in " ".join(result.stderr.split())
    assert not {"torch", "crayon.training.build"} & (set(sys.modules) - before)


def test_help_needs_nothing_of_it(runner: CliRunner) -> None:
    result = runner.invoke(app, ["pool", "train", "--help"])
    assert result.exit_code == 0
    for option in ("--out", "--work", "--member", "--clusters", "--independent", "--device", "--dtype"):
        assert option in result.stdout
