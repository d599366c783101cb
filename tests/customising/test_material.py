"""Samples and embeddings beside a record: what binds them to it, and what an engine keeps of them."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from test_store import SAMPLES, VECTORS, files, made

from crayon.customising.material import material_key
from crayon.customising.sample import Sample
from crayon.customising.store import RECORD, CustomizationStore, read_export
from crayon.errors import AdapterError, InvalidRequestError
from crayon.private_file import write_private

OTHERS = (Sample("other?", "work"), Sample("and this?", "travel"))


@pytest.fixture
def store(tmp_path):
    return CustomizationStore(tmp_path / "customizations")


def kept(store, name="travel"):
    return sorted(path.name for path in (store.folder / name).iterdir())


def test_the_hash_is_of_both_samples_and_embeddings():
    key = material_key(SAMPLES, VECTORS)
    assert len(key) == 16
    assert len({key, material_key(OTHERS, VECTORS), material_key(SAMPLES, 2 * VECTORS), material_key(SAMPLES)}) == 4
    assert material_key(()) == ""


@pytest.mark.parametrize("part", ["samples", "embeddings"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other", "empty"])
def test_material_that_is_gone_cut_or_of_another_hash_is_said_to_be(store, part, damage):
    store.save(made(), SAMPLES, VECTORS)
    path = files(store)[part]
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-1], "other": data[:-2] + b"!\n", "empty": b""}[damage])
    for read in (store.material, store.samples):
        with pytest.raises(AdapterError, match="the samples of 'travel' are gone or damaged; customise again"):
            read("travel")
    assert store.load("travel").name == "travel"
    store.save(made(), SAMPLES, VECTORS, replace=True)
    assert store.material("travel").samples == SAMPLES


def test_files_of_another_customisation_are_none_of_this_one(store):
    store.save(made(), SAMPLES, VECTORS)
    store.save(made("other"), OTHERS, VECTORS)
    for part, path in files(store, "other").items():
        if part in {"samples", "embeddings"}:
            files(store)[part].write_bytes(path.read_bytes())
    with pytest.raises(AdapterError, match="customise again"):
        store.material("travel")


def test_embeddings_come_one_for_each_sample(store):
    for samples, vectors in ((SAMPLES, VECTORS[:1]), ((), VECTORS), (SAMPLES, VECTORS[0])):
        with pytest.raises(InvalidRequestError, match=r"embeddings: must be one for each of \d samples"):
            store.save(made(), samples, vectors)
    store.save(made(), SAMPLES)
    assert store.samples("travel") == SAMPLES
    with pytest.raises(AdapterError, match="customise again"):
        store.material("travel")


@pytest.mark.parametrize("material", ["../../up", "0123456789abcde", "0123456789ABCDEF", "0" * 17])
def test_a_record_cannot_name_files_elsewhere(material):
    with pytest.raises(AdapterError, match="no hash of 16 hex digits"):
        made(material=material)


def test_an_export_names_no_samples_and_an_older_crayon_can_read_it(store, tmp_path):
    assert store.save(made(), SAMPLES, VECTORS).material
    found = store.export("travel", tmp_path / "travel.json")
    assert found.material == read_export(tmp_path / "travel.json").material == ""
    assert "material" not in json.loads((tmp_path / "travel.json").read_text())


def save_as_before(store):
    """Write a folder as Crayon did before records named their samples."""
    folder = store.folder / "travel"
    folder.mkdir(parents=True, mode=0o700)
    lines = "".join(json.dumps(asdict(sample)) + "\n" for sample in SAMPLES).encode()
    buffer = io.BytesIO()
    np.save(buffer, VECTORS)
    for name, data in (("samples-{}.jsonl", lines), ("embeddings-{}.npy", buffer.getvalue())):
        (folder / name.format(hashlib.sha256(data).hexdigest()[:16])).write_bytes(data)
    (folder / RECORD).write_bytes(made().dump())


def test_what_an_older_crayon_saved_is_still_read(store):
    save_as_before(store)
    assert store.load("travel").material == ""
    assert store.samples("travel") == store.material("travel").samples == SAMPLES
    assert np.array_equal(store.material("travel").vectors, VECTORS)
    store.save(made(note="new"), replace=True)
    assert store.samples("travel") == SAMPLES
    store.save(made(), OTHERS, VECTORS, replace=True)
    assert store.samples("travel") == OTHERS
    assert len(kept(store)) == 3


def test_an_older_record_whose_samples_are_cut_says_so(store):
    save_as_before(store)
    path = files(store)["samples"]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(AdapterError, match="customise again"):
        store.samples("travel")


def test_what_an_engine_keeps_stays_while_the_samples_are_the_same(store, tmp_path):
    store.save(made(), SAMPLES, VECTORS)
    path = store.folder / "travel" / "prefix-0123.kv"
    write_private(path, b"keys and values")
    store.save(made(note="again"), SAMPLES, VECTORS, replace=True)
    store.save(made(note="and again"), replace=True)
    assert path.read_bytes() == b"keys and values"
    store.rename("travel", "trips")
    assert (store.folder / "trips" / "prefix-0123.kv").read_bytes() == b"keys and values"
    store.export("trips", tmp_path / "out.json")
    assert "keys and values" not in (tmp_path / "out.json").read_text()
    store.delete("trips")
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize(("samples", "vectors"), [(OTHERS, VECTORS), (SAMPLES, 2 * VECTORS), (SAMPLES[::-1], VECTORS)])
def test_what_an_engine_keeps_goes_when_the_samples_become_others(store, samples, vectors):
    store.save(made(), SAMPLES, VECTORS)
    for key in ("a", "b"):
        write_private(store.folder / "travel" / f"prefix-{key}.kv", b"x")
    store.save(made(), samples, vectors, replace=True)
    assert [name.split("-")[0] for name in kept(store)] == [RECORD, "embeddings", "samples"]


def test_what_else_is_there_goes_when_it_is_made_again_and_stays_when_only_the_record_is_new(store):
    store.save(made(), SAMPLES, VECTORS)
    calibration = store.folder / "travel" / "calibration.json"
    write_private(calibration, b"{}")
    store.save(made(note="new"), replace=True)
    assert calibration.exists()
    store.save(made(), SAMPLES, VECTORS, replace=True)
    assert not calibration.exists()
