"""What happens between the start of `crayon serve` and its first answer, and how that is left."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from tiny_chat import write_model

from crayon.cli.serve import command
from crayon.config import load
from crayon.errors import CancelledError, UnknownModelError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    return load().settings


def test_a_model_is_fetched_once_the_server_listens_and_no_longer_than_it_does(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crayon.models import Progress

    told: list[int] = []
    ending = threading.Event()

    def pull(wanted: Any, _: Any, progress: Any) -> None:
        for done in range(1, 100):
            told.append(done)
            if done == 3:
                ending.set()
            progress(Progress(done, 100, wanted.name))

    monkeypatch.setattr("crayon.models.pull.pull", pull)
    make = command._factory(settings, ending)
    assert told == [], "not yet: nobody could ask for its health"
    with pytest.raises(CancelledError):
        make()
    assert told == [1, 2, 3]


def test_a_model_that_nobody_knows_ends_the_command_before_it_listens(settings: Any) -> None:
    serve = settings.serve.model_copy(update={"model": "no-such-model"})
    with pytest.raises(UnknownModelError):
        command._factory(settings.model_copy(update={"serve": serve}), threading.Event())


def test_a_server_that_ends_while_it_measures_gives_up_the_search_and_loads_nothing(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = threading.Event()

    def tune(*_: Any, stopped: Any, **__: Any) -> None:
        assert not stopped()
        ending.set()
        assert stopped()
        raise CancelledError("given up")

    monkeypatch.setattr("crayon.server.tuning.tune", tune)
    serve = settings.serve.model_copy(update={"model": str(write_model(tmp_path / "tiny.gguf"))})
    make = command._factory(settings.model_copy(update={"serve": serve}), ending)
    with pytest.raises(CancelledError):
        make()
