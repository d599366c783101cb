"""The server's llama.cpp engine on every kind of memory: whatever was asked before, scores are a fresh context's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from prefix_tools import LABELS, alone, near
from tiny_chat import write_model
from tiny_kinds import KINDS, write_kind

from crayon.engine import Delta, GenerateRequest, ScoreRequest
from crayon.errors import EngineError
from crayon.llama.context import Context
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.llama.engine import LlamaCppEngine

if TYPE_CHECKING:
    from pathlib import Path

QUESTIONS = ("Is there a bus to the coast?", "How long do potatoes boil?", "Ünïcode?", "\n what?")
OPENINGS = ("You sell train tickets in the north.", "You are a cook. Answer in a word.", "You are a cook. Be kind.")


@pytest.fixture(scope="module", params=["llama", *KINDS])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each kind of memory."""
    path = tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf"
    return write_model(path) if request.param == "llama" else write_kind(path, request.param)


def engine_of(path: Path, **values: Any) -> LlamaCppEngine:
    return LlamaCppEngine(path, **{"n_ctx": 2048, "n_seq_max": 4, "threads": 1, "n_batch": 64, **values})


def test_a_conversation_goes_on_as_in_a_fresh_context(path: Path) -> None:
    with engine_of(path) as engine:
        messages = [Message("system", OPENINGS[0])]
        for question in QUESTIONS:
            messages.append(Message("user", question))
            score = engine.score(ScoreRequest(messages=tuple(messages), continuations=LABELS))
            found = [value for one in score.result(120).scores for value in one.token_logprobs]
            assert near(found, alone(path, messages)), question
            request = GenerateRequest(messages=tuple(messages), sampling=Sampling(max_tokens=12, ignore_eos=True))
            answer = "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))
            messages.append(Message("assistant", answer or "so"))


def test_what_cannot_be_cut_after_all_fails_its_own_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    first, second = ((Message("system", OPENINGS[0]), Message("user", question)) for question in QUESTIONS[:2])
    with engine_of(path) as engine:
        engine.score(ScoreRequest(messages=first, continuations=("tr",))).result(120)
        real = Context.remove
        monkeypatch.setattr(Context, "remove", lambda *call: real(*call) and not (len(call) > 2 and call[2]))
        with pytest.raises(EngineError, match="cannot be cut"):
            engine.score(ScoreRequest(messages=second, continuations=LABELS)).result(120)
        monkeypatch.undo()
        found = engine.score(ScoreRequest(messages=second, continuations=LABELS)).result(120)
        assert near([value for one in found.scores for value in one.token_logprobs], alone(path, second))


LAYOUTS: dict[str, dict[str, Any]] = {
    "split": {"idle_prefixes": 3},
    "shared": {"kv_unified": True},
    "two-runners": {"overlap": "dual"},
    "little-room": {"kv_unified": True, "n_ctx": 300},
}


@pytest.mark.parametrize("values", LAYOUTS.values(), ids=LAYOUTS)
def test_any_mixture_of_requests_scores_as_a_fresh_context_does(path: Path, values: dict[str, Any]) -> None:
    rng = random.Random(str(values))
    with engine_of(path, **values) as engine:
        for step in range(6):
            streams, wanted = [], []
            for _ in range(rng.choice([1, 2, 4, 6])):
                opening = (Message("system", rng.choice(OPENINGS)),)
                messages = (*opening, Message("user", rng.choice(QUESTIONS) + " why" * rng.randrange(12)))
                if rng.random() < 0.4:
                    sampling = Sampling(max_tokens=rng.randrange(1, 40), ignore_eos=True)
                    streams.append(engine.generate(GenerateRequest(messages=messages, sampling=sampling)))
                else:
                    labels = tuple(rng.sample(LABELS, rng.randrange(1, 5)))
                    request = ScoreRequest(messages=messages, continuations=labels)
                    wanted.append((messages, labels, engine.score(request)))
            for stream in streams:
                list(stream)
            for messages, labels, future in wanted:
                found = [value for score in future.result(120).scores for value in score.token_logprobs]
                assert near(found, alone(path, messages, labels)), step
