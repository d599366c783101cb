"""The interactive prompt of `crayon chat`, on prompt-toolkit: keys, completion and remembered input."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import create_output

from crayon.cli.chat.repl import COMMANDS, is_open
from crayon.cli.shared import console
from crayon.completion import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.key_binding import KeyPressEvent


def make_session(*, keep_history: bool, **terminal: Any) -> PromptSession[str]:
    """Return the session that reads the user's input; `terminal` may give another `input` and `output`."""
    # Answers may go to a file while the prompt stays on the terminal.
    terminal.setdefault("output", create_output(always_prefer_tty=True))
    return PromptSession(
        "> ",
        multiline=True,
        key_bindings=_keys(),
        completer=CommandCompleter(),
        complete_while_typing=Condition(_typing_command),
        history=_history(history_path()) if keep_history else InMemoryHistory(),
        prompt_continuation="  ",
        **terminal,
    )


def history_path() -> Path:
    """Return the file that remembers what was typed."""
    return user_state_path("crayon", appauthor=False) / "chat-history"


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        console.warning(f"what you type is not remembered: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)


def _typing_command() -> bool:
    from prompt_toolkit.application import get_app

    return get_app().current_buffer.text.startswith("/")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class CommandCompleter(Completer):
    """Completes commands, the modes after /mode and paths after /save and /load."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what could stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for command in COMMANDS:
                if command.startswith(name):
                    yield Completion(command, -len(name), display_meta=COMMANDS[command].help)
        elif name == "/mode":
            for mode in Mode:
                if mode.startswith(argument):
                    yield Completion(mode.value, -len(argument))
        elif name in {"/save", "/load"}:
            yield from self._paths.get_completions(Document(argument), complete_event)
