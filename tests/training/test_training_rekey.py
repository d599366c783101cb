"""A pool's keys made anew, without torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_chat import WIDTH, write_model
from tiny_pool import shared_pool
from training_tools import toy_recipe, write_toys

from crayon.adapters import EncoderRecord, Pool
from crayon.customising.space import space_of_pool
from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest
from crayon.errors import AdapterError, ConfigError
from crayon.training.embedder import Embedder
from crayon.training.rekey import rekey
from crayon.training.tasks import member_items

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.training.recipe import Recipe


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture
def recipe(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("CRAYON_DATA", str(write_toys(tmp_path / "data")))
    return toy_recipe(tmp_path, model_path)


def old_pool(model_path: Path, names: tuple[str, ...] = ("sizes", "colours", "generalist")) -> Pool:
    """A pool of an older Crayon: keys of another pooling and another layer; the last member has none."""
    plain = shared_pool(model_path, len(names))
    members = tuple(replace(m, name=name, title=name) for m, name in zip(plain.manifest.members, names, strict=True))
    encoder = EncoderRecord(layer=2, dimensions=WIDTH, kind="layer_mean")
    keys = np.eye(len(names), WIDTH, dtype=np.float32)
    keys[-1] = 0
    manifest = replace(plain.manifest, members=members, encoder=encoder)
    return Pool.shared(manifest, plain.b, keys=keys, centre=np.zeros(WIDTH, np.float32))


def test_keys_are_made_anew_and_adapters_stay(model_path: Path, recipe: Recipe) -> None:
    old = old_pool(model_path)
    told: list[float] = []
    new = rekey(old, recipe, Embedder(model_path, told.append, threads=1))
    assert np.array_equal(new.b, old.b)
    assert new.id != old.id, "weights made for other keys are not taken for these"
    assert new.names == old.names
    space = space_of_pool(new)
    assert space.head is not None
    assert told[-1] == 1.0
    with DeviceEngine(model_path, threads=1, pools=(new,)) as engine:
        for k, name in enumerate(("sizes", "colours")):
            items = member_items(next(member for member in recipe.members if member.name == name))
            raw = engine.encode_raw(EncodeRequest(texts=tuple(item.prompt for item in items[:16]))).result(60)
            mean = space.place(raw.states).mean(axis=0)
            assert np.argmax(new.keys @ mean) == k
    assert not new.keys[2].any()
    assert new.manifest.gate.alone[2] == 2.0
    assert all(0 < threshold < 1 for threshold in new.manifest.gate.alone[:2])


def test_a_member_whose_questions_nobody_names_is_an_error(model_path: Path, recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"has no 'shapes' of the pool; it has colours"):
        rekey(old_pool(model_path, ("sizes", "shapes", "generalist")), recipe, Embedder(model_path, lambda _: None))


def test_a_pool_without_keys_has_none_to_make_anew(model_path: Path, recipe: Recipe) -> None:
    with pytest.raises(AdapterError, match="no keys to make anew"):
        rekey(shared_pool(model_path), recipe, Embedder(model_path, lambda _: None))


def test_the_only_member_is_held_against_everyday_texts(model_path: Path, recipe: Recipe) -> None:
    new = rekey(old_pool(model_path, ("sizes", "generalist")), recipe, Embedder(model_path, lambda _: None, threads=1))
    assert space_of_pool(new).head is None
    assert np.linalg.norm(new.keys[0]) == pytest.approx(1.0, abs=1e-5)
