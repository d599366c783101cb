"""docs/how-to/deployment.md names files, secrets and ports that there are."""

from __future__ import annotations

import re
import shlex

from deploy_tools import COMPOSE, DEPLOYMENT, KUSTOMIZATION, POD, ROOT, unit

TEXT = (ROOT / "docs" / "how-to" / "deployment.md").read_text("utf-8")
SHELL = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)]
COMMANDS = [shlex.split(line) for block in SHELL for line in block.splitlines() if line.strip()]


def words_of(*start: str) -> list[list[str]]:
    return [words for words in COMMANDS if words[: len(start)] == list(start)]


def test_files_that_are_named_are_there() -> None:
    made = "deploy/docker/secrets"
    named = {word for words in COMMANDS for word in words if word.startswith("deploy/")}
    assert len(named) >= 5
    for name in named | set(re.findall(r"`(deploy/[^`]*)`", TEXT)):
        assert name.startswith(made) or (ROOT / name).exists(), name


def test_secrets_are_made_under_the_names_that_are_used() -> None:
    made = {words[6] for words in words_of("kubectl", "-n", KUSTOMIZATION["namespace"], "create", "secret")}
    assert made == {volume["secret"]["secretName"] for volume in POD["volumes"] if "secret" in volume}
    (tokens,) = [words for words in COMMANDS if "crayon-tokens" in words]
    # The file's name is the key, and the key the name of the mounted file.
    assert "--from-file=tokens" in tokens
    assert any(word.endswith("/tokens/tokens") for word in POD["containers"][0]["args"])
    for name, secret in COMPOSE["secrets"].items():
        assert any(secret["file"].removeprefix("./") in " ".join(words) for words in COMMANDS), name


def test_the_unit_starts_what_is_installed() -> None:
    (venv,) = words_of("sudo", "python3", "-m", "venv")
    assert unit()["ExecStart"][0].startswith(f"{venv[-1]}/bin/crayon serve")
    installed = {words[-1] for words in words_of("sudo", "install")}
    assert f"/etc/systemd/system/{words_of('sudo', 'systemctl', 'enable')[0][-1]}" in installed
    assert unit()["Environment"][0].partition("=")[2] in installed


def test_the_deployment_is_waited_for_by_its_name() -> None:
    (waited,) = [words for words in COMMANDS if "rollout" in words]
    assert waited[-1] == f"deployment/{DEPLOYMENT['metadata']['name']}"


def test_numbers_in_the_text_are_those_of_the_files() -> None:
    assert f"`terminationGracePeriodSeconds`, {POD['terminationGracePeriodSeconds']}" in TEXT
    for image in words_of("docker", "build"):
        assert COMPOSE["services"]["crayon"]["image"] in image
