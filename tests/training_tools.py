"""A toy world to train in: the small model, tasks of one-word answers, and recipes over them."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from crayon.training.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.training.recipe import Recipe

ANSWERS = {"colours": ("red", "blue", "green"), "sizes": ("tall", "wide"), "sounds": ("hum", "buzz", "ring")}
MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]

# To be put into a recipe by `extra`.
READER = """
[reader]
title = "Reads examples"
sources = [{ dataset = "toys" }, { dataset = "words" }]
held_out = [{ dataset = "toys", task = "sounds" }]
licences = ["own data"]
steps = 12
batch = 2
examples = 6
rate = 0.02
scored_items = 10
"""


def write_toys(folder: Path) -> Path:
    """Write datasets `toys` (a task for each entry of ANSWERS) and `words` (no choices) as CRAYON_DATA wants them."""
    (folder / "qa").mkdir(parents=True)
    for split, count in (("train", 40), ("test", 12)):
        toys: list[dict[str, Any]] = []
        for task, answers in ANSWERS.items():
            for i in range(count):
                gold = i % len(answers)
                toys.append(
                    {
                        "id": f"{task}-{split}-{i}",
                        "dataset": "toys",
                        "task": task,
                        "question": f"{task} {'abc'[gold]} {'x' * (i % 7)}{split[1]}",
                        "choices": answers,
                        "answer": gold,
                        "answer_text": answers[gold],
                    }
                )
        words = [toy | {"dataset": "words", "choices": [], "answer": None} for toy in toys if toy["task"] == "sizes"]
        for name, items in (("toys", toys), ("words", words)):
            with gzip.open(folder / "qa" / f"{name}.{split}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(item) + "\n" for item in items)
    return folder


def write_recipe(path: Path, model: Path, *, held_out: bool = False, extra: str = "", **settings: Any) -> Path:
    """Write a recipe of the members colours, sizes and words."""
    defaults = {
        "rank": 4,
        "alpha": 8,
        "matrices": MATRICES,
        "generalist_steps": 6,
        "member_steps": 20,
        "batch": 4,
        "rate": 0.02,
        "member_rate": 0.02,
        "min_gain": -100,
        "max_tokens": 60,
    }
    lines = ['name = "toy"', 'title = "A toy pool"', f"model = {json.dumps(str(model))}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in (defaults | settings).items()]
    if held_out:
        lines.append('held_out = [{ dataset = "toys", task = "sounds" }]')
    lines.append(extra)
    for name, source in (
        ("colours", 'dataset = "toys", task = "colours"'),
        ("sizes", 'dataset = "toys", task = "sizes"'),
        ("words", 'dataset = "words"'),
    ):
        lines += ["[[member]]", f'name = "{name}"', f'title = "All about {name}"', f"sources = [{{ {source} }}]"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def toy_recipe(folder: Path, model: Path, **settings: Any) -> Recipe:
    return load_recipe(str(write_recipe(folder / "toy.toml", model, **settings)))
