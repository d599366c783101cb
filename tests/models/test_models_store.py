from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from models_tools import catalogue_text, sha256, tiny_gguf

from crayon.errors import (
    DeadlineExceededError,
    DownloadError,
    HashMismatchError,
    ModelFileError,
    NoSpaceError,
    UnknownModelError,
)
from crayon.models import Catalogue, Store, StoreState, default_models_dir, load_catalogue, resolve
from crayon.models.partial import PartialFile, need_space
from crayon.models.progress import Progress, Reporter
from crayon.models.source import Wanted
from crayon.models.store import Record

DATA = tiny_gguf()


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    path = tmp_path / "catalogue.toml"
    path.write_text(catalogue_text(DATA, [f'{{ kind = "path", path = "{tmp_path}/download.gguf" }}']))
    return load_catalogue(path)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    real = hashlib.file_digest

    def count(file: object, name: str) -> object:
        names.append(Path(file.name).name)  # type: ignore[attr-defined]  # a file has a name
        return real(file, name)  # type: ignore[arg-type]  # it is a file

    monkeypatch.setattr(hashlib, "file_digest", count)
    return names


def test_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "here"))
    assert default_models_dir() == tmp_path / "here"
    monkeypatch.delenv("CRAYON_MODELS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_models_dir().name == "models"


def test_own_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    first = resolve(str(path), models_dir=tmp_path / "store")
    assert (first.path, first.name, first.sha256, first.size) == (path, "mine", sha256(DATA), len(DATA))
    assert first.entry is None
    assert resolve(str(path), models_dir=tmp_path / "store") == first
    assert len(hashed) == 1
    other = tiny_gguf(seed=1)
    path.write_bytes(other)
    os.utime(path, ns=(0, 12345))
    assert resolve(str(path), models_dir=tmp_path / "store").sha256 == sha256(other)
    assert len(hashed) == 2


def test_own_file_with_known_bytes_has_its_entry(tmp_path: Path, catalogue: Catalogue) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(DATA)
    local = resolve(str(path), models_dir=tmp_path / "store", catalogue=catalogue)
    assert local.name == "tiny"
    assert local.entry is catalogue.find("tiny")


def test_own_file_works_where_nothing_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    (tmp_path / "store").write_text("a file where the folder should be")
    assert resolve(str(path), models_dir=tmp_path / "store").sha256 == sha256(DATA)


def test_own_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA[:-1])
    with pytest.raises(ModelFileError, match="truncated"):
        resolve(str(path), models_dir=tmp_path / "store")


def test_absent_model_names_the_command(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModelError, match="crayon models pull tiny-alias"):
        resolve("tiny-alias", download=False, models_dir=tmp_path / "store", catalogue=catalogue)
    assert not (tmp_path / "store").exists()


def test_file_put_in_place_by_hand_is_verified_before_use(
    tmp_path: Path, catalogue: Catalogue, hashed: list[str]
) -> None:
    store = Store(tmp_path / "store")
    wanted = catalogue.find("tiny").wanted
    store.folder.mkdir()
    store.target(wanted).write_bytes(DATA)
    assert store.state(wanted) is StoreState.UNVERIFIED
    local = resolve("tiny", download=False, models_dir=store.folder, catalogue=catalogue)
    assert local.path == store.target(wanted)
    assert store.state(wanted) is StoreState.READY
    resolve("tiny", download=False, models_dir=store.folder, catalogue=catalogue)
    assert len(hashed) == 1


@pytest.mark.parametrize("damage", [DATA[:-1], DATA + b"x", tiny_gguf(seed=9), b"GGUF"])
def test_damaged_file_is_refused_and_replaced(tmp_path: Path, catalogue: Catalogue, damage: bytes) -> None:
    store = Store(tmp_path / "store")
    wanted = catalogue.find("tiny").wanted
    store.make()
    store.target(wanted).write_bytes(DATA)
    resolve("tiny", models_dir=store.folder, catalogue=catalogue)
    store.target(wanted).write_bytes(damage)
    os.utime(store.target(wanted), ns=(0, 777))
    assert store.state(wanted) is StoreState.UNVERIFIED
    with pytest.raises(ModelFileError, match="fetch it again: crayon models pull tiny"):
        resolve("tiny", download=False, models_dir=store.folder, catalogue=catalogue)
    (tmp_path / "download.gguf").write_bytes(DATA)
    local = resolve("tiny", models_dir=store.folder, catalogue=catalogue)
    assert local.path == tmp_path / "download.gguf"
    assert not store.target(wanted).exists()
    assert store.state(wanted) is StoreState.READY


def test_path_source_is_used_where_it_lies_and_survives_removal(tmp_path: Path, catalogue: Catalogue) -> None:
    file = tmp_path / "download.gguf"
    file.write_bytes(DATA)
    store = Store(tmp_path / "store")
    local = resolve("tiny", models_dir=store.folder, catalogue=catalogue)
    assert local.path == file
    assert not list(store.folder.glob("*.gguf"))
    freed, outside = store.remove(catalogue.find("tiny").wanted)
    assert (freed, outside) == (0, file)
    assert file.exists()
    assert store.state(catalogue.find("tiny").wanted) is StoreState.ABSENT


def test_path_source_with_other_bytes_is_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "download.gguf").write_bytes(tiny_gguf(seed=3))
    with pytest.raises(Exception, match="its SHA-256 is") as caught:
        resolve("tiny", models_dir=tmp_path / "store", catalogue=catalogue)
    assert "no source could deliver tiny" in str(caught.value)


def test_catalogue_that_changed_its_hash_is_believed(tmp_path: Path, catalogue: Catalogue) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "download.gguf").write_bytes(DATA)
    resolve("tiny", models_dir=store.folder, catalogue=catalogue)
    wanted = Wanted("tiny", "tiny.gguf", (), "0" * 64, len(DATA))
    assert store.state(wanted) is StoreState.UNVERIFIED
    with pytest.raises(ModelFileError, match="should be 0000"):
        store.verify(wanted)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": 1, "path": 2, "sha256": 3, "size": 4, "mtime_ns": 5, "source": 6}']
)
def test_record_that_cannot_be_understood_counts_as_none(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.make()
    (tmp_path / "records" / "tiny.gguf.json").write_text(text)
    assert store.record("tiny.gguf") is None


@pytest.mark.parametrize("name", ["../x.gguf", "a/b.gguf", "..", "", "a\0.gguf", "..\\x.gguf"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    for call in (store.target, store.path, store.state):
        with pytest.raises(ModelFileError, match="plain file name"):
            call(Wanted("x", name, ()))
    with pytest.raises(ModelFileError, match="plain file name"):
        store.prepared(name)


def test_removal_takes_everything_along(tmp_path: Path, catalogue: Catalogue) -> None:
    store, wanted = Store(tmp_path / "store"), catalogue.find("tiny").wanted
    store.make()
    store.target(wanted).write_bytes(DATA)
    store.verify(wanted)
    store.parts(wanted).mkdir()
    (store.parts(wanted) / "a.whl").write_bytes(b"12345")
    (store.folder / "tiny.gguf.partial").write_bytes(b"123")
    store.prepared(wanted.sha256 or "").mkdir(parents=True)
    (store.prepared(wanted.sha256 or "") / "q8.gguf").write_bytes(b"12")
    assert store.fetched_names() == ["tiny"]
    assert store.bytes_of(wanted) == len(DATA) + 10
    assert store.remove(wanted) == (len(DATA) + 10, None)
    left = [path for path in store.folder.rglob("*") if path.is_file()]
    assert left == []


def test_lock_is_waited_for_and_given_up(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), Wanted("tiny", "tiny.gguf", ())
    store.make()
    said: list[Progress] = []
    with (
        store.lock(wanted, Reporter(None, None)),
        pytest.raises(DeadlineExceededError, match="another process has been pulling tiny"),
        store.lock(wanted, Reporter(said.append, None), timeout=0.2),
    ):
        pass
    assert "waiting for another process" in said[0].label
    with store.lock(wanted, Reporter(None, None), timeout=0.2):
        pass


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "store" / "locks" / "tiny.gguf.lock").mkdir(parents=True)
    with pytest.raises(DownloadError, match="cannot be locked"):
        resolve("tiny", models_dir=tmp_path / "store", catalogue=catalogue)
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        resolve("tiny", models_dir=tmp_path / "file" / "store", catalogue=catalogue)


def test_partial_file_appears_only_when_verified(tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    with PartialFile(target) as partial:
        partial.write(b"first ")
        mark = partial.mark()
        partial.write(b"wrong")
        partial.rollback(mark)
        partial.write(b"second")
        assert not target.exists()
        assert partial.commit(sha256(b"first second"), 12) == (sha256(b"first second"), 12)
    assert target.read_bytes() == b"first second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_partial_file_leaves_nothing_when_it_is_wrong(tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    (tmp_path / "a.gguf.partial").write_bytes(b"of a killed process")

    def write(sha: str | None, size: int | None, most: int | None = None, stop: BaseException | None = None) -> None:
        with PartialFile(target, most) as partial:
            partial.write(b"new")
            if stop is not None:
                raise stop
            partial.commit(sha, size)

    with pytest.raises(HashMismatchError, match="SHA-256"):
        write(sha256(b"x"), None)
    with pytest.raises(HashMismatchError, match="99"):
        write(None, 99)
    with pytest.raises(HashMismatchError, match="more came"):
        write(None, None, most=2)
    with pytest.raises(KeyboardInterrupt):
        write(None, None, stop=KeyboardInterrupt())
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_space_is_checked_beforehand(tmp_path: Path) -> None:
    need_space(tmp_path, 1)
    with pytest.raises(NoSpaceError, match="MB are needed"):
        need_space(tmp_path, 1 << 60)


def test_record_survives_a_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    record = Record("tiny", "/a/b.gguf", "0" * 64, 1, 2, "path")
    store.keep("tiny.gguf", record)
    assert store.record("tiny.gguf") == record
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["tiny.gguf.json"]
