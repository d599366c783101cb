"""A small random pool whose members have keys, so that samples can be compared with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tiny_chat import HIDDEN
from tiny_pool import RANK, TARGETS, shared_pool

from crayon.adapters import EncoderRecord, Gate, Pool
from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest

if TYPE_CHECKING:
    from pathlib import Path

# What a topic's texts share is their letters: all that a random model can tell apart.
TOPICS = {
    "vowels": ("aei oua eio uae", "oua aei iou eoa", "uio aea oie aua", "eia oue aio eua"),
    "numbers": ("12 34 56 78", "90 21 43 65", "87 09 13 57", "24 68 01 35"),
    "marks": ("?! ;: .,", ".. ,, ;; ::", "!? :; ,.", ";. !, ?:"),
}
BACKGROUND = (
    "The quick brown fox jumps.",
    "hello there my friend",
    "What shall we do next?",
    "rhythm myth lynx",
    "Zebras graze on plains",
    "one two three",
)


def questions(topic: str, count: int, seed: int = 0) -> list[str]:
    """Different texts of one topic."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("".join(TOPICS[topic]).replace(" ", "")))
    return [
        " ".join("".join(rng.choice(letters, 4)) for _ in range(6)) + f" {'.' if topic == 'marks' else letters[0]}"
        for _ in range(count)
    ]


def keyed_pool(model: Path, *, gate: Gate | None = None, size: float = 4.0, seed: int = 3) -> Pool:
    """A shared-A pool with a member for each topic."""
    with DeviceEngine(model, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND) as engine:
        texts = tuple(text for topic in TOPICS for text in (*TOPICS[topic], *questions(topic, 8, seed=100)))
        found = engine.encode_raw(EncodeRequest(texts=texts)).result(60)
    means = found.states.reshape(len(TOPICS), -1, found.states.shape[1]).mean(axis=1)
    centre = means.mean(axis=0)
    keys = (means - centre) / np.linalg.norm(means - centre, axis=1, keepdims=True)
    plain = shared_pool(model, len(TOPICS), seed=seed)
    manifest = replace(
        plain.manifest,
        encoder=EncoderRecord(layer=found.layer, dimensions=keys.shape[1]),
        members=tuple(
            replace(member, name=topic, title=topic.title())
            for member, topic in zip(plain.manifest.members, TOPICS, strict=True)
        ),
        gate=gate or Gate(temperature=0.1, sharpen=0.9, floor=0.3),
        tensors_sha256="",
    )
    rng = np.random.default_rng(seed)
    n = sum(target.outputs * RANK for target in TARGETS)
    b = (size * rng.standard_normal((len(TOPICS), n)) / np.sqrt(HIDDEN)).astype(np.float32)
    return Pool.shared(manifest, b, keys=keys.astype(np.float32), centre=centre.astype(np.float32))
