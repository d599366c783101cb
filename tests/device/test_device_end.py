"""Where an answer ends, in the chat template or the vocabulary: scored, trained and written alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prefix_tools import near
from tiny_chat import write_model

from crayon.device import DeviceEngine
from crayon.engine import Delta, Finished, GenerateRequest, ScoreRequest
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.signals import log_softmax_at
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.training.examples import Prompts

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

QUESTION = (Message("user", "so?"),)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose file names <|endoftext|> as its end, while its template ends turns with <|im_end|>."""
    return write_model(tmp_path_factory.mktemp("end") / "tiny.gguf", eos=0)


def test_an_answer_is_scored_to_the_end_that_the_template_gives_it(path: Path) -> None:
    with DeviceEngine(path, n_ctx=256, threads=1) as engine:
        request = ScoreRequest(messages=QUESTION, continuations=("red", "blue"))
        found = [score.token_logprobs[-1] for score in engine.score(request, ended=True).result(60).scores]
    expected = []
    with Model(path) as model, Context(model, n_ctx=256, threads=1) as context:
        (end,) = model.tokenize("<|im_end|>", special=True)
        for text in request.continuations:
            batch = Batch(256)
            row = batch.add([*model.tokenize_chat(QUESTION), *model.tokenize(text)], 0, 0, "last")[-1]
            context.decode(batch)
            expected.append(float(log_softmax_at(context.logits(row), [end])[0]))
            context.clear()
        assert Prompts(model).end == model.turn_end == end != model.eos
    assert near(found, expected)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_each_of_several_ends_ends_what_is_written(path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    real = Context.logits

    def forced(self: Context, row: int) -> np.ndarray:
        logits = real(self, row).copy()
        logits[self.model.tokenize(end, special=True)] = 1e4
        return logits

    with DeviceEngine(path, n_ctx=256, threads=1) as engine:
        monkeypatch.setattr(Context, "logits", forced)
        events = list(engine.generate(GenerateRequest(messages=QUESTION, sampling=Sampling(max_tokens=5))))
    assert not [event for event in events if isinstance(event, Delta)]
    assert isinstance(events[-1], Finished)
    assert events[-1].finish_reason == "stop"
