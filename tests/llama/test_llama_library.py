from __future__ import annotations

import logging
import threading
from importlib import metadata

import pytest

from crayon.errors import LibraryError
from crayon.llama import library
from crayon.llama.library import LogTap


def installed(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def version_of(name: str) -> str:
        assert name == "llama-cpp-python"
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(library.metadata, "version", version_of)


@pytest.fixture
def unloaded() -> None:
    """The library as a new process finds it; the loaded one comes back by itself."""
    library._load.cache_clear()


@pytest.mark.parametrize(("version", "shown"), [("0.3.35", "0.3.35"), (None, "none")])
@pytest.mark.usefixtures("unloaded")
def test_another_version_is_refused_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, version: str | None, shown: str
) -> None:
    installed(monkeypatch, version)
    with pytest.raises(LibraryError, match=f"found {shown}.*pip install llama-cpp-python=={library.REQUIRED_VERSION}"):
        library.load()


@pytest.mark.usefixtures("unloaded")
def test_threads_that_load_at_once_get_the_same_library() -> None:
    gate, found = threading.Barrier(8), []

    def work() -> None:
        gate.wait()
        found.append(library.load())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(one) for one in found}) == 1
    assert "CPU" in found[0].system_info


def test_log_lines_go_to_logging_one_level_lower(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crayon.llama")
    tap = LogTap()
    tap.receive(1, b"detail\n")
    tap.receive(2, b"loading\n")
    tap.receive(3, b"short context\n")
    tap.receive(4, b"it failed\n")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.DEBUG, "detail"),
        (logging.DEBUG, "loading"),
        (logging.INFO, "short context"),
        (logging.INFO, "it failed"),
    ]


def test_fragments_are_joined_and_blank_lines_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crayon.llama")
    tap = LogTap()
    tap.receive(4, b"two ")
    tap.receive(5, b"parts\n\n  \nand")
    tap.receive(5, b" more\n")
    assert [r.getMessage() for r in caplog.records] == ["two parts", "and more"]
    assert tap.take_errors() == "two parts; and more"
    assert tap.take_errors() == ""


def test_only_the_latest_errors_are_kept() -> None:
    tap = LogTap()
    tap.receive(3, b"a warning\n")
    for i in range(20):
        tap.receive(4, f"error {i}\n".encode())
    kept = tap.take_errors().split("; ")
    assert kept == [f"error {i}" for i in range(12, 20)]


def test_endless_fragments_and_broken_bytes_are_survived(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crayon.llama")
    tap = LogTap()
    for _ in range(10_000):
        tap.receive(2, b"." * 10)
    assert len(tap._line) <= 4096
    tap.receive(2, b"\n")
    tap.receive(4, b"\xff\xfe broken\n")
    assert tap.take_errors() == "\ufffd\ufffd broken"
    assert caplog.records[-1].getMessage().endswith("broken")
