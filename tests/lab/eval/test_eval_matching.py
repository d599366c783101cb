from __future__ import annotations

import pytest

from crayon.data.qa import Item
from crayon.lab.eval.matching import is_right, normalise


def item(answer: str, *aliases: str, dataset: str = "toy") -> Item:
    return Item("toy/1", dataset, "task", "Question?", answer, aliases=aliases)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Freeze account.", "freeze account"),
        ("  The United\nStates ", "United States"),
        ("72", "72"),
        ("$1,250.00.", "1250"),
        ("-3.5%", "-3.5"),
        ("Yes!", "Yes"),
        ("Cafe\u0301", "caf\u00e9"),
    ],
)
def test_what_does_not_matter_is_ignored(text: str, answer: str) -> None:
    assert is_right(text, item(answer))


@pytest.mark.parametrize(
    ("text", "answer"), [("", "the"), ("No", "Yes"), ("72 apples", "72"), ("73", "72"), ("freeze", "freeze account")]
)
def test_other_answers_are_wrong(text: str, answer: str) -> None:
    assert not is_right(text, item(answer))


def test_any_alias_will_do() -> None:
    assert is_right("Holland", item("Netherlands", "the Netherlands", "Holland"))


def test_only_tables_have_a_tolerance() -> None:
    assert is_right("5.15", item("5.14", dataset="tatqa"))
    assert not is_right("5.25", item("5.14", dataset="tatqa"))
    assert not is_right("5.15", item("5.14"))


def test_articles_go_and_words_that_begin_like_them_stay() -> None:
    assert normalise("An apple, a day; the theatre") == "apple day theatre"
