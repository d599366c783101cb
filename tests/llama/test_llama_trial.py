"""A file that ends llama.cpp is refused, and the process goes on."""

import signal
import struct
import subprocess
import sys

import pytest
from tiny_chat import write_model

from crayon.errors import ModelFileError
from crayon.llama import trial

INT32 = 26


@pytest.fixture(autouse=True)
def wanted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "WANTED", True)


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A model whose header is fine to every reader, and over whose first norm llama.cpp ends the process."""
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    path = write_model(tmp_path / "deadly.gguf")
    data = bytearray(path.read_bytes())
    at = data.find(b"blk.0.attn_norm.weight") + len("blk.0.attn_norm.weight")
    dimensions = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<I", data, at + 4 + 8 * dimensions, INT32)
    path.write_bytes(data)
    return path


def test_a_file_that_ends_the_library_is_a_model_file_error(deadly, tmp_path):
    with pytest.raises(ModelFileError, match=r"deadly\.gguf: it ends llama\.cpp \(SIGABRT\)"):
        trial.ensure_opens(deadly, tmp_path)


def test_the_device_the_client_and_the_servers_engine_refuse_it(deadly):
    from crayon import Crayon
    from crayon.device import DeviceEngine
    from crayon.server.engines.llama.engine import LlamaCppEngine

    for opening in (
        lambda: DeviceEngine(deadly),
        lambda: DeviceEngine.open(str(deadly)),
        lambda: LlamaCppEngine(deadly),
        lambda: Crayon(deadly).ask("hi"),
    ):
        with pytest.raises(ModelFileError, match="ends llama"):
            opening()


def test_a_good_file_is_tried_once_and_again_when_it_changed(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(trial, "_try", lambda path: tried.append(path))
    path = write_model(tmp_path / "m.gguf")
    for _ in range(3):
        trial.ensure_opens(path, tmp_path / "derived")
    assert tried == [path]
    path.write_bytes(path.read_bytes() + b"\0")
    trial.ensure_opens(path, tmp_path / "derived")
    assert tried == [path, path]


def test_a_good_file_passes_in_the_child(tmp_path):
    trial.ensure_opens(write_model(tmp_path / "m.gguf"), tmp_path)
    assert list((tmp_path / "opened").iterdir())


def test_a_child_that_cannot_be_started_says_nothing_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(trial.sys, "executable", str(tmp_path / "no-python"))
    trial.ensure_opens(write_model(tmp_path / "m.gguf"), tmp_path)


def test_a_chat_template_that_outlasts_its_own_bounds_ends_the_child(tmp_path, monkeypatch):
    code = "from crayon.llama import trial; trial._TEMPLATE_S = 0; trial._limit()\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXCPU
    code = "from crayon.llama import trial; trial._limit(); bytearray(2 << 30)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 1
    assert b"MemoryError" in done.stderr
    monkeypatch.setattr(trial, "_try", lambda _: "SIGXCPU")
    with pytest.raises(ModelFileError, match=r"m\.gguf: its chat template takes more than"):
        trial.ensure_opens(write_model(tmp_path / "m.gguf"), tmp_path)
