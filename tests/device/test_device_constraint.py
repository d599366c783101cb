"""Answers under a constraint on the device: they fit, whatever the model thinks and however it draws."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from device_tools import Answer, ask

from crayon.completion import FinishReason
from crayon.constraint import Constraint, ConstraintKind
from crayon.engine import GenerateRequest, ScoreRequest
from crayon.errors import InvalidRequestError
from crayon.llama.context import Context
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.device import DeviceEngine

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
DRAWN: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.2, "seed": 1},
    {"temperature": 2.0, "seed": 2, "top_k": 3, "top_p": 0.9, "min_p": 0.01},
    {"repeat_penalty": 1.5, "presence_penalty": 1.0},
    {"temperature": 0.8, "seed": 3, "repeat_penalty": 1.3, "frequency_penalty": 0.5},
)


def under(constraint: Constraint | None, text: str = "Who is it?", **sampling: Any) -> GenerateRequest:
    return GenerateRequest(
        messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 200, **sampling}), constraint=constraint
    )


def schema(value: Any, **more: Any) -> Constraint:
    return Constraint(ConstraintKind.SCHEMA, json.dumps(value), **more)


def regex(value: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, value)


def choices(*texts: str, **more: Any) -> Constraint:
    return Constraint(ConstraintKind.CHOICES, choices=texts, **more)


@pytest.mark.parametrize("drawn", DRAWN, ids=str)
def test_a_document_fits_however_it_is_drawn(tiny: Callable[..., DeviceEngine], drawn: dict[str, Any]) -> None:
    answer = Answer(tiny(), under(schema(PERSON), **drawn))
    assert answer.started.constrained
    assert answer.finished.finish_reason is FinishReason.STOP
    found = json.loads(answer.text)
    assert list(found) == ["name", "age"]
    assert 0 <= found["age"] <= 99
    assert len(found["name"]) <= 8


@pytest.mark.parametrize("drawn", DRAWN, ids=str)
def test_expressions_choices_and_grammars_are_kept(tiny: Callable[..., DeviceEngine], drawn: dict[str, Any]) -> None:
    engine = tiny()
    assert re.fullmatch("[a-z]{3}-[0-9]{2}", Answer(engine, under(regex("[a-z]{3}-[0-9]{2}"), **drawn)).text)
    assert Answer(engine, under(choices("yes", "no", "größe"), **drawn)).text in {"yes", "no", "größe"}
    grammar = Constraint(ConstraintKind.GRAMMAR, 'start: "(" start? ")" | "x"')
    text = Answer(engine, under(grammar, **drawn)).text
    assert re.fullmatch(r"(\(+x?\)+|x)", text) or text.startswith("(" * 50)
    assert isinstance(json.loads(Answer(engine, under(schema({"type": "boolean"}), **drawn)).text), bool)


def test_the_same_seed_draws_the_same_document(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    texts = {Answer(engine, under(schema(PERSON), temperature=1.5, seed=7)).text for _ in range(3)}
    assert len(texts) == 1
    assert len({Answer(engine, under(schema(PERSON), temperature=1.5, seed=seed)).text for seed in range(8)}) > 1


def test_an_answer_with_no_choice_is_not_computed(tiny: Callable[..., DeviceEngine]) -> None:
    answer = Answer(tiny(), under(choices("only this")))
    assert answer.text == "only this"
    assert answer.signals == []
    usage = answer.finished.usage
    assert usage.forced_tokens == usage.completion_tokens > 0
    assert answer.finished.finish_reason is FinishReason.STOP


def test_tokens_without_a_choice_are_computed_together(
    tiny: Callable[..., DeviceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    decode = Context.decode

    def counted(self: Context, batch: Any) -> None:
        calls.append(batch.size)
        decode(self, batch)

    engine = tiny()
    monkeypatch.setattr(Context, "decode", counted)
    answer = Answer(engine, under(regex("[ab]the long and winding road[cd]")))
    usage = answer.finished.usage
    assert usage.forced_tokens == usage.completion_tokens - 2
    _prompt, *rest = calls
    assert sum(rest) == usage.completion_tokens - 1  # nothing is asked after the last
    assert len(rest) == 1
    assert len(answer.signals) == 2


def test_a_long_text_without_a_choice_is_computed_in_pieces(tiny: Callable[..., DeviceEngine]) -> None:
    long = "x y z " * 50
    answer = Answer(tiny(n_batch=16), under(regex(f"[ab]{long}[cd]"), max_tokens=400))
    assert answer.text[1:-1] == long


@pytest.mark.parametrize("most", range(1, 14))
def test_a_cut_answer_is_the_beginning_of_one_that_fits(tiny: Callable[..., DeviceEngine], most: int) -> None:
    engine = tiny()
    whole = Answer(engine, under(regex("[ab]-the-[cd]!")))
    cut = Answer(engine, under(regex("[ab]-the-[cd]!"), max_tokens=most))
    length = whole.finished.usage.completion_tokens
    assert whole.text.startswith(cut.text)
    assert cut.finished.usage.completion_tokens == min(most, length)
    expected = FinishReason.STOP if most >= length else FinishReason.LENGTH
    assert cut.finished.finish_reason is expected


def test_a_stop_text_ends_an_answer_within_what_is_forced(tiny: Callable[..., DeviceEngine]) -> None:
    answer = Answer(tiny(), under(regex("[ab]one two three[cd]"), stop=("two",)))
    assert re.fullmatch("[ab]one ", answer.text)
    assert answer.finished.finish_reason is FinishReason.STOP


def test_signals_are_of_what_the_model_thought_without_the_constraint(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    free = Answer(engine, ask("Who is it?", max_tokens=1))
    told = Answer(engine, under(choices("a", "b", "c", show=False), max_tokens=1))
    (mine,), (theirs,) = told.signals, free.signals
    assert mine.entropy == pytest.approx(theirs.entropy, abs=0.02)
    assert mine.margin == pytest.approx(theirs.margin, abs=0.02)
    scores = engine.score(
        ScoreRequest(messages=(Message("user", "Who is it?"),), continuations=("a", "b", "c"))
    ).result()
    likely = {text: score.token_logprobs[0] for text, score in zip("abc", scores.scores, strict=True)}
    assert told.text == max(likely, key=lambda text: likely[text])
    assert mine.logprob == pytest.approx(likely[told.text], abs=0.05)
    assert mine.withheld == pytest.approx(1 - sum(map(math.exp, likely.values())), abs=0.02)
    assert theirs.withheld == 0


def test_a_draw_is_from_the_models_distribution_over_what_is_allowed(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    scored = engine.score(ScoreRequest(messages=(Message("user", "Who is it?"),), continuations=("a", "b", "c")))
    weights = np.exp([score.token_logprobs[0] for score in scored.result().scores])
    expected = weights / weights.sum()
    constraint = choices("a", "b", "c", show=False)
    drawn = [Answer(engine, under(constraint, temperature=1.0, seed=seed)).text for seed in range(300)]
    found = np.array([drawn.count(text) for text in "abc"]) / len(drawn)
    assert np.abs(found - expected).max() < 0.12


def test_the_prompt_says_what_is_wanted_and_how_many_tokens_that_takes(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    plain = Answer(engine, under(None, max_tokens=1)).finished.usage
    told = Answer(engine, under(choices("yes", "no"), max_tokens=1)).finished.usage
    untold = Answer(engine, under(choices("yes", "no", show=False), max_tokens=1)).finished.usage
    assert plain.shown_tokens == untold.shown_tokens == 0
    assert plain.prompt_tokens == untold.prompt_tokens
    assert told.shown_tokens == told.prompt_tokens - plain.prompt_tokens > 0


def test_what_cannot_be_kept_fails_before_anything_is_written(tiny: Callable[..., DeviceEngine]) -> None:
    with pytest.raises(InvalidRequestError, match="the keyword 'not' at /properties/x cannot be kept"):
        list(tiny().generate(under(schema({"properties": {"x": {"not": {}}}}))))


def test_a_conversation_goes_on_from_what_was_forced(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    first = Answer(engine, under(regex("[ab]-the-[cd]!"), "one"))
    again = GenerateRequest(
        messages=(Message("user", "one"), Message("assistant", first.text), Message("user", "two")),
        sampling=Sampling(max_tokens=4),
    )
    warm = Answer(engine, again)
    cold = Answer(tiny(), again)
    assert warm.text == cold.text
    assert warm.finished.usage.cached_tokens > cold.finished.usage.cached_tokens


@pytest.mark.models
def test_a_real_model_fills_in_a_form(engine: DeviceEngine) -> None:
    trip = {
        "type": "object",
        "properties": {
            "from_city": {"type": "string"},
            "to_city": {"type": "string"},
            "day": {"enum": ["Monday", "Tuesday", "Friday"]},
        },
        "required": ["from_city", "to_city", "day"],
        "additionalProperties": False,
    }
    answer = Answer(engine, under(schema(trip), "I'll fly from Oslo to Rome on Friday", max_tokens=80))
    found = json.loads(answer.text)
    assert (found["from_city"], found["to_city"]) == ("Oslo", "Rome")
    usage = answer.finished.usage
    assert usage.forced_tokens > usage.completion_tokens / 2
    assert len(answer.signals) == usage.completion_tokens - usage.forced_tokens
    assert 0 < sum(signal.withheld for signal in answer.signals) / len(answer.signals) < 1


def test_with_log_probabilities_the_model_is_asked_for_every_token(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    asked = under(schema(PERSON))
    told = Answer(engine, replace(asked, top_logprobs=2))
    likely = [one for delta in told.deltas for one in delta.logprobs]
    assert told.finished.usage.forced_tokens == 0 < Answer(engine, asked).finished.usage.forced_tokens
    assert len(likely) == len(told.signals) == told.finished.usage.completion_tokens
    assert b"".join(one.piece for one in likely).decode() == told.text
    json.loads(told.text)


def test_a_bias_chooses_among_what_a_constraint_allows(tiny: Callable[..., DeviceEngine]) -> None:
    engine = tiny()
    asked = replace(under(regex("[ab]")), top_logprobs=0)
    plain = Answer(engine, asked)
    (written,) = (one for delta in plain.deltas for one in delta.logprobs)
    other = Answer(engine, replace(asked, logit_bias=((written.token, -100.0),)))
    assert {plain.text, other.text} == {"a", "b"}
