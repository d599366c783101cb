"""Calibrating and explaining at the command line: a small real model, a small real pool, a real echo server."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from keyed_pool import keyed_pool, questions
from serving_tools import Serving
from tiny_chat import write_model

from crayon.cli.shared.app import app
from crayon.completion import Reason
from crayon.router import CalibrationRecord
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds two models and a pool for the first."""
    folder = tmp_path_factory.mktemp("tiny")
    keyed_pool(write_model(folder / "model.gguf")).save(folder / "pool")
    write_model(folder / "other.gguf", seed=1)
    return folder


@pytest.fixture
def echo() -> Iterator[tuple[EchoEngine, str]]:
    engine = Counting()
    with Serving(lambda: engine) as serving:
        yield engine, serving.address


class Counting(EchoEngine):
    """Remembers what it was asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[str] = []

    def generate(self, request: Any) -> Any:
        self.asked.append(request.messages[-1].content)
        return super().generate(request)

    def score(self, request: Any) -> Any:
        self.asked.append(request.messages[-1].content)
        return super().score(request)


@pytest.fixture
def crayon(runner: CliRunner, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the program on the small model."""
    for name, value in {
        "DEVICE__MODEL": tiny / "model.gguf",
        "DEVICE__POOLS": tiny / "pool",
        "DEVICE__THREADS": 1,
        "DEVICE__CONTEXT": 512,
        "CUSTOMIZATIONS_DIR": tmp_path / "mine",
        "SAMPLING__MAX_TOKENS": 4,
    }.items():
        monkeypatch.setenv(f"CRAYON_{name}", str(value))
    return lambda *words, **more: runner.invoke(app, [str(word) for word in words], **more)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write(tmp_path / "samples.jsonl")


@pytest.fixture
def custom(crayon: Any, samples: Path) -> str:
    done = crayon("customize", "vow", "--samples", samples, "--no-check")
    assert done.exit_code == 0, done.output
    return "vow"


def write(path: Path, count: int = 24, seed: int = 0, **more: Any) -> Path:
    lines = [
        json.dumps({"question": text, "answer": ("red", "green", "red")[i % 3], **more})
        for i, text in enumerate(questions("vowels", count, seed))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_calibrating_on_the_kept_samples_sends_nothing_and_says_what_is_believed(
    crayon: Any, custom: str, echo: tuple[Counting, str], tmp_path: Path
) -> None:
    engine, address = echo
    done = crayon("calibrate", custom, "--server", address)
    assert done.exit_code == 0, done.output
    assert "from 24 queries, for the best accuracy" in done.stdout
    assert "profile vowels" in done.stdout
    assert "belongs to it: a scope score of" in done.stdout
    assert "server 50% (believed, not measured)" in done.stdout
    assert "outside all profiles" in done.stdout
    assert "the server answered no case: what it gains is believed, not measured" in done.stdout
    assert "it decides from now on" in done.stderr
    assert engine.asked == []
    path = tmp_path / "mine" / "vow" / "calibration.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = CalibrationRecord.from_json(path.read_text())
    assert record.signal == "margin"
    assert len(record.binding.prompt_template) == 64
    assert record.binding.base_model


def test_asking_the_server_over_grpc_says_so_first_and_needs_a_yes(
    crayon: Any, custom: str, echo: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, address = echo
    refused = crayon("calibrate", custom, "--ask-server", "--server", address)
    assert refused.exit_code == 2
    assert "24 texts will be sent to " in refused.stderr
    assert "nothing was sent" in refused.stderr
    monkeypatch.setattr("crayon.cli.route.calibrate._somebody_is_there", lambda: True)
    assert crayon("calibrate", custom, "--ask-server", "--server", address, input="n\n").exit_code == 1
    assert engine.asked == []
    done = crayon("calibrate", custom, "--ask-server", "--server", address, input="y\n")
    assert done.exit_code == 0, done.output
    assert len(engine.asked) == 24
    assert all("Options:" in text for text in engine.asked)
    assert "24 of them by the server too" in done.stdout
    assert "95 % interval" in done.stdout
    assert "as many at random" in done.stdout
    assert "the server alone" in done.stdout


def test_private_is_never_sent(crayon: Any, custom: str, echo: tuple[Counting, str]) -> None:
    engine, address = echo
    done = crayon("calibrate", custom, "--ask-server", "--server", address, "--yes", "--private")
    assert done.exit_code == 7
    assert "nothing was sent" in done.stderr
    assert engine.asked == []


def test_traffic_and_targets(crayon: Any, custom: str, echo: tuple[Counting, str], tmp_path: Path) -> None:
    engine, address = echo
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text("".join(json.dumps({"text": t}) + "\n" for t in questions("vowels", 12, seed=9)))
    assert crayon("calibrate", custom, "--traffic", traffic).exit_code == 2
    done = crayon(
        "calibrate", custom, "--traffic", traffic, "--ask-server", "--yes", "--server", address, "--server-share", 0.5
    )
    assert done.exit_code == 0, done.output
    assert len(engine.asked) == 12
    assert "for a server share of 50%" in done.stdout
    assert "the server's answers stood for the truth" in done.stdout
    shown = crayon("calibrate", custom, "--show")
    assert shown.exit_code == 0
    assert shown.stdout == done.stdout
    record = json.loads(crayon("calibrate", custom, "--show", "--json").stdout)
    assert record["calibration"]["target"] == {"kind": "server_share", "share": 0.5}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-device-error", "0.1"], "needs 44 labelled queries or more"),
        (["--min-quality", "0.95"], "the server answered 0 of 24"),
        (["--server-share", "2"], "target.server_share: must be from 0 to 1"),
        (["--server-share", "0.2", "--min-quality", "0.9"], "give one of"),
        (["--confidence", "0.9"], "goes with --max-device-error only"),
        (["--show", "--delete"], "do not go together"),
        (["--show"], "there is no calibration yet; make one: crayon calibrate vow"),
        (["--delete"], "there is none to delete"),
        (["--ask-server", "--yes"], "needs a server"),
    ],
)
def test_what_cannot_be_is_said(crayon: Any, custom: str, words: list[str], says: str) -> None:
    done = crayon("calibrate", custom, *words)
    assert done.exit_code == 2
    assert says in done.stderr


def test_three_samples_are_too_few(crayon: Any, custom: str, tmp_path: Path) -> None:
    done = crayon("calibrate", custom, "--samples", write(tmp_path / "few.jsonl", 3, seed=4))
    assert done.exit_code == 2
    assert "needs at least 4 different ones, not 3" in done.stderr


def test_the_plain_model_is_calibrated_shown_and_forgotten(crayon: Any, samples: Path) -> None:
    assert crayon("calibrate").exit_code == 2
    done = crayon("calibrate", "--samples", samples)
    assert done.exit_code == 0, done.output
    assert "without a profile" in done.stdout
    assert crayon("calibrate", "--show").stdout == done.stdout
    assert crayon("calibrate", "--delete").exit_code == 0
    assert crayon("calibrate", "--show").exit_code == 2


def test_the_record_decides_over_grpc_and_its_removal_ends_that(
    crayon: Any, custom: str, echo: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    engine, address = echo
    crayon("calibrate", custom, "--ask-server", "--server", address, "--yes")
    monkeypatch.setenv("CRAYON_CUSTOMIZATION", custom)
    monkeypatch.setenv("CRAYON_SERVER__ADDRESS", address)
    engine.asked.clear()
    question = questions("vowels", 1, seed=5)[0]
    route = json.loads(crayon("ask", "--json", question).stdout)["route"]
    assert route["reason"] in {Reason.SERVER_BETTER, Reason.NO_GAIN}
    assert len(engine.asked) == (route["source"] == "server")
    told = json.loads(crayon("route", "explain", "--json", question).stdout)
    assert (told["source"], told["reason"]) == (route["source"], route["reason"])
    monkeypatch.setenv("CRAYON_DEVICE__MODEL", str(tiny / "other.gguf"))
    monkeypatch.setenv("CRAYON_DEVICE__POOLS", "")
    assert crayon("ask", question).exit_code == 3, "another model has no such pool"
    monkeypatch.setenv("CRAYON_DEVICE__MODEL", str(tiny / "model.gguf"))
    monkeypatch.setenv("CRAYON_DEVICE__POOLS", str(tiny / "pool"))
    with Serving(lambda: EchoEngine(name="another")) as serving:
        refused = crayon("ask", "--server", serving.address, question)
    assert refused.exit_code == 2
    assert "calibration.server_model: was made for echo, but another is running" in refused.stderr
    assert "run `crayon calibrate vow` again" in refused.stderr
    assert crayon("calibrate", custom, "--delete").exit_code == 0
    route = json.loads(crayon("ask", "--json", question).stdout)["route"]
    assert route["reason"] in {Reason.IN_SCOPE, Reason.UNSURE}


def test_explain_prints_signals_thresholds_and_sends_nothing(
    crayon: Any, custom: str, echo: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, address = echo
    inside = questions("vowels", 1, seed=5)[0]
    done = crayon("route", "explain", "--customization", custom, "--server", address, *inside.split(" "))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("decision")
    assert lines[1].split() == ["allowed", "device,", "then", "server", "(as", "the", "mode", "says)"]
    text = done.stdout
    assert "inside vowels, " in text
    assert "vow, profile vowels" in text
    assert "mean_logprob of " in text
    assert "-1.00" in text
    assert "signal mean_logprob" in text
    assert engine.asked == []
    private = crayon("route", "explain", "--private", "--server", address, "hello")
    assert "device: private, stays on the device" in private.stdout
    assert "only_on_server" not in private.stdout
    json_done = json.loads(
        crayon("route", "explain", "--json", "--server", address, "--mode", "only_on_server", "x").stdout
    )
    assert (json_done["source"], json_done["allowed"]) == ("server", ["server"])
    gone = crayon("route", "explain", "--server", "localhost:1", "hello")
    assert gone.exit_code == 0, "nobody is there, and nobody is asked"
    assert crayon("route", "explain", " ").exit_code == 2
    assert engine.asked == []


def test_others_are_counted_and_the_threshold_is_spoken_of(
    crayon: Any, custom: str, echo: tuple[Counting, str], tmp_path: Path
) -> None:
    engine, address = echo
    lines = [{"question": f"bcd fgh {i} jkl", "answer": ("up", "down")[i % 2]} for i in range(9)]
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = crayon("calibrate", custom, "--others", others, "--ask-server", "--yes", "--server", address)
    assert done.exit_code == 0, done.output
    assert "33 texts will be sent to " in done.stderr
    assert len(engine.asked) == 33
    assert "note: 9 of the queries were others, " in done.stdout
    assert "note: the scope's threshold of vowels " in done.stdout
    assert crayon("calibrate", custom, "--others", others, "--traffic", others, "--ask-server").exit_code == 2
    assert "name one" in crayon("calibrate", "", "--others", others, "--samples", others).stderr


def test_the_settings_switch_calibrations_off(
    crayon: Any, custom: str, echo: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, address = echo
    config = tmp_path / "config.toml"
    config.write_text("calibration = false\n")
    monkeypatch.setenv("CRAYON_CONFIG", str(config))
    done = crayon("calibrate", custom)
    assert "it is kept, but decides nothing" in done.stderr
    words = ("route", "explain", *questions("vowels", 1, seed=5)[0].split(), "--customization", custom)
    assert "calibration " not in crayon(*words, "--server", address).stdout
    # What is not used is not checked either.
    record = tmp_path / "mine" / "vow" / "calibration.json"
    record.write_text("{}")
    assert crayon(*words, "--server", address).exit_code == 0
    config.write_text("calibration = true\n")
    assert crayon(*words, "--server", address).exit_code != 0
    config.write_text("calibration = 'maybe'\n")
    refused = crayon(*words)
    assert refused.exit_code == 2
    assert "calibration" in refused.stderr


def test_explain_takes_choices(crayon: Any, echo: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, address = echo
    monkeypatch.setenv("CRAYON_HARDNESS__CHOICE_MARGIN", "1.0")
    words = ("route", "explain", "which", "one", "--server", address, "--choice", "red")
    shown = crayon(*words, "--choice", "green")
    assert shown.exit_code == 0, shown.output
    assert "hardness" in shown.stdout
    assert "margin of 2 choices, " in shown.stdout
    assert "< 1.00" in shown.stdout
    assert "signal margin" in shown.stdout
    assert crayon(*words).exit_code == 2
    found = json.loads(crayon(*words, "-c", "green", "--json").stdout)
    assert (found["source"], found["choices"], found["hold"]["signal"]) == ("server", 2, "margin")
    assert engine.asked == []
