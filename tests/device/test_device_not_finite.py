"""Logits and states that are no numbers: an error, and nothing of it in what is asked later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from prefix_tools import LABELS, alone, near
from tiny_chat import write_model

from crayon.device import DeviceEngine
from crayon.engine import Delta, EncodeRequest, GenerateRequest, ScoreRequest
from crayon.errors import NotFiniteError
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crayon.engine import Engine

OPENED: dict[str, Callable[[Path], DeviceEngine | LlamaCppEngine]] = {
    "device": lambda path: DeviceEngine(path, n_ctx=512, n_batch=64, threads=1),
    "server": lambda path: LlamaCppEngine(path, n_ctx=512, n_seq_max=4, n_batch=64, threads=1),
    "server, shared cells": lambda path: LlamaCppEngine(
        path, n_ctx=512, n_seq_max=4, n_batch=64, threads=1, kv_unified=True
    ),
}


@pytest.fixture(scope="module", params=OPENED)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A model that a 7 spoils."""
    path = write_model(tmp_path_factory.mktemp("spoilt") / "tiny.gguf", spoilt="7")
    with OPENED[request.param](path) as engine:
        yield engine


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("signals", [True, False])
def test_an_answer_is_an_error(engine: Engine, temperature: float, signals: bool) -> None:
    sampling = Sampling(max_tokens=6, temperature=temperature, seed=1)
    with pytest.raises(NotFiniteError):
        list(engine.generate(GenerateRequest(messages=user("is it 7?"), sampling=sampling, signals=signals)))


@pytest.mark.parametrize("labels", [("a",), ("th7y", "there"), LABELS])
def test_scores_are_an_error(engine: Engine, labels: tuple[str, ...]) -> None:
    question = "is it?" if "th7y" in labels else "is it 7?"
    with pytest.raises(NotFiniteError):
        engine.score(ScoreRequest(messages=user(question), continuations=labels)).result(60)


def test_a_vector_is_an_error(engine: Engine) -> None:
    with pytest.raises(NotFiniteError):
        engine.encode(EncodeRequest(texts=("all is well", "is it 7?"))).result(60)
    assert len(engine.encode(EncodeRequest(texts=("all is well",))).result(60).vectors) == 1


def test_what_is_asked_later_is_what_a_fresh_context_gives(engine: Engine, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    texts = EncodeRequest(texts=("all is well",))
    vector = engine.encode(texts).result(60).vectors
    with pytest.raises(NotFiniteError):
        engine.encode(EncodeRequest(texts=("7 " * 40,))).result(60)
    assert np.allclose(engine.encode(texts).result(60).vectors, vector, atol=1e-3)
    for bad, good in (("is it 7?", "is it?"), ("7" * 90, "or is it " * 8), ("is it 7?", "so?")):
        with pytest.raises(NotFiniteError):
            engine.score(ScoreRequest(messages=user(bad), continuations=LABELS)).result(60)
        with pytest.raises(NotFiniteError):
            list(engine.generate(GenerateRequest(messages=user(bad), sampling=Sampling(max_tokens=3))))
        scored = engine.score(ScoreRequest(messages=user(good), continuations=LABELS)).result(60)
        found = [value for one in scored.scores for value in one.token_logprobs]
        assert near(found, alone(path, user(good))), good


def test_what_runs_meanwhile_goes_on_as_it_would_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path / "spoilt.gguf", spoilt="7")
    wanted = GenerateRequest(messages=user("so?"), sampling=Sampling(max_tokens=80, ignore_eos=True))
    with OPENED["server"](path) as engine:
        alone_text = [event for event in engine.generate(wanted) if isinstance(event, Delta)]
        stream = engine.generate(wanted)
        found = [next(stream), next(stream)]
        with pytest.raises(NotFiniteError):
            list(engine.generate(GenerateRequest(messages=user("7?"), sampling=Sampling(max_tokens=3))))
        found += stream
    assert "".join(d.text for d in found if isinstance(d, Delta)) == "".join(d.text for d in alone_text)
