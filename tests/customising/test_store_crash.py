"""A customisation that is being saved or replaced when its process is killed, or when the disk is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from test_store import made

from crayon import private_file
from crayon.customising import store as module
from crayon.customising.material import material_key
from crayon.customising.sample import Sample
from crayon.customising.store import CustomizationStore
from crayon.errors import InvalidRequestError
from crayon.private_file import write_private

OLD = tuple(Sample(f"old {i}", "a" * 50) for i in range(4))
NEW = tuple(Sample(f"new {i}", "b" * 70) for i in range(3))
OLD_VECTORS, NEW_VECTORS = np.eye(4, 6, dtype=np.float32), np.ones((3, 6), np.float32)
PATIENCE = 300

# Forks a process for each line of the store's code: it saves, and is killed before that line for the first time and the
# times after, until a save ends. What is there then is judged in this process's parent.
KILLER = r"""
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from test_store_crash import begin, save, whole
from crayon import private_file
from crayon.customising import material, store

files = {store.__file__, material.__file__, private_file.__file__}
os.fsync = lambda descriptor: None  # a killed process leaves what it wrote to the system


def killed_at(k, folder):
    child = os.fork()
    if child == 0:
        left = k

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        save(folder)
        sys.settrace(None)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


seen = set()
for k in range(5000):
    folder = Path(sys.argv[1]) / str(k)
    begin(folder, new=sys.argv[2] == "new")
    code = killed_at(k, folder)
    seen.add(whole(folder, new=sys.argv[2] == "new"))
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
else:
    sys.exit("never ended")
print(k, sorted(seen))
"""


def begin(folder: Path, *, new: bool) -> None:
    """Make what was there before: nothing of this name, or the old one."""
    store = CustomizationStore(folder)
    store.save(made("other"), OLD, OLD_VECTORS)
    if not new:
        store.save(made(note="old"), OLD, OLD_VECTORS)
        write_private(folder / "travel" / "prefix-kept.kv", b"x")


def save(folder: Path) -> None:
    CustomizationStore(folder).save(made(note="new"), NEW, NEW_VECTORS, replace=True)


def whole(folder: Path, *, new: bool) -> str:
    """Return which is there, "none", "old" or "new", never a mixture; save again, and see that nothing is left."""
    store = CustomizationStore(folder)
    if new and "travel" not in store:
        assert store.names() == ("other",)
        assert not (folder / "travel").exists()
        found = "none"
    else:
        assert store.names() == ("other", "travel")
        record, samples, material = store.load("travel"), store.samples("travel"), store.material("travel")
        assert samples == material.samples
        wanted = {"old": (OLD, OLD_VECTORS), "new": (NEW, NEW_VECTORS)}[record.note]
        assert samples == wanted[0]
        assert np.array_equal(material.vectors, wanted[1])
        assert record.material == material_key(*wanted)
        prefixes = list((folder / "travel").glob("prefix-*"))
        assert record.note == "old" or not prefixes
        found = record.note
    assert store.samples("other") == OLD
    save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["other", "travel"], "nothing unfinished is left"
    assert len(list((folder / "travel").iterdir())) == 3
    assert store.samples("travel") == NEW
    return found


@pytest.mark.parametrize("what", ["new", "replaced"])
def test_a_save_that_is_killed_before_any_of_its_lines_leaves_the_old_or_the_new(tmp_path, what):
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sdk")]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), what, *paths],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines, _, seen = done.stdout.partition(" ")
    assert int(lines) > 50
    assert seen.strip() == ("['new', 'none']" if what == "new" else "['new', 'old']")


class Disk:
    """Fails at the k-th thing that is asked of it; `full`: and at all that are asked after."""

    def __init__(self, patch: pytest.MonkeyPatch, k: int, *, full: bool) -> None:
        self.k, self.full, self.count = k, full, 0
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (os, "mkdir"),
            (tempfile, "mkstemp"),
            (tempfile, "mkdtemp"),
        ):
            patch.setattr(owner, name, self._failing(getattr(owner, name)))
        real = os.fdopen

        def fdopen(*args, **kwargs):
            file = real(*args, **kwargs)
            file.write = self._failing(file.write) if hasattr(file, "__dict__") else file.write
            return file

        patch.setattr(os, "fdopen", fdopen)

    def _failing(self, real):
        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.k or (self.full and self.count > self.k):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_a_disk_that_is_full_at_any_write_leaves_the_old_or_says_nothing(tmp_path, new, full):
    for k in range(1, 200):
        folder = tmp_path / str(k)
        begin(folder, new=new)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, k, full=full)
            try:
                save(folder)
                failed = False
            except InvalidRequestError as error:
                assert "No space left on device; nothing was changed" in str(error)  # noqa: PT017 - not each k fails
                failed = True
        left = {path.name for path in (folder / "travel").glob("*")}
        assert not {name for name in left if name.startswith(".")}
        assert len(left) in ({0, 3} if new else {3, 4})
        assert whole(folder, new=new) == (("none" if new else "old") if failed else "new")
        if disk.count < k:
            break
    assert disk.count < k
    assert k > 8


def test_who_reads_while_it_is_replaced_reads_the_whole_of_one(tmp_path):
    store = CustomizationStore(tmp_path)
    store.save(made(note="old"), OLD, OLD_VECTORS)
    done = threading.Event()

    def write():
        for i in range(40):
            samples, vectors = ((NEW, NEW_VECTORS), (OLD, OLD_VECTORS))[i % 2]
            CustomizationStore(tmp_path).save(made(), samples, vectors, replace=True)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            found = store.material("travel")
            assert len(found.samples) == len(found.vectors)
            assert found.samples in (OLD, NEW)
    finally:
        writer.join()


def test_two_that_replace_at_once_leave_one_of_both_whole(tmp_path):
    store = CustomizationStore(tmp_path)

    def write(samples, vectors):
        for _ in range(20):
            CustomizationStore(tmp_path).save(made(), samples, vectors, replace=True)

    writers = [threading.Thread(target=write, args=each) for each in ((OLD, OLD_VECTORS), (NEW, NEW_VECTORS))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.material("travel").samples in (OLD, NEW)
    assert len(list((tmp_path / "travel").iterdir())) == 3


def test_a_writer_that_never_ends_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(private_file, "LOCK_SECONDS", 0.05)
    store = CustomizationStore(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequestError, match="another program has been writing there"):
            store.save(made(), OLD, OLD_VECTORS)
    finally:
        os.close(descriptor)
    store.save(made(), OLD, OLD_VECTORS)


def test_an_interrupt_while_saving_leaves_the_old(tmp_path, monkeypatch):
    begin(tmp_path, new=False)
    real, count = module.write_private, [0]

    def interrupted(path, data):
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_private", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path)
    assert len(list((tmp_path / "travel").iterdir())) == 4
    assert whole(tmp_path, new=False) == "old"
