"""Stand-ins for the peers, and a tiny model of ours."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from tiny_chat import write_model

from crayon.lab.bench.serving.peers import Peers

FAKES = Path(__file__).with_name("fake_peers")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture
def peers_folder(tmp_path: Path) -> Path:
    """A folder as `make peers` leaves it, with programs that only look like the real ones."""
    folder = tmp_path / "peers"
    _script(folder / "llama-cpp" / "bin" / "llama-server", f'exec "{sys.executable}" "{FAKES}/llama_server.py" "$@"')
    _script(folder / "openvino" / "bin" / "python", f'PYTHONPATH="{FAKES}" exec "{sys.executable}" "$@"')
    return folder


@pytest.fixture
def peers(peers_folder: Path) -> Peers:
    return Peers.below(peers_folder)


def _script(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
