from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from crayon.data.texts import background_texts, everyday_groups
from crayon.device import kept_states
from crayon.device.kept_states import KeptStates, shipped_name, shipped_states
from crayon.models import load_catalogue

STATES = Path(str(resources.files("crayon.data"))) / "states"
SOURCE = "ab" * 32


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what comes with Crayon."""
    monkeypatch.setattr(kept_states.resources, "files", lambda _: tmp_path)
    (tmp_path / "states").mkdir()
    return tmp_path / "states"


def test_what_is_shipped_is_of_the_texts_and_models_of_today() -> None:
    """Else nothing fails, and the first customisation takes a minute: run tools/everyday_states.py again."""
    everyday = [text for group in everyday_groups() for text in group]
    sources = {load_catalogue().find("qwen2.5-coder-0.5b-instruct").wanted.sha256}
    names = sorted(path.name for path in STATES.iterdir())
    layers = {int(name.split("-")[-2]) for name in names}
    assert len(layers) == 1
    layer = layers.pop()
    assert names == sorted(
        shipped_name(source, layer, texts) for source in sources for texts in (background_texts(), everyday)
    )
    for source in sources:
        states = shipped_states(source, layer, everyday, 896)
        assert states is not None
        assert np.isfinite(states).all()


def test_shipped_states_come_before_kept_ones(brought: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    texts = ["one", "two"]
    kept = KeptStates(tmp_path / "cache", model, 3, 4, SOURCE)
    assert kept.load("everyday", texts) is None
    kept.store("everyday", texts, np.zeros((2, 4), np.float32))
    found = kept.load("everyday", texts)
    assert found is not None
    assert not found.any()
    np.save(brought / shipped_name(SOURCE, 3, texts), np.ones((2, 4), np.float16))
    found = kept.load("everyday", texts)
    assert found is not None
    assert found.dtype == np.float32
    assert found.all()
    # Of another model, layer or text nothing is taken.
    for other in (KeptStates(None, model, 3, 4), KeptStates(None, model, 2, 4, SOURCE)):
        assert other.load("everyday", texts) is None
    assert KeptStates(None, model, 3, 4, SOURCE).load("everyday", ["one"]) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-3]), id="cut"),
        pytest.param(lambda path: np.save(path, np.ones((2, 5), np.float16)), id="another width"),
        pytest.param(lambda path: np.save(path, np.full((2, 4), np.nan, np.float16)), id="not finite"),
    ],
)
def test_shipped_states_that_are_damaged_are_not_taken(brought: Path, damage: object) -> None:
    path = brought / shipped_name(SOURCE, 3, ["one", "two"])
    np.save(path, np.ones((2, 4), np.float16))
    damage(path)  # type: ignore[operator]  # a parameter is an object to pytest
    assert shipped_states(SOURCE, 3, ["one", "two"], 4) is None
