"""What may follow: whatever is allowed leads to documents that fit, and to nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from constraint_tools import of_choices, of_grammar, of_regex, of_schema, schemas, walk
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import TEMPLATE, write_model
from tiny_vocab import write_bpe, write_spm

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints import Constraining
from crayon.constraints.matcher import PARALLEL, fill
from crayon.errors import EngineError, InvalidRequestError
from crayon.llama.model import Model
from crayon.llama.vocabulary import ModelVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["merges", "letters", "pieces"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Vocabularies of three kinds; the last one's tokenizer puts a space before each text."""
    path = tmp_path_factory.mktemp("vocab") / "vocab.gguf"
    if request.param == "merges":
        write_model(path)
    elif request.param == "letters":
        write_bpe(path, defined=("<tool_call>",))
    else:
        write_spm(path, TEMPLATE)
    with Model(path, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def constraining(model: Model) -> Constraining:
    return Constraining(ModelVocabulary(model))


@given(schema=schemas, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_every_answer_is_a_document_that_fits(model: Model, constraining: Constraining, schema: Any, seed: int) -> None:
    text = walk(constraining.matcher(of_schema(schema)), seed, model.piece).decode()
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    assert not re.search(r"(?<![,:])\s|\s\s", bare)  # whitespace is what json.dumps writes


@pytest.mark.parametrize("pattern", ["[a-f]{2,4}", "(yes|no)!?", r"\d{1,3}(\.\d)?", "é+", "(ab|a)(c|bcd)", "x"])
def test_every_answer_matches_the_whole_expression(model: Model, constraining: Constraining, pattern: str) -> None:
    for seed in range(10):
        text = walk(constraining.matcher(of_regex(pattern)), seed, model.piece).decode()
        assert re.fullmatch(pattern, text), text


def test_every_answer_is_one_of_the_choices_and_each_is_an_answer(model: Model, constraining: Constraining) -> None:
    choices = ("yes", "yes please", 'say "no"\n\\', "größe 😀", "the then")
    found = {walk(constraining.matcher(of_choices(*choices)), seed, model.piece).decode() for seed in range(60)}
    assert found == set(choices)


def test_a_grammar_counts_brackets(model: Model, constraining: Constraining) -> None:
    grammar = of_grammar('start: "(" start? ")"')
    for seed in range(5):
        text = walk(constraining.matcher(grammar), seed, model.piece).decode()
        assert text == "(" * (len(text) // 2) + ")" * (len(text) // 2)


def test_an_end_is_allowed_only_where_the_answer_is_whole(model: Model, constraining: Constraining) -> None:
    matcher = constraining.matcher(of_regex("ab?"))
    end = model.turn_end
    assert model.tokenize_more("a") == matcher.forced()
    assert not matcher.allows(end)
    matcher.take(matcher.forced())
    assert matcher.accepts
    assert not matcher.done
    assert matcher.allows(end)
    assert matcher.mask()[end]
    matcher.take(model.tokenize_more("b"))
    assert matcher.done
    assert matcher.forced() == []


def test_no_control_token_is_ever_text(model: Model, constraining: Constraining) -> None:
    allowed = constraining.matcher(of_regex("(?s:.*)")).mask()
    ends = set(ModelVocabulary(model).ends())
    for token in ModelVocabulary(model).controls():
        assert not allowed[token] or token in ends


def test_a_token_that_is_not_allowed_is_refused(model: Model, constraining: Constraining) -> None:
    matcher = constraining.matcher(of_regex("a"))
    with pytest.raises(EngineError, match="constraint"):
        matcher.take(model.tokenize_more("b"))


def test_masks_are_the_same_for_many_as_for_one(constraining: Constraining) -> None:
    some = [of_regex("[a-c]x"), of_choices("one", "two"), of_schema({"type": "integer"}), of_regex(".*")] * 2
    assert len(some) >= PARALLEL
    alone = [constraining.matcher(each).mask() for each in some]
    together = [constraining.matcher(each) for each in some]
    fill(together)
    assert all(np.array_equal(each.mask(), mask) for each, mask in zip(together, alone, strict=True))


def test_what_fits_bytes_but_not_these_tokens_is_refused(tmp_path: Any) -> None:
    class Vowels:
        n_vocab = 3

        def pieces(self) -> list[bytes]:
            return [b"a", b"e", b""]

        def ends(self) -> list[int]:
            return [2]

        def controls(self) -> dict[int, bytes]:
            return {2: b"<end>"}

        def tokenize_more(self, text: str) -> list[int]:
            return ["ae".index(letter) for letter in text]

    constraining = Constraining(Vowels())
    assert constraining.matcher(of_regex("[a-e]")).mask().tolist() == [True, True, False]
    with pytest.raises((EngineError, InvalidRequestError)):
        constraining.matcher(of_regex("x")).mask()


def test_a_model_without_an_end_cannot_be_constrained() -> None:
    class Endless:
        n_vocab = 1

        def pieces(self) -> list[bytes]:
            return [b"a"]

        def ends(self) -> list[int]:
            return []

        def controls(self) -> dict[int, bytes]:
            return {}

        def tokenize_more(self, text: str) -> list[int]:
            return [0] * len(text)

    with pytest.raises(EngineError, match="no token that ends"):
        Constraining(Endless()).matcher(Constraint(ConstraintKind.JSON))
