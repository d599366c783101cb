from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from crayon.customising.customization import Customization, Expectation, Refused
from crayon.customising.material import material_key
from crayon.customising.profiles import Profile
from crayon.customising.sample import Sample
from crayon.customising.store import CustomizationStore, read_export
from crayon.errors import AdapterError, AdapterMismatchError, InvalidRequestError

SAMPLES = (Sample("where to?", "travel", ("travel", "work")), Sample("京都?"))
VECTORS = np.eye(2, 3, dtype=np.float32)


def profile(name="a", samples=8, weights=(0.5, 0.25), centre=(1.0, 0.0, 0.0)):
    return Profile(name=name, weights=weights, similarity=(0.6, 0.4), samples=samples, threshold=0.3, centre=centre)


def made(name="travel", profiles=None, **values):
    return Customization(
        **{
            "name": name,
            "pool_id": "pool@0123456789ab",
            "base": "tiny",
            "base_sha256": "0" * 64,
            "members": ("a", "b"),
            "layer": 1,
            "profiles": profiles or (profile(),),
            "samples": 8,
            "answered": 4,
            "created": "2026-01-01T00:00:00+00:00",
            **values,
        }
    )


@pytest.fixture
def store(tmp_path):
    return CustomizationStore(tmp_path / "data" / "customizations")


@pytest.mark.parametrize(("profile_name", "weights"), [("c", (0.0, 1.0)), ("a", (1.0,))])
def test_a_refused_blend_that_fits_nothing_is_an_error(profile_name, weights):
    refused = Refused(profile=profile_name, weights=weights, base=30.0, customised=20.0, samples=8)
    expectation = Expectation(
        metric="accuracy", base=30.0, customised=30.0, low=None, high=None, samples=8, refused=(refused,)
    )
    with pytest.raises(AdapterError, match="refused blend"):
        made(expectation=expectation)


def files(store, name="travel"):
    return {path.name.split("-")[0]: path for path in (store.folder / name).iterdir()}


def test_what_is_saved_is_loaded(store):
    refused = Refused(profile="b", weights=(0.0, 1.0), base=30.0, customised=20.0, samples=8)
    expectation = Expectation(
        metric="accuracy", base=30.0, customised=70.5, low=1.5, high=None, samples=9, refused=(refused,)
    )
    custom = made(
        profiles=(profile("a"), profile("b", weights=(0.0, 1.0), centre=(0.0, 1.0, 0.0))), expectation=expectation
    )
    saved = store.save(custom, SAMPLES, VECTORS)
    assert CustomizationStore(store.folder).load("travel") == saved == replace(custom, material=saved.material)
    assert store.samples("travel") == SAMPLES
    assert store.names() == ("travel",)
    assert "travel" in store
    assert np.array_equal(np.load(files(store)["embeddings"]), VECTORS)
    found = store.material("travel")
    assert found.samples == SAMPLES
    assert np.array_equal(found.vectors, VECTORS)
    assert saved.material == material_key(SAMPLES, VECTORS)


def test_only_the_owner_may_read(store):
    before = os.umask(0)
    try:
        store.save(made(), SAMPLES, VECTORS)
    finally:
        os.umask(before)
    for folder in (store.folder, store.folder / "travel"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(files(store)) == 3
    for path in files(store).values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_taken_name_is_kept_unless_it_may_be_replaced(store):
    store.save(made(), SAMPLES, VECTORS)
    with pytest.raises(InvalidRequestError, match="'travel' is taken"):
        store.save(made(note="new"))
    stamp = store.stamp("travel")
    store.save(made(note="new"), SAMPLES[:1], VECTORS[:1], replace=True)
    assert store.load("travel").note == "new"
    assert store.samples("travel") == SAMPLES[:1]
    assert len(files(store)) == len(list((store.folder / "travel").iterdir())) == 3
    assert store.stamp("travel") != stamp
    store.save(made(note="newer"), replace=True)
    assert store.samples("travel") == SAMPLES[:1]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "base", "BASE", "x.json", "a" * 65, "ü", "a\n", 3])
def test_a_name_that_is_none_is_refused_everywhere(store, name):
    for act in (
        lambda: store.save(made(name)),
        lambda: store.load(name),
        lambda: store.delete(name),
        lambda: store.rename(name, "b"),
        lambda: store.export(name, "somewhere"),
    ):
        with pytest.raises(InvalidRequestError):
            act()
    assert not store.folder.exists()


def test_rename_and_delete(store):
    store.save(made(), SAMPLES, VECTORS)
    store.save(made("other"))
    with pytest.raises(InvalidRequestError, match="'other' is taken"):
        store.rename("travel", "other")
    store.rename("travel", "trips")
    assert store.load("trips").name == "trips"
    assert store.samples("trips") == SAMPLES
    store.delete("trips")
    assert store.names() == ("other",)
    assert [path.name for path in store.folder.iterdir()] == ["other"]
    for act in (lambda: store.delete("trips"), lambda: store.rename("trips", "x"), lambda: store.load("trips")):
        with pytest.raises(InvalidRequestError, match="'trips' is unknown; there are other"):
            act()


def test_a_task_that_has_the_customisations_name_is_renamed_with_it(store):
    custom, mine = made(), profile("travel")
    refused = Refused(profile="travel", weights=mine.weights, base=2.0, customised=1.0, samples=9)
    expectation = Expectation(
        metric="accuracy", base=2.0, customised=2.0, low=None, high=None, samples=9, refused=(refused,)
    )
    store.save(replace(custom, profiles=(mine,), expectation=expectation))
    store.rename("travel", "trips")
    found = store.load("trips")
    assert (found.profiles, found.refused("trips").weights) == ((replace(mine, name="trips"),), mine.weights)
    store.save(made("b", (profile("b"),)))
    store.rename("b", "c")
    assert store.load("c").profiles[0].name == "b", "the task of a member"


def test_an_export_holds_no_sample_and_no_embedding(store, tmp_path):
    store.save(made(), SAMPLES, VECTORS)
    path = tmp_path / "travel.json"
    assert store.export("travel", path) == made() == read_export(path)
    text = path.read_text()
    assert not any(sample.question in text for sample in SAMPLES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InvalidRequestError, match="exists"):
        store.export("travel", path)


def test_an_export_of_very_few_samples_leaves_their_mean_out(store, tmp_path):
    """The mean over one sample is that sample."""
    store.save(made(profiles=(profile(samples=3),)), SAMPLES, VECTORS)
    found = store.export("travel", tmp_path / "few.json")
    assert found.profiles[0].centre == ()
    assert not found.scoped
    assert found.blend("a") == made().blend("a")
    assert store.load("travel").scoped


def full_disk(monkeypatch, after=0):
    """Writing fails as on a full disk, from the `after`-th file on."""
    real, count = os.fsync, [0]

    def fsync(descriptor):
        count[0] += 1
        if count[0] > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_disk_that_fills_while_exporting_leaves_nothing_half_written(store, tmp_path, monkeypatch):
    store.save(made(), SAMPLES, VECTORS)
    target = tmp_path / "out"
    target.mkdir()
    full_disk(monkeypatch)
    with pytest.raises(InvalidRequestError, match=r"cannot be written: No space left on device; nothing was changed"):
        store.export("travel", target / "travel.json")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_that_fills_while_saving_keeps_what_was_there(store, monkeypatch, after):
    store.save(made(note="old"), SAMPLES, VECTORS)
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        with pytest.raises(InvalidRequestError, match="No space left"):
            store.save(made(note="new"), SAMPLES[:1], VECTORS[:1], replace=True)
        with pytest.raises(InvalidRequestError, match="No space left"):
            store.save(made("fresh"), SAMPLES, VECTORS)
    assert store.load("travel").note == "old"
    assert store.names() == ("travel",)
    assert not (store.folder / "fresh").exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\x80\x04K\x01.",  # a pickle
        {"schema": 1},
        {"schema": 3},
        {"members": ["a"]},
        {"profiles": []},
        {"samples": "8"},
        {"extra": 1},
        {"base": None},
    ],
)
def test_a_damaged_record_is_an_error_that_names_it(store, damage):
    store.save(made())
    path = store.folder / "travel" / "customization.json"
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_bytes()), **damage}).encode()
    path.write_bytes(damage)
    with pytest.raises(AdapterError):
        store.load("travel")


def test_profiles_that_cannot_be_told_apart_are_refused():
    for profiles in ((profile("a"), profile("a")), (profile("a"), profile("b", centre=())), (profile("base"),)):
        with pytest.raises(AdapterError):
            made(profiles=profiles)


def test_samples_that_are_gone_are_said_to_be(store):
    store.save(made(), SAMPLES, VECTORS)
    files(store)["samples"].unlink()
    with pytest.raises(AdapterError, match="customise again"):
        store.samples("travel")


def test_another_base_is_refused_by_name():
    made().check_base("0" * 64, "tiny")
    with pytest.raises(AdapterMismatchError, match="made for tiny, not for other"):
        made().check_base("1" * 64, "other")


def test_a_profiles_blend_and_the_base():
    custom = made(profiles=(profile("a"), profile("b", weights=(0.0, 0.0))))
    assert custom.blend("a").weights == (0.5, 0.25)
    assert custom.blend("b") is None
    assert custom.blend("base") is None
    with pytest.raises(InvalidRequestError, match="has no profile 'c'; there are a, b"):
        custom.blend("c")


def test_the_folder_is_the_users_own_or_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_CUSTOMIZATIONS_DIR", str(tmp_path / "mine"))
    assert CustomizationStore().folder == tmp_path / "mine"
    monkeypatch.delenv("CRAYON_CUSTOMIZATIONS_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CustomizationStore().folder.name == "customizations"
    assert tmp_path in CustomizationStore().folder.parents
