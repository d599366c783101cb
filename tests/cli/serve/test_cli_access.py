"""Tokens and TLS on the command line: they reach server and client, and no token is ever shown."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from serving_tools import PATIENCE, ServerProcess, Serving, server_process, until
from tls_tools import Authority, server_files

from crayon.cli.serve.access_config import access_config
from crayon.cli.shared.app import app
from crayon.cli.shared.child_server import ChildServer
from crayon.client import RemoteEngine
from crayon.config import load
from crayon.errors import ConfigError, UnauthenticatedError
from crayon.server.config import ServeConfig
from crayon.server.engines.echo import EchoEngine
from crayon.server.tokens import TokenStore

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

TOKEN, OTHER = "alice-0123456789abcdef", "other-0123456789abcdef"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return private(tmp_path / "own", f"{TOKEN}\n")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return private(tmp_path / "tokens", f"alice:{TOKEN}\n")


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def lets_in(running: ServerProcess, token: str) -> bool:
    with closing(RemoteEngine(running.address, token=token)) as remote:
        try:
            return bool(remote.models())
        except UnauthenticatedError:
            return False


def test_ask_shows_its_token_over_tls(runner: CliRunner, tmp_path: Path, tokens: Path, own: Path) -> None:
    authority = Authority(tmp_path)
    with Serving(EchoEngine, tls=server_files(authority), tokens_file=tokens) as running:
        ask = ["ask", "-q", "--mode", "only_on_server", "--server", running.address, "--ca-file", str(authority.file)]
        done = runner.invoke(app, [*ask, "--token-file", str(own), "hello there"])
        assert (done.exit_code, done.stdout) == (0, "hello there\n"), done.output
        environ = {"CRAYON_SERVER__TOKEN": TOKEN}
        assert runner.invoke(app, [*ask, "hello there"], env=environ).exit_code == 0
        refused = runner.invoke(app, [*ask, "hello there"], env={"CRAYON_SERVER__TOKEN": OTHER})
        assert refused.exit_code == 4
        assert "--token-file" in refused.stderr
        assert OTHER not in refused.output
        looked = runner.invoke(
            app, ["route", "status", "--json", *ask[4:], "--token-file", str(own)], catch_exceptions=False
        )
        assert json.loads(looked.stdout)["server"]["serving"], looked.output


def test_doctor_says_which_setting_a_server_wants(tokens: Path, own: Path) -> None:
    from crayon.cli.doctor.checks import check_server

    with Serving(EchoEngine, tokens_file=tokens) as running:
        (finding,) = check_server(load({"server.address": running.address}).settings)
        assert (finding.status, "--token-file" in finding.fix) == ("fail", True)
        finding, *_ = check_server(load({"server.address": running.address, "server.token_file": own}).settings)
        assert finding.status == "ok", finding


def test_no_token_is_shown_among_the_settings(runner: CliRunner) -> None:
    environ = {"CRAYON_SERVER__TOKEN": TOKEN, "CRAYON_SERVE__TOKENS": f"a:{TOKEN},{OTHER}"}
    for options in ([], ["--json"]):
        done = runner.invoke(app, ["config", "show", *options], env=environ, catch_exceptions=False)
        assert "server.token" in done.output
        assert "0123456789abcdef" not in done.output


def test_a_token_among_other_wrong_settings_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_SERVER__TOKEN", TOKEN)
    monkeypatch.setenv("CRAYON_SERVER__TLS", "perhaps")
    with pytest.raises(ConfigError, match=r"server\.tls") as caught:
        load()
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(caught.value.__cause__)


@pytest.mark.parametrize("text", ["[server]\ntoken = '{}'", "[serve]\ntokens = ['{}']"])
def test_a_token_in_the_file_of_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text.format(TOKEN))
    monkeypatch.setenv("CRAYON_CONFIG", str(file))
    with pytest.raises(ConfigError, match=r"is a secret: use CRAYON_SERVER?__TOKENS?, or .*_file") as caught:
        load()
    assert TOKEN not in str(caught.value)


def test_the_servers_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_SERVE__TOKENS", f"alice:{TOKEN}, {OTHER}")
    config = ServeConfig(**access_config(load().settings.serve))
    store = TokenStore(config.tokens_file, config.tokens)
    assert [store.current.find(text) for text in (TOKEN, OTHER)] == ["alice", "token-2"]


@pytest.mark.parametrize("flags", [{"serve.tls_cert": "/c"}, {"serve.tls_key": "/k"}, {"serve.tls_client_ca": "/a"}])
def test_half_of_tls_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="needs both --tls-cert and --tls-key"):
        access_config(load(flags).settings.serve)


# -- as a process


def test_sighup_revokes_a_token_and_a_bad_file_changes_nothing(tmp_path: Path, tokens: Path) -> None:
    with server_process(tmp_path, "--port", "0", "--tokens-file", str(tokens)) as running:
        assert lets_in(running, TOKEN)
        assert not lets_in(running, OTHER)
        tokens.write_text(f"other:{OTHER}\n")
        running.signal(signal.SIGHUP)
        until(lambda: lets_in(running, OTHER))
        assert not lets_in(running, TOKEN)
        tokens.write_text(f"alice:{TOKEN}\nbob:nonsense here\n")
        running.signal(signal.SIGHUP)
        assert lets_in(running, OTHER)
        assert not lets_in(running, TOKEN)
        running.signal(signal.SIGTERM)
        code, said = running.end()
    assert code == 0, said
    assert "reloaded: 1 token(s)" in said
    assert "the tokens stay as they were: tokens_file, line 2" in said
    assert "Traceback" not in said
    assert "0123456789abcdef" not in said
    assert "nonsense" not in said


def test_a_server_of_our_own_is_open_to_us_whatever_is_set_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[serve]\ntokens_file = '{tokens}'\nclient_requests_per_minute = 1\n")
    monkeypatch.setenv("CRAYON_CONFIG", str(file))
    monkeypatch.setenv("CRAYON_SERVE__TOKENS", TOKEN)
    with ChildServer(["--engine", "echo"]) as child, closing(RemoteEngine(child.address)) as remote:
        assert remote.models()
        assert remote.models()


def test_without_files_to_read_again_sighup_ends_the_server(tmp_path: Path) -> None:
    with server_process(tmp_path, "--port", "0") as running:
        running.signal(signal.SIGHUP)
        assert running.end()[0] == -signal.SIGHUP


def test_an_open_server_says_so_loudly_and_one_by_mistake_does_not_start(runner: CliRunner, tmp_path: Path) -> None:
    serve = ["serve", "--engine", "echo", "--host", "0.0.0.0"]
    done = runner.invoke(app, serve)
    assert done.exit_code == 2
    assert "--insecure-plain-text" in done.stderr
    insecure = ("--insecure-plain-text", "--insecure-no-tokens")
    with server_process(tmp_path, "--port", "0", "--host", "0.0.0.0", *insecure) as running:
        port = running.address.rpartition(":")[2]
        with closing(RemoteEngine(f"127.0.0.1:{port}", timeout=PATIENCE)) as remote:
            assert remote.models()
        running.signal(signal.SIGTERM)
        said = running.end()[1]
    assert said.count("INSECURE") == 2
