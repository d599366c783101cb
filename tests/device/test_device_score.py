from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest
from device_tools import Answer, ask
from tiny_chat import CLOSE

from crayon.device import DeviceEngine
from crayon.engine import ScoreRequest
from crayon.errors import DeadlineExceededError, InvalidRequestError, PromptTooLongError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.signals import log_softmax_at
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

QUESTION = "What is the capital of France?"
OPTIONS = ("Paris", "Berlin is the capital of France.", " No", "The capital of France is Paris.", "漢字 🙂")


def request(continuations: Sequence[str], text: str = QUESTION, deadline: float | None = None) -> ScoreRequest:
    return ScoreRequest(messages=(Message("user", text),), continuations=tuple(continuations), deadline=deadline)


def scores(engine: DeviceEngine, continuations: Sequence[str], text: str = QUESTION) -> list[tuple[float, ...]]:
    result = engine.score(request(continuations, text)).result(120)
    return [score.token_logprobs for score in result.scores]


@pytest.fixture
def engine(tiny: Callable[..., DeviceEngine]) -> DeviceEngine:
    return tiny(n_ctx=1024)


@pytest.fixture
def step_by_step(engine: DeviceEngine) -> dict[str, list[float]]:
    """Each option scored alone, one token at a time, in a context of its own."""
    model, found = engine._model, {}
    prompt = model.tokenize_chat([Message("user", QUESTION)])
    batch = Batch(128)
    with Context(model, n_ctx=256, n_batch=128, threads=1) as context:
        for option in OPTIONS:
            context.clear()
            batch.clear()
            row = batch.add(prompt, 0, 0, "last")[-1]
            context.decode(batch)
            found[option] = []
            for i, token in enumerate(model.tokenize(option)):
                found[option].append(float(log_softmax_at(context.logits(row), [token])[0]))
                batch.clear()
                row = batch.add([token], len(prompt) + i, 0, "last")[0]
                context.decode(batch)
    return found


def test_scores_are_the_sums_of_single_steps(engine: DeviceEngine, step_by_step: dict[str, list[float]]) -> None:
    result = engine.score(request(OPTIONS)).result(120)
    for option, score in zip(OPTIONS, result.scores, strict=True):
        assert score.token_logprobs == pytest.approx(step_by_step[option], abs=CLOSE)
        assert score.total == pytest.approx(sum(step_by_step[option]), abs=CLOSE * len(score.token_logprobs))
        assert score.mean == pytest.approx(score.total / len(score.token_logprobs))
    assert result.model == engine.models()[0].name


@pytest.mark.models
def test_the_real_model_knows_its_capitals(device_model_path: Path) -> None:
    with DeviceEngine(device_model_path, n_ctx=256, threads=1) as engine:
        options = [f"The capital of France is {city}." for city in ("Paris", "Berlin", "Banana")]
        totals = [sum(one) for one in scores(engine, options)]
        assert totals[0] > totals[1] > totals[2]


def test_grouping_and_duplicates_change_nothing(engine: DeviceEngine, step_by_step: dict[str, list[float]]) -> None:
    many = [OPTIONS[i % len(OPTIONS)] for i in range(23)]  # more than are branched together
    for option, found in zip(many, scores(engine, many), strict=True):
        assert found == pytest.approx(step_by_step[option], abs=CLOSE)
    for option in OPTIONS[:2]:
        assert scores(engine, [option])[0] == pytest.approx(step_by_step[option], abs=CLOSE)


def test_the_prefix_cache_changes_nothing(
    tiny: Callable[..., DeviceEngine], step_by_step: dict[str, list[float]]
) -> None:
    engine = tiny()
    cold = scores(engine, OPTIONS)
    Answer(engine, ask("Something else entirely, please.", max_tokens=3))
    warm = engine.score(request(OPTIONS)).result(120)
    assert warm.usage.cached_tokens > 0
    for option, before, after in zip(OPTIONS, cold, warm.scores, strict=True):
        assert before == pytest.approx(step_by_step[option], abs=CLOSE)
        assert after.token_logprobs == pytest.approx(before, abs=CLOSE)


def test_scores_at_the_same_time_do_not_mix(engine: DeviceEngine, step_by_step: dict[str, list[float]]) -> None:
    other = "Name a city in Germany."
    expected = scores(engine, OPTIONS, other)
    together = [engine.score(request(OPTIONS, text)) for text in (QUESTION, other, QUESTION, other, other)]
    answer = engine.generate(ask("Say something.", max_tokens=8))
    results = [[score.token_logprobs for score in future.result(120).scores] for future in together]
    list(answer)
    alone = [step_by_step[option] for option in OPTIONS]
    for found, wanted in zip(results, (alone, expected, alone, expected, expected), strict=True):
        for one, reference in zip(found, wanted, strict=True):
            assert one == pytest.approx(reference, abs=CLOSE)


def test_many_long_options_fit_beside_other_conversations(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny(n_ctx=256, n_batch=64)
    for i in range(3):
        Answer(engine, ask(f"{i} " + "word " * 10, max_tokens=1))  # prefixes that fill the cache
    running = engine.generate(ask("Tell me about rivers.", max_tokens=24))
    long = [f"{i} " + "and so on " * 3 for i in range(16)]  # together more cells than there are
    found = scores(engine, long)
    assert [len(one) for one in found] == [len(engine._model.tokenize(text)) for text in long]
    assert found[0] == pytest.approx(scores(engine, long[:1])[0], abs=CLOSE)
    assert sum(1 for _ in running) > 2


def test_a_batch_smaller_than_the_options(tiny: Callable[..., DeviceEngine]) -> None:
    small, large = tiny(n_batch=8), tiny()
    for one, other in zip(scores(small, OPTIONS), scores(large, OPTIONS), strict=True):
        assert one == pytest.approx(other, abs=CLOSE)


def test_a_continuation_without_tokens_is_named(
    tiny: Callable[..., DeviceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny()
    read = Model.tokenize
    monkeypatch.setattr(
        Model, "tokenize", lambda self, text, **how: [] if text == "nothing" else read(self, text, **how)
    )
    with pytest.raises(InvalidRequestError, match=r"continuations\[1\]"):
        engine.score(request(["yes", "nothing"]))


def test_a_continuation_that_does_not_fit_is_named(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny(n_ctx=128)
    with pytest.raises(PromptTooLongError) as caught:
        engine.score(request(["short", "long " * 100]))
    assert caught.value.field == "continuations[1]"
    with pytest.raises(PromptTooLongError) as caught:
        engine.score(request(["short"], "long " * 100))
    assert caught.value.field == "messages"


def test_a_cancelled_score_frees_its_slot(engine: DeviceEngine, step_by_step: dict[str, list[float]]) -> None:
    future = engine.score(request([*OPTIONS] * 4, "long " * 150))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(120)
    assert scores(engine, OPTIONS[:1])[0] == pytest.approx(step_by_step[OPTIONS[0]], abs=CLOSE)
    assert not any(slot.reserved for slot in engine._compute._slots._slots)


def test_a_passed_deadline_ends_it(engine: DeviceEngine) -> None:
    with pytest.raises(DeadlineExceededError):
        engine.score(request(OPTIONS, deadline=0.0)).result(120)


def test_the_end_of_an_answer_is_scored_where_asked_for(engine: DeviceEngine) -> None:
    wanted = request(["in", "in an", "a"], "the end?")
    plain, ended = engine.score(wanted).result(60), engine.score(wanted, ended=True).result(60)
    for before, after in zip(plain.scores, ended.scores, strict=True):
        assert after.token_logprobs[:-1] == pytest.approx(before.token_logprobs, abs=CLOSE)
        assert len(after.token_logprobs) == len(before.token_logprobs) + 1
    # The end is judged after the text, so other texts make it more or less likely.
    assert len({round(score.token_logprobs[-1], 3) for score in ended.scores}) == 3
