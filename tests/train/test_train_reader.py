"""The member that reads examples: trained beside a pool's members, or into a pool that is there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_chat
from training_tools import READER, toy_recipe, write_recipe, write_toys
from typer.testing import CliRunner

from crayon.adapters import Pool
from crayon.cli.shared.app import app
from crayon.errors import AdapterMismatchError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.training.build import Builder, Event
    from crayon.training.recipe import Recipe

pytestmark = [
    pytest.mark.train,
    # Other people's libraries under our "warnings are errors".
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Toy data, and nothing of the developer's."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAYON_DATA", str(write_toys(folder / "data")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.setenv(name, str(folder / name.lower()))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write_model(tmp_path_factory.mktemp("model") / "tiny-chat.gguf")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Recipe:
    steps = {"generalist_steps": 2, "member_steps": 3}
    return toy_recipe(tmp_path_factory.mktemp("recipe"), model, extra=READER, **steps)


class Listener:
    """Notes what is trained, and stops the run where it is told to."""

    def __init__(self, stop: tuple[str, float] = ("", 0.0)) -> None:
        self.seen: dict[str, list[float]] = {}
        self._stop = stop

    def __call__(self, event: Event) -> None:
        self.seen.setdefault(event.what, []).append(event.done)
        if event.what == self._stop[0] and event.done >= self._stop[1]:
            raise KeyboardInterrupt


def builder(recipe: Recipe, work: Path, listener: Listener | None = None) -> Builder:
    from crayon.training.build import Builder

    return Builder(recipe, work, models_dir=work / "models", dtype="float32", progress=listener or Listener())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Pool:
    return builder(recipe, tmp_path_factory.mktemp("built")).build()


def test_a_reader_is_the_last_member_and_no_similarity_chooses_it(built: Pool, recipe: Recipe, tmp_path: Path) -> None:
    built.save(tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert pool.names == ("colours", "sizes", "words", "generalist", "reader")
    assert pool.reader == 4
    card = pool.manifest.members[4]
    assert (card.role, card.datasets, card.licences) == ("reader", ("toys", "words"), ("own data",))
    assert card.items == 24
    assert card.score is not None
    assert (card.score.n, card.score.metric) == (10, "exact answer, examples in the prompt")
    assert not pool.keys[4].any()
    assert (pool.manifest.gate.alone[4], pool.manifest.gate.mixes[4]) == (2.0, False)
    assert np.abs(pool.b[4]).max() > 0


def test_reading_lowers_the_loss_on_conversations_of_its_tasks(recipe: Recipe, tmp_path: Path) -> None:
    import torch

    one = builder(replace(recipe.only_reader(), matrices=("attn_output", "ffn_down")), tmp_path)
    b, _ = one.reader()
    assert one._reader is not None
    losses = []
    with torch.no_grad():
        for vector in (None, torch.from_numpy(b)):
            one.network.apply(vector)
            losses.append(float(one.trainer.loss(one._reader.texts[:8])))
    assert losses[1] < losses[0] - 0.5


def test_a_reader_joins_a_pool_whose_other_members_stay_as_they_are(
    built: Pool, recipe: Recipe, tmp_path: Path
) -> None:
    plain = builder(replace(recipe, reader=None), tmp_path / "plain").build()
    assert plain.reader is None
    listener = Listener()
    pool = builder(recipe.only_reader(), tmp_path / "work", listener).into(plain)
    assert [what for what in listener.seen if what.startswith("training")] == ["training reader"]
    assert pool.id == built.id, "as if it had been trained with the others"
    assert np.array_equal(pool.b[:4], plain.b)
    assert np.array_equal(pool.keys[:4], plain.keys)
    assert pool.manifest.members[:4] == plain.manifest.members
    again = builder(recipe.only_reader(), tmp_path / "work").into(pool)
    assert again.id == pool.id, "in place of the one that it has"
    better = builder(replace(recipe.only_reader(), min_gain=101.0), tmp_path / "work").into(pool)
    assert better.names == plain.names
    assert better.manifest.gate == plain.manifest.gate
    assert [(left.name, "less than 101" in left.reason) for left in better.manifest.rejected] == [("reader", True)]


def test_a_stopped_reader_goes_on(built: Pool, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crayon.training.descent.SAVE_EVERY", 4)
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        builder(recipe.only_reader(), work, Listener(("training reader", 0.5))).reader()
    listener = Listener()
    one = builder(recipe.only_reader(), work, listener)
    b, _ = one.reader()
    assert listener.seen["training reader"][0] == pytest.approx(5 / 12), "it goes on behind what was saved at 4"
    rounded = one.pool_order(b).astype(np.float16).astype(np.float32)
    assert np.array_equal(rounded, built.b[4]), "stopped or not"


def test_a_pool_of_other_shape_is_refused_by_what_differs(built: Pool, recipe: Recipe, tmp_path: Path) -> None:
    for change, named in (({"rank": 2}, "rank"), ({"alpha": 4.0}, "alpha"), ({"seed": 3}, "a_seed")):
        with pytest.raises(AdapterMismatchError, match=f"its {named} is"):
            builder(replace(recipe.only_reader(), **change), tmp_path).into(built)
    with pytest.raises(ConfigError, match="only a reader: add it to a pool with --into"):
        builder(recipe.only_reader(), tmp_path).build()
    with pytest.raises(ConfigError, match="reader: the recipe has none"):
        builder(replace(recipe, reader=None), tmp_path).into(built)


def test_crayon_pool_train_into_writes_the_pool_with_the_reader(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = {"generalist_steps": 0, "member_steps": 1}
    plain = write_recipe(tmp_path / "plain.toml", model, **steps)
    read = write_recipe(tmp_path / "read.toml", model, extra=READER, **steps)
    runner = CliRunner()
    first = runner.invoke(app, ["pool", "train", str(plain), "--dtype", "float32", "--out", "one"])
    assert first.exit_code == 0, first.output
    options = ["--dtype", "float32", "--out", "two", "--into"]
    second = runner.invoke(app, ["pool", "train", str(read), *options, "./one"])
    assert second.exit_code == 0, second.output
    assert "training colours" not in second.stderr
    assert Pool.open(tmp_path / "one").names == ("colours", "sizes", "words")
    assert Pool.open(tmp_path / "two").names == ("colours", "sizes", "words", "reader")
    checked = runner.invoke(app, ["pool", "check", "./two", "--model", str(model)])
    assert checked.exit_code == 0, checked.output
    for arguments, message in (
        ([str(plain), "--into", "./one"], "reader: the recipe toy has none"),
        ([str(read), "--into", "./one", "--member", "sizes"], "--into: trains the reader only"),
    ):
        refused = runner.invoke(app, ["pool", "train", *arguments])
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.output.split())
