"""`crayon serve --pool`: what a deployment does, on a small model."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from serving_tools import PATIENCE, until
from tiny_chat import CLOSE, write_model
from tiny_pool import independent_pool, shared_pool

from crayon.cli.shared.app import app
from crayon.client import RemoteEngine
from crayon.completion import Blend
from crayon.device import DeviceEngine
from crayon.engine import BLEND, ScoreRequest
from crayon.messages import Message

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

    from crayon.engine import Engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-chat.gguf")


def scores(engine: Engine, blend: Blend) -> tuple[float, ...]:
    request = ScoreRequest(messages=(Message("user", "the train"),), continuations=("two eggs",), blend=blend)
    return engine.score(request).result(PATIENCE).scores[0].token_logprobs


def test_a_served_pool_blends(model: Path, tmp_path: Path) -> None:
    pools = [shared_pool(model), independent_pool(model)]
    command = [sys.executable, "-c", "from crayon.cli import main; main()", "serve", "--model", str(model)]
    command += [
        "--threads",
        "1",
        "--ctx",
        "512",
        "--slots",
        "2",
        "--port",
        "0",
        "--ready-file",
        str(tmp_path / "ready"),
    ]
    for pool in pools:
        pool.save(tmp_path / pool.manifest.name)
        command += ["--pool", str(tmp_path / pool.manifest.name)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        until(lambda: (tmp_path / "ready").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        remote = RemoteEngine((tmp_path / "ready").read_text().strip(), timeout=PATIENCE)
        assert BLEND in remote.models()[0].capabilities
        with DeviceEngine(model, n_ctx=256, threads=1, pools=pools) as device:
            for pool in pools:
                blend = Blend(pool.id, (0.5,) * len(pool))
                assert scores(remote, blend) == pytest.approx(scores(device, blend), abs=CLOSE)
        remote.close()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[1]
        assert "blends tiny-0@" in said
        assert "blends mixed-7@" in said
    finally:
        process.kill()


def test_a_pool_that_cannot_be_served_ends_the_command_before_the_model_is_loaded(
    runner: CliRunner, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_pool(model, sha256="ab" * 32).save(tmp_path / "other")
    command = ["serve", "--model", str(model), "--port", "0"]
    result = runner.invoke(app, [*command, "--pool", str(tmp_path / "other")])
    assert result.exit_code == 3
    assert "was made for tiny-chat (source file abababababab), not for tiny-chat" in result.stderr
    assert "loading" not in result.stderr
    result = runner.invoke(app, [*command, "--pool", "nobody-knows-it"])
    assert result.exit_code == 3
    assert "no pool 'nobody-knows-it'" in result.stderr
    monkeypatch.setenv("CRAYON_SERVE__POOLS", f"{tmp_path / 'other'}")
    assert "not for tiny-chat" in runner.invoke(app, command).stderr
