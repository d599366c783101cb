"""The command lines of docs/how-to/scaling.md and of deploy/scaling, read, and what `crayon serve` makes of them."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.config import ServeSettings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "how-to" / "scaling.md").read_text("utf-8")
FOLDER = ROOT / "deploy" / "scaling"
MARKED = re.compile(r"<!-- vllm -->\n\n```sh\n(.*?)```", re.DOTALL)


def documents(name: str) -> dict[str, Any]:
    """Return a manifest's documents by kind."""
    found = list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


REPLICAS = documents("replicas.yaml")
NODES = documents("leaderworkerset.yaml")
GROUP = NODES["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
PODS = {
    "replicas": REPLICAS["Deployment"]["spec"]["template"],
    "leader": GROUP["leaderTemplate"],
    "worker": GROUP["workerTemplate"],
}


def container(pod: str) -> Any:
    (only,) = PODS[pod]["spec"]["containers"]
    return only


def shell_commands(pod: str) -> list[list[str]]:
    """Return the commands of a container that a shell starts, without `exec`."""
    shell, flags, line = container(pod)["command"]
    assert (shell, flags) == ("/bin/sh", "-ec")
    words = [shlex.split(part) for part in line.split("&&")]
    return [each[1:] if each[0] == "exec" else each for each in words]


def documented() -> dict[str, list[str]]:
    """Return the arguments of every `crayon serve` that is shown for vLLM, by its line."""
    lines = [line for block in MARKED.findall(TEXT) for line in block.splitlines() if line.strip()]
    return {line: shlex.split(line)[1:] for line in lines}


def deployed() -> dict[str, list[str]]:
    """Return the arguments of every `crayon serve` that is deployed, by its pod."""
    return {"replicas": container("replicas")["args"], "leader": shell_commands("leader")[-1][1:]}


def serve_settings(words: list[str]) -> ServeSettings:
    """Return what `crayon serve` would run with."""
    result = CliRunner().invoke(app, [*words, "--print-config"], env={"CRAYON_CONFIG": "/dev/null"})
    assert result.exit_code == 0, result.output
    return ServeSettings(**tomllib.loads(result.stdout)["serve"])
