"""Disks that fill up, folders that cannot be written, and files without a disk."""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pool_tools import shared_pool

from crayon.adapters import MemoryFile, Pool, folder, memory_file
from crayon.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: the kernel then answers as on a full disk, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path) -> None:
    for size in (0, 10, 300, 1500):
        with disk_of(size), pytest.raises(AdapterError, match=r"the disk is full\); nothing was changed"):
            shared_pool().save(tmp_path / "pool")
        assert not (tmp_path / "pool").exists()
    shared_pool().save(tmp_path / "pool")
    assert Pool.open(tmp_path / "pool").id == shared_pool().id


def test_a_disk_that_fills_keeps_the_pool_that_was_there(tmp_path: Path) -> None:
    shared_pool().save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for size in (10, 300, 1500):
        with disk_of(size), pytest.raises(AdapterError, match="the disk is full"):
            shared_pool(seed=1).save(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_found_full_when_the_bytes_are_forced_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterError, match="the disk is full"):
        shared_pool().save(tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_an_interrupt_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shared_pool().save(tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "pool"):
        with pytest.raises(AdapterError, match="cannot be written"):
            shared_pool().save(place)
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pool.safetensors").symlink_to(tmp_path / "precious")
    shared_pool().save(tmp_path / "pool")
    assert (tmp_path / "precious").read_text() == "mine"
    assert Pool.open(tmp_path / "pool").id == shared_pool().id


def test_files_are_whole_before_they_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append({path.name for path in tmp_path.iterdir()}))
    folder.write_folder(tmp_path, {"one": b"1", "two": b"2"})
    assert len(seen) == 2
    assert all(name.endswith(".partial") for names in seen for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


# -- files in memory


def opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_bytes_have_a_path_until_they_are_closed(data: bytes) -> None:
    with MemoryFile(memoryview(data)) as file:
        assert file.path.is_file()
        assert file.path.read_bytes() == data
        assert file.path.read_bytes() == data
    file.close()
    assert not file.path.is_file()


def test_the_bytes_are_a_copy() -> None:
    data = bytearray(b"before")
    with MemoryFile(data) as file:
        data[:] = b"after!"
        assert file.path.read_bytes() == b"before"


@pytest.mark.skipif(sys.platform != "linux", reason="memory files and /proc are Linux's")
def test_no_descriptor_stays_open() -> None:
    before = opened()
    for _ in range(20):
        MemoryFile(b"x").close()
    with disk_of(3), pytest.raises(AdapterError, match="cannot be put into memory"):
        MemoryFile(b"too long")
    assert opened() == before


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have memory files made as on other systems."""
    monkeypatch.setattr(memory_file.sys, "platform", "darwin")  # type: ignore[attr-defined]  # its import, on purpose
    monkeypatch.setattr(memory_file.tempfile, "tempdir", str(tmp_path))  # type: ignore[attr-defined]  # as above


def test_elsewhere_it_is_a_private_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere(monkeypatch, tmp_path)
    with MemoryFile(b"data") as file:
        assert file.path.parent == tmp_path
        assert file.path.read_bytes() == b"data"
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_a_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere(monkeypatch, tmp_path)
    with disk_of(3), pytest.raises(AdapterError, match="cannot be put into memory"):
        MemoryFile(b"too long")
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    with MemoryFile(bytes(range(100))) as file:
        assert file.path.read_bytes() == bytes(range(100))
