from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon import errors
from crayon.cli.chat.command import read_blocks
from crayon.cli.chat.repl import COMMANDS, Repl, is_open, unquote
from crayon.cli.chat.transcript import MAX_BYTES, Transcript, load_transcript, save_transcript
from crayon.cli.shared.app import app
from crayon.completion import Mode, Reason, Source
from crayon.errors import InvalidRequestError
from crayon.messages import Message

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


@pytest.fixture
def repl(client: Any) -> Repl:
    return Repl(client=client, mode=Mode.PREFER_ON_DEVICE)


def said(repl: Repl) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in repl.history]


def test_a_turn_streams_and_is_remembered(repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("one\n")
    repl.handle("two")
    out, err = capsys.readouterr()
    assert out == "echo one\necho two\n"
    assert err.splitlines()[0].startswith("device: confident | first token 21 ms | 100.0 tokens/s")
    assert client.asked[1] == [(USER, "one"), (ASSISTANT, "echo one"), (USER, "two")]
    assert client.options == [{"mode": Mode.PREFER_ON_DEVICE, "private": False}] * 2


def test_the_system_message_leads_every_turn(client: Any) -> None:
    repl = Repl(client=client, mode=Mode.PREFER_ON_DEVICE, system="Be brief.")
    repl.handle("one")
    assert client.asked == [[(SYSTEM, "Be brief."), (USER, "one")]]
    assert said(repl)[0] == (USER, "one")


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (errors.ServerUnavailableError("gone"), 4, "only_on_device"),
        (errors.ServerInterruptedError("broke off", "hal"), 4, "ask again"),
        (errors.DeadlineExceededError("late"), 5, "--timeout"),
        (errors.OverloadedError("full", 3.0), 6, "in 3 s"),
        (errors.PromptTooLongError(99, 50), 2, "/clear"),
        (errors.PrivacyError("it must stay"), 7, "nothing was sent"),
        (errors.EngineError("broke"), 1, "doctor"),
        (errors.InvalidRequestError("messages", "is odd"), 2, "nothing was changed"),
    ],
)
def test_a_failed_turn_leaves_the_history_as_it_was(
    repl: Repl, client: Any, capsys: pytest.CaptureFixture[str], error: Exception, code: int, advice: str
) -> None:
    client.scripts = [["fine"], ["hal", error], ["fine again"]]
    for text in ("one", "two", "three"):
        repl.handle(text)
    assert said(repl) == [(USER, "one"), (ASSISTANT, "fine"), (USER, "three"), (ASSISTANT, "fine again")]
    assert repl.code == code
    out, err = capsys.readouterr()
    assert out == "fine\nhal\nfine again\n"
    assert advice in err


def test_an_interrupt_stops_the_answer_and_keeps_what_was_seen(
    repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    client.scripts = [["half of it", KeyboardInterrupt()]]
    repl.handle("one")
    assert said(repl) == [(USER, "one"), (ASSISTANT, "half of it")]
    assert client.streams[0].closed
    assert repl.running
    assert "stopped" in capsys.readouterr().err


def test_an_interrupt_before_the_first_word_drops_the_question(repl: Repl, client: Any) -> None:
    client.scripts = [[KeyboardInterrupt()]]
    repl.handle("one")
    assert said(repl) == []
    assert repl.answers == []


def test_a_block_is_a_question_even_if_it_starts_with_a_slash(repl: Repl, client: Any) -> None:
    repl.handle('"""/exit\nis a command"""')
    assert client.asked == [[(USER, "/exit\nis a command")]]
    assert repl.running


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_is_asked_on_an_empty_line(repl: Repl, client: Any, text: str) -> None:
    repl.handle(text)
    assert client.asked == []


def test_help_names_every_command(repl: Repl, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("/help")
    out, err = capsys.readouterr()
    assert out == ""
    assert all(command.usage in err for command in COMMANDS.values())


def test_mode_is_shown_set_and_used(repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("/mode only-on-device")
    repl.handle("x")
    assert client.options == [{"mode": Mode.ONLY_ON_DEVICE, "private": False}]
    repl.handle("/mode both")
    assert repl.mode is Mode.ONLY_ON_DEVICE
    repl.handle("/mode")
    err = capsys.readouterr().err
    assert "mode: must be one of prefer_on_device" in err
    assert err.endswith("mode: only_on_device\n")


def test_route_tells_all_about_the_last_answer(repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("/route")
    client.route = {
        "source": Source.DEVICE,
        "reason": Reason.SERVER_FAILED,
        "fallback_from": Source.SERVER,
        "fallback_error": "connection refused",
        "encode_ms": 1.25,
    }
    repl.handle("x")
    repl.handle("/route")
    err = capsys.readouterr().err
    assert "no answer yet" in err
    assert "from server: connection refused" in err
    assert "scope gate 1.2 ms" in err


def test_stats_count_both_sides(repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("/stats")
    repl.handle("x")
    client.route = {"source": Source.SERVER, "reason": Reason.UNSURE, "bytes_sent": 70}
    repl.handle("y")
    capsys.readouterr()
    repl.handle("/stats")
    err = capsys.readouterr().err
    assert "2: 1 device, 1 server" in err
    assert "20 read, 10 written" in err
    assert "70 bytes" in err


def test_clear_forgets_the_conversation(repl: Repl, client: Any) -> None:
    repl.handle("one")
    repl.handle("/clear")
    repl.handle("two")
    assert client.asked[1] == [(USER, "two")]


def test_unknown_commands_are_named(repl: Repl, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    repl.handle("/nope")
    assert "/nope is unknown" in capsys.readouterr().err
    assert client.asked == []


def test_save_and_load_bring_the_conversation_back(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    first = Repl(client=client, mode=Mode.PREFER_ON_DEVICE, system="Be brief.")
    first.handle("one")
    first.handle(f"/save {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = Repl(client=client, mode=Mode.PREFER_ON_DEVICE)
    second.handle(f"/load {path}")
    assert second.messages() == first.messages()
    second.handle("two")
    second.handle("/save")
    assert load_transcript(path).messages == second.messages()
    assert [entry.name for entry in tmp_path.glob("*chat*")] == ["chat.json"]


def test_save_overwrites_nothing_but_its_own_file(
    repl: Repl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("dear")
    repl.handle(f"/save {path}")
    repl.handle("/save")
    repl.handle(f"/save {tmp_path}/no/such/folder.json")
    assert path.read_text() == "dear"
    err = capsys.readouterr().err
    assert "exists; choose another name" in err
    assert "is missing; name a file" in err
    assert "cannot be written: No such file or directory" in err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no saved chat"),
        (b'{"kind": "other"}', "no saved chat"),
        (b'{"kind": "crayon-chat", "version": 2, "messages": []}', "version: 2 is unknown"),
        (b'{"kind": "crayon-chat", "version": 1, "messages": 3}', "messages: must be a list"),
        (b'{"kind": "crayon-chat", "version": 1, "messages": [{"role": "root", "content": "x"}]}', r"\[0\].role"),
        (b'{"kind": "crayon-chat", "version": 1, "messages": [{"role": "user", "content": 3}]}', r"\[0\].content"),
        (b'{"kind": "crayon-chat", "version": 1, "messages": [{"role": "user", "content": "x"}]}', "no answer"),
        (b'{"kind": "crayon-chat", "version": 1, "messages": [{"role": "assistant", "content": "x"}]}', r"\[0\].role"),
    ],
)
def test_load_refuses_what_is_no_conversation(
    repl: Repl, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, problem: str
) -> None:
    repl.handle("one")
    before = said(repl)
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=problem):
        load_transcript(path)
    repl.handle(f"/load {path}")
    assert said(repl) == before
    assert repl.code == 2


def test_load_refuses_huge_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InvalidRequestError, match="larger than 16 MiB"):
        load_transcript(path)
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        load_transcript(tmp_path / "missing.json")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        load_transcript(tmp_path)


def test_a_private_conversation_stays_private_in_a_file(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.json"
    first = Repl(client=client, mode=Mode.PREFER_ON_DEVICE, private=True)
    first.handle("my diary")
    first.handle(f"/save {path}")
    # In a chat that is not private, its text would travel with the next question.
    second = Repl(client=client, mode=Mode.PREFER_ON_SERVER)
    second.handle(f"/load {path}")
    assert "stays on the device" in capsys.readouterr().err
    second.handle("and then?")
    second.handle(f"/save {tmp_path / 'again.json'}")
    second.handle("/clear")
    second.handle("something else")
    assert [options["private"] for options in client.options] == [True, True, False]
    assert load_transcript(tmp_path / "again.json").private


@pytest.mark.parametrize("said", ["", '"private": null, ', '"private": 0, ', '"private": "no", '])
def test_a_file_that_does_not_say_it_is_public_is_private(tmp_path: Path, said: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(f'{{"kind": "crayon-chat", "version": 1, {said}"messages": []}}')
    assert load_transcript(path).private


@given(st.lists(st.tuples(st.text(min_size=1), st.text())), st.booleans())
def test_any_conversation_survives_a_file(tmp_path_factory: Any, turns: list[tuple[str, str]], private: bool) -> None:
    texts = [(q, a) for q, a in turns if q.strip()]
    messages = tuple(m for q, a in texts for m in (Message("user", q), Message("assistant", a)))
    path = tmp_path_factory.mktemp("chat") / "chat.json"
    save_transcript(path, messages, private=private)
    assert load_transcript(path) == Transcript(messages, private)
    assert json.loads(path.read_text("utf-8"))["version"] == 1


def test_blocks_are_read_whole() -> None:
    lines = ["one\n", '"""two\n', "\n", 'three"""\n', "four\n", '"""open\n', "end"]
    assert list(read_blocks(lines)) == ["one\n", '"""two\n\nthree"""\n', "four\n", '"""open\nend']
    assert unquote('"""two\n\nthree"""\n') == "two\n\nthree"
    assert unquote('""') == '""'
    assert is_open('"""') and is_open('"""a"') and not is_open('"""a"""') and not is_open("a")  # noqa: PT018 - a table


def test_chat_takes_questions_and_commands_from_a_pipe(runner: CliRunner, client: Any) -> None:
    result = runner.invoke(app, ["chat", "--system", "S"], input='one\n/mode only_on_server\n"""two\nthree"""\n')
    assert result.exit_code == 0
    assert result.stdout == "echo one\necho two\nthree\n"
    assert client.asked[1][-1] == (USER, "two\nthree")
    assert client.options[1] == {"mode": Mode.ONLY_ON_SERVER, "private": False}
    assert client.closed


def test_chat_from_a_pipe_goes_on_after_a_failure_and_ends_with_its_code(runner: CliRunner, client: Any) -> None:
    client.scripts = [[errors.ServerUnavailableError("gone")]]
    result = runner.invoke(app, ["chat"], input="one\ntwo\n")
    assert result.exit_code == 4
    assert result.stdout == "echo two\n"


def test_chat_from_a_pipe_ends_at_exit(runner: CliRunner, client: Any) -> None:
    assert runner.invoke(app, ["chat"], input="/exit\none\n").exit_code == 0
    assert client.asked == []


def test_chat_from_a_pipe_ends_at_an_interrupt(runner: CliRunner, client: Any) -> None:
    client.scripts = [["half", KeyboardInterrupt()]]
    result = runner.invoke(app, ["chat"], input="one\ntwo\n")
    assert result.exit_code == 130
    assert len(client.asked) == 1


def test_chat_from_a_pipe_refuses_what_is_no_text(runner: CliRunner, client: Any) -> None:
    result = runner.invoke(app, ["chat"], input=b"caf\xe9\n")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
