"""A toy folder of datasets and a pool whose members are of its tasks."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from keyed_pool import TOPICS, keyed_pool, questions

from crayon.adapters import Pool

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {"vowels": "ae", "numbers": "12", "marks": "?!"}
SETS = ("toy", "near", "far")


def write_data(folder: Path, *, train: int = 24, test: int = 6) -> Path:
    """Write three datasets with a task for each topic; "near" and "far" are of no member."""
    (folder / "qa").mkdir(parents=True)
    for number, dataset in enumerate(SETS):
        for split, count in (("train", train), ("test", test)):
            lines = []
            for topic in TOPICS:
                for i, text in enumerate(questions(topic, count, seed=10 * number + (split == "test"))):
                    item = {
                        "id": f"{dataset}/{split}/{topic}/{i}",
                        "dataset": dataset,
                        "task": topic,
                        "question": text,
                        "choices": list(LABELS.values()),
                        "answer": list(LABELS).index(topic),
                        "answer_text": LABELS[topic],
                    }
                    lines.append(json.dumps(item))
            data = "\n".join(lines).encode()
            (folder / "qa" / f"{dataset}.{split}.jsonl.gz").write_bytes(gzip.compress(data))
    return folder


def toy_pool(model: Path) -> Pool:
    """A pool with a member for each task of "toy"."""
    found = keyed_pool(model)
    members = tuple(replace(member, datasets=(f"toy/{member.name}",)) for member in found.manifest.members)
    manifest = replace(found.manifest, members=members, tensors_sha256="")
    return Pool.shared(manifest, found.b, keys=found.keys, centre=found.centre)


def write_stranger(path: Path, name: str, seed: int = 0) -> Path:
    """Write the file of a user with eight samples and four tests of two topics."""
    pairs = {
        what: [
            {"question": text, "answer": LABELS[topic]}
            for texts in zip(*(questions(topic, count, seed=50 + seed) for topic in ("vowels", "numbers")), strict=True)
            for topic, text in zip(("vowels", "numbers"), texts, strict=True)
        ]
        for what, count, seed in (("samples", 4, seed), ("tests", 2, seed + 25))
    }
    labels = [LABELS["vowels"], LABELS["numbers"]]
    path.write_text(json.dumps({"user": name, "labels": labels, **pairs}), encoding="utf-8")
    return path
