"""Training's embeddings are the device's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_chat import LAYERS, write_model

from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest
from crayon.training.embedder import MAX_LETTERS, Embedder

if TYPE_CHECKING:
    from pathlib import Path

TASKS = (("red or blue?", "blue or green?"), ("tall and wide", "wide and tall"), ("1 2 3", "4 5 6", "7 8 9"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


def test_texts_are_embedded_as_the_device_does_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.training.embedder.TEXTS_AT_ONCE", 2)
    texts = [text for task in TASKS for text in task]
    told: list[float] = []
    embed = Embedder(path, told.append)
    found = embed(texts)
    with DeviceEngine(path, threads=1, pools=()) as engine:
        raw = engine.encode_raw(EncodeRequest(texts=tuple(texts))).result(60)
    assert np.abs(found - raw.states).max() < 1e-2 * np.abs(raw.states).max()
    assert embed.layer == raw.layer < LAYERS
    assert told == sorted(told)
    assert len(told) == 4
    assert told[-1] == 1.0


def test_a_text_beyond_the_context_is_known_by_its_start(path: Path) -> None:
    start = "ab " * (MAX_LETTERS // 3) + "a"
    found = Embedder(path, lambda _: None)([start, start + " b" * 9000])
    assert np.array_equal(found[0], found[1])
