"""Files of kept prefixes: what is wrong with one is computed anew, and nothing keeps an answer from coming."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from device_tools import Answer
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_tools import EXAMPLES, alone, ask_after, conversation, near, score_request, scored
from tiny_chat import write_model

from crayon.device import DeviceEngine
from crayon.device import kept_prefix as kept
from crayon.device.kept_prefix import MAX_FILES, KeptPrefix
from crayon.device.prefixes import Prefixes
from crayon.engine import Prefix
from crayon.errors import InvalidRequestError
from crayon.llama.context import Context
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TOKENS, STATE = (1, 2, 3), b"state of three tokens"
QUESTION = "What now?"


def prefix(folder: Path, number: int = 0, tokens: tuple[int, ...] = TOKENS) -> KeptPrefix:
    return KeptPrefix(folder, bytes([number]) * 32, tokens)


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "crayon.device")
    return caplog


# -- the file


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    prefix(tmp_path).store(STATE)
    found = prefix(tmp_path).load()
    assert found is not None
    assert bytes(found) == STATE
    assert prefix(tmp_path, 1).load() is None


@settings(max_examples=60)
@given(st.data())
def test_a_file_that_differs_in_any_byte_is_not_used(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    one = prefix(tmp_path_factory.mktemp("kept"))
    one.store(STATE)
    whole = one.path.read_bytes()
    change = data.draw(st.sampled_from(["cut", "flip", "append"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    one.path.write_bytes({"cut": whole[:at], "flip": flipped, "append": whole + b"x"}[change])
    assert one.load() is None
    assert not one.path.exists()


@pytest.mark.parametrize("other", [{"identity": b"o" * 32}, {"tokens": (1, 2, 4)}, {"tokens": (1, 2)}])
def test_a_file_of_another_prefix_under_this_name_is_not_used(
    tmp_path: Path, other: dict[str, Any], debug: pytest.LogCaptureFixture
) -> None:
    foreign = replace(prefix(tmp_path), **other)
    foreign.store(STATE)
    if foreign.path != prefix(tmp_path).path:
        foreign.path.rename(prefix(tmp_path).path)
    assert prefix(tmp_path).load() is None
    assert "is computed anew" in debug.text


def test_a_file_too_large_is_never_read(tmp_path: Path, debug: pytest.LogCaptureFixture) -> None:
    with prefix(tmp_path).path.open("wb") as file:
        file.truncate(kept.MAX_BYTES + 1)  # sparse
    assert prefix(tmp_path).load() is None
    assert "too large" in debug.text


def test_a_state_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_BYTES", 64)
    prefix(tmp_path).store(STATE)
    assert not list(tmp_path.iterdir())


def test_something_else_in_its_place_is_left_alone(tmp_path: Path, debug: pytest.LogCaptureFixture) -> None:
    prefix(tmp_path).path.mkdir()
    assert prefix(tmp_path).load() is None
    prefix(tmp_path).store(STATE)
    assert prefix(tmp_path).path.is_dir()
    assert "cannot be kept" in debug.text
    os.mkfifo(prefix(tmp_path, 1).path)
    assert prefix(tmp_path, 1).load() is None


def test_the_files_used_last_are_kept(tmp_path: Path) -> None:
    (tmp_path / "customization.json").write_text("{}")
    for i in range(MAX_FILES):
        prefix(tmp_path, i).store(STATE)
        os.utime(prefix(tmp_path, i).path, (1000 + i, 1000 + i))
    assert prefix(tmp_path, 0).load() is not None
    prefix(tmp_path, 9).store(STATE)
    left = [i for i in (*range(MAX_FILES), 9) if prefix(tmp_path, i).path.exists()]
    assert left == [0, 2, 3, 9]
    assert (tmp_path / "customization.json").exists()


# -- which file


class Letters:
    """A model whose tokens are letters; its template writes the length of the last message where it says so."""

    def __init__(self, path: Path, template: str = "") -> None:
        self.path, self.template = path, template
        self.asked = 0

    def tokenize_chat(self, messages: Sequence[Message]) -> list[int]:
        self.asked += 1
        if "refused" in messages[0].content:
            raise InvalidRequestError("messages", "refused")
        text = self.template.format(len(messages[-1].content)) + "".join(f"<{m.role}>{m.content}" for m in messages)
        return list(map(ord, text))


def finder(model: Any, **values: str) -> Prefixes:
    given = {"state": "1/1", "file_sha256": "", "template_sha256": "t", **values}
    return Prefixes(model, **given)


@pytest.fixture
def model(tmp_path: Path) -> Letters:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return Letters(tmp_path / "model.gguf")


def found(prefixes: Prefixes, model: Letters, folder: Path, question: str = "q", blend: str | None = "") -> Any:
    messages = conversation(question)
    return prefixes.find(Prefix(len(EXAMPLES), folder), messages, model.tokenize_chat(messages), blend)


def test_the_shared_tokens_are_those_before_any_question(model: Letters, tmp_path: Path) -> None:
    prefixes = finder(model)
    shared = found(prefixes, model, tmp_path)
    assert shared.tokens == tuple(model.tokenize_chat(conversation("")))
    asked = model.asked
    assert found(prefixes, model, tmp_path, "another") == shared
    assert model.asked == asked + 1, "the prefix is looked for once"


def test_what_follows_the_prefix_is_not_in_it_however_the_template_mixes_them(model: Letters, tmp_path: Path) -> None:
    model.template = "{} "
    assert found(finder(model), model, tmp_path, "qq") is None  # questions of other lengths share nothing
    prefixes = finder(model)
    model.template = "today "
    first = found(prefixes, model, tmp_path)
    model.template = "tomorrow "
    assert found(prefixes, model, tmp_path) is None, "tokens that the prompt does not begin with"
    assert found(prefixes, model, tmp_path).tokens != first.tokens


def test_a_template_that_refuses_has_no_prefix(model: Letters, tmp_path: Path) -> None:
    messages = (Message("user", "refused"), Message("assistant", "a"), Message("user", "b"))
    assert finder(model).find(Prefix(2, tmp_path), messages, [1, 2, 3], "") is None


def test_every_thing_that_a_state_depends_on_names_another_file(model: Letters, tmp_path: Path) -> None:
    base = found(finder(model), model, tmp_path).kept.path
    assert found(finder(model), model, tmp_path).kept.path == base
    changed = [
        found(finder(model, state="8/8"), model, tmp_path),
        found(finder(model, file_sha256="f"), model, tmp_path),
        found(finder(model, template_sha256="u"), model, tmp_path),
        found(finder(model), model, tmp_path, blend="pool 1.0"),
    ]
    model.path.write_bytes(b"GGUF, another")
    changed.append(found(finder(model), model, tmp_path))
    assert len({base, *(one.kept.path for one in changed)}) == 6


def test_without_a_folder_or_a_name_for_the_blend_nothing_is_kept(model: Letters, tmp_path: Path) -> None:
    assert found(finder(model), model, tmp_path, blend=None).kept is None
    messages = conversation("q")
    here = finder(model).find(Prefix(len(EXAMPLES)), messages, model.tokenize_chat(messages), "")
    assert here is not None
    assert here.kept is None


# -- an engine


def once(path: Path, folder: Path) -> tuple[list[float], int]:
    """Scores of an engine that is opened for them, and how many tokens it did not compute."""
    with DeviceEngine(path, n_ctx=512, n_batch=64, threads=1) as engine:
        values, usage = scored(engine, score_request(QUESTION, folder))
    return values, usage.cached_tokens


def test_a_damaged_file_is_computed_anew_and_kept_again(tiny_chat_path: Path, tmp_path: Path) -> None:
    expected = alone(tiny_chat_path, conversation(QUESTION))
    once(tiny_chat_path, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        values, cached = once(tiny_chat_path, tmp_path)
        assert near(values, expected)
        assert cached == 0
        assert file.read_bytes() == whole
    assert once(tiny_chat_path, tmp_path)[1] > 0


@pytest.mark.parametrize(
    "wrong", [lambda _: b"\xff" * 64, lambda state: state[: len(state) // 2]], ids=["none", "half"]
)
def test_a_state_that_llama_cpp_refuses_is_computed_anew(
    tiny_chat_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[bytes], bytes]
) -> None:
    real = Context.save
    monkeypatch.setattr(Context, "save", lambda self, sequence: wrong(real(self, sequence)))
    once(tiny_chat_path, tmp_path)
    monkeypatch.setattr(Context, "save", real)
    for again in (False, True):
        values, cached = once(tiny_chat_path, tmp_path)
        assert near(values, alone(tiny_chat_path, conversation(QUESTION)))
        assert (cached > 0) == again


def test_another_models_file_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    paths = [write_model(tmp_path / f"{seed}.gguf", seed) for seed in range(2)]
    for path in paths:
        with DeviceEngine(path, n_ctx=512, threads=1) as engine:
            values, usage = scored(engine, score_request(QUESTION, folder))
        assert near(values, alone(path, conversation(QUESTION)))
        assert usage.cached_tokens == 0
    assert len(list(folder.iterdir())) == 2


def test_a_full_disk_keeps_no_answer_from_coming(
    tiny: Callable[..., DeviceEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "write_private", full)
    engine = tiny()
    answer = Answer(engine, ask_after(QUESTION, tmp_path))
    assert answer.finished.usage.completion_tokens == 4
    assert scored(engine, score_request("And now?", tmp_path))[1].cached_tokens > 0
    assert "No space left" in debug.text
    assert all(record.levelno == logging.DEBUG for record in debug.records if record.name == "crayon.device")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_not_made_again(
    tiny: Callable[..., DeviceEngine], tiny_chat_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    engine = tiny()
    scored(engine, score_request(QUESTION, folder))
    once(tiny_chat_path, folder)
    assert len(list(folder.iterdir())) == 1
    shutil.rmtree(folder)
    assert scored(engine, score_request("And now?", folder))[1].cached_tokens > 0
    assert once(tiny_chat_path, folder)[1] == 0
    assert not folder.exists()


def test_engines_that_keep_the_same_prefix_at_once_leave_one_whole_file(tiny_chat_path: Path, tmp_path: Path) -> None:
    start = threading.Barrier(3)
    costs: list[int] = []

    def work() -> None:
        with DeviceEngine(tiny_chat_path, n_ctx=512, threads=1) as engine:
            start.wait(60)
            costs.append(scored(engine, score_request(QUESTION, tmp_path))[1].cached_tokens)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(costs) == 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".kv"]
    with DeviceEngine(tiny_chat_path, n_ctx=512, threads=1) as engine:
        values, usage = scored(engine, score_request(QUESTION, tmp_path))
    assert usage.cached_tokens > 0
    assert near(values, alone(tiny_chat_path, conversation(QUESTION)))


def test_no_prompt_is_logged(tiny_chat_path: Path, tmp_path: Path, debug: pytest.LogCaptureFixture) -> None:
    once(tiny_chat_path, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    once(tiny_chat_path, tmp_path)
    assert "is computed anew" in debug.text
    assert not any(message.content in debug.text for message in conversation(QUESTION))
