from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from crayon.cli.shared.app import app
from crayon.completion import Mode
from crayon.config import config_path, load, setting_keys, variable
from crayon.errors import ConfigError
from crayon.sampling import SAMPLING_FIELDS, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    path.write_text("")
    monkeypatch.setenv("CRAYON_CONFIG", str(path))
    return path


def source_of(key: str) -> str:
    return next(row.source for row in load().rows() if row.key == key)


def test_several_servers_are_a_list_or_a_text_with_commas(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[server]\naddress = ["a:1", "b:2"]\n')
    assert load().settings.server.address == "a:1,b:2"
    file.write_text('[server]\naddress = "a:1,b:2"\n')
    assert load().settings.server.address == "a:1,b:2"
    monkeypatch.setenv("CRAYON_SERVER__ADDRESS", "c:3,d:4")
    assert load().settings.server.address == "c:3,d:4"


def test_defaults_are_those_of_the_sampling_record() -> None:
    configuration = load()
    assert configuration.settings.sampling.build() == Sampling()
    assert configuration.settings.mode is Mode.PREFER_ON_DEVICE
    assert {row.source for row in configuration.rows()} == {"default"}
    assert set(SAMPLING_FIELDS) == {key.split(".")[1] for key in setting_keys() if key.startswith("sampling.")}


def test_flag_beats_environment_beats_file_beats_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("timeout = 7\n[device]\nthreads = 1\ncontext = 64\n")
    monkeypatch.setenv("CRAYON_DEVICE__THREADS", "2")
    monkeypatch.setenv("CRAYON_TIMEOUT", "8")
    configuration = load({"timeout": 9.0})
    settings = configuration.settings
    assert (settings.timeout, settings.device.threads, settings.device.context) == (9.0, 2, 64)
    sources = {row.key: row.source for row in configuration.rows()}
    assert sources["timeout"] == "command line"
    assert sources["device.threads"] == "environment CRAYON_DEVICE__THREADS"
    assert sources["device.context"] == f"file {file}"
    assert sources["device.model"] == "default"


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "mode": "only_on_device",
        "private": "true",
        "timeout": "3.5",
        "scopes": "travel, cooking",
        "customization": "travel",
        "calibration": "false",
        "customizations_dir": "/c",
        "models_dir": "/m",
        "log_level": "debug",
        "device.model": "m",
        "device.threads": "3",
        "device.context": "99",
        "device.pools": "auto, mine",
        "server.address": "h:1",
        "server.tls": "true",
        "server.ca_file": "/ca",
        "server.client_cert": "/cert",
        "server.client_key": "/key",
        "server.token": "t",
        "server.token_file": "/token",
        "serve.tokens": "a:b,c",
        "serve.tokens_file": "/tokens",
        "serve.tls_cert": "/cert",
        "serve.tls_key": "/key",
        "serve.tls_client_ca": "/ca",
        "serve.insecure_plain_text": "true",
        "serve.insecure_no_tokens": "true",
        "serve.client_concurrent": "4",
        "serve.client_requests_per_minute": "60",
        "serve.client_tokens_per_minute": "1000",
        "serve.engine": "echo",
        "serve.model": "m",
        "serve.host": "localhost",
        "serve.port": "5",
        "serve.health_host": "::1",
        "serve.health_port": "6",
        "serve.http_port": "8",
        "serve.pools": "one,two",
        "serve.slots": "4",
        "serve.ctx": "512",
        "serve.threads": "2",
        "serve.batch": "64",
        "serve.step_ms": "100",
        "serve.late_share": "0.1",
        "serve.first_ms": "900",
        "serve.predict": "worst",
        "serve.spill": "false",
        "serve.idle_prefixes": "0",
        "serve.blend_quantum": "8",
        "serve.plan_ahead": "false",
        "serve.overlap": "dual",
        "serve.nano_batches": "2",
        "serve.adapters": "legal=/l, tax=/t",
        "serve.vllm_scheduler": "stock",
        "serve.tensor_parallel": "2",
        "serve.pipeline_parallel": "3",
        "serve.data_parallel": "4",
        "serve.enable_dbo": "true",
        "serve.vllm": "seed=1, swap_space=2",
        "serve.kv": "unified",
        "serve.max_queue": "9",
        "serve.max_queue_tokens": "999",
        "serve.stats_file": "/s",
        "serve.tune": "true",
        "serve.drain_seconds": "3",
        "serve.ready_file": "/r",
        "serve.exit_on_stdin_eof": "true",
        "serve.echo_delay": "0.5",
        "serve.metrics_port": "9464",
        "serve.metrics_host": "0.0.0.0",
        "serve.log_format": "json",
        "gateway.host": "::1",
        "gateway.port": "7",
        "gateway.allowed_hosts": "a.home, b.home",
        "gateway.cors_origins": "https://app.example",
        "gateway.tokens": "a:b,c",
        "gateway.tokens_file": "/tokens",
        "gateway.tls_cert": "/cert",
        "gateway.tls_key": "/key",
        "gateway.tls_client_ca": "/ca",
        "gateway.insecure_plain_text": "true",
        "gateway.insecure_no_tokens": "true",
        "gateway.max_tokens": "9",
        "gateway.max_requests": "3",
        "gateway.max_body_bytes": "2048",
        "gateway.stored_responses": "5",
        "gateway.keep_alive_seconds": "2",
        "gateway.idle_minutes": "7",
        "gateway.drain_seconds": "4",
        "gateway.ready_file": "/r",
        "hardness.enabled": "false",
        "hardness.threshold": "-2",
        "hardness.hold_tokens": "4",
        "budget.share": "0.3",
        "budget.window": "50",
        "budget.tokens_per_day": "9000",
        "budget.money_per_day": "0.5",
        "budget.prompt_price": "0.1",
        "budget.answer_price": "0.2",
        "conditions.speed": "true",
        "conditions.slow_seconds": "5",
        "conditions.slow_factor": "3",
        "conditions.network_seconds": "0.5",
        "conditions.max_loss": "0.2",
        "conditions.low_battery": "15",
        "conditions.max_prompt_tokens": "500",
        "conditions.device_languages": "en, de",
        "hardness.choice_margin": "0.2",
        "privacy.action": "redact",
        "privacy.detect": "email, card",
        "privacy.patterns": '{"staff": "E[0-9]{5}"}',
        "privacy.ledger": "false",
        "sampling.max_tokens": "5",
        "sampling.temperature": "0.5",
        "sampling.top_p": "0.9",
        "sampling.top_k": "7",
        "sampling.min_p": "0.1",
        "sampling.repeat_penalty": "1.1",
        "sampling.presence_penalty": "0.2",
        "sampling.frequency_penalty": "0.3",
        "sampling.stop": "END",
        "sampling.seed": "11",
        "sampling.ignore_eos": "true",
    }
    assert set(values) == set(setting_keys())
    for key, value in values.items():
        monkeypatch.setenv(variable(key), value)
    configuration = load()
    assert configuration.warnings == ()
    assert all(row.source == f"environment {variable(row.key)}" for row in configuration.rows())
    settings = configuration.settings
    assert settings.scopes == ("travel", "cooking")
    assert settings.sampling.stop == ("END",)
    assert (settings.device.pools, settings.serve.pools) == (("auto", "mine"), ("one", "two"))
    assert not settings.hardness.enabled
    assert settings.conditions.device_languages == ("en", "de")


def test_an_empty_variable_unsets_what_may_be_unset(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[server]\naddress = "h:1"\n')
    monkeypatch.setenv("CRAYON_SERVER__ADDRESS", "")
    assert load().settings.server.address is None
    optional = [row.key for row in load().rows() if row.value is None]
    for key in optional:
        monkeypatch.setenv(variable(key), "")
    assert {row.value for row in load().rows() if row.key in optional} == {None}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("timout = 3", "timout"),
        ("[device]\ntreads = 3", "device.treads"),
        ("device = 3", "device"),
        ("timeout = 0", "timeout"),
        ("timeout = true", "timeout"),
        ("timeout = nan", "timeout"),
        ('mode = "both"', "mode"),
        ("scopes = [1]", "scopes"),
        ("[device]\nthreads = 1.5", "device.threads"),
        ("[device]\nthreads = { a = 1 }", "device.threads.a"),
        ("[hardness]\nthreshold = 1", "hardness.threshold"),
        ("[sampling]\ntemperature = 9", "sampling.temperature"),
        ('[sampling]\nstop = [""]', "sampling.stop"),
        ("[sampling]\nmax_tokens = 0", "sampling.max_tokens"),
        ('[privacy]\naction = "sometimes"', "privacy.action"),
        ('[privacy]\ndetect = ["mood"]', "privacy.detect"),
        ('[privacy.patterns]\nstaff = "("', "privacy.patterns.staff"),
        ('[privacy.patterns]\nemail = "a"', "privacy.patterns.email"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, text: str, key: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.key == key
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("CRAYON_DEVICE__THREADS", "many", "device.threads"),
        ("CRAYON_DEVICE__TREADS", "3", "device.treads"),
        ("CRAYON_DEVICE", "3", "device"),
        ("CRAYON_PRIVATE", "perhaps", "private"),
        ("CRAYON_SAMPLING__TEMPERATURE", "9", "sampling.temperature"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.key == key
    assert name in caught.value.source


def test_a_section_that_is_no_json_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_DEVICE", "{")
    with pytest.raises(ConfigError, match="CRAYON_DEVICE__THREADS=4"):
        load()


@pytest.mark.parametrize("content", [b"= 3", b"\xff\xfe", b'a = "'])
def test_an_unreadable_file_is_a_config_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="config file"):
        load()


def test_a_folder_in_place_of_the_file_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_CONFIG", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        load()


def test_a_named_file_must_exist_the_default_one_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not config_path().exists()
    load()
    monkeypatch.setenv("CRAYON_CONFIG", "/nowhere/at/all.toml")
    with pytest.raises(ConfigError, match="CRAYON_CONFIG"):
        load()


def test_the_default_file_is_in_the_users_configuration_folder(tmp_path: Path) -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_text("timeout = 5\n")
    assert tmp_path in path.parents
    assert source_of("timeout") == f"file {path}"


def test_stray_variables_warn_with_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_TIMEOUTS", "3")
    monkeypatch.setenv("CRAYON_DEBUG", "0")
    (warning,) = load().warnings
    assert "CRAYON_TIMEOUTS" in warning
    assert "did you mean CRAYON_TIMEOUT?" in warning


def test_config_show_prints_each_value_with_its_source(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_TIMEOUT", "8")
    monkeypatch.setenv("CRAYON_STRAY", "8")
    result = runner.invoke(app, ["config", "show"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert set(lines) == set(setting_keys())
    assert lines["timeout"] == ["8.0", "environment CRAYON_TIMEOUT"]
    assert lines["mode"] == ['"prefer_on_device"', "default"]
    assert "CRAYON_STRAY" in result.stderr


def test_config_show_json_is_one_object(runner: CliRunner) -> None:
    result = runner.invoke(app, ["config", "show", "--json"])
    record = json.loads(result.stdout)
    assert set(record["settings"]) == set(setting_keys())
    assert record["settings"]["device.threads"] == {"value": None, "source": "default"}
    assert record["file"] == str(config_path())


def test_config_path_prints_the_path(runner: CliRunner, file: Path) -> None:
    assert runner.invoke(app, ["config", "path"]).stdout.strip() == str(file)


def test_a_wrong_setting_ends_any_command_with_code_2(runner: CliRunner, file: Path) -> None:
    file.write_text("timout = 3")
    result = runner.invoke(app, ["config", "show"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "did you mean timeout?" in result.stderr
    assert "Traceback" not in result.stderr
    assert os.environ["CRAYON_CONFIG"] in result.stderr
