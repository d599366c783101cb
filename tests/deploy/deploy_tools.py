"""What deploy/ says, read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from crayon.cli.shared.app import app
from crayon.config import load

if TYPE_CHECKING:
    from crayon.config import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


COMPOSE = read_yaml(DEPLOY / "docker" / "compose.yaml")
DASHBOARDS = read_yaml(DEPLOY / "docker" / "grafana" / "dashboards.yaml")
DATASOURCES = read_yaml(DEPLOY / "docker" / "grafana" / "prometheus.yaml")
PROMETHEUS = read_yaml(DEPLOY / "docker" / "prometheus.yml")
DEPLOYMENT = read_yaml(KUBERNETES / "deployment.yaml")
SERVICE = read_yaml(KUBERNETES / "service.yaml")
POLICY = read_yaml(KUBERNETES / "networkpolicy.yaml")
BUDGET = read_yaml(KUBERNETES / "poddisruptionbudget.yaml")
KUSTOMIZATION = read_yaml(KUBERNETES / "kustomization.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
PLACES = ("docker", "kubernetes", "systemd")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what follows each."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def last(instruction: str) -> str:
    return [rest for word, rest in instructions() if word == instruction][-1]


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(last("ENV")))


def unit() -> dict[str, list[str]]:
    """Return the systemd unit's keys with all their values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "crayon.service").read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def command_lines() -> dict[str, list[str]]:
    """Return every command line of `crayon` in the files, without the program."""
    return {
        "Dockerfile CMD": json.loads(last("CMD")),
        "Dockerfile HEALTHCHECK": json.loads(last("HEALTHCHECK").partition("CMD ")[2])[1:],
        "compose": COMPOSE["services"]["crayon"]["command"],
        "deployment": CONTAINER["args"],
        "unit": shlex.split(unit()["ExecStart"][0])[1:],
    }


def options_of(name: str) -> set[str]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined] # our own group class
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def option(words: list[str], name: str) -> str:
    """Return what a command line gives an option, as `--name=value` or `--name value`."""
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return joined[0] if joined else words[words.index(name) + 1]


def serve_settings(place: str, monkeypatch: Any) -> ServeSettings:
    """Return the section that the place's file sets."""
    monkeypatch.setenv("CRAYON_CONFIG", str(DEPLOY / place / "crayon.toml"))
    return load().settings.serve


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)(s|min|m|)", text)
    assert found, text
    return int(found[1]) * (60 if found[2].startswith("m") else 1)
