"""Who is measured, and on what: nothing that samples are drawn from is ever a question."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from crayon.errors import InvalidRequestError
from crayon.lab.eval.cases import UserTask, make_cases, own_tasks, pairs
from crayon.lab.eval.settings import EvalSettings

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.adapters import Pool

SETTINGS = EvalSettings(
    items=4, draws=3, samples=(4, 1, 8), extra=5, unseen=(("near", "vowels"),), far=("far",), pairs=3
)


def test_questions_come_from_test_splits_and_samples_from_train_splits(pool: Pool) -> None:
    cases = make_cases(pool.manifest, SETTINGS)
    assert [case.group for case in cases].count("in_pool") == 3
    assert {case.group for case in cases} == {"in_pool", "unseen", "unseen_extra", "mixed", "far"}
    for case in cases:
        assert len(case.draws) == 3
        assert all(item.id.split("/")[1] == "train" for draw in case.draws for item in draw)
        if case.group != "unseen_extra":
            assert all(item.id.split("/")[1] == "test" for item in case.items)
            assert len(case.items) == 4


def test_further_items_of_unseen_tasks_are_never_samples(pool: Pool) -> None:
    for case in make_cases(pool.manifest, SETTINGS):
        if case.group.startswith("unseen"):
            drawn = {item.prompt for draw in case.draws for item in draw}
            assert not drawn & {item.prompt for item in case.items}
            assert len(case.items) == (5 if case.group == "unseen_extra" else 4)


def test_draws_differ_and_are_the_same_again(pool: Pool) -> None:
    first, again = make_cases(pool.manifest, SETTINGS), make_cases(pool.manifest, SETTINGS)
    assert first == again
    assert len({case.draws[i] for case in first[:1] for i in range(3)}) == 3


def test_a_question_with_two_answers_is_a_sample_once(pool: Pool, data: Path) -> None:
    path = data / "qa" / "toy.train.jsonl.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    others = [json.loads(line) for line in text.splitlines()]
    for item in others:
        wrong = (item["answer"] + 1) % 3
        item.update(question=item["question"].upper() + " ", answer=wrong, answer_text=item["choices"][wrong])
    path.write_bytes(gzip.compress("\n".join([text, *map(json.dumps, others)]).encode()))
    case = make_cases(pool.manifest, replace(SETTINGS, groups=("in_pool",), samples=(24,)))[0]
    assert len(case.samples(0, 24)) == 24


def test_fewer_samples_are_among_more(pool: Pool) -> None:
    case = make_cases(pool.manifest, SETTINGS)[0]
    assert case.samples(0, 1)[0] in case.samples(0, 4)
    assert len(case.samples(0, 8)) == 8


def test_a_user_of_two_tasks_has_half_of_each(pool: Pool) -> None:
    case = next(case for case in make_cases(pool.manifest, SETTINGS) if case.group == "mixed")
    assert case.of_task == (0, 0, 1, 1)
    tasks = [sample.answer for sample in case.samples(1, 4)]
    assert len(set(tasks)) == 2
    assert tasks.count(tasks[0]) == 2


def test_users_of_two_tasks_have_options_to_choose_from(pool: Pool, data: Path) -> None:
    path = data / "qa" / "toy.test.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    for item in lines:
        if item["task"] == "marks":
            item.update(choices=[], answer=None)
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    cases = make_cases(pool.manifest, SETTINGS)
    assert [case.name for case in cases if case.group == "mixed"] == ["vowels+numbers"]
    assert [case.name for case in cases if case.group == "in_pool"] == ["vowels", "numbers", "marks"]


def test_the_task_of_a_member_is_read_from_its_data_sets(pool: Pool) -> None:
    names = {"vowels": "toy/vowels", "numbers": "near", "marks": "toy"}
    members = tuple(replace(member, datasets=(names[member.name],)) for member in pool.manifest.members)
    members += (replace(members[0], name="generalist", datasets=("toy", "near")),)
    members += (replace(members[0], name="reads", role="reader"),)
    gate = replace(pool.manifest.gate, alone=(), mixes=(True, True, True, True, False))
    found = own_tasks(replace(pool.manifest, members=members, gate=gate))
    # "near" has a task of the member's name too, so that it is meant.
    assert [task.parts for task in found] == [(("toy", "vowels"),), (("near", "numbers"),), (("toy", "marks"),)]
    assert [task.member for task in found] == [0, 1, 2]


def test_pairs_are_of_one_dataset_and_of_two_by_turns() -> None:
    tasks = [UserTask(f"{name}{i}", ((name, str(i)),), i) for name in ("a", "b") for i in range(3)]
    found = pairs(tasks, 3, seed=0)
    assert [first.dataset == second.dataset for first, second in found] == [True, False, True]
    assert len({task.name for pair in found for task in pair}) == 6


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"groups": ("nowhere",)}, "--only"),
        ({"groups": ()}, "--only"),
        ({"controls": ("luck",)}, "--controls"),
        ({"draws": 0}, "--draws"),
        ({"items": 1}, "--items"),
        ({"samples": ()}, "--samples"),
        ({"samples": (16, 1000)}, "--samples"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, tuple[str, ...]], field: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        EvalSettings(**values)  # type: ignore[arg-type]  # the point
    assert error.value.field == field


def test_members_without_data_sets_have_no_tasks(pool: Pool) -> None:
    members = tuple(replace(member, datasets=()) for member in pool.manifest.members)
    with pytest.raises(InvalidRequestError, match="no tasks"):
        make_cases(replace(pool.manifest, members=members), SETTINGS)
