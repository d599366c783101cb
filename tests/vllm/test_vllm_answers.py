"""The same file in vLLM and in llama.cpp: the same tokens, answers, scores, and sampling parameters of one meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from crayon.completion import FinishReason
from crayon.engine import Delta, Engine, GenerateRequest, ScoreRequest
from crayon.messages import Message
from crayon.sampling import Sampling
from crayon.server.engines.vllm.sampling import TABLE

if TYPE_CHECKING:
    from crayon.server.engines.llama.engine import LlamaCppEngine
    from crayon.server.engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.vllm

CLOSE = 0.05  # nats a token, as in tiny_chat
TEXTS = (
    "Say something about rivers",
    "naïve café, 123 and\n\ta tab",
    "a <|im_end|> that somebody typed",
    "👩‍👩‍👧 漢字",
)
WHERE = ("vllm", "llama_cpp")


@pytest.fixture(params=WHERE)
def either(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue("engine" if request.param == "vllm" else "llama")
    return found


def answer(engine: Engine, text: str = TEXTS[0], **sampling: Any) -> list[Any]:
    request = GenerateRequest(messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 24, **sampling}))
    return list(engine.generate(request))


def text_of(events: list[Any]) -> str:
    """Return the text, without what vLLM keeps to itself at an end: bytes that are no character yet."""
    return "".join(event.text for event in events if isinstance(event, Delta)).rstrip("\ufffd")


@pytest.mark.parametrize("text", TEXTS)
def test_both_say_the_same(engine: VllmEngine, llama: LlamaCppEngine, text: str) -> None:
    mine, theirs = answer(engine, text), answer(llama, text)
    assert text_of(mine) == text_of(theirs)
    assert mine[-1].finish_reason is theirs[-1].finish_reason
    assert mine[-1].usage.prompt_tokens == theirs[-1].usage.prompt_tokens
    assert mine[-1].usage.completion_tokens == theirs[-1].usage.completion_tokens


def test_both_score_the_same(engine: VllmEngine, llama: LlamaCppEngine) -> None:
    request = ScoreRequest(messages=(Message("user", "x"),), continuations=("yes", "no, never", "漢"))
    mine, theirs = engine.score(request).result(60), llama.score(request).result(60)
    for one, other in zip(mine.scores, theirs.scores, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=CLOSE)


def test_signals_are_of_the_unmodified_distribution(engine: VllmEngine, llama: LlamaCppEngine) -> None:
    def signals(engine: Engine) -> list[Any]:
        events = answer(engine, max_tokens=8, repeat_penalty=1.3)
        return [signal for event in events if isinstance(event, Delta) for signal in event.signals]

    for one, other in zip(signals(engine), signals(llama), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=CLOSE)
        assert one.margin == pytest.approx(other.margin, abs=CLOSE)
        assert one.entropy <= other.entropy + CLOSE  # tokens beyond the likeliest 20 count as one


PENALTIES = (
    {"repeat_penalty": 1.5},
    {"repeat_penalty": 0.8},
    {"presence_penalty": 2.0},
    {"frequency_penalty": 1.0},
    {"repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
)


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
def test_penalties_look_back_on_the_same_tokens(
    engine: VllmEngine, llama: LlamaCppEngine, penalties: dict[str, float]
) -> None:
    # More than the 64 tokens of the window, prompt and answer; then near ties begin to fall either way.
    plain = text_of(answer(engine, max_tokens=60, ignore_eos=True))
    mine = text_of(answer(engine, max_tokens=60, ignore_eos=True, **penalties))
    assert mine == text_of(answer(llama, max_tokens=60, ignore_eos=True, **penalties))
    assert mine != plain


def _greedy(engine: Engine) -> str:
    return text_of(answer(engine))


def _only_likeliest(**filters: Any) -> Any:
    def check(engine: Engine) -> None:
        assert text_of(answer(engine, temperature=2.0, **filters)) == _greedy(engine)

    return check


def _temperature(engine: Engine) -> None:
    assert len({text_of(answer(engine, temperature=2.0, seed=seed)) for seed in range(4)}) > 1
    assert text_of(answer(engine, temperature=1e-7)) == _greedy(engine)


def _seed(engine: Engine) -> None:
    assert text_of(answer(engine, temperature=1.5, seed=7)) == text_of(answer(engine, temperature=1.5, seed=7))


def _max_tokens(engine: Engine) -> None:
    finished = answer(engine, max_tokens=3, ignore_eos=True)[-1]
    assert (finished.usage.completion_tokens, finished.finish_reason) == (3, FinishReason.LENGTH)


def _stop(engine: Engine) -> None:
    def whole(**sampling: Any) -> str:
        return "".join(event.text for event in answer(engine, **sampling) if isinstance(event, Delta))

    text = whole()
    stop = next(text[at : at + 2] for at in range(len(text) // 2, len(text)) if "\ufffd" not in text[at : at + 2])
    assert whole(stop=(stop,)) == text[: text.find(stop)]


def _penalty(name: str, value: float) -> Any:
    def check(engine: Engine) -> None:
        assert text_of(answer(engine, ignore_eos=True, max_tokens=60, **{name: value})) != text_of(
            answer(engine, ignore_eos=True, max_tokens=60)
        )

    return check


def _ignore_eos(engine: Engine) -> None:
    assert answer(engine, max_tokens=100, ignore_eos=True)[-1].usage.completion_tokens == 100


CHECKS = {
    "max_tokens": _max_tokens,
    "temperature": _temperature,
    "top_k": _only_likeliest(top_k=1),
    "top_p": _only_likeliest(top_p=0.0),
    "min_p": _only_likeliest(min_p=1.0),
    "repeat_penalty": _penalty("repeat_penalty", 1.5),
    "presence_penalty": _penalty("presence_penalty", 2.0),
    "frequency_penalty": _penalty("frequency_penalty", 2.0),
    "stop": _stop,
    "seed": _seed,
    "ignore_eos": _ignore_eos,
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_row_of_the_table_does_what_it_says_in_both(either: Engine, row: Any) -> None:
    CHECKS[row.name](either)
