from __future__ import annotations

import threading

import pytest

from crayon.llama import smoke
from crayon.llama.fresh_thread import run_in_fresh_thread
from crayon.llama.model import Model


def test_a_call_runs_on_a_thread_that_has_ended() -> None:
    seen: list[threading.Thread] = []
    assert run_in_fresh_thread(lambda: seen.append(threading.current_thread()) or 7) == 7
    assert seen[0] is not threading.current_thread()
    assert not seen[0].is_alive()


def test_what_a_call_raises_is_raised() -> None:
    def call() -> None:
        raise KeyError("name")

    with pytest.raises(KeyError, match="name"):
        run_in_fresh_thread(call)


def test_models_are_loaded_so_that_their_compute_threads_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team of the loading thread, beside that of the computing one, makes every step half as long again."""
    from crayon.llama import library

    api = library.load().api
    real, threads = api.llama_model_load_from_file, []

    def load(*values: object) -> object:
        threads.append(threading.current_thread())
        return real(*values)

    monkeypatch.setattr(api, "llama_model_load_from_file", load)
    Model(smoke.BASE).close()
    assert [thread.is_alive() for thread in threads] == [False]
