"""Tokens: files of them, whose they are, and that they are never shown."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest

from crayon.errors import ConfigError
from crayon.server.config import ServeConfig
from crayon.server.tokens import TokenStore
from crayon.wire.tokens import Secret

if TYPE_CHECKING:
    from pathlib import Path

ALICE, BOB, CAROL = "alice-0123456789abcdef", "bob.0123456789abcdef/+~==", "carol_0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


def test_a_file_has_names_comments_and_tokens_without_a_name(file: Path) -> None:
    file.write_text(f"# who may call\n\n alice : {ALICE} \r\n{BOB}\nalice:{CAROL}\n", encoding="utf-8")
    tokens = TokenStore(file, [Secret(f"env:{'e' * 20}"), Secret("f" * 20)]).current
    assert [tokens.find(text) for text in (ALICE, BOB, CAROL, "e" * 20, "f" * 20)] == [
        "alice",
        "line-4",
        "alice",
        "env",
        "token-2",
    ]
    assert [tokens.find(text) for text in ("", "alice", ALICE[:-1], ALICE + "x", "ä", "\udcff")] == [None] * 6
    assert tokens.names == ("env", "token-2", "alice", "line-4")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("alice:short", "line 1: a token has 16 to 1024 characters, this one 5"),
        (f"ok:{ALICE}\nal ice:{BOB}", "line 2: the name before the colon"),
        (f"alice:{ALICE} more", "line 1: a token is made of"),
        (f"alice:{ALICE}\nbob:{ALICE}", "alice and bob have the same token"),
        ("\0" * 20, "is made of"),
    ],
)
def test_a_malformed_file_is_refused_without_its_text(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        TokenStore(file)
    for secret in (ALICE, BOB, "short"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_file_that_everybody_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    file.write_text(ALICE)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=r"tokens_file: every user .* chmod 600 it"):
        TokenStore(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="is no file"):
        TokenStore(pipe)
    with pytest.raises(ConfigError, match="No such file"):
        TokenStore(tmp_path / "absent")


def test_a_reload_takes_what_is_good_and_keeps_what_there_was(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    store = TokenStore(file)
    file.write_text(f"bob:{BOB}\ncarol:{CAROL}\n")
    assert store.reload()
    assert [store.current.find(text) for text in (ALICE, BOB, CAROL)] == [None, "bob", "carol"]
    for bad in ("", f"bob:{ALICE}\ncarol:x"):
        file.write_text(bad)
        assert not store.reload()
        assert store.current.find(CAROL) == "carol"
    file.unlink()
    assert not store.reload()
    assert "the tokens stay as they were" in caplog.text
    assert "line 2" in caplog.text
    assert not any(secret in caplog.text for secret in (ALICE, BOB, CAROL))


def test_a_secret_is_shown_to_nobody() -> None:
    secret = Secret(ALICE)
    config = ServeConfig(tokens=(secret,))
    assert ALICE not in f"{secret!r} {secret} {config!r} {vars(TokenStore(None, [secret]))!r}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
