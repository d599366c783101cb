"""`crayon demo` with an echo for a server, run to its end, interrupted at every stage, and with its server killed."""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from keyed_pool import keyed_pool
from tiny_chat import write_model
from tiny_pool import shared_pool

from crayon import Crayon, load_scope, scope_names
from crayon.adapters import Gate
from crayon.cli.demo.paragraph import Paragraph
from crayon.cli.demo.summary import QuestionOutcome, print_summary, totals
from crayon.cli.demo.task import is_right, tokens_per_s
from crayon.cli.shared.child_server import ChildServer
from crayon.completion import Completion, FinishReason, Reason, Route, Source, Timings, Usage
from crayon.data.demo_script import DemoTask, demo_script, demo_stranger, demo_task
from crayon.errors import ServerInterruptedError, ServerUnavailableError
from crayon.models import prepared, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CRAYON = [sys.executable, "-m", "crayon"]
PATIENCE = 300.0  # for machines that have other things to do
QUESTIONS = [(group.name, question) for group in demo_script().groups for question in group.questions]


def test_the_script_has_three_groups_of_questions_that_no_scope_was_made_from() -> None:
    groups = demo_script().groups
    assert len(groups) == 3
    assert [len(group.questions) >= least for group, least in zip(groups, (5, 4, 4), strict=True)] == [True] * 3
    examples = {text.casefold() for name in scope_names() for text in load_scope(name).examples}
    asked = [question.casefold() for _, question in QUESTIONS]
    assert len(set(asked)) == len(asked) >= 12
    assert not examples.intersection(asked)


@pytest.mark.parametrize("task", [demo_task(), demo_stranger()], ids=["pooled", "stranger"])
def test_the_users_task_has_16_samples_and_other_questions_of_the_same_kinds(task: DemoTask) -> None:
    assert len(task.samples) == 16
    assert len(task.questions) >= 10
    texts = [text for text, _ in (*task.samples, *task.questions)]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert {answer for _, answer in task.questions} <= {answer for _, answer in task.samples}


# -- the whole program, with a small random model on the device


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


class Place:
    """A device model that needs no preparation, and a folder that all files of a demo are in."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        models_dir = folder / "models"
        local = resolve(str(model), models_dir=models_dir)
        prepared.keep(
            prepared.PreparedInfo(
                chosen=prepared.SOURCE,
                reason="it is a test",
                candidates=(),
                max_loss=0.01,
                prompt_tokens=200,
                answer_tokens=50,
                source_sha256=local.sha256,
                machine=prepared.machine_key(),
                library=prepared.library_version(),
                path=None,
            ),
            models_dir,
        )
        self.command = [*CRAYON, "demo", "--engine", "echo", "--device", str(model)]
        # One thread: threads that spin for each other's cores take many times as long.
        settings = {"CRAYON_MODELS_DIR": str(models_dir), "CRAYON_DEVICE__THREADS": "1"}
        self.customizations = folder / "customizations"
        settings["CRAYON_CUSTOMIZATIONS_DIR"] = str(self.customizations)
        self.environment = {**os.environ, **settings, "TMPDIR": str(self.temporary)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )

    def servers(self) -> list[psutil.Process]:
        """Servers that were started for a demo of this place and still run."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = any(str(self.temporary) in word for word in process.cmdline())
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue  # it ended while we looked
        return found

    def wait_for_servers(self, count: int) -> list[psutil.Process]:
        end = time.monotonic() + PATIENCE
        while len(found := self.servers()) != count:
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Iterator[Place]:
    place = Place(tmp_path, tiny_model)
    yield place
    for process in place.servers():
        process.kill()


@contextmanager
def running(place: Place, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    # Unbuffered reading of what is shown so far needs a pipe of bytes; `shown` decodes it.
    with subprocess.Popen(
        [*place.command, *arguments],
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(stream: Any, text: str) -> str:
    """Read a pipe until `text` was in it."""
    shown, end = "", time.monotonic() + PATIENCE
    while text not in shown:
        ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{text!r} did not appear in {shown!r}"
        data = os.read(stream.fileno(), 65536)
        assert data, f"it ended without {text!r}: {shown!r}"
        shown += data.decode()
    return shown


def server_before_questions(place: Place, process: subprocess.Popen[str]) -> psutil.Process:
    """Return the demo's server, with the demo halted before its first question."""
    wait_for(process.stderr, "[4/4]")
    process.send_signal(signal.SIGSTOP)
    return place.wait_for_servers(1)[0]


def test_a_whole_run_as_json(place: Place) -> None:
    done = place.run("--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [(row["group"], row["question"]) for row in record["questions"]] == QUESTIONS
    answers = [row["completion"] for row in record["questions"]]
    assert all(answers)
    assert all(row["error"] is None for row in record["questions"])
    by_source = {source: [a for a in answers if a["route"]["source"] == source] for source in ("device", "server")}
    assert all(by_source.values()), "this seed sends some questions to either side"
    for answer, (_, question) in zip(answers, QUESTIONS, strict=True):
        if answer["route"]["source"] == "server":
            assert answer["text"] == question
            assert answer["route"]["reason"] in {"out_of_scope", "unsure"}
            assert answer["route"]["score"] < answer["route"]["threshold"]
    assert set(record["seconds"]) == {"models", "prepare", "server", "device", "total"}
    summary = record["summary"]
    assert summary["questions"] == len(QUESTIONS)
    assert summary["by_source"] == {source: len(found) for source, found in by_source.items()}
    assert summary["failed"] == summary["fallbacks"] == 0
    assert summary["device_share"] == pytest.approx(len(by_source["device"]) / len(answers))
    assert summary["bytes_sent"] == sum(answer["route"]["bytes_sent"] for answer in answers) > 0
    for source, found in by_source.items():
        expected = statistics.median(answer["ttft_ms"] for answer in found)
        assert summary["median_ttft_ms"][source] == pytest.approx(expected, abs=0.001)
    assert record["customised"] == {"left_out": "no adapter pool comes with Crayon for tiny-chat"}
    assert not place.servers()
    assert not list(place.temporary.iterdir())


def test_a_whole_run_as_text(place: Place) -> None:
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert [line[:5] for line in done.stderr.splitlines() if line.startswith("[")] == [f"[{n}/4]" for n in range(1, 5)]
    assert "here already" in done.stderr
    assert "server stopped" in done.stderr
    lines = done.stdout.splitlines()
    for group in demo_script().groups:
        assert group.name in lines
    for _, question in QUESTIONS:
        assert f"  {question}" in lines
    assert sum("first token" in line and "tokens/s" in line for line in lines) == len(QUESTIONS)
    assert f"of {len(QUESTIONS)} answered on the device" in done.stdout
    assert lines[-2:] == [demo_task().title, "  left out: no adapter pool comes with Crayon for tiny-chat"]
    assert "\x1b" not in done.stdout + done.stderr
    assert not place.servers()


def test_a_users_task_is_asked_before_and_after_as_json(place: Place, tiny_model: Path, tmp_path: Path) -> None:
    pool = keyed_pool(tiny_model, gate=Gate(floor=-1.0))
    pool.save(tmp_path / "pool")
    place.environment["CRAYON_DEVICE__POOLS"] = str(tmp_path / "pool")
    done = place.run("--json")
    assert done.returncode == 0, done.stderr
    found, task = json.loads(done.stdout)["customised"], demo_task()
    assert (found["pool"], found["samples"], found["bytes_sent"]) == (pool.id, 16, 0)
    assert [(row["question"], row["wanted"]) for row in found["questions"]] == list(task.questions)
    assert found["device"] == "tiny-chat", "whichever model has the pool"
    (weights,) = found["profiles"]
    assert tuple(weights) == pool.names
    changed = any(weights.values()) or any(found["evidence"])
    options = {"threads": 1, "pools": [pool], "models_dir": tmp_path / "models"}
    with Crayon(str(tiny_model), device_options=options, max_tokens=task.max_tokens) as client:
        for row in found["questions"]:
            assert row["before"] == client.ask(row["question"]).text
    assert changed == any(row["before"] != row["after"] for row in found["questions"])
    stranger = json.loads(done.stdout)["stranger"]
    assert (stranger["samples"], stranger["bytes_sent"]) == (16, 0)
    assert 0 <= stranger["right"]["server"] <= len(stranger["questions"])
    assert found["right"] == {"before": 0, "after": 0}, "a random model knows no banking"
    assert min(found["tokens_per_s"].values()) > 0
    assert not list(place.temporary.iterdir())
    assert not place.customizations.exists()


def test_a_users_task_is_asked_before_and_after_as_text(place: Place, tiny_model: Path, tmp_path: Path) -> None:
    keyed_pool(tiny_model, gate=Gate(floor=-1.0)).save(tmp_path / "pool")
    place.environment["CRAYON_DEVICE__POOLS"] = str(tmp_path / "pool")
    done = place.run()
    assert done.returncode == 0, done.stderr
    task, lines = demo_task(), done.stdout.splitlines()
    section = lines[lines.index(task.title) :]
    assert any(line.startswith(("  profile ", "  task ")) and line.endswith(": 16 samples") for line in section)
    assert any(line.endswith("before and after; tiny-chat answers.") for line in section)
    assert any(line.startswith("  weighed, checked and ready in ") for line in section)
    for question, wanted in task.questions:
        assert any(line.startswith(f"  {question[:30]}") and line.endswith(f"  {wanted}") for line in section)
    count = len(task.questions)
    assert section[-3] == f"  right, word for word: 0 of {count} before, 0 after"
    assert section[-2].startswith("  price: ")
    assert section[-1] == "  0 bytes left the device, samples and questions included"
    assert max(map(len, section)) <= 110
    assert all(line.isprintable() for line in section)


def test_a_pool_without_keys_leaves_the_users_task_out(place: Place, tiny_model: Path, tmp_path: Path) -> None:
    pool = shared_pool(tiny_model)
    pool.save(tmp_path / "pool")
    place.environment["CRAYON_DEVICE__POOLS"] = str(tmp_path / "pool")
    done = place.run("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["customised"] == {
        "left_out": f"the adapter pool {pool.id} has no keys to compare samples with"
    }


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
@pytest.mark.parametrize("stage", ["[3/4]", "[4/4]"])
def test_interrupted_while_it_gets_ready_it_leaves_no_server(
    place: Place, number: signal.Signals, code: int, stage: str
) -> None:
    with running(place) as process:
        wait_for(process.stderr, stage)
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    place.wait_for_servers(0)
    if number != signal.SIGKILL:
        assert not [path for path in place.temporary.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_at_a_question_it_leaves_no_server_even_a_stuck_one(
    place: Place, number: signal.Signals, code: int
) -> None:
    with running(place) as process:
        server = server_before_questions(place, process)
        server.suspend()  # now no question for the server is answered, and it does not hear SIGTERM
        process.send_signal(signal.SIGCONT)
        wait_for(process.stdout, QUESTIONS[0][1])
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    assert not place.servers()


def test_a_server_that_dies_is_stood_in_for_and_told(place: Place) -> None:
    with running(place, "--json") as process:
        server_before_questions(place, process).kill()
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE)
    record = json.loads(out)
    assert record["summary"]["by_source"] == {"device": len(QUESTIONS), "server": 0}
    assert record["summary"]["fallbacks"] > 0
    failed = [row["completion"]["route"] for row in record["questions"] if row["completion"]["route"]["fallback_from"]]
    assert {(route["source"], route["reason"]) for route in failed} == {("device", "server_failed")}
    assert all(route["fallback_error"] for route in failed)
    assert "error: the server ended with code -9" in err
    assert "  server: " in err
    assert "Traceback" not in err
    assert process.returncode == 4


def test_an_unknown_model_is_told_before_anything_is_started(place: Place) -> None:
    done = place.run("--device", "no-such-model", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["type"] == "UnknownModelError"


@pytest.mark.models
@pytest.mark.timeout(400)
def test_the_real_device_model_keeps_its_task_and_passes_on_the_rest(tmp_path: Path, device_model_path: Path) -> None:
    place = Place(tmp_path, device_model_path)
    done = place.run("--json")
    assert done.returncode == 0, done.stderr
    routes: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(done.stdout)["questions"]:
        routes.setdefault(row["group"], []).append(row["completion"]["route"])
    task, *others = routes.values()
    # All are in scope; which of them the device is too unsure of depends on the CPU's arithmetic.
    assert {route["reason"] for route in task} <= {"in_scope", "unsure"}
    assert sum(route["source"] == "device" for route in task) >= 3
    for group in others:
        assert {(route["source"], route["reason"]) for route in group} == {("server", "out_of_scope")}


# -- the parts


def test_a_server_ends_with_the_program_that_holds_its_input() -> None:
    command = [*CRAYON, "serve", "--engine", "echo", "--port", "0", "--exit-on-stdin-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(process.stderr, "serving on")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerUnavailableError, match="code 2 before it could serve") as caught, ChildServer(["--no"]):
        pass
    assert any("--no" in note for note in caught.value.__notes__)


def test_a_server_that_is_not_ready_in_time_is_ended() -> None:
    server = ChildServer(["--engine", "echo"], ready_seconds=0.0)
    with pytest.raises(ServerUnavailableError, match="was not ready after 0 s"), server:
        pass
    assert server.exit_code is not None


def completion(source: Source, ttft_ms: float, bytes_sent: int = 0, **route: Any) -> Completion:
    return Completion(
        "text",
        Route(source, route.pop("reason", Reason.IN_SCOPE), bytes_sent=bytes_sent, **route),
        "model",
        FinishReason.STOP,
        Usage(10, 5),
        Timings(0.0, 1.0, 40.0),
        ttft_ms,
        100.0,
    )


def test_totals_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [
        QuestionOutcome("one", "a" * 200, completion(Source.DEVICE, 10.0, score=0.5, threshold=0.25)),
        QuestionOutcome("one", "b", completion(Source.DEVICE, 30.0, 7, fallback_from=Source.SERVER)),
        QuestionOutcome(
            "two", "c", completion(Source.SERVER, 500.0, 100, reason=Reason.UNSURE, score=-1.5, threshold=-1.0)
        ),
        QuestionOutcome("two", "d", error=ServerInterruptedError("gone", partial="so far")),
    ]
    sums = totals(outcomes)
    assert (sums.questions, sums.by_source, sums.fallbacks, sums.failed) == (4, {"device": 2, "server": 1}, 1, 1)
    assert sums.device_share == pytest.approx(2 / 3)
    assert sums.median_ttft_ms == {"device": 20.0, "server": 500.0}
    assert sums.median_tokens_per_s == {"device": 100.0, "server": 100.0}
    assert sums.bytes_sent == 107
    print_summary(outcomes)
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["c", "server", "unsure", "-1.50", "-1.00", "500", "ms", "100.0"] in rows
    assert ["d", "-", "failed"] in rows
    assert "2 of 3 answered on the device (67%), 1 by the server" in shown
    assert "1 not answered" in shown
    assert "107 bytes" in shown
    assert max(map(len, shown.splitlines())) <= 110


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("pay bill", True),
        ("Pay bill.", True),
        (" pay  bill\n", True),
        ("pay", False),
        ("pay bill now", False),
        ("", False),
    ],
)
def test_an_answer_is_right_word_for_word(said: str, right: bool) -> None:
    assert is_right(replace(completion(Source.DEVICE, 1.0), text=said), "pay bill") is right


def test_rates_count_the_step_that_found_the_end() -> None:
    # Three tokens and their end are three steps after the first token; three tokens that were cut off are two.
    ended = replace(completion(Source.DEVICE, 1.0), usage=Usage(10, 3), timings=Timings(0.0, 1.0, 30.0))
    cut = replace(ended, finish_reason=FinishReason.LENGTH, timings=Timings(0.0, 1.0, 20.0))
    assert tokens_per_s([ended]) == pytest.approx(100.0)
    assert tokens_per_s([ended, cut]) == pytest.approx(100.0)
    assert tokens_per_s([]) == 0.0


def test_totals_without_any_answer(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [QuestionOutcome("one", "a", error=ServerInterruptedError("gone"))]
    assert totals(outcomes).device_share is None
    assert totals(outcomes).median_ttft_ms == {}
    print_summary(outcomes)
    assert "1 not answered" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_a_paragraph_is_indented_and_wrapped_at_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    paragraph = Paragraph("    ")
    text = "one two three four five\n\n  indented\nand_a_word_that_is_much_too_long end"
    for i in range(0, len(text), cut):
        paragraph.write(text[i : i + cut])
    paragraph.end()
    assert capsys.readouterr().out == (
        "    one two three\n    four five\n\n      indented\n    and_a_word_that_is_much_too_long\n    end\n"
    )


def test_a_paragraph_is_not_wrapped_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    paragraph = Paragraph("  ")
    paragraph.write("word " * 50)
    paragraph.end()
    assert capsys.readouterr().out == "  " + " ".join(["word"] * 50) + "\n"
