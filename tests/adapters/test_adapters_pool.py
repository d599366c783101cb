from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_tools import (
    RANK,
    TARGETS,
    edit_manifest,
    edit_tensors,
    independent_pool,
    lora,
    members,
    put_tensors,
    shared_manifest,
    shared_pool,
    unit,
)

from crayon.adapters import Gate, LoraTensors, Pool, read_manifest
from crayon.adapters.shared_a import join_b, random_a, split_b
from crayon.errors import AdapterError, AdapterMismatchError

if TYPE_CHECKING:
    from pathlib import Path

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(first: LoraTensors, second: LoraTensors) -> bool:
    return (
        first.scale == second.scale
        and first.tensors.keys() == second.tensors.keys()
        and all(
            np.array_equal(a, second.tensors[name][0]) and np.array_equal(b, second.tensors[name][1])
            for name, (a, b) in first.tensors.items()
        )
    )


def test_a_pool_knows_its_reader() -> None:
    assert shared_pool().reader is None
    reading = tuple(replace(member, role="reader" if member.name == "m1" else "task") for member in members(3))
    assert shared_pool(members=reading, gate=Gate(mixes=(True, False, True))).reader == 1


# -- made, saved, opened


@pytest.mark.parametrize(
    "pool",
    [
        shared_pool(),
        shared_pool(a_seed=5),
        shared_pool(precision="F32"),
        shared_pool(encoder=None),
        independent_pool(),
        independent_pool(precision="F32"),
    ],
    ids=["shared", "seed", "float32", "no-encoder", "independent", "independent-float32"],
)
def test_a_pool_survives_its_folder(pool: Pool, tmp_path: Path) -> None:
    pool.save(tmp_path / "deep" / "pool")
    again = Pool.open(tmp_path / "deep" / "pool")
    assert again.manifest == pool.manifest == read_manifest(str(tmp_path / "deep" / "pool"))
    assert again.id == pool.id
    assert again.id.startswith("tiny-pool@")
    for k in range(len(pool)):
        assert same(again.member(k), pool.member(k))
    assert np.array_equal(again.keys, pool.keys)
    assert np.array_equal(again.centre, pool.centre)
    assert sorted(path.name for path in (tmp_path / "deep" / "pool").iterdir()) == ["pool.json", "pool.safetensors"]


def test_the_hash_is_that_of_the_file_and_the_same_each_time(tmp_path: Path) -> None:
    shared_pool().save(tmp_path / "one")
    shared_pool().save(tmp_path / "two")
    data = (tmp_path / "one" / "pool.safetensors").read_bytes()
    assert data == (tmp_path / "two" / "pool.safetensors").read_bytes()
    assert read_manifest(tmp_path / "one").tensors_sha256 == hashlib.sha256(data).hexdigest()
    assert shared_pool(seed=1).id != shared_pool().id


def test_a_pool_in_memory_has_the_numbers_of_its_file() -> None:
    pool = shared_pool()
    assert np.array_equal(pool.b, pool.b.astype(np.float16))
    assert pool.b.dtype == pool.keys.dtype == pool.centre.dtype == np.float32
    assert pool.b.flags.c_contiguous


def test_nobody_can_write_into_a_pool() -> None:
    pool = shared_pool(a_seed=3, precision="F32")
    for array in (pool.b, pool.keys, pool.centre):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_the_arrays_that_a_pool_was_made_from_stay_the_callers() -> None:
    b = np.zeros((3, 11 * RANK), np.float32)
    keys, centre = unit(np.random.default_rng(0), 3), np.zeros(4, np.float32)
    pool = Pool.shared(shared_manifest(a_seed=3, precision="F32"), b, keys=keys, centre=centre)
    b[:], keys[:], centre[:] = 7.0, 7.0, 7.0
    assert not pool.b.any()
    assert not pool.centre.any()
    assert pool.keys.max() <= 1.0


def test_saving_replaces_a_pool_and_leaves_other_files(tmp_path: Path) -> None:
    shared_pool().save(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    shared_pool(seed=1).save(tmp_path)
    assert Pool.open(tmp_path).id == shared_pool(seed=1).id
    assert (tmp_path / "README.md").read_text() == "mine"


def test_members_by_name_and_number() -> None:
    pool = shared_pool()
    assert pool.names == ("m0", "m1", "m2")
    assert pool.index("m2") == 2
    assert same(pool.member(-1), pool.member(2))
    assert pool.member(1).scale == 2.0
    with pytest.raises(AdapterError, match="no member 'm9'; it has m0, m1, m2"):
        pool.index("m9")
    assert same(independent_pool().member(-1), independent_pool().member(1))


def test_a_pool_for_another_base_is_refused_naming_both() -> None:
    pool = shared_pool()
    pool.check_base("ab" * 32, "tiny")
    with pytest.raises(
        AdapterMismatchError, match=r"tiny-pool@\w+ was made for tiny .*, not for qwen \(.*cdcdcdcdcdcd\)"
    ):
        pool.check_base("cd" * 32, "qwen")
    with pytest.raises(AdapterMismatchError, match="unknown"):
        pool.check_base("", "qwen")


def test_an_independent_pool_has_no_shared_arrays() -> None:
    pool = independent_pool()
    for name in ("a", "b"):
        with pytest.raises(AdapterError, match="share no A"):
            getattr(pool, name)
    assert pool.keys.shape == (2, 0)
    assert "independent" in repr(pool)


# -- the shared A


def test_the_random_a_is_the_same_for_ever() -> None:
    a = random_a(7, "blk.0.ffn_up.weight", 3, 5)
    stream = hashlib.shake_256(b"crayon-a-1|7|blk.0.ffn_up.weight").digest(2)
    bits = [stream[i // 8] >> (i % 8) & 1 for i in range(15)]
    assert np.array_equal(np.sign(a), np.array([2 * bit - 1 for bit in bits]).reshape(3, 5))
    assert np.abs(a) == pytest.approx(1 / np.sqrt(5))
    assert a.dtype == np.float32
    assert (
        hashlib.sha256(random_a(1, "blk.15.ffn_down.weight", 8, 1536).tobytes()).hexdigest()[:16] == "b987fd68b4b569b6"
    )


def test_random_rows_are_nearly_orthogonal() -> None:
    a = random_a(0, "blk.15.ffn_down.weight", 8, 1536)
    assert np.abs(a @ a.T - np.eye(8)).max() < 0.2
    assert not np.array_equal(a, random_a(1, "blk.15.ffn_down.weight", 8, 1536))
    assert not np.array_equal(a, random_a(0, "blk.16.ffn_down.weight", 8, 1536))


def test_the_layout_of_b_goes_there_and_back() -> None:
    vector = np.arange(11 * RANK, dtype=np.float32)
    parts = split_b(vector, TARGETS, RANK)
    assert parts["blk.2.ffn_down.weight"].shape == (6, RANK)
    assert parts["blk.3.attn_q.weight"][0, 1] == 6 * RANK + 1
    assert np.array_equal(join_b(parts, TARGETS, RANK), vector)
    with pytest.raises(AdapterError, match="expected"):
        split_b(vector[1:], TARGETS, RANK)
    with pytest.raises(AdapterError, match=r"blk\.3\.attn_q\.weight: B is missing"):
        join_b({TARGETS[0].name: parts[TARGETS[0].name]}, TARGETS, RANK)


# -- what cannot be made


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_numbers_that_the_file_cannot_hold_are_refused(bad: float) -> None:
    b = np.zeros((3, 11 * RANK), np.float32)
    b[1, 2] = bad
    with pytest.raises(AdapterError, match="A or B hold a number that F16 cannot"):
        Pool.shared(shared_manifest(encoder=None, a_seed=1), b)


def test_what_contradicts_the_manifest_is_refused() -> None:
    rng = np.random.default_rng(0)
    b = np.zeros((3, 11 * RANK), np.float32)
    keys, centre = unit(rng, 3), np.zeros(4, np.float32)
    seeded = shared_manifest(a_seed=1)
    with pytest.raises(AdapterError, match="'b' has the shape"):
        Pool.shared(seeded, b[:2], keys=keys, centre=centre)
    with pytest.raises(AdapterError, match="'keys' is missing"):
        Pool.shared(seeded, b)
    with pytest.raises(AdapterError, match="'centre' has the shape"):
        Pool.shared(seeded, b, keys=keys, centre=centre[:3])
    with pytest.raises(AdapterError, match=r"row \d has neither length 1 nor 0"):
        Pool.shared(seeded, b, keys=2 * keys, centre=centre)
    with pytest.raises(AdapterError, match="'keys' holds numbers that are not finite"):
        Pool.shared(seeded, b, keys=keys * np.float32(np.nan), centre=centre)
    with pytest.raises(AdapterError, match=r"'a/blk\.2\.ffn_down\.weight' is missing"):
        Pool.shared(shared_manifest(), b, keys=keys, centre=centre)
    with pytest.raises(AdapterError, match=r"'a/blk\.2\.ffn_down\.weight' is none"):
        Pool.shared(seeded, b, keys=keys, centre=centre, a={TARGETS[0].name: np.zeros((RANK, 10), np.float32)})
    with pytest.raises(AdapterError, match="'keys' is none"):
        Pool.shared(replace(seeded, encoder=None), b, keys=keys)


def test_adapters_that_do_not_fit_an_independent_pool_are_refused() -> None:
    rng = np.random.default_rng(0)
    manifest = replace(shared_manifest(1, encoder=None), kind="independent")
    with pytest.raises(AdapterError, match="2 adapters for 1 members"):
        Pool.independent(manifest, [lora(rng, 3), lora(rng, 3)])
    with pytest.raises(AdapterError, match=r"says scale 2\.0, its adapter 1\.0"):
        Pool.independent(manifest, [lora(rng, 3, scale=1.0)])
    with pytest.raises(AdapterError, match="has rank 4, the member 3"):
        Pool.independent(manifest, [lora(rng, 4)])
    with pytest.raises(AdapterError, match="widest matrix has rank 2, the manifest says 3"):
        Pool.independent(manifest, [lora(rng, 2)])
    foreign = LoraTensors({"blk.9.x.weight": next(iter(lora(rng, 3).tensors.values()))}, 2.0)
    with pytest.raises(AdapterError, match="widest matrix has rank 0"):
        Pool.independent(manifest, [foreign])
    mixed = LoraTensors(dict(lora(rng, 3).tensors) | dict(foreign.tensors), 2.0)
    with pytest.raises(AdapterError, match=r"blk\.9\.x\.weight' is none that its manifest names"):
        Pool.independent(manifest, [mixed])


def test_an_adapter_in_memory_is_checked() -> None:
    ok = np.zeros((2, 3), np.float32)
    with pytest.raises(AdapterError, match="changes no weight"):
        LoraTensors({})
    with pytest.raises(AdapterError, match="must be float32"):
        LoraTensors({"x": (ok.astype(np.float64), ok.T)})  # type: ignore[dict-item]  # on purpose
    for a, b in ((ok, ok), (ok[0], ok.T), (ok[:0], ok.T[:, :0])):
        with pytest.raises(AdapterError, match=r"must be \(rank, inputs\)"):
            LoraTensors({"x": (a, b)})
    with pytest.raises(AdapterError, match="scale is inf"):
        LoraTensors({"x": (ok, ok.T)}, float("inf"))


# -- files that are not what they should be


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved pool."""
    shared_pool().save(tmp_path / "pool")
    return tmp_path / "pool"


@pytest.mark.parametrize("name", ["pool.json", "pool.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"{name}: no such file"):
        Pool.open(folder)


def test_no_pool_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(AdapterError, match="no such file"):
            Pool.open(path)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter.pt", "A.PKL", "x.ckpt"])
def test_pickled_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(AdapterError, match="is a pickled file, which can run any code"):
        Pool.open(path)
    with pytest.raises(AdapterError, match=f"{name} is a pickled file, which Crayon does not load"):
        Pool.open(tmp_path)


def test_a_file_that_is_no_folder(folder: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        Pool.open(folder / "pool.json")


@pytest.mark.parametrize("name", ["pool.json", "pool.safetensors"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"leads out of its folder, to .*elsewhere"):
        Pool.open(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../elsewhere")
    with pytest.raises(AdapterError, match="leads out of its folder"):
        Pool.open(folder)


def test_links_that_stay_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "pool.safetensors").rename(folder / "data")
    (folder / "pool.safetensors").symlink_to("data")
    (tmp_path / "alias").symlink_to(folder)
    assert Pool.open(tmp_path / "alias").id == shared_pool().id


@pytest.mark.parametrize("name", ["pool.json", "pool.safetensors"])
def test_what_is_no_plain_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(AdapterError, match="is no plain file"):
        Pool.open(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    with pytest.raises(AdapterError, match="is no plain file"):
        Pool.open(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(AdapterError, match="cannot be read"):
        Pool.open(folder)


def test_a_file_larger_than_the_manifest_allows_is_not_read(folder: Path) -> None:
    with (folder / "pool.safetensors").open("r+b") as file:
        file.truncate(40 << 20)
    with pytest.raises(AdapterError, match=r"has 41,943,040 bytes, at most 33,\d+,\d+ are expected"):
        Pool.open(folder)
    with (folder / "pool.json").open("r+b") as file:
        file.truncate(9 << 20)
    with pytest.raises(AdapterError, match=r"pool\.json: has 9,437,184 bytes"):
        Pool.open(folder)


def test_other_numbers_than_promised_are_refused(folder: Path, tmp_path: Path) -> None:
    shared_pool(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / "pool.safetensors").replace(folder / "pool.safetensors")
    with pytest.raises(AdapterError, match="is damaged or was changed"):
        Pool.open(folder)


def without(name: str) -> dict[str, Any]:
    return {name: None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (without("b"), "'b' is missing"),
        (without("keys"), "'keys' is missing"),
        (without("centre"), "'centre' is missing"),
        (without("a/blk.3.attn_q.weight"), "attn_q.weight' is missing"),
        ({"more": np.zeros(3, np.float32)}, "'more' is none that its manifest names"),
        ({"b": np.zeros((3, 32), np.float16)}, r"'b' has the shape \(3, 32\), expected \(3, 33\)"),
        ({"b": np.zeros((33, 3), np.float16)}, "'b' has the shape"),
        ({"b": np.zeros((3, 33), np.float32)}, "'b' has the type float32, expected float16"),
        ({"b": np.zeros((3, 33), np.float64)}, "b has the type F64"),
        ({"b": np.zeros((3, 33), np.int8)}, "b has the type I8"),
        ({"b": np.zeros((3, 0), np.float16)}, "b is empty"),
        ({"b": np.full((3, 33), np.nan, np.float16)}, "'b' holds numbers that are not finite"),
        ({"a/blk.3.attn_q.weight": np.full((3, 7), np.inf, np.float16)}, "not finite"),
        ({"keys": np.full((3, 4), 0.1, np.float32)}, "neither length 1 nor 0"),
        ({"keys": np.full((3, 4), 3e38, np.float32)}, "neither length 1 nor 0"),
        ({"keys": np.ones((3, 4), np.float16)}, "'keys' has the type float16"),
        ({"centre": np.full(4, np.nan, np.float32)}, "'centre' holds numbers"),
    ],
)
def test_wrong_tensors_are_refused_by_name(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_tensors(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        Pool.open(folder)


def test_numbers_of_another_type_in_the_same_bytes_are_refused(folder: Path) -> None:
    data = (folder / "pool.safetensors").read_bytes()
    put_tensors(folder, data.replace(b'"dtype":"F16"', b'"dtype":"I16"'))
    with pytest.raises(AdapterError, match="has the type I16"):
        Pool.open(folder)


def test_a_manifest_that_claims_other_sizes_is_refused(folder: Path) -> None:
    table = read_manifest(folder)
    edit_manifest(folder, members=[{"name": f"m{k}", "title": "", "rank": RANK, "alpha": 6.0} for k in range(9)])
    with pytest.raises(AdapterError, match=r"expected \(9, "):
        Pool.open(folder)
    assert len(table.members) == len(members(3))


@SMALL
@given(data=st.data())
def test_a_truncated_file_is_refused(folder: Path, data: st.DataObject) -> None:
    shared_pool().save(folder)
    whole = (folder / "pool.safetensors").read_bytes()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    (folder / "pool.safetensors").write_bytes(part)
    with pytest.raises(AdapterError, match="damaged or was changed"):
        Pool.open(folder)
    put_tensors(folder, part)
    with pytest.raises(AdapterError, match="no whole safetensors file"):
        Pool.open(folder)


@SMALL
@given(data=st.data())
def test_a_changed_byte_is_noticed_and_never_more_than_refused(folder: Path, data: st.DataObject) -> None:
    shared_pool().save(folder)
    changed = bytearray((folder / "pool.safetensors").read_bytes())
    # Most changes in the header, where they hurt.
    changed[data.draw(st.integers(0, 600) | st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "pool.safetensors").write_bytes(changed)
    with pytest.raises(AdapterError, match="damaged or was changed"):
        Pool.open(folder)
    # Even where whoever changed the file changed the hash with it.
    put_tensors(folder, bytes(changed))
    try:
        pool = Pool.open(folder)
    except AdapterError:
        return
    assert np.isfinite(pool.b).all()


@SMALL
@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(folder: Path, garbage: bytes) -> None:
    put_tensors(folder, garbage)
    with pytest.raises(AdapterError):
        Pool.open(folder)
