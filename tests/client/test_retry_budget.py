"""Retries have a budget: a broken server is not hammered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from serving_tools import PATIENCE, ScriptedEngine, Serving, ask

from crayon.client import Breaker, RemoteEngine
from crayon.client.retry_budget import MOST_TOKENS, RetryBudget
from crayon.errors import OverloadedError, ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_failures_use_it_up_and_successes_bring_it_back() -> None:
    budget = RetryBudget(most=4.0, ratio=0.5)
    assert [budget.failure() for _ in range(6)] == [True, False, False, False, False, False]
    assert budget.tokens == 0.0
    for _ in range(7):
        budget.success()
    assert budget.failure()
    for _ in range(100):
        budget.success()
    assert budget.tokens == 4.0


@pytest.mark.parametrize(("error", "sent"), [(ServerUnavailableError, 20 + 3), (OverloadedError, 20)])
def test_a_server_that_fails_everything_is_asked_hardly_more_often_than_its_clients_ask(
    error: Callable[[str], Exception], sent: int
) -> None:
    scripted = ScriptedEngine(error=error("no"), raise_at_once=True)
    with Serving(lambda: scripted) as serving:
        # Its breaker would not let it come to that.
        remote = RemoteEngine(serving.address, timeout=PATIENCE, breaker=Breaker(failures=1000))
        for _ in range(20):
            with pytest.raises((ServerUnavailableError, OverloadedError)):
                list(remote.generate(ask()))
        assert len(scripted.asked) == sent
        assert (remote.retry_budget.tokens < MOST_TOKENS) == (len(scripted.asked) > 20)
        remote.close()
