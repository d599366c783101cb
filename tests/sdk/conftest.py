from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package; the fakes are shared


@pytest.fixture(params=["sync", "async"])
def sdk(request):
    """Runs a test once with `Crayon` and once with `AsyncCrayon`."""
    from sdk_fakes import Async, Sync

    driver = Sync() if request.param == "sync" else Async()
    yield driver
    driver.shut()
