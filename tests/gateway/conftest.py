from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Tests are no package; the fakes are shared.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sdk")]


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CRAYON_LOCAL_ONLY", raising=False)


@pytest.fixture
def device():
    from sdk_fakes import Fake

    return Fake("small")


@pytest.fixture
def server():
    from sdk_fakes import FakeServer

    return FakeServer("large")


@pytest.fixture
def make(tmp_path):
    from gateway_tools import gateway_in_front_of

    def made(device=None, server=None, **options):
        return gateway_in_front_of(device, server, tmp_path=tmp_path, **options)

    return made
