"""`crayon serve` is configured by flags, variables and a file, and says what it would run with."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated

import pytest
import typer
from pydantic import Field, SecretStr

from crayon.cli.serve.setting_options import with_options_of
from crayon.cli.shared.app import app
from crayon.config import Section, ServeSettings, SettingRow, child_environment, load, toml_text, variable
from crayon.config.secrets import holds_password, secret_keys
from crayon.errors import ConfigError
from crayon.server.config import ServeConfig

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

SHOW = ["serve", "--print-config"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    path.write_text("")
    monkeypatch.setenv("CRAYON_CONFIG", str(path))
    return path


def test_every_option_is_a_key_and_every_key_an_option() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined] # our own group class
    options = {parameter.name: parameter for parameter in command.params}
    assert set(options) - {"print_config"} == set(ServeSettings.model_fields) - {"tokens"}, "a secret is no option"
    # Their one home is the section: an option that is not given says nothing.
    assert {name for name, option in options.items() if option.default not in (None, False)} == set()


def test_the_help_says_the_default_and_the_range_of_the_section(runner: CliRunner) -> None:
    said = " ".join(runner.invoke(app, ["serve", "--help"]).stdout.split())
    for part in ("[default: (50051); 0<=x<=65535]", "[default: (llama_cpp)]", "[1<=x<=256]", "--tune / --no-tune"):
        assert part in said


def test_how_it_listens_is_by_default_what_the_server_says() -> None:
    serve, config = ServeSettings(), ServeConfig()
    for name in ("host", "port", "drain_seconds", "health_host", "health_port"):
        assert getattr(serve, name) == getattr(config, name)


def test_a_flag_beats_a_variable_beats_the_file(runner: CliRunner, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[serve]\nport = 1\nslots = 2\nctx = 512\npools = ["a"]\ntune = true\n')
    monkeypatch.setenv("CRAYON_SERVE__PORT", "2")
    monkeypatch.setenv("CRAYON_SERVE__SLOTS", "3")
    result = runner.invoke(app, [*SHOW, "--port", "3", "--no-tune"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"# {file}"
    assert "port = 3  # command line" in lines
    assert "tune = false  # command line" in lines
    assert "slots = 3  # environment CRAYON_SERVE__SLOTS" in lines
    assert f"ctx = 512  # file {file}" in lines
    assert f'pools = ["a"]  # file {file}' in lines
    assert 'host = "127.0.0.1"  # default' in lines
    assert "# threads is not set  # default" in lines


def test_what_is_printed_can_be_pasted_back(runner: CliRunner, file: Path) -> None:
    given = ["--pool", 'a "quoted"\\pool', "--pool", "b#c", "--step-ms", "1e-7", "--overlap", "dual", "--spill"]
    first = runner.invoke(app, [*SHOW, *given])
    assert first.exit_code == 0, first.stderr
    file.write_text(first.stdout, encoding="utf-8")
    before = load({"serve.pools": ['a "quoted"\\pool', "b#c"], "serve.step_ms": 1e-7, "serve.overlap": "dual"})
    after = load()
    assert after.settings.serve == before.settings.serve.model_copy(update={"spill": True})
    assert runner.invoke(app, SHOW).exit_code == 0


def test_printing_loads_no_model_and_asks_no_port(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("this is not for printing")

    monkeypatch.setattr("crayon.models.resolve", never)
    monkeypatch.setattr("crayon.server.serve.check_free", never)
    assert runner.invoke(app, [*SHOW, "--model", "no-such-model"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[serve]\nslot = 3", "did you mean serve.slots?"),
        ("[serve]\nslots = 0", "serve.slots (from file"),
        ("[serve]\nslots = true", "must be a number"),
        ('[serve]\npredict = "meen"', "'worst' or 'mean'"),
        ('[serve]\nhost = "192.0.2.1"', "serve.host (from file"),
        ("[serve]\nport = 65536", "serve.port (from file"),
        ("[serve]\nhealth_port = 50051", "serve.health_port (from file"),
        ("[serve]\ndrain_seconds = nan", "serve.drain_seconds (from file"),
        ("[servers]\nport = 1", "servers.port (from file"),
    ],
)
def test_what_is_wrong_is_named_with_its_source(runner: CliRunner, file: Path, text: str, said: str) -> None:
    file.write_text(text)
    for command in (SHOW, ["serve", "--engine", "echo"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_a_folder_that_is_not_there_is_blamed_on_the_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_SERVE__READY_FILE", "/nowhere/ready")
    result = runner.invoke(app, ["serve", "--engine", "echo", "--port", "0"])
    assert result.exit_code == 2
    assert "serve.ready_file (from environment CRAYON_SERVE__READY_FILE)" in result.stderr


def test_secrets_are_neither_printed_nor_options() -> None:
    class Secretive(Section):
        token: SecretStr | None = None
        name: Annotated[str, Field(description="A name.")] = "x"

    assert list(secret_keys(Secretive)) == ["token"]

    @with_options_of(Secretive)
    def command(**_: object) -> None:
        """Do nothing."""

    program = typer.Typer()
    program.command()(command)
    assert [parameter.name for parameter in typer.main.get_command(program).params][:1] == ["name"]
    text = toml_text(
        [SettingRow("serve.token", "**", "file /a\nb = 1", secret=True), SettingRow("serve.slots", 3, "default")]
    )
    assert text == "[serve]\n# token is secret and not shown  # file /a?b = 1\nslots = 3  # default\n"
    assert tomllib.loads(text) == {"serve": {"slots": 3}}


def test_an_address_with_a_password_is_not_shown(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holds_password("https://me:hunter2@host/path")
    assert not holds_password("https://host/a@b")
    monkeypatch.setenv("CRAYON_SERVE__MODEL", "https://me:hunter2@host/m.gguf")
    for command in (SHOW, ["config", "show"], ["config", "show", "--json"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 0
        assert "hunter2" not in result.output


def test_a_server_of_ours_takes_nothing_from_the_users(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('models_dir = "/m"\n[serve]\nport = 1\nhost = "unix:/x"\n')
    monkeypatch.setenv("CRAYON_SERVE__SLOTS", "3")
    environment = child_environment()
    assert environment["CRAYON_MODELS_DIR"] == "/m"
    for name in [name for name in environment if name.startswith("CRAYON_")]:
        monkeypatch.setenv(name, environment[name])
    monkeypatch.delenv("CRAYON_SERVE__SLOTS")
    assert "CRAYON_SERVE__SLOTS" not in environment
    assert load().settings.serve == ServeSettings()


def test_a_setting_of_another_section_is_not_blamed(file: Path) -> None:
    file.write_text("[serve]\nport = 4\n")
    with pytest.raises(ConfigError) as caught, load().blaming("serve"):
        raise ConfigError("n_ctx", "is small")
    assert caught.value.key == "n_ctx"
    with pytest.raises(ConfigError) as caught, load().blaming("serve"):
        raise ConfigError("port", "is taken")
    assert str(caught.value) == f"serve.port (from file {file}): is taken"
    assert variable(caught.value.key) == "CRAYON_SERVE__PORT"
