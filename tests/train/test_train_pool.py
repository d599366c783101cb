"""From a recipe to a pool on toy data: what is trained is what llama.cpp then computes, and a stopped run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_chat
from training_tools import ANSWERS, toy_recipe, write_recipe, write_toys
from typer.testing import CliRunner

from crayon.adapters import LoraTensors, Pool, gguf_bytes
from crayon.adapters.formats import BaseShapes
from crayon.adapters.memory_file import MemoryFile
from crayon.adapters.shared_a import split_b
from crayon.blending import PoolBlends
from crayon.cli.shared.app import app
from crayon.completion import Blend
from crayon.customising.samples import Sample
from crayon.data.qa import load_items
from crayon.device import DeviceEngine
from crayon.engine import Delta, EncodeRequest, GenerateRequest
from crayon.errors import AdapterError, ConfigError, InvalidRequestError
from crayon.llama.adapter import Adapter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.messages import Message
from crayon.models import resolve
from crayon.sampling import Sampling
from crayon.training.examples import Prompts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.training.build import Builder, Event
    from crayon.training.recipe import Recipe

pytestmark = [
    pytest.mark.train,
    # Other people's libraries under our "warnings are errors".
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

SAME = 0.015  # of a row's length; see `apart`


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
def recipe(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("recipe"), model)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> tuple[Builder, Pool]:
    one = builder(recipe, tmp_path_factory.mktemp("built"))
    return one, one.build()


def by_torch(one: Builder, vector: NDArray[np.float32] | None, tokens: list[int]) -> NDArray[np.float32]:
    """Logits of every row, in one pass over all layers."""
    import torch

    from crayon.training.network import KeyValues

    network = one.network
    network.apply(None if vector is None else torch.from_numpy(vector))
    with torch.no_grad():
        states = network.embed(torch.tensor([tokens]))
        states = network.run(states, torch.arange(len(tokens))[None], (), KeyValues(), 0, network.layers)
        logits = network.logits(states[0]).numpy()
    network.apply(None)
    return np.asarray(logits)


def by_llama(model: Path, tokens: list[int], pool: Pool, weights: tuple[float, ...]) -> NDArray[np.float32]:
    with Model(model) as loaded:
        blends = PoolBlends(loaded, (pool,))
        with Context(loaded, n_ctx=128, threads=1) as context, blends(Blend(pool.id, weights)) as adapters:
            context.set_adapters(adapters)
            found = rows(context, tokens)
            context.set_adapters()
        blends.close()
    return found


def rows(context: Context, tokens: list[int]) -> NDArray[np.float32]:
    batch = Batch(len(tokens))
    places = batch.add(tokens, 0, 0, "all")
    context.decode(batch)
    return np.stack([context.logits(row).copy() for row in places])


def apart(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference of a row beside the row's length: 0.005 to 0.008 from keys and values in float16."""
    return float((np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


def question(model: Path) -> list[int]:
    with Model(model, vocab_only=True) as loaded:
        return loaded.tokenize_chat([Message("user", "sizes b xxx, what else?")])


# -- what is trained is what is run


def test_a_blend_of_the_saved_pool_gives_the_trainers_logits(
    built: tuple[Builder, Pool], model: Path, tmp_path: Path
) -> None:
    one, made = built
    made.save(tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert pool.id == made.id
    assert pool.names == ("colours", "sizes", "words", "generalist")
    assert {target.name.split(".")[2] for target in pool.manifest.targets} == set(tiny_chat.SHAPES)
    tokens = question(model)
    trained = one.trained()
    for weights in ((1.0, 0.0, 0.0, 0.0), (0.25, 0.5, -0.5, 0.75)):
        vector = sum(w * trained[name] for w, name in zip(weights, pool.names, strict=True))
        wanted = by_torch(one, np.asarray(vector, np.float32), tokens)
        found = by_llama(model, tokens, pool, weights)
        assert apart(found, wanted) < SAME
        assert apart(by_torch(one, None, tokens), wanted) > 15 * SAME, "the blend matters"


def test_rows_of_q_and_k_are_in_llama_cpps_order(built: tuple[Builder, Pool], model: Path) -> None:
    one, pool = built
    rng = np.random.default_rng(0)
    vector = (0.25 * rng.standard_normal(one.network.size)).astype(np.float32)
    tokens, shapes = question(model), BaseShapes.read(model)
    parts = split_b(one.pool_order(vector), one.targets, one.recipe.rank)
    ordered = LoraTensors({name: (one.a[name], part) for name, part in parts.items()}, pool.manifest.scale)
    left = {name: (a, shapes.to_transformers(name, b)) for name, (a, b) in ordered.tensors.items()}
    wanted = by_torch(one, vector, tokens)
    found = []
    for lora in (ordered, LoraTensors(left, ordered.scale)):
        with Model(model) as loaded, MemoryFile(gguf_bytes(lora, "llama")) as file:
            adapter = Adapter(loaded, file.path)
            with Context(loaded, n_ctx=128, threads=1) as context:
                context.set_adapters([(adapter, 1.0)])
                found.append(apart(rows(context, tokens), wanted))
                context.set_adapters()
            adapter.close()
    assert found[0] < SAME
    assert found[1] > 15 * SAME, "in transformers' order they are wrong"


def written(engine: DeviceEngine, prompt: str, blend: Blend) -> str:
    sampling = Sampling(temperature=0.0, max_tokens=16)
    request = GenerateRequest(messages=(Message("user", prompt),), sampling=sampling, blend=blend)
    return "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))


def test_the_score_on_the_card_is_what_the_device_then_answers(built: tuple[Builder, Pool], model: Path) -> None:
    _, pool = built
    words = pool.manifest.members[pool.index("words")]
    assert words.score is not None
    assert words.score.metric == "exact answer"
    items = load_items("words", "test")
    weights = tuple(float(name == "words") for name in pool.names)
    with DeviceEngine(model, n_ctx=256, threads=1, pools=[pool]) as engine:
        blend = Blend(pool.id, weights)
        answers = [written(engine, item.prompt, blend) for item in items]
    right = np.mean([text == item.answer_text for text, item in zip(answers, items, strict=True)])
    assert words.score.member == pytest.approx(100 * right, abs=0.06)
    assert words.score.member > words.score.base


def test_the_card_says_what_it_was_made_of(built: tuple[Builder, Pool], recipe: Recipe, model: Path) -> None:
    _, pool = built
    card = pool.manifest
    pool.check_base(card.base.source_sha256, "tiny-chat")
    assert (card.base.architecture, card.base.n_layer, card.base.n_embd) == ("llama", 4, 64)
    assert card.a_seed == recipe.seed
    colours = card.members[0]
    assert (colours.datasets, colours.items) == (("toys/colours",), 40)
    assert colours.score is not None
    assert (colours.score.n, colours.score.metric) == (12, "likeliest choice")
    assert card.members[3].datasets == ("toys/colours", "toys/sizes", "words")
    assert card.members[3].items == 120
    assert np.allclose(np.linalg.norm(pool.keys, axis=1), [1.0, 1.0, 1.0, 0.0], atol=1e-5)
    assert len(card.gate.alone) == 4
    assert card.gate.alone[3] == 2.0, "the generalist never answers alone"
    with DeviceEngine(model, n_ctx=256, threads=1, pools=[pool]) as engine:
        texts = tuple(item.prompt for task in ("colours", "sizes") for item in load_items("toys", "test", task))
        states = engine.encode_raw(EncodeRequest(texts=texts)).result(120).states - pool.centre
    nearest = (states @ pool.keys[:2].T).argmax(axis=1)
    assert np.array_equal(nearest, [0] * 12 + [1] * 12), "a task's questions are nearest to its own key"


# -- again, and on


def test_equal_recipes_give_equal_pools_and_a_stopped_run_goes_on(
    built: tuple[Builder, Pool], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = built
    monkeypatch.setattr("crayon.training.descent.SAVE_EVERY", 4)
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        builder(recipe, work, Listener(("training sizes", 0.5))).build()
    second = Listener(("scoring sizes", 1.0))
    with pytest.raises(KeyboardInterrupt):
        builder(recipe, work, second).build()
    assert "training generalist" not in second.seen
    assert "training colours" not in second.seen
    assert second.seen["training sizes"][0] == pytest.approx(9 / 20), "it goes on behind what was saved at 8"
    third = Listener()
    pool = builder(recipe, work, third).build()
    assert not [what for what in third.seen if what.startswith("training")]
    assert pool.id == whole.id
    assert np.array_equal(pool.b, whole.b)
    assert np.array_equal(pool.keys, whole.keys)
    assert pool.manifest.members == whole.manifest.members


def test_what_a_checkpoint_depends_on_makes_another_one(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, generalist_steps=0, member_steps=1, members=recipe.members[:1])
    work = tmp_path / "work"

    def trained(other: Recipe) -> bool:
        listener = Listener()
        builder(other, work, listener).build()
        return "training colours" in listener.seen

    assert trained(short)
    assert not trained(short)
    assert not trained(replace(short, title="Another title", min_gain=-50.0))
    colours = short.members[0]
    (tmp_path / "other").mkdir()
    other_model = tiny_chat.write_model(tmp_path / "other" / "tiny-chat.gguf", seed=1)
    for change in (
        {"seed": 1},
        {"alpha": 4.0},
        {"rank": 2},
        {"batch": 3},
        {"member_steps": 2},
        {"member_rate": 0.01},
        {"matrices": ("attn_q", "ffn_down")},
        {"first_layer": 3},
        {"end_layer": 3},
        {"generalist_steps": 1},
        {"kind": "independent"},
        {"members": (replace(colours, items=39),)},
        {"members": (replace(colours, steps=3),)},
        {"model": str(other_model)},
    ):
        assert trained(replace(short, **change)), change


def test_a_damaged_checkpoint_is_named(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, generalist_steps=0, member_steps=1, members=recipe.members[:1])
    for pattern in ("colours-*.safetensors", "score-*.json"):
        work = tmp_path / pattern[:5]
        builder(short, work).build()
        for path in work.glob(pattern):
            path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(AdapterError, match=r"is damaged .*; delete it to"):
            builder(short, work).build()


def test_a_full_disk_is_told_and_nothing_half_written_stays(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(recipe, generalist_steps=0, member_steps=1, members=recipe.members[:1])
    one = builder(short, tmp_path / "work")

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(AdapterError, match=r"cannot be written \(No space left on device\)"):
        one.build()
    assert [path.name for path in (tmp_path / "work").iterdir() if path.is_file()] == []


# -- other kinds


def test_independent_members_bring_their_own_a(recipe: Recipe, model: Path, tmp_path: Path) -> None:
    one = builder(replace(recipe, kind="independent", members=recipe.members[:2]), tmp_path / "work")
    one.build().save(tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert pool.manifest.kind == "independent"
    assert pool.names == ("colours", "sizes", "generalist")
    first, second = pool.member(0), pool.member(1)
    for target in pool.manifest.targets:
        assert not np.array_equal(first.tensors[target.name][0], second.tensors[target.name][0])
    tokens = question(model)
    wanted = by_torch(one, one.trained()["sizes"], tokens)
    assert apart(by_llama(model, tokens, pool, (0.0, 1.0, 0.0)), wanted) < SAME
    assert apart(by_torch(one, None, tokens), wanted) > 15 * SAME
    assert one.build().id == pool.id


def test_clusters_find_the_tasks_again(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, members=recipe.members[:2], clusters=2, member_steps=2, generalist_steps=2)
    pool = builder(short, tmp_path / "work").build()
    assert pool.names == ("cluster-01", "cluster-02", "generalist")
    assert {member.title for member in pool.manifest.members[:2]} == {"Mostly colours", "Mostly sizes"}
    assert [member.items for member in pool.manifest.members] == [40, 40, 80]
    assert pool.manifest.members[0].datasets == ("toys/colours", "toys/sizes")


def test_blends_are_kept_only_if_they_do_better_on_tasks_held_out(
    built: tuple[Builder, Pool], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crayon.training.build import Builder

    _, plain = built
    monkeypatch.setattr("crayon.training.descent.SAVE_EVERY", 4)
    recipe = toy_recipe(tmp_path, model, held_out=True, blended_steps=10, blended_rate=0.01)
    work = tmp_path / "work"
    first = builder(recipe, work).build()
    stage = first.manifest.training["blended"]
    assert 0.0 <= stage["held_out_before"] <= 100.0
    assert stage["kept"] == (stage["held_out_after"] > stage["held_out_before"])

    for better, points in ((True, (10.0, 20.0)), (False, (20.0, 10.0))):
        for file in work.glob("blends-*"):
            file.unlink()
        judged = iter(points)
        with monkeypatch.context() as patch:
            patch.setattr(Builder, "_judge", lambda *_: next(judged))  # noqa: B023 - used before it is bound anew
            listener = Listener(("training blends", 0.6))
            with pytest.raises(KeyboardInterrupt):
                builder(recipe, work, listener).build()
            listener = Listener()
            pool = builder(recipe, work, listener).build()
        assert listener.seen["training blends"][0] == pytest.approx(0.5), "it goes on behind what was saved at 4"
        assert pool.manifest.training["blended"] == {
            "held_out_before": points[0],
            "held_out_after": points[1],
            "kept": better,
        }
        same = [np.array_equal(mine, theirs) for mine, theirs in zip(pool.b, plain.b, strict=True)]
        assert same == [not better] * 3 + [True], "the generalist takes no part in it"
        if better:
            again = builder(recipe, tmp_path / "again")
            judged = iter(points)
            with monkeypatch.context() as patch:
                patch.setattr(Builder, "_judge", lambda *_: next(judged))  # noqa: B023 - likewise
                assert again.build().id == pool.id, "stopped or not"


@pytest.mark.parametrize("count", [1, 2])
def test_a_pool_of_few_members_has_keys(recipe: Recipe, tmp_path: Path, count: int) -> None:
    short = replace(recipe, members=recipe.members[:count], generalist_steps=1, member_steps=1)
    pool = builder(short, tmp_path / "work").build()
    assert len(pool) == count + 1
    assert np.allclose(np.linalg.norm(pool.keys, axis=1), [*[1.0] * count, 0.0], atol=1e-5)
    assert np.isfinite(pool.centre).all()


def test_members_that_gain_too_little_are_left_out_and_listed(recipe: Recipe, tmp_path: Path) -> None:
    one = builder(recipe, tmp_path / "work")
    gains = {member.name: member.score.gain for member in one.build().manifest.members if member.score}
    bar = sorted(gains.values())[1] - 0.01
    assert min(gains.values()) < bar
    pool = builder(replace(recipe, min_gain=bar), tmp_path / "work").build()
    kept = [name for name, gain in gains.items() if gain >= bar]
    assert list(pool.names) == [*kept, "generalist"]
    assert [rejected.name for rejected in pool.manifest.rejected] == [name for name in gains if name not in kept]
    assert "less than" in pool.manifest.rejected[0].reason
    with pytest.raises(AdapterError, match="no member gains enough"):
        builder(replace(recipe, min_gain=101.0), tmp_path / "work").build()


def test_a_file_of_samples_is_a_task(recipe: Recipe, model: Path, tmp_path: Path) -> None:
    from crayon.training.recipe import load_recipe

    file = tmp_path / "mine.jsonl"
    answers = ANSWERS["sizes"]
    lines = [{"question": f"mine {i}", "answer": answers[i % 2], "choices": answers} for i in range(25)]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(
        f'name = "mine"\ntitle = "Mine"\nmodel = {json.dumps(str(model))}\nmin_gain = -100\ngeneralist_steps = 0\n'
        'member_steps = 1\nbatch = 2\nrank = 2\n[[member]]\nname = "mine"\ntitle = "Mine"\n'
        f"sources = [{{ file = {json.dumps(str(file))} }}]\n",
        encoding="utf-8",
    )
    pool = builder(load_recipe(str(path)), tmp_path / "work").build()
    assert pool.names == ("mine",)
    member = pool.manifest.members[0]
    assert (member.datasets, member.items) == (("mine.jsonl",), 20)
    assert member.score is not None
    assert member.score.n == 5


# -- the control of a user's own


def test_a_fresh_adapter_is_trained_on_samples_alone(
    built: tuple[Builder, Pool], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crayon.training import fresh
    from crayon.training.build import Builder

    one, pool = built
    local = resolve(str(model), models_dir=tmp_path)
    monkeypatch.setattr(fresh, "resolve", {pool.manifest.base.name: local}.__getitem__)
    samples = [Sample("sizes a", "tall"), Sample("sizes b", "wide"), Sample("sizes c", "tall"), Sample("sizes")]
    trainer = fresh.FreshTrainer(pool)
    found = trainer.train(samples, 3)
    assert np.array_equal(trainer.train(samples, 3), found)
    assert not np.array_equal(trainer.train(samples, 4), found)
    # The same by way of a builder, in whatever type this machine multiplies.
    other = Builder(one.recipe, tmp_path / "work", models_dir=tmp_path)
    with Model(model, vocab_only=True) as loaded:
        prompts = Prompts(loaded)
        examples = [prompts.of(sample.question, sample.answer) for sample in samples if sample.answer]
    wanted = other.trainer.train(examples, steps=fresh.STEPS, rate=fresh.RATE, batch=3, seed=3)
    assert np.array_equal(found, other.pool_order(wanted))
    with pytest.raises(InvalidRequestError, match="hold no answer"):
        trainer.train(samples[3:], 0)


# -- bad input


def test_layers_and_matrices_that_the_model_lacks_are_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers 4 to 4 are not among the model's 4"):
        builder(replace(recipe, first_layer=4), tmp_path)
    with pytest.raises(ConfigError, match="layers 2 to 5"):
        builder(replace(recipe, end_layer=5), tmp_path)
    with pytest.raises(AdapterError, match=r"no matrix blk\.2\.ffn_sideways\.weight"):
        builder(replace(recipe, matrices=("ffn_sideways",)), tmp_path)


def test_tasks_without_items_are_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="colours has no item of at most 5 tokens to be trained on"):
        builder(replace(recipe, max_tokens=5), tmp_path)
    lost = replace(recipe.members[0], sources=(replace(recipe.members[0].sources[0], task="tastes"),))
    with pytest.raises(InvalidRequestError, match="toys has no items of task 'tastes'"):
        builder(replace(recipe, members=(lost,)), tmp_path)


# -- the command


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_crayon_pool_train_makes_a_pool_that_checks(
    runner: CliRunner, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "toy.toml", model, generalist_steps=2, member_steps=5)
    arguments = ["pool", "train", str(recipe), "--member", "sizes", "--member", "colours", "--dtype", "float32"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    pool = Pool.open(tmp_path / "toy")
    assert pool.names == ("sizes", "colours", "generalist")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["sizes", "colours", "generalist"]
    assert "likeliest choice, n=12" in lines[0]
    assert f"{pool.id}: 3 members" in result.stderr
    assert "training colours" in result.stderr
    assert list((tmp_path / "toy.work").glob("colours-*.safetensors"))

    again = runner.invoke(app, [*arguments, "--out", "second", "--work", "toy.work"])
    assert again.exit_code == 0, again.output
    assert "training colours" not in again.stderr
    assert Pool.open(tmp_path / "second").id == pool.id

    checked = runner.invoke(app, ["pool", "check", "./toy", "--model", str(model)])
    assert checked.exit_code == 0, checked.output


def test_one_adapter_is_trained_on_all_data_for_as_long_as_the_whole_pool(
    runner: CliRunner, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "toy.toml", model, generalist_steps=2, member_steps=5)
    result = runner.invoke(app, ["pool", "train", str(recipe), "--all-data", "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    pool = Pool.open(tmp_path / "toy-all-data")
    assert pool.names == ("generalist",)
    assert pool.manifest.training["steps"] == 2 + 3 * 5
    assert pool.manifest.encoder is None
    assert np.abs(pool.b).max() > 0
    assert set(pool.manifest.members[0].datasets) == {"toys/colours", "toys/sizes", "words"}


def test_crayon_pool_train_makes_clusters_and_independent_members(
    runner: CliRunner, model: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "toy.toml", model, generalist_steps=0, member_steps=2, rank=2)
    out = tmp_path / "pool"
    options = ["--independent", "--clusters", "2", "--out", str(out), "--dtype", "float32"]
    result = runner.invoke(app, ["pool", "train", str(recipe), *options])
    assert result.exit_code == 0, result.output
    pool = Pool.open(out)
    assert pool.names == ("cluster-01", "cluster-02")
    assert pool.manifest.kind == "independent"


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"extra": "colour = 1"}, [], "unknown field 'colour'"),
        ({"rank": "four"}, [], "rank must be a whole number"),
        ({}, ["--member", "smells"], "'smells' is not in the recipe; there are colours, sizes, words"),
        ({}, ["--clusters", "1"], "clusters: must be 0"),
        ({}, ["--dtype", "float8"], "must be auto, float32 or bfloat16"),
        ({}, ["--device", "abacus"], "torch cannot compute on 'abacus'"),
        ({"held_out": True, "blended_steps": 1}, ["--independent"], "blends are trained in shared pools only"),
        ({}, ["--independent", "--all-data"], "is trained on a shared A"),
    ],
)
def test_crayon_pool_train_refuses_what_it_cannot_train(
    runner: CliRunner, model: Path, tmp_path: Path, settings: dict[str, Any], options: list[str], message: str
) -> None:
    recipe = write_recipe(tmp_path / "toy.toml", model, **settings)
    result = runner.invoke(app, ["pool", "train", str(recipe), "--out", str(tmp_path / "pool"), *options])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "pool").exists()


def test_crayon_pool_train_names_a_dataset_that_is_not_there(
    runner: CliRunner, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "toy.toml", model)
    recipe.write_text(recipe.read_text().replace('"words" }', '"flags" }'), encoding="utf-8")
    result = runner.invoke(app, ["pool", "train", str(recipe), "--out", str(tmp_path / "pool")])
    assert result.exit_code == 2, result.output
    assert "'flags' is not in" in result.output
    assert "there are toys, words" in " ".join(result.output.split())
    monkeypatch.setenv("CRAYON_DATA", str(tmp_path))
    result = runner.invoke(app, ["pool", "train", str(recipe), "--out", str(tmp_path / "pool")])
    assert result.exit_code == 2, result.output
    assert "set CRAYON_DATA" in " ".join(result.output.split())
