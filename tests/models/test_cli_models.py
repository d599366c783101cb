from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest
from models_tools import catalogue_text, make_parts, pypi_parts, sha256, tiny_gguf
from typer.testing import CliRunner

from crayon.cli.shared.app import app
from crayon.device.choice import ModelChoice

if TYPE_CHECKING:
    from pathlib import Path

DATA = tiny_gguf(60_000)


@pytest.fixture(autouse=True)
def tiny(store_dir: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_parts(wheels, DATA)
    path = tmp_path / "catalogue.toml"
    path.write_text(catalogue_text(DATA, [pypi_parts()]))
    monkeypatch.setenv("CRAYON_MODELS_CATALOGUE", str(path))
    monkeypatch.setenv("NO_COLOR", "1")


def crayon(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    code = "from crayon.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, input=answer, timeout=120
    )


def test_what_auto_takes_is_marked_and_auto_is_a_name(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ModelChoice("tiny", "it is a test")
    monkeypatch.setattr("crayon.device.auto.peek", lambda _: choice)
    monkeypatch.setattr("crayon.device.auto.pick", lambda *_: choice)
    monkeypatch.setattr("crayon.device.auto.gather", lambda *_: None)
    monkeypatch.setattr("crayon.device.choice.choose_device", lambda _: choice)
    runner = CliRunner()
    assert runner.invoke(app, ["models", "pull", "auto"]).exit_code == 0
    assert (store_dir / "tiny.gguf").is_file()
    table = runner.invoke(app, ["models", "ls"]).stdout.splitlines()
    assert table[1].split()[:3] == ["tiny", "device", "(auto)"]
    assert sum("(auto)" in line for line in table) == 1
    for name in ("tiny", "auto"):
        shown = json.loads(runner.invoke(app, ["models", "show", name, "--json"]).stdout)
        assert (shown["name"], shown["auto"]) == ("tiny", "takes this model: it is a test")


def listed(name: str) -> dict[str, object]:
    done = crayon("models", "ls", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout)["models"] if row["name"] == name]
    return row


def test_pull_list_show_and_remove(store_dir: Path) -> None:
    assert listed("tiny")["state"] == "absent"
    done = crayon("models", "pull", "tiny-alias")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "part 1 of 3" in done.stderr
    assert f"tiny is ready: {store_dir / 'tiny.gguf'}" in done.stderr
    assert listed("tiny") == {
        "name": "tiny",
        "role": "device",
        "quantization": "F32",
        "size": len(DATA),
        "licence": "Apache-2.0",
        "state": "ready",
        "path": str(store_dir / "tiny.gguf"),
        "prepared": None,
        "auto": False,
    }
    again = crayon("models", "pull", "tiny")
    assert "part" not in again.stderr
    table = crayon("models", "ls").stdout.splitlines()
    assert table[0].split() == ["NAME", "ROLE", "TYPE", "SIZE", "LICENCE", "STATE", "PREPARED"]
    assert table[1].split()[:4] == ["tiny", "device", "F32", f"{len(DATA) / 1e3:.1f}"]
    shown = json.loads(crayon("models", "show", "tiny", "--json").stdout)
    assert shown["sha256"] == sha256(DATA)
    assert shown["sources"] == ["PyPI tiny-model-part1==1.0 .. tiny-model-part3==1.0"]
    assert shown["file"]["context length"] == 2048
    assert "context length: 2048" in crayon("models", "show", "tiny").stdout
    refused = crayon("models", "rm", "tiny", answer="n\n")
    assert refused.returncode == 1
    assert (store_dir / "tiny.gguf").exists()
    assert crayon("models", "rm", "tiny", answer="").returncode == 1
    assert crayon("models", "rm", "tiny", answer="y\n").returncode == 0
    assert not (store_dir / "tiny.gguf").exists()
    assert "nothing to remove" in crayon("models", "rm", "tiny").stderr


def test_partial_pull_is_listed_and_removed(store_dir: Path, wheels: Path) -> None:
    (wheels / "tiny_model_part3-1.0-py3-none-any.whl").unlink()
    done = crayon("models", "pull", "tiny")
    assert done.returncode == 3
    assert "error: no source could deliver tiny:" in done.stderr
    assert "part 3 of 3 (tiny-model-part3==1.0): pip said: " in done.stderr
    assert "Traceback" not in done.stderr
    assert listed("tiny")["state"] == "partial"
    assert crayon("models", "rm", "tiny", "--yes").returncode == 0
    assert listed("tiny")["state"] == "absent"
    assert not (store_dir / "tiny.gguf.parts").exists()


def test_file_of_ones_own_is_shown_without_trusting_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    done = crayon("models", "show", str(path))
    assert f"sha256: {sha256(DATA)}" in done.stdout
    assert crayon("models", "rm", str(path), "--yes").returncode == 3
    assert path.exists()


@pytest.mark.parametrize("command", ["pull", "show", "rm"])
def test_unknown_model_is_an_error_with_a_hint(command: str) -> None:
    done = crayon("models", command, "tinny")
    assert done.returncode == 3
    assert done.stderr.startswith("error: there is no model called 'tinny': did you mean tiny?")
    assert done.stdout == ""


def test_models_dir_of_the_configuration_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRAYON_MODELS_DIR")
    (tmp_path / "config.toml").write_text(f'models_dir = "{tmp_path}/elsewhere"\n')
    monkeypatch.setenv("CRAYON_CONFIG", str(tmp_path / "config.toml"))
    assert json.loads(crayon("models", "ls", "--json").stdout)["folder"] == f"{tmp_path}/elsewhere"


def test_terminal_gets_a_bar_with_speed(store_dir: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    code = "from crayon.cli import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "models", "pull", "tiny"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # the other side has closed
            break
        if not block:
            break
        drawn += block
    os.close(ours)
    assert child.wait(60) == 0
    assert b"tiny: part 3 of 3" in drawn
    assert b"240." in drawn
    assert b"B/s" in drawn


def test_help_teaches_by_example() -> None:
    for command in ("ls", "pull", "show", "rm"):
        assert f"Example: crayon models {command}" in " ".join(crayon("models", command, "--help").stdout.split())


def test_prepared_file_is_listed_shown_and_removed(store_dir: Path) -> None:
    from crayon.models import prepared, resolve

    local = resolve("tiny")
    best = prepared.file_for(local.sha256, "Q8_0")
    measured = prepared.Candidate("Q8_0", 1, 500.0, 90.0, 1.2, 1.0007, 0.006, 0.96)
    info = prepared.PreparedInfo(
        chosen="Q8_0",
        reason="the fastest within the allowed loss",
        candidates=(measured,),
        max_loss=0.01,
        prompt_tokens=200,
        answer_tokens=50,
        source_sha256=local.sha256,
        machine=prepared.machine_key(),
        library=prepared.library_version(),
        path=best,
    )
    prepared.keep(info)
    best.write_bytes(b"weights")
    assert listed("tiny")["prepared"] == "Q8_0"
    shown = crayon("models", "show", "tiny").stdout
    assert "reason: the fastest within the allowed loss" in shown
    assert "type Q8_0" in shown
    assert json.loads(crayon("models", "show", "tiny", "--json").stdout)["prepared"]["path"] == str(best)
    (best.parent / prepared.RECORD).write_text("{")
    assert listed("tiny")["prepared"] == "damaged"
    assert crayon("models", "rm", "tiny", "--yes").returncode == 0
    assert not best.parent.exists()
