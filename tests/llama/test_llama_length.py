"""How few tokens a text can have is told by its length, without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import write_model

from crayon.engine import EncodeRequest, GenerateRequest, ScoreRequest
from crayon.errors import InvalidRequestError, PromptTooLongError
from crayon.llama.model import Model
from crayon.messages import Message
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> Iterator[Model]:
    with Model(tiny_path) as opened:
        yield opened


@given(st.lists(st.text(max_size=60) | st.text("ab \t\n", max_size=200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_text_has_fewer_tokens_than_its_length_says(model: Model, texts: list[str]) -> None:
    assert model.longest_token > 0
    assert model.least_tokens(texts) <= sum(len(model.tokenize(text)) for text in texts)


def test_what_no_context_holds_is_refused_unread(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaCppEngine(tiny_path, n_ctx=256, n_seq_max=2, threads=1, max_queue_tokens=400) as engine:
        longest = engine._model.longest_token
        assert engine._model.unseen is not None  # read once a model, and of its own texts
        monkeypatch.setattr(Model, "tokenize", lambda *_, **__: pytest.fail("it was read"))
        monkeypatch.setattr(Model, "tokenize_chat", lambda *_: pytest.fail("it was read"))
        with pytest.raises(PromptTooLongError, match=r"^messages"):
            engine.generate(GenerateRequest(messages=(Message("user", "\t" * 128 * longest),)))
        monkeypatch.setattr(Model, "tokenize_chat", lambda *_: [1, 2, 3])
        for texts, field in ((("a", "b" * 129 * longest), r"\[1\]"), (("a" * 100 * longest,) * 5, "")):
            with pytest.raises(InvalidRequestError, match=f"^continuations{field}: "):
                engine.score(ScoreRequest(messages=(Message("user", "hi"),), continuations=texts))
            with pytest.raises(InvalidRequestError, match=f"^texts{field}: "):
                engine.encode(EncodeRequest(texts=texts))
