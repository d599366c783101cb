"""What the tests of shared prefixes have in common: examples before a question, and scores of a context of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tiny_chat import CLOSE

from crayon.engine import GenerateRequest, Prefix, ScoreRequest
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.signals import log_softmax_at
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.completion import Blend, Usage
    from crayon.device import DeviceEngine

EXAMPLES = (
    Message("user", "The train was late again."),
    Message("assistant", "travel"),
    Message("user", "Mix the flour with two eggs."),
    Message("assistant", "cooking"),
)
OTHERS = (Message("user", "two and two?"), Message("assistant", "four"))
LABELS = ("travel", "cooking", "traveller", "tr", "money", "travel")


def near(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether log-probabilities differ by rounding only.

    Keys and values are kept as float16: a fresh context that reads the same prompt in other steps is off by up to 0.07
    nats at one token in a hundred, and by 0.008 in the mean.
    """
    gaps = np.abs(np.subtract(found, expected))
    return bool(gaps.max() < 3 * CLOSE and gaps.mean() < CLOSE / 2)


def conversation(question: str, examples: Sequence[Message] = EXAMPLES) -> tuple[Message, ...]:
    return (*examples, Message("user", question))


def score_request(
    question: str,
    folder: Path | None = None,
    *,
    examples: Sequence[Message] = EXAMPLES,
    shared: bool = True,
    blend: Blend | None = None,
) -> ScoreRequest:
    prefix = Prefix(len(examples), folder) if shared else None
    return ScoreRequest(messages=conversation(question, examples), continuations=LABELS, prefix=prefix, blend=blend)


def scored(engine: DeviceEngine, request: ScoreRequest) -> tuple[list[float], Usage]:
    """All log-probabilities, in one list, and what it cost."""
    result = engine.score(request).result(120)
    return [value for score in result.scores for value in score.token_logprobs], result.usage


def ask_after(question: str, folder: Path | None = None, max_tokens: int = 4) -> GenerateRequest:
    return GenerateRequest(
        messages=conversation(question),
        sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
        prefix=Prefix(len(EXAMPLES), folder),
    )


def alone(
    path: Path,
    messages: Sequence[Message],
    texts: Sequence[str] = LABELS,
    adapters: Sequence[tuple[Path, float]] = (),
) -> list[float]:
    """The same from contexts that never held anything else, one for each text: the plain way."""
    found: list[float] = []
    with Model(path) as model:
        loaded: list[tuple[Adapter, float]] = [(Adapter(model, file), scale) for file, scale in adapters]
        prompt = model.tokenize_chat(messages)
        for text in texts:
            tokens = model.tokenize(text)
            with Context(model, n_ctx=1024, n_batch=1024, threads=1) as context:
                context.set_adapters(loaded)
                batch = Batch(1024)
                rows = batch.add([*prompt, *tokens], 0, 0, "all")
                context.decode(batch)
                found += [
                    float(log_softmax_at(context.logits(rows[len(prompt) - 1 + i]), [token])[0])
                    for i, token in enumerate(tokens)
                ]
        for adapter, _ in loaded:
            adapter.close()
    return found
