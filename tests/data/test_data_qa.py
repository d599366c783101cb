"""Datasets are read from a folder that may be anything."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from crayon.data.qa import Item, datasets, load_items
from crayon.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "id": "toy/1",
    "dataset": "toy",
    "task": "colours",
    "question": "What colour is grass?",
    "choices": ["green", "blue"],
    "answer": 0,
    "answer_text": "green",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "qa").mkdir()
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path))
    return tmp_path / "qa"


def write(folder: Path, *lines: object, name: str = "toy.train.jsonl.gz") -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / name).write_bytes(gzip.compress(text.encode()))


def test_items_are_read_in_order_and_by_task(folder: Path) -> None:
    write(
        folder, GOOD, GOOD | {"id": "toy/2", "task": "sky", "context": "Look up.", "answer": 1, "answer_text": "blue"}
    )
    first, second = load_items("toy", "train")
    assert first == Item("toy/1", "toy", "colours", "What colour is grass?", "green", "", ("green", "blue"), 0)
    assert second.prompt == "Look up.\n\nWhat colour is grass?"
    assert load_items("toy", "train", "sky") == [second]
    assert datasets() == ("toy",)


def test_short_answers_have_no_index(folder: Path) -> None:
    write(folder, GOOD | {"choices": [], "answer": None, "answer_aliases": ["Green"]})
    assert load_items("toy", "train")[0].aliases == ("Green",)


def test_what_the_dataset_says_of_an_item_is_kept(folder: Path) -> None:
    write(folder, GOOD | {"meta": {"polarity": "neg", "scale": 3}}, GOOD | {"id": "toy/2"})
    first, second = load_items("toy", "train")
    assert first.facts == (("polarity", "neg"), ("scale", "3"))
    assert second.facts == ()


def test_no_folder_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="CRAYON_DATA"):
        load_items("toy", "train")


@pytest.mark.parametrize("dataset", ["absent", "../toy", "a/b", ""])
def test_unknown_datasets_are_refused(folder: Path, dataset: str) -> None:
    write(folder, GOOD)
    with pytest.raises(InvalidRequestError, match="dataset"):
        load_items(dataset, "train")


def test_unknown_splits_and_tasks_are_refused(folder: Path) -> None:
    write(folder, GOOD)
    with pytest.raises(InvalidRequestError, match="split"):
        load_items("toy", "validation")
    with pytest.raises(InvalidRequestError, match="task"):
        load_items("toy", "train", "sounds")


@pytest.mark.parametrize("line", ["{", "[]", GOOD | {"answer": 2}, GOOD | {"choices": 7}, {"id": "x"}])
def test_a_bad_line_is_named(folder: Path, line: object) -> None:
    write(folder, GOOD, line)
    with pytest.raises(InvalidRequestError, match=r"toy\.train\.jsonl\.gz:2"):
        load_items("toy", "train")


def test_a_truncated_file_is_refused(folder: Path) -> None:
    write(folder, GOOD)
    path = folder / "toy.train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        load_items("toy", "train")
