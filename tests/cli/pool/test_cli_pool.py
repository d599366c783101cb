"""`crayon pool`, on small models: what is listed, found out, taken in and handed on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_chat import RANK, tiny_shapes, write_adapter, write_model
from tiny_pool import shared_pool

from crayon.adapters import Pool, Rejected, Score
from crayon.adapters.blend import blend as blended
from crayon.adapters.formats import BaseShapes, read_adapter
from crayon.adapters.pool import TENSORS
from crayon.cli.shared.app import app

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result
    from typer.testing import CliRunner


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-chat.gguf")


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of pools; none is shipped."""
    folder = tmp_path / "pools"
    monkeypatch.setenv("CRAYON_POOLS_DIR", str(folder))
    monkeypatch.setattr("crayon.adapters.find.shipped_pools_dir", lambda: tmp_path / "shipped")
    return folder


@pytest.fixture
def ours(model: Path, pools: Path) -> Pool:
    pool = shared_pool(model, 3)
    first = replace(
        pool.manifest.members[0],
        datasets=("clinc150",),
        licences=("CC-BY-3.0",),
        score=Score(30.0, 91.5, 120, "exact"),
    )
    rejected = Rejected(name="weather", reason="only 2 points better")
    manifest = replace(pool.manifest, members=(first, *pool.manifest.members[1:]), rejected=(rejected,))
    pool = Pool.shared(manifest, pool.b)
    pool.save(pools / "ours")
    return pool


class Crayon:
    """Runs the program in this process."""

    def __init__(self, runner: CliRunner) -> None:
        self._runner = runner

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        result = self._runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def crayon(runner: CliRunner) -> Crayon:
    return Crayon(runner)


def test_pools_are_listed_and_a_broken_one_hides_no_other(crayon: Crayon, ours: Pool, pools: Path) -> None:
    (pools / "broken").mkdir()
    (pools / "broken" / "pool.json").write_text("{}")
    lines = crayon("pool", "ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "BASE", "MEMBERS", "RANK", "FROM", "STATE"]
    assert lines[1].startswith("broken")
    assert "damaged" in lines[1]
    assert lines[2].split() == ["ours", "tiny-chat", "3", "4", "user", "ready"]
    listed = crayon.json("pool", "ls")
    assert listed["folder"] == str(pools)
    assert [row["id"] for row in listed["pools"]] == [None, ours.id]


def test_no_pools_is_told_with_where_they_belong(crayon: Crayon, pools: Path) -> None:
    result = crayon("pool", "ls")
    assert result.stdout == ""
    assert str(pools) in result.stderr


def test_a_pool_is_shown_with_scores_data_and_what_was_rejected(crayon: Crayon, ours: Pool, pools: Path) -> None:
    said = crayon("pool", "show", "ours").stdout
    assert ours.id in said
    assert "a: Task 0; 30.0 -> 91.5 exact (n=120); clinc150 [CC-BY-3.0]" in said
    assert "b: Task 1; no score; data not named" in said
    assert "weather: only 2 points better" in said
    shown = crayon.json("pool", "show", pools / "ours")
    assert (shown["id"], len(shown["members"]), shown["base"]["name"]) == (ours.id, 3, "tiny-chat")
    assert "there is no pool 'nobodys'" in crayon("pool", "show", "nobodys", code=3).stderr


def test_a_good_pool_passes_and_a_bad_one_ends_with_a_code(
    crayon: Crayon, ours: Pool, pools: Path, model: Path
) -> None:
    said = crayon("pool", "check", "ours", "--model", model).stdout.splitlines()
    assert len(said) == 2 + 3 + 2
    assert all(line.startswith("ok   ") for line in said)
    b = ours.b.copy()
    b[2] = 0.0
    Pool.shared(ours.manifest, b).save(pools / "quiet")
    result = crayon("pool", "check", "quiet", "--model", model, code=3)
    assert "FAIL member c" in result.stdout
    assert "1 of 7 checks failed" in result.stderr
    found = crayon.json("pool", "check", "quiet", "--model", model, code=3)
    assert not found["ok"]
    assert [row["check"] for row in found["findings"] if not row["ok"]] == ["member c"]
    (pools / "ours" / TENSORS).write_bytes(b"x" * 100)
    assert "pool.safetensors" in crayon("pool", "check", "ours", "--model", model, code=3).stderr


def test_another_base_is_told(crayon: Crayon, ours: Pool, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1)
    assert "FAIL base: pool tiny-0@" in crayon("pool", "check", "ours", "--model", other, code=3).stdout


def test_adapters_become_a_pool_and_go_out_again(crayon: Crayon, pools: Path, model: Path, tmp_path: Path) -> None:
    files = [write_adapter(tmp_path / name, i, tiny_shapes(), 1.5) for i, name in enumerate(("My SQL.gguf", "b.gguf"))]
    said = crayon("pool", "import", *files, "--name", "mine", "--model", model).stderr
    assert "my-sql: made for a base it does not name, imported for tiny-chat" in said
    pool = Pool.open(pools / "mine")
    assert pool.names == ("my-sql", "b")
    assert pool.manifest.kind == "independent"
    crayon("pool", "check", "mine", "--model", model)
    shapes = BaseShapes.read(model)
    wanted = blended(pool, (0.25, 1.0))
    for to, place in (("gguf", tmp_path / "out.gguf"), ("peft", tmp_path / "out")):
        said = crayon("pool", "export", "mine", place, "--blend", "my-sql=0.25, b", "--to", to, "--model", model).stderr
        assert f"rank {2 * RANK}" in said
        found = read_adapter(place, shapes)
        for target in wanted.tensors:
            assert found.delta(target) == pytest.approx(wanted.delta(target), abs=1e-5)
    # What went out can come in: a single adapter is a pool, too.
    config = tmp_path / "out" / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": "maker/other\x1b[2J"}
    config.write_text(json.dumps(settings))
    said = crayon(
        "pool", "import", tmp_path / "out", "--name", "again", "--model", model, "--to", tmp_path / "again"
    ).stderr
    assert "out: made for maker/other [2J, imported for tiny-chat" in said
    assert Pool.open(tmp_path / "again").names == ("out",)


def test_an_export_that_is_cut_says_what_it_loses(crayon: Crayon, ours: Pool, tmp_path: Path) -> None:
    exact = crayon("pool", "export", "ours", tmp_path / "4.gguf", "--blend", "a,b=-1", "--to", "gguf", "--rank", "4")
    assert "0.00% of the change's energy is lost" in exact.stderr
    cut = crayon("pool", "export", "ours", tmp_path / "1.gguf", "--blend", "a,b=-1", "--to", "gguf", "--rank", "1")
    lost = float(cut.stderr.split("rank 1; ")[1].split("%")[0])
    assert 10 < lost < 90


@pytest.mark.parametrize(
    ("blend", "code", "message"),
    [
        ("nobody=1", 3, "has no member 'nobody'"),
        ("a=much", 2, "the weight of a is 'much', not a number"),
        ("a=nan", 2, "must be finite"),
        ("a=1e6", 2, "at most 4"),
        ("a,a=0.5", 2, "names a twice"),
        ("a=0,b=0", 2, "that is the base"),
        ("", 3, "has no member ''"),
    ],
)
def test_a_blend_that_is_none_is_refused(
    crayon: Crayon, ours: Pool, tmp_path: Path, blend: str, code: int, message: str
) -> None:
    said = crayon("pool", "export", "ours", tmp_path / "x.gguf", "--blend", blend, "--to", "gguf", code=code).stderr
    assert message in said
    assert not (tmp_path / "x.gguf").exists()


def test_nothing_that_is_there_is_overwritten(
    crayon: Crayon, ours: Pool, pools: Path, model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", 1, tiny_shapes())
    said = crayon("pool", "import", adapter, "--name", "ours", "--model", model, code=3).stderr
    assert "holds a pool already" in said
    assert Pool.open(pools / "ours").id == ours.id
    before = adapter.read_bytes()
    said = crayon("pool", "export", "ours", adapter, "--blend", "a", "--to", "gguf", code=3).stderr
    assert "there already" in said
    assert adapter.read_bytes() == before


def test_bad_imports_are_refused(crayon: Crayon, pools: Path, model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", 1, tiny_shapes())
    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"\x80\x04")
    for arguments, code, message in (
        ((adapter, adapter, "--name", "x"), 2, "called the same"),
        ((adapter, "--name", "../x"), 3, "use at most 80"),
        ((pickled, "--name", "x"), 3, "pickle"),
        ((tmp_path / "none", "--name", "x"), 3, "no such file"),
    ):
        said = crayon("pool", "import", *arguments, "--model", model, code=code).stderr
        assert message in said
    assert not pools.exists()


def test_an_export_to_peft_needs_the_right_base(crayon: Crayon, ours: Pool, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1)
    said = crayon(
        "pool", "export", "ours", tmp_path / "out", "--blend", "a", "--to", "peft", "--model", other, code=3
    ).stderr
    assert "not for other" in said
    assert not (tmp_path / "out").exists()


def test_training_is_not_imported_by_other_commands() -> None:
    program = (
        "import sys; from crayon.cli.shared.app import run; code = run(['pool', '--help']); "
        "sys.exit(code or 'crayon.cli.pool.train' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert "import" in done.stdout


def test_numbers_survive_the_way_out(crayon: Crayon, ours: Pool, tmp_path: Path, model: Path) -> None:
    crayon("pool", "export", "ours", tmp_path / "a.gguf", "--blend", "a=1", "--to", "gguf")
    found = read_adapter(tmp_path / "a.gguf", BaseShapes.read(model))
    for target, (_, b) in ours.member(0).tensors.items():
        assert np.abs(found.delta(target) - ours.member(0).delta(target)).max() < 1e-5
        assert b.any()
