"""One thing at a time, beside the loop."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from crayon.server.engines.llama.background import Background


def test_it_runs_beside_and_is_waited_for() -> None:
    gate, seen = threading.Event(), []

    def work() -> None:
        gate.wait(10)
        seen.append(threading.current_thread())

    with closing(Background()) as beside:
        beside.start(work)
        assert not seen
        gate.set()
        assert beside.join() >= 0
        assert seen[0] is not threading.current_thread()
        assert beside.join() == 0.0  # nothing was started


def test_what_it_raises_is_raised_where_it_is_waited_for() -> None:
    def work() -> None:
        raise KeyError("plan")

    with closing(Background()) as beside:
        beside.start(work)
        with pytest.raises(KeyError, match="plan"):
            beside.join()
        beside.start(lambda: None)
        assert beside.join() >= 0


def test_its_thread_is_there_from_the_start() -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("crayon-beside")]

    before = len(ours())
    beside = Background()
    assert len(ours()) == before + 1
    beside.close()
    assert len(ours()) == before
