"""Recipes, tasks and their tokens: what is settled before torch is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_chat import write_model
from training_tools import MATRICES, toy_recipe, write_recipe, write_toys

from crayon.data.qa import load_items
from crayon.errors import ConfigError, InvalidRequestError
from crayon.llama.model import Model
from crayon.messages import Message
from crayon.training.examples import Prompts
from crayon.training.recipe import ItemSource, MemberRecipe, load_recipe
from crayon.training.tasks import clustered_tasks, k_means, listed_tasks, source_name, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MEMBER = '[[member]]\nname = "a"\ntitle = "A"\nsources = [{ dataset = "toys" }]\n'
HEAD = 'name = "r"\ntitle = "R"\nmodel = "m"\n'


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_toys(tmp_path / "data")
    monkeypatch.setenv("CRAYON_DATA", str(folder))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf"), vocab_only=True) as model:
        yield model


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(str(path))


# -- recipes


def test_a_recipe_says_what_it_says_and_has_defaults_for_the_rest(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, tmp_path / "m.gguf", held_out=True, extra="gate = { temperature = 1, floor = 0.5 }")
    assert (recipe.name, recipe.rank, recipe.alpha) == ("toy", 4, 8.0)
    assert recipe.matrices == tuple(MATRICES)
    assert [member.name for member in recipe.members] == ["colours", "sizes", "words"]
    assert recipe.members[0].sources == (ItemSource(dataset="toys", task="colours"),)
    assert (recipe.gate.temperature, recipe.gate.floor) == (1.0, 0.5)
    assert recipe.held_out == (ItemSource(dataset="toys", task="sounds"),)
    assert (recipe.first_layer, recipe.clusters, recipe.kind) == (None, 0, "shared")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b-instruct"),
    ],
)
def test_a_shipped_recipe_trains_on_nothing_that_is_kept_for_unseen_users(name: str, base: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model == base
    trained = {source for member in recipe.members for source in member.sources}
    assert len({source.dataset for source in trained}) >= 3
    forbidden = {"bbh", "bigbench_misc", "arc_challenge", "strategyqa", "openbookqa", "medqa_us", "cosmosqa"}
    assert not {source.dataset for source in trained} & forbidden
    unseen = {"travel", "credit_cards", "auto_and_commute"}
    clinc = [source.task for source in trained if source.dataset == "clinc150"]
    assert clinc
    assert not {None, *unseen} & set(clinc), "clinc150 is listed task by task, without these"
    assert all(member.licence for member in recipe.members)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the field"),
        (HEAD, r"member: the recipe has none; add \[\[member\]\] tables"),
        (HEAD + "ranks = 3\n" + MEMBER, "unknown field 'ranks'"),
        (HEAD + 'members = ["a"]\n' + MEMBER, r"write \[\[member\]\] tables"),
        (HEAD + 'rank = "4"\n' + MEMBER, "rank must be a whole number"),
        (HEAD + "rank = 4.5\n" + MEMBER, "rank must be a whole number"),
        (HEAD + "rank = 0\n" + MEMBER, "rank is 0; it must be between"),
        (HEAD + "alpha = -1\n" + MEMBER, "alpha is -1.0; it must be above 0"),
        (HEAD + "rate = nan\n" + MEMBER, "rate must be a finite number"),
        (HEAD + "rate = 0\n" + MEMBER, "rate: .*must be above 0"),
        (HEAD + "batch = 0\n" + MEMBER, "batch: must be at least 1"),
        (HEAD + "generalist_steps = -1\n" + MEMBER, "generalist_steps: must be at least 0"),
        (HEAD + "clusters = 1\n" + MEMBER, "clusters: must be 0"),
        (HEAD + "matrices = []\n" + MEMBER, "matrices: must be different names, at least one"),
        (HEAD + 'matrices = ["ffn_up", "ffn_up"]\n' + MEMBER, "matrices: must be different"),
        (HEAD + 'matrices = "ffn_up"\n' + MEMBER, "matrices must be a list"),
        (HEAD + 'kind = "both"\n' + MEMBER, "kind must be one of shared, independent"),
        (HEAD + "gate = { warmth = 1 }\n" + MEMBER, "gate: has the unknown field 'warmth'"),
        (HEAD + "gate = { temperature = 0 }\n" + MEMBER, "gate.temperature is 0"),
        (HEAD + "blended_steps = 5\n" + MEMBER, "held_out: a blended stage needs tasks"),
        (HEAD + MEMBER + MEMBER, "two members have one name"),
        (HEAD + MEMBER.replace('"a"', '"../a"'), "use at most 80 of a-z"),
        (HEAD + MEMBER.replace('"a"', '"generalist"'), "is the member that is trained on all tasks"),
        (HEAD + MEMBER.replace('"A"', '"A\\u001b[2J"'), "must be one line"),
        (HEAD + MEMBER + "steps = 0\n", "items and steps must be at least 1"),
        (HEAD + MEMBER + "rate = 0.0\n", "member a: rate must be above 0"),
        (HEAD + MEMBER + "stepz = 1\n", r"members\[0\]: has the unknown field 'stepz'"),
        (HEAD + MEMBER.replace('[{ dataset = "toys" }]', "[]"), "member.sources: a has none"),
        (HEAD + MEMBER.replace('dataset = "toys"', ""), "either a dataset or a file"),
        (HEAD + MEMBER.replace(" }]", ', file = "x" }]'), "either a dataset or a file"),
        (HEAD + MEMBER.replace("[[member]]", "[member]"), "members must be a list"),
        (HEAD.replace('"r"', '"R 2"') + MEMBER, "use at most 80 of a-z"),
        ("name = \n", "no TOML file"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_trained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_recipe_that_is_not_there_or_far_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no recipe of ours"):
        load_recipe("nowhere")
    with pytest.raises(ConfigError, match="no recipe of ours"):
        load_recipe("../../pyproject")
    with pytest.raises(ConfigError, match="is larger than"):
        read(tmp_path, "#" * (2 << 20))


# -- where items come from


def test_samples_of_a_file_are_split_so_that_none_is_both_trained_and_measured(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    samples = [{"question": f"q{i}", "answer": "yn"[i % 2], "choices": ["y", "n"]} for i in range(20)]
    samples += [{"question": f"open {i}", "answer": f"a{i}"} for i in range(2)] + [{"text": "no answer"}]
    file.write_text("\n".join(map(json.dumps, samples)), encoding="utf-8")
    source = ItemSource(file=str(file))
    train, test = source.items("train"), source.items("test")
    assert (len(train), len(test)) == (18, 4)
    assert not {item.question for item in train} & {item.question for item in test}
    assert (train[1].choices, train[1].answer, train[1].answer_text) == (("y", "n"), 1, "n")
    assert (train[-1].choices, train[-1].answer) == ((), None)
    assert source_name(source) == "mine.jsonl"
    assert source_name(ItemSource(dataset="toys", task="sizes")) == "toys/sizes"
    assert source_name(ItemSource(dataset="toys")) == "toys"
    file.write_text('{"text": "no answer"}', encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="holds no sample with an answer"):
        source.items("train")


def test_spread_takes_from_all_of_a_list() -> None:
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(1000), 3) == [0, 333, 666]


# -- tokens


def test_training_sees_the_prompt_that_the_device_is_asked(model: Model) -> None:
    prompts = Prompts(model)
    item = load_items("toys", "train", "colours")[4]
    example = prompts.example(item)
    assert [*prompts.start, *example.prompt] == model.tokenize_chat([Message("user", item.prompt)])
    assert list(example.answer) == [*model.tokenize(item.answer_text), prompts.end]
    assert model.is_end(prompts.end)
    assert [list(option) for option in example.options] == [model.tokenize(choice) for choice in item.choices]
    assert example.gold == item.answer
    assert example.tokens == len(example.prompt) + len(example.answer)


def test_choices_without_a_known_answer_are_not_measured(model: Model) -> None:
    prompts = Prompts(model)
    example = prompts.of("which?", "red", ("red", "blue"), None)
    assert (example.options, example.gold) == ((), None)
    with pytest.raises(InvalidRequestError, match="choices: hold an empty one"):
        prompts.of("which?", "red", ("red", ""), 0)


def test_a_listed_task_leaves_out_what_is_too_long_and_counts_it(model: Model, tmp_path: Path) -> None:
    prompts = Prompts(model)
    whole = listed_tasks(toy_recipe(tmp_path, tmp_path / "m.gguf"), prompts)
    longest = max(example.tokens for example in whole[0].train)
    recipe = toy_recipe(tmp_path, tmp_path / "m.gguf", max_tokens=longest - 1)
    task = listed_tasks(recipe, prompts)[0]
    assert len(task.train) + task.too_long == len(whole[0].train) == 40
    assert 0 < task.too_long < 40
    assert task.recipe.items == len(task.train)
    assert all(example.tokens < longest for example in (*task.train, *task.test))


# -- clusters


def blobs(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    centres = np.eye(4, 16)
    labels = rng.integers(4, size=120)
    rows = centres[labels] + 0.1 * rng.standard_normal((120, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
def test_k_means_finds_groups_that_are_there(seed: int) -> None:
    rows, labels = blobs()
    centres = k_means(rows, 4, seed)
    assert np.allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-5)
    found = (rows @ centres.T).argmax(axis=1)
    assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == 4
    assert np.array_equal(k_means(rows, 4, seed), centres)


def test_k_means_survives_rows_that_are_all_alike() -> None:
    rows = np.tile(np.eye(1, 8, dtype=np.float32), (5, 1))
    centres = k_means(rows, 3, 0)
    assert centres.shape == (3, 8)
    assert np.isfinite(centres).all()


def test_clusters_take_the_place_of_tasks(model: Model, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, tmp_path / "m.gguf", clusters=2)
    recipe = replace(recipe, members=recipe.members[:2])

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1.0, 0.1 * len(t)] if t.startswith("sizes") else [-1.0, 0.0] for t in texts], np.float32)

    tasks = clustered_tasks(recipe, Prompts(model), embed)
    assert {task.recipe.title for task in tasks} == {"Mostly colours", "Mostly sizes"}
    assert all((len(task.train), len(task.test)) == (40, 12) for task in tasks)
    assert all({text.split()[0] for text in task.texts} == {task.recipe.title.split()[1]} for task in tasks)


def test_a_member_in_python_is_checked_likewise() -> None:
    with pytest.raises(ConfigError, match="use at most 80 of a-z"):
        MemberRecipe(name="a/b", title="A", sources=(ItemSource(dataset="toys"),))


def test_a_written_recipe_can_be_read_again(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "one.toml", tmp_path / "m.gguf", seed=7)
    assert load_recipe(str(path)).seed == 7
