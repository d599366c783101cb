"""The catalogue's device model, exported, served by `crayon serve --engine vllm` and asked with the SDK over gRPC."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from vllm_tools import QUICK

from crayon import Crayon
from crayon.adapters import Pool
from crayon.adapters.find import find_pool
from crayon.client import RemoteEngine
from crayon.completion import Blend
from crayon.engine import ScoreRequest
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def exported(device_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from typer.testing import CliRunner

    from crayon.cli.shared.app import app

    folder = tmp_path_factory.mktemp("exported") / "smollm2"
    result = CliRunner().invoke(app, ["models", "export", "smollm2-135m-instruct", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def address(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ready = tmp_path_factory.mktemp("ready") / "address"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CRAYON_")}
    command = [sys.executable, "-c", "from crayon.cli import main; main()", "serve", "--engine", "vllm"]
    options = ["--model", str(exported), "--port", "0", "--ctx", "512", "--slots", "4", "--ready-file", str(ready)]
    more = [f"--vllm={name}={str(value).lower()}" for name, value in QUICK.items() if name != "dtype"]
    process = subprocess.Popen([*command, *options, *more, "--pool", "smollm2-135m"], env=environ)
    end = time.monotonic() + 600
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    yield ready.read_text().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


def test_the_sdk_gets_answers_and_choices(address: str) -> None:
    with Crayon(device=None, server=address, mode="only_on_server") as crayon:
        answer = crayon.ask("What is the capital of France?", max_tokens=16)
        assert answer.text.strip()
        assert answer.route.source == "server"
        assert 0 < answer.usage.completion_tokens <= 16
        streamed = "".join(event.text for event in crayon.stream("What is the capital of France?", max_tokens=16))
        assert streamed == answer.text
        chosen = crayon.choose("Which of these is an animal?", ["a dog", "a stone"])
        assert sum(chosen.probabilities) == pytest.approx(1.0)


def test_the_shipped_pool_is_blended_over_the_wire(address: str) -> None:
    pool = Pool.open(find_pool("smollm2-135m"))
    first = Blend(pool.id, (1.0, *[0.0] * (len(pool) - 1)))
    messages = (Message("user", "Is this review positive? The food was cold."),)
    with closing(RemoteEngine(address)) as remote:
        assert "blend" in remote.models()[0].capabilities
        scored = [
            remote.score(ScoreRequest(messages=messages, continuations=("yes", "no"), blend=blend)).result(120).scores
            for blend in (None, first, None)
        ]
    base, blended, again = ([score.total for score in scores] for scores in scored)
    assert again == pytest.approx(base, abs=0.1)
    assert blended != pytest.approx(base, abs=0.1)
