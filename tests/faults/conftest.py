"""Servers that live through many faults, and the table of what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fault_table import write_table
from fault_tools import ECHO, HURRY, Fault, FaultServer, warmed
from tiny_chat import write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FAULTS: list[Fault] = []


@pytest.fixture
def fault() -> Callable[[str, str, str], Fault]:
    """Name a fault, how it is injected and what a caller sees; what its tally counts goes into the table."""

    def make(name: str, injected: str, seen: str) -> Fault:
        _FAULTS.append(Fault(name, injected, seen))
        return _FAULTS[-1]

    return make


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="session")
def echo() -> Iterator[FaultServer]:
    """An echo server for many tests: what one fault leaves behind, the next test finds."""
    with FaultServer(values=ECHO) as server:
        yield warmed(server)


@pytest.fixture
def hurried_echo() -> Iterator[FaultServer]:
    """One that finds out soon who is not there any more."""
    with FaultServer(values=ECHO, hurry=HURRY) as server:
        yield warmed(server)


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[FaultServer]:
    """The llama.cpp engine on a small model, likewise; its cache is too small for what it is asked."""
    values = {"n_ctx": 512, "n_seq_max": 4, "threads": 1, "n_batch": 64, "kv_unified": True, "max_queue": 16}
    with FaultServer(tiny=str(tiny_path), values=values) as server:
        yield warmed(server)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", metavar="PAGE", help="write what was counted into the table of this page")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    page = session.config.getoption("--fault-table", default=None)
    if page and exitstatus == pytest.ExitCode.OK:
        write_table(page, _FAULTS)
