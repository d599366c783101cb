"""`crayon health`: what a container's probe runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from serving_tools import Serving

from crayon.cli.shared.app import app
from crayon.server.engines.echo import EchoEngine
from crayon.server.serve import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import CliRunner


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving(EchoEngine, health_port=0) as serving:
        yield serving


@pytest.mark.parametrize("options", [[], ["--service", SERVICE]])
def test_a_server_that_serves_is_healthy(runner: CliRunner, server: Serving, options: list[str]) -> None:
    for address in (server.address, server.health_address):
        result = runner.invoke(app, ["health", address, *options])
        assert (result.exit_code, result.stdout) == (0, "SERVING\n")


def test_a_service_it_does_not_have_is_not(runner: CliRunner, server: Serving) -> None:
    result = runner.invoke(app, ["health", server.address, "--service", "no.Such"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "it has no service 'no.Such'" in result.stderr


def test_nobody_there_is_not_healthy(runner: CliRunner) -> None:
    result = runner.invoke(app, ["health", "127.0.0.1:1", "--timeout", "2"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "127.0.0.1:1" in result.stderr


def test_a_server_that_loads_is_not_healthy_yet(runner: CliRunner) -> None:
    loaded = threading.Event()

    def slow() -> EchoEngine:
        loaded.wait(60)
        return EchoEngine()

    with Serving(slow, wait=False, health_port=0) as serving:
        for address in (serving.address, serving.health_address):
            result = runner.invoke(app, ["health", address])
            assert (result.exit_code, result.stdout) == (1, "NOT_SERVING\n")
        loaded.set()
        serving.wait_loaded()


def test_without_an_address_it_asks_the_server_of_the_settings(
    runner: CliRunner, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_SERVE__HOST", "0.0.0.0")
    monkeypatch.setenv("CRAYON_SERVE__PORT", str(server.port))
    assert runner.invoke(app, ["health"]).exit_code == 0
    # With TLS on the first port, only the second one can be asked without a certificate.
    monkeypatch.setenv("CRAYON_SERVE__PORT", "1")
    monkeypatch.setenv("CRAYON_SERVE__HEALTH_HOST", "0.0.0.0")
    monkeypatch.setenv("CRAYON_SERVE__HEALTH_PORT", server.health_address.rpartition(":")[2])
    assert runner.invoke(app, ["health"]).exit_code == 0
    monkeypatch.delenv("CRAYON_SERVE__HEALTH_PORT")
    monkeypatch.setenv("CRAYON_SERVE__PORT", "0")
    result = runner.invoke(app, ["health"])
    assert result.exit_code == 2
    assert "give ADDRESS" in result.stderr


def test_a_server_that_starts_is_said_to_be_there(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.client.health.ask_health", lambda *_: "NOT_SERVING")
    done = runner.invoke(app, ["health", "localhost:1"])
    assert (done.exit_code, done.stdout) == (1, "NOT_SERVING\n")
    assert "fetches, measures or loads its model" in done.stderr
