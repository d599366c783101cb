"""Lint what is in deploy/: each kind of file with the tool made for it.

The tools of deploy/lint-requirements.txt must be there. Those that come with a system (systemd-analyze, promtool,
kubectl) are used where they are, and named where they are not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = [path for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) if path.stem != "kustomization"]
UNIT = DEPLOY / "systemd" / "crayon.service"
# systemd's own measure, of 100; a unit without any hardening has 96.
EXPOSURE = "20"
OFFLINE_SINCE = 250
SCALING = sorted((DEPLOY / "scaling").glob("*.yaml"))


def known_kinds(folder: Path) -> list[Path]:
    """Write the documents of deploy/scaling so that Kubernetes' own schemas judge them; return the files.

    Of a LeaderWorkerSet, whose schema no package has, that is the pods it would make; a test looks at the rest.
    """
    written = []
    for path in SCALING:
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            pods = {"": document}
            if document["kind"] == "LeaderWorkerSet":
                group = document["spec"]["leaderWorkerTemplate"]
                pods = {role: _pod(role, group[f"{role}Template"]) for role in ("leader", "worker")}
            for role, found in pods.items():
                target = folder / f"{path.stem}-{document['kind']}{role}.yaml"
                target.write_text(yaml.safe_dump(found), "utf-8")
                written.append(target)
    return written


def _pod(name: str, template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **template["metadata"]},
        "spec": template["spec"],
    }


def installed(tools: Path, folder: Path) -> Iterator[list[str]]:
    """Yield the commands of the tools that pip installs; `folder` is for files that are only linted."""
    yield [str(tools / "yamllint"), "--strict", "--config-file", str(DEPLOY / ".yamllint"), str(DEPLOY)]
    for place in ("docker", "scaling"):
        yield [str(tools / "hadolint"), str(DEPLOY / place / "Dockerfile")]
    compose = str(DEPLOY / "docker" / "compose.yaml")
    yield [str(tools / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", compose]
    yield [str(tools / "kubernetes-validate"), "--strict", *map(str, [*KUBERNETES, *known_kinds(folder)])]
    yield [str(tools / "shellcheck"), str(ROOT / ".ci" / "run")]


def of_the_system(unit: Path) -> Iterator[list[str]]:
    """Yield the commands of the tools that a system may have."""
    yield ["systemd-analyze", "verify", "--man=no", str(unit)]
    if systemd_version() >= OFFLINE_SINCE:
        yield ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(unit)]
    yield ["promtool", "check", "config", str(DEPLOY / "docker" / "prometheus.yml")]
    yield ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]


def systemd_version() -> int:
    """Return the system's version of systemd, 0 if there is none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    words = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60).stdout.split()  # noqa: S607 - whichever there is
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def failed(command: list[str]) -> bool:
    """Run a command, show what it says if it fails, and return whether it does."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - ours
    name = Path(command[0]).name
    print(f"{name}: {'FAILED' if done.returncode else 'ok'}")
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode != 0


def main() -> int:
    """Run all of them; return 1 if one of them found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="the folder with the installed tools")
    tools = parser.parse_args().tools
    with tempfile.TemporaryDirectory() as folder:
        # The program is not in /opt/crayon here, and the unit's own place is its name.
        unit = Path(folder) / UNIT.name
        unit.write_text(UNIT.read_text("utf-8").replace("/opt/crayon/bin/crayon", "/bin/true"), "utf-8")
        present, absent = list(installed(tools, Path(folder))), set()
        for command in of_the_system(unit):
            if shutil.which(command[0]) is None:
                absent.add(command[0])
            else:
                present.append(command)
        found = [failed(command) for command in present]
    for name in sorted(absent):
        print(f"{name}: not on this machine, left out")
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
