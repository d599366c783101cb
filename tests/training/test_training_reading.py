"""Conversations that teach to read examples: what they hold, what counts, and what is left out of them."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from tiny_chat import write_model
from training_tools import READER, toy_recipe, write_toys

from crayon.data.qa import Item
from crayon.errors import ConfigError
from crayon.llama.model import Model
from crayon.messages import Message
from crayon.training.cuts import CUTS, cut
from crayon.training.examples import Prompts
from crayon.training.reading import (
    DRAWN_LABELS,
    UNCOUNTED,
    ReadTask,
    ReadTurn,
    label_words,
    read_task,
    read_tasks,
    reading,
    readings,
    renamed,
    turns,
    user,
)
from crayon.training.recipe import ItemSource, ReaderRecipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = tuple(f"label {letter}" for letter in "abcdefghijklmno")
CLOSED = ReadTask("closed", tuple((f"say {label} {i}", label) for label in LABELS for i in range(30)), LABELS)
FREE = ReadTask("free", tuple((f"question {i}", f"answer {i}") for i in range(40)))
WORDS = [f"word{i}" for i in range(50)]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_toys(tmp_path / "data")
    monkeypatch.setenv("CRAYON_DATA", str(folder))
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prompts]:
    with Model(write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf"), vocab_only=True) as model:
        yield Prompts(model)


def recipe(**changed: Any) -> ReaderRecipe:
    toys = (ItemSource(dataset="toys"),)
    return ReaderRecipe(
        **{"title": "R", "sources": toys, "held_out": (ItemSource(dataset="toys", task="sounds"),)} | changed
    )


def drawn(task: ReadTask, count: int = 60, **changed: Any) -> list[list[ReadTurn]]:
    rng = random.Random(0)
    return [turns(task, recipe(**changed), WORDS, rng) for _ in range(count)]


# -- conversations


def test_a_conversation_is_what_the_device_is_sent_for_examples(prompts: Prompts) -> None:
    said = [ReadTurn("sizes a", "tall", False), ReadTurn("what b?", "wide", True), ReadTurn("and c", "tall", True)]
    found = reading(said, prompts, 1000)
    assert found is not None
    messages = [m for t in said for m in (Message("user", t.question), Message("assistant", t.answer))]
    model = prompts._model
    asked = model.tokenize_chat(messages[:-1])
    assert [*prompts.start, *found.text] == [*asked, *model.tokenize("tall"), prompts.end]
    learned = [*model.tokenize("wide"), prompts.end, *model.tokenize("tall"), prompts.end]
    assert [found.text[place] for place in found.said] == learned


def test_turns_that_do_not_fit_are_left_out_and_nothing_to_learn_is_no_conversation(prompts: Prompts) -> None:
    said = [ReadTurn("sizes a", "tall", False), ReadTurn("what b?", "wide", True), ReadTurn("and c", "tall", True)]
    whole = reading(said, prompts, 1000)
    assert whole is not None
    shorter = reading(said, prompts, len(whole.text) - 1)
    assert shorter == reading(said[:2], prompts, 1000)
    assert reading(said[:1], prompts, 1000) is None
    assert reading(said, prompts, 5) is None
    assert reading([ReadTurn("a", "word " * 60, True)], prompts, 1000) is None, "an answer that is a text"


def test_a_label_counts_once_the_turns_before_have_shown_it() -> None:
    for conversation in drawn(CLOSED):
        shown: set[str] = set()
        for turn in conversation:
            assert turn.counts == (turn.answer in shown)
            shown.add(turn.answer)
        assert len(conversation) <= 17
        assert 2 <= len(shown) <= DRAWN_LABELS or len(shown) == 1
        assert len({turn.question for turn in conversation}) == len(conversation), "no question comes twice"
    assert max(map(len, drawn(CLOSED))) == 17
    assert max(map(len, drawn(CLOSED, examples=3))) == 4


def test_free_answers_count_behind_the_first_few() -> None:
    for conversation in drawn(FREE):
        assert [turn.counts for turn in conversation] == [i >= UNCOUNTED for i in range(len(conversation))]
        assert all((turn.question, turn.answer) in FREE.pairs for turn in conversation)


def test_labels_are_renamed_in_the_shares_that_the_recipe_says() -> None:
    rng = random.Random(1)
    own = list(LABELS[:4])
    kinds = {"replaced": 0, "shuffled": 0, "own": 0}
    for _ in range(2000):
        names = renamed(own, recipe(replaced=0.2, shuffled=0.3), WORDS, rng)
        assert len(set(names)) == 4
        if set(names) <= set(WORDS):
            kinds["replaced"] += 1
        elif set(names) == set(own) and names != own:
            kinds["shuffled"] += 1
        else:
            kinds["own"] += 1
            assert [name.lower().replace("_", " ") for name in names] == own, "in some writing"
    assert kinds["replaced"] / 2000 == pytest.approx(0.2, abs=0.03)
    # One order of four labels in 24 is their own.
    assert kinds["shuffled"] / 2000 == pytest.approx(0.3 * 23 / 24, abs=0.03)


def test_equal_seeds_draw_equal_conversations_and_shares_are_kept(prompts: Prompts) -> None:
    tasks = [[CLOSED], [FREE]]
    first = list(islice(readings(tasks, (1, 0), prompts, recipe(), 3), 20))
    assert first == list(islice(readings(tasks, (1, 0), prompts, recipe(), 3), 20))
    assert first != list(islice(readings(tasks, (1, 0), prompts, recipe(), 4), 20))
    answer = tuple(prompts.of("q", "answer").answer[:-1])
    assert not any(answer == one.text[i : i + len(answer)] for one in first for i in one.said), "a share of 0"
    with pytest.raises(ConfigError, match=r"reader\.max_tokens: conversations do not fit in 9 tokens"):
        next(readings(tasks, (1, 1), prompts, recipe(max_tokens=9), 0))


# -- tasks


def item(question: str, answer: str, task: str = "t", **more: Any) -> Item:
    return Item(id=question, dataset="d", task=task, question=question, answer_text=answer, **more)


def test_answers_that_are_few_and_repeat_are_labels() -> None:
    assert read_task("t", [item(f"q{i}", "yn"[i % 2]) for i in range(20)]).labels == ("n", "y")
    assert read_task("t", [item(f"q{i}", "only") for i in range(20)]).labels == ()
    assert read_task("t", [item(f"q{i}", f"a{i // 2}") for i in range(20)]).labels == ()


def test_tasks_held_out_are_left_out_and_relations_are_tasks_of_their_own() -> None:
    own = recipe(sources=(ItemSource(dataset="toys"), ItemSource(dataset="words")))
    (toys, words) = own.items()
    assert {one.task for one in toys} == {"colours", "sizes"}
    assert len(words) == 40
    facts = [item(f"{r} {i}", f"a{i}", facts=(("relation", r),)) for r in ("capital", "colour") for i in range(30)]
    long = [item("x" * 600, "a", task="long") for _ in range(30)]
    few = [item(f"few {i}", "a", task="few") for i in range(5)]
    (found,) = read_tasks(recipe(), [[*facts, *long, *few]])
    assert [task.name for task in found] == ["d/t/capital", "d/t/colour"]
    with pytest.raises(ConfigError, match=r"reader\.sources: toys has no task of at least 20 short items"):
        read_tasks(recipe(), [few])


def test_cuts_make_tasks_of_the_questions() -> None:
    items = [item(f"wake me at {i} pm for Berlin", "x") for i in range(30)]
    *_, cuts = read_tasks(recipe(cuts=("behind-for", "behind-about")), [items])
    assert [task.name for task in cuts] == ["behind-for"], "a rule that hardly any question holds is no task"
    assert cuts[0].pairs[0] == ("wake me at 0 pm for Berlin", "Berlin")
    assert cuts[0].labels == ()


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("behind-to", "remind me to buy some milk.", "buy some milk"),
        ("behind-to", "to and to", None),
        ("behind-to", "i have nothing to", None),
        ("behind-to", "go to a b c d e f", None),
        ("number", "set a timer for 15 minutes", "15"),
        ("number", "from 3 to 4", None),
        ("name", "The teacher saw Jane Miller there.", "Jane Miller"),
        ("name", "nobody was there", None),
        ("last-word", "what is my balance?", "balance"),
        ("longest-word", "is it a telephone now", "telephone"),
        ("longest-word", "four five", None),
        ("start", "one two three four five", "one two three"),
        ("capitals", "call me now", "CALL ME NOW"),
        ("please", "find my phone?", "Please help me: find my phone."),
        ("please", "two words", None),
        ("number", "a text\nof lines 5", None),
    ],
)
def test_a_cut_takes_what_its_rule_says(rule: str, text: str, found: str | None) -> None:
    assert cut(rule, text) == found


def test_words_for_labels_come_from_the_questions_where_these_hold_enough() -> None:
    assert label_words([[FREE]]) == [f"class {letter}" for letter in "abcdefghijklmnop"]
    many = tuple((" ".join(f"word{chr(97 + i)}" for i in range(20)), "a") for _ in range(30))
    assert label_words([[ReadTask("t", many)]]) == [f"word{chr(97 + i)}" for i in range(20)]


def test_a_user_has_each_label_about_as_often_and_is_asked_other_questions() -> None:
    shown, asked, labels = user(CLOSED, 16, 40, random.Random(0))
    assert len(labels) == DRAWN_LABELS
    counts = [sum(answer == label for _, answer in shown) for label in labels]
    assert (sum(counts), min(counts), max(counts)) == (16, 1, 2)
    assert len(asked) == 40
    assert not set(shown) & set(asked)
    assert {answer for _, answer in asked} <= set(labels)
    shown, asked, labels = user(FREE, 16, 20, random.Random(0))
    assert (len(shown), len(asked), labels) == (16, 20, ())
    with pytest.raises(ConfigError, match=r"reader\.held_out: a task has 40 short items; 56 are needed"):
        user(FREE, 16, 40, random.Random(0))


# -- recipes


def test_a_recipe_names_its_reader(tmp_path: Path) -> None:
    read = toy_recipe(tmp_path, tmp_path / "m.gguf", extra=READER)
    assert read.reader is not None
    assert read.reader.held_out == (ItemSource(dataset="toys", task="sounds"),)
    alone = read.only_reader()
    assert (alone.members, alone.reader) == ((), read.reader)
    with pytest.raises(ConfigError, match="reader: the recipe toy has none"):
        replace(read, reader=None).only_reader()
    with pytest.raises(ConfigError, match="reader: is trained on a shared A"):
        replace(read, kind="independent")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": ()}, r"reader\.sources: has none"),
        ({"held_out": ()}, r"reader\.held_out: has none"),
        ({"cuts": ("behind-under",)}, r"reader\.cuts: 'behind-under' is no rule"),
        ({"shares": (1.0, 1.0)}, r"reader\.shares: must hold one number"),
        ({"shares": (0.0,)}, r"reader\.shares"),
        ({"shares": (1.0,), "cuts": ("number",)}, r"reader\.shares"),
        ({"steps": 0}, r"reader\.steps: must be at least 1"),
        ({"examples": 0}, r"reader\.examples: must be at least 1"),
        ({"rate": 0.0}, r"reader\.rate: must be above 0"),
        ({"replaced": 0.7, "shuffled": 0.4}, r"reader\.replaced"),
        ({"title": "a\nb"}, "must be one line"),
    ],
)
def test_a_wrong_reader_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changed)


def test_the_shipped_reader_never_sees_what_is_kept_for_unseen_users() -> None:
    shipped = load_recipe("smollm2-135m-instruct").reader
    assert shipped is not None
    trained = {(source.dataset, source.task) for source in shipped.sources}
    assert not {name for name, _ in trained} & {"bbh", "disfl_qa", "tatqa"}, "whole data sets are held out"
    assert not {("clinc150", task) for task in (None, "travel", "credit_cards", "auto_and_commute")} & trained
    assert {source.task for source in shipped.held_out if source.dataset == "bigbench_misc"}
    assert not {"behind-in", "number", "please"} & set(shipped.cuts)
    assert set(shipped.cuts) <= set(CUTS)
