from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from crayon.cli.chat.command import talk
from crayon.cli.chat.prompt import CommandCompleter, history_path, make_session
from crayon.cli.chat.repl import COMMANDS, Repl
from crayon.completion import Mode

if TYPE_CHECKING:
    from pathlib import Path

ENTER, ESCAPE, CTRL_C, CTRL_D, CTRL_J, UP = "\r", "\x1b", "\x03", "\x04", "\n", "\x1b[A"


def type_in(client: Any, keys: str, *, keep_history: bool = False) -> Repl:
    """Hold a conversation by these keys."""
    repl = Repl(client=client, mode=Mode.PREFER_ON_DEVICE)
    with create_pipe_input() as keyboard:
        keyboard.send_text(keys)
        talk(repl, make_session(keep_history=keep_history, input=keyboard, output=DummyOutput()))
    return repl


def asked(client: Any) -> list[str]:
    return [messages[-1][1] for messages in client.asked]


def test_enter_sends_and_ctrl_d_leaves(client: Any) -> None:
    repl = type_in(client, f"one{ENTER}two{ENTER}{CTRL_D}")
    assert asked(client) == ["one", "two"]
    assert repl.running


@pytest.mark.parametrize("new_line", [CTRL_J, ESCAPE + ENTER])
def test_new_lines_within_a_question(client: Any, new_line: str) -> None:
    type_in(client, f"one{new_line}two{ENTER}/exit{ENTER}")
    assert asked(client) == ["one\ntwo"]


def test_a_block_is_sent_when_it_is_closed(client: Any) -> None:
    type_in(client, f'"""one{ENTER}{ENTER}two"""{ENTER}{CTRL_D}')
    assert asked(client) == ["one\n\ntwo"]


def test_a_pasted_text_is_not_sent_line_by_line(client: Any) -> None:
    type_in(client, f"\x1b[200~one\ntwo\n\x1b[201~{ENTER}{CTRL_D}")
    assert asked(client) == ["one\ntwo"]


def test_ctrl_c_clears_the_line_and_the_chat_goes_on(client: Any) -> None:
    type_in(client, f"wrong{CTRL_C}right{ENTER}{CTRL_D}")
    assert asked(client) == ["right"]


def test_ctrl_c_during_an_answer_stops_only_the_answer(client: Any) -> None:
    client.scripts = [["half", KeyboardInterrupt()]]
    type_in(client, f"one{ENTER}two{ENTER}{CTRL_D}")
    assert asked(client) == ["one", "two"]
    assert client.asked[1][1] == ("assistant", "half")


def test_history_is_kept_for_the_next_chat_and_only_for_its_owner(client: Any) -> None:
    type_in(client, f"one{CTRL_J}line{ENTER}{CTRL_D}", keep_history=True)
    type_in(client, f"{UP}{UP}{ENTER}{CTRL_D}", keep_history=True)
    assert asked(client) == ["one\nline", "one\nline"]
    assert stat.S_IMODE(history_path().stat().st_mode) == 0o600


def test_a_private_chat_leaves_no_history(client: Any) -> None:
    type_in(client, f"secret{ENTER}{CTRL_D}", keep_history=False)
    assert asked(client) == ["secret"]
    assert not history_path().exists()


def test_without_a_place_for_history_the_chat_still_works(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    type_in(client, f"one{ENTER}{CTRL_D}", keep_history=True)
    assert asked(client) == ["one"]
    assert "not remembered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", list(COMMANDS)),
        ("/st", ["/stats"]),
        ("/mode only", ["only_on_device", "only_on_server"]),
        ("/mode ", [mode.value for mode in Mode]),
        ("what is /st", []),
        ("/help x", []),
        ("line\n/st", []),
    ],
)
def test_completion(text: str, expected: list[str]) -> None:
    found = CommandCompleter().get_completions(Document(text), CompleteEvent())
    assert [completion.text for completion in found] == expected


def test_completion_of_paths(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text("{}")
    found = CommandCompleter().get_completions(Document(f"/load {tmp_path}{os.sep}ch"), CompleteEvent())
    assert [completion.text for completion in found] == ["at.json"]
