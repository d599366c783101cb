"""Fixtures that several rooms share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def no_trial() -> Iterator[None]:
    """Open the models of tests at once, and not in a child first, which costs half a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crayon.llama.trial.WANTED", False)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the ledger of tests out of the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAYON_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def device_model_path() -> Path:
    """The real small model, downloaded once and verified. Tests that ask for it are marked `models`."""
    from crayon.models import resolve

    return resolve("smollm2-135m-instruct").path


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script, where shells ignore Ctrl-C for all that follows: programs under test must
    # not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
