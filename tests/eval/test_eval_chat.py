"""Chats side by side: who answers, what is checked, and what is kept."""

from __future__ import annotations

import gzip
import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from crayon.cli.app import app
from crayon.errors import ConfigError, CrayonError, InvalidRequestError
from crayon.eval.answer_cache import AnswerCache
from crayon.eval.chat import page
from crayon.eval.chat.checks import Expected, check, ends_in, expected
from crayon.eval.chat.questions import ChatQuestion, load_questions
from crayon.eval.chat.run import SIDES, ChatReport, evaluate_chat
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from pathlib import Path

QUESTIONS = [
    ChatQuestion(112, "math", ("How much is it in total? I say 12,000", "And then, is it 2000 or 3000")),
    ChatQuestion(1, "writing", ("Write | a <b>poem</b>\nof *two* lines", "Again")),
]


@pytest.fixture
def chats(data: Path) -> Path:
    (data / "routing").mkdir()
    path = data / "routing" / "mtbench_questions.jsonl.gz"
    lines = [
        {"question_id": i, "category": "abc"[i % 3], "turns": [f"what is {i} now", "and then"]} for i in range(1, 10)
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return path


def run(tmp_path: Path, device: Any = None, server: Any = None, **values: Any) -> ChatReport:
    with ExitStack() as stack:
        engines = [
            engine if engine is not None else stack.enter_context(closing(EchoEngine(name=name)))
            for engine, name in ((device, "small"), (server, "large"))
        ]
        cache = stack.enter_context(AnswerCache(tmp_path / "answers"))
        return evaluate_chat(*engines, {"small": "aa", "large": "bb"}, QUESTIONS, cache, **values)


def test_each_side_answers_every_turn_and_says_who_did(tmp_path: Path) -> None:
    told: list[str] = []
    report = run(tmp_path, tell=told.append)
    assert [chat["id"] for chat in report.chats] == [112, 1]
    first = report.chats[0]["replies"]
    assert {side: [reply["source"] for reply in first[side]] for side in ("device", "server")} == {
        "device": ["device", "device"], "server": ["server", "server"],
    }  # fmt: skip
    assert all(len(first[side]) == 2 for side in SIDES)
    rows = {(row.metric, row.variant): row.value for row in report.rows}
    assert rows["server_share", "device"] == 0
    assert rows["server_share", "server"] == 100
    assert rows["server_tokens", "server"] > 0
    assert rows["server_tokens", "device"] == 0
    # The echo ends in 12,000 as it must, and in 3000 where 2000 were right.
    assert rows["exact_right", "device"] == 50
    assert "6 of 6 chats" in told[-1]


def test_a_second_run_asks_nobody_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    gone = EchoEngine()
    gone.close()
    again = run(tmp_path, gone, gone)
    assert again.chats == first.chats
    assert again.rows == first.rows


@pytest.mark.parametrize("workers", [1, 3])
def test_chats_at_a_time_change_no_answer_and_no_order(tmp_path: Path, workers: int) -> None:
    report = run(tmp_path, workers=workers)
    assert [chat["id"] for chat in report.chats] == [112, 1]
    assert report.chats[0]["replies"]["server"][0]["text"].endswith("12,000")
    assert report.settings["workers"] == workers


def test_a_server_that_is_gone_ends_the_run_at_once(tmp_path: Path) -> None:
    gone = EchoEngine()
    gone.close()
    with pytest.raises(CrayonError):
        run(tmp_path, server=gone)


def test_a_turn_that_does_not_fit_is_no_answer(tmp_path: Path) -> None:
    with closing(EchoEngine(name="tiny", context_tokens=12)) as tiny:
        report = run(tmp_path, tiny, max_tokens=2)
    rows = {(row.metric, row.variant): row.value for row in report.rows}
    assert rows["failed", "device"] > 0
    assert rows["failed", "server"] == 0
    assert "(no answer: " in page.markdown(report.as_json())


def test_the_page_holds_every_text_in_its_cell(tmp_path: Path) -> None:
    report = run(tmp_path)
    told = page.markdown(json.loads(json.dumps(report.as_json(), allow_nan=False)))
    assert "### 1, writing" in told
    assert "Write \\| a &lt;b&gt;poem&lt;/b&gt;<br>of \\*two\\* lines" in told
    rows = [line for line in told.splitlines() if line.startswith("| Write")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 1 + len(SIDES)
    assert "not the right answer" in told


def test_fewer_questions_are_of_all_categories(chats: Path) -> None:
    assert len(load_questions()) == 9
    assert [question.id for question in load_questions(4)] == [1, 2, 3, 4]
    assert {question.category for question in load_questions(3)} == {"a", "b", "c"}
    with pytest.raises(InvalidRequestError, match="--questions"):
        load_questions(0)
    chats.write_bytes(gzip.compress(b'{"question_id": 1, "category": "a", "turns": [" "]}'))
    with pytest.raises(InvalidRequestError, match="without text"):
        load_questions()
    chats.unlink()
    with pytest.raises(ConfigError, match="CRAYON_DATA"):
        load_questions()


@pytest.mark.parametrize(
    ("text", "number", "right"),
    [
        ("First 3, in all $12,000.", 12000, True),
        ("12000, not 8000", 12000, False),
        ("The chance is 19%.", 0.19, True),
        ("So it is 35/36", 0.9722, True),
        ("nothing", 0, False),
        ("They have 0 brothers", 0, True),
        ("-5 and 5", 5, True),
        ("1/0", 1, False),
    ],
)
def test_the_last_number_has_to_be_the_right_one(text: str, number: float, right: bool) -> None:
    assert ends_in(text, Expected(number)) is right


def test_the_last_word_of_its_kind_has_to_be_the_right_one() -> None:
    wanted = Expected(None, "west", ("east", "west", "north", "south"))
    assert ends_in("The sun is in the East, so the shadow falls to the West.", wanted)
    assert not ends_in("West is opposite to east", wanted)
    assert not ends_in("The western side", wanted)
    father = Expected(None, "grandfather", ("father", "grandfather"))
    assert ends_in("A is the grandfather", father)
    assert not ends_in("A is the father", father)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I cannot do that.", True),
        ("I\u2019m unable to help with that", True),
        ("As an AI language model, I don't have feelings", True),
        ("I can't assist with this.", True),
        ("Sure! Here is an apology letter for you.", False),
        ("It was a long evening. " * 12 + "I'm sorry, he said.", False),
    ],
)
def test_refusals_are_told_by_how_an_answer_begins(text: str, refused: bool) -> None:
    assert check(text, None, cut=False).refused is refused


def test_length_and_language_are_checked() -> None:
    found = check("Der Hund ist nicht im Haus und die Katze ist auch nicht da", None, cut=True)
    assert (found.words, found.cut, found.foreign, found.exact) == (13, True, True, None)
    assert not check("The dog is not in the house and the cat is not there", None, cut=False).foreign
    assert not check("42", None, cut=False).foreign


def test_right_answers_are_of_math_and_reasoning_only() -> None:
    known = expected()
    assert known[112, 1] == Expected(12000.0)
    assert known[109, 1].word in known[109, 1].among
    assert all(101 <= question <= 120 and turn in (1, 2) for question, turn in known)


def test_the_command_writes_a_record_and_a_page(
    model_path: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chats.is_file()
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr("crayon.client.remote.RemoteEngine", lambda *_, **__: EchoEngine(name="large"))
    words = ["eval", "chat", str(model_path), "--questions", "2", "--max-tokens", "3", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*words, "--server", "localhost:1", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "o" / "chat.json").read_text(encoding="utf-8"))
    assert (record["bench"], len(record["chats"])) == ("eval chat", 2)
    assert "| device | server | hybrid |" in (tmp_path / "o" / "chat.md").read_text(encoding="utf-8")
