"""The queue has an end, for everybody and for each, and an honest word for who is turned away."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crayon.errors import ConfigError, InvalidRequestError, OverloadedError
from crayon.server.scheduler import Kind, Request
from crayon.server.scheduler.queue_limits import LONGEST_RETRY_S, QueueBounds

_ids = itertools.count()


def request(prompt: int = 10, client: str = "") -> Request:
    return Request(id=str(next(_ids)), kind=Kind.GENERATE, prompt=prompt, max_tokens=5, client=client)


def refused(bounds: QueueBounds, wanted: Request, now: float = 0.0) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        bounds.enter(wanted, now, 0.01)
    return caught.value


def fill(bounds: QueueBounds, count: int, client: str = "", prompt: int = 10) -> list[Request]:
    entered = []
    for _ in range(count):
        entered.append(request(prompt, client))
        bounds.enter(entered[-1], 0.0, 0.01)
    return entered


def test_both_bounds_are_kept() -> None:
    bounds = QueueBounds(3, 1000)
    first, *_ = fill(bounds, 3)
    refusal = refused(bounds, request())
    assert "3 requests are waiting" in str(refusal)
    assert refusal.subject == "server"
    bounds.leave(first, 1.0)
    assert "20 tokens of 2 requests" in str(refused(bounds, request(981)))
    bounds.enter(request(980), 1.0, 0.01)
    assert bounds.refused == {"requests": 1, "tokens": 1}


def test_a_prompt_longer_than_the_bound_is_taken_if_nobody_else_waits_and_leaves_others_room() -> None:
    bounds = QueueBounds(3, 100)
    long = request(5000)
    bounds.enter(long, 0.0, 0.01)
    refused(bounds, request(26))
    bounds.enter(request(25), 0.0, 0.01)
    bounds.leave(long, 1.0)
    bounds.enter(request(75), 1.0, 0.01)


@given(st.integers(4, 10**6), st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
def test_whatever_one_request_is_the_room_of_others_is_never_below_none(tokens: int, sizes: list[int]) -> None:
    bounds = QueueBounds(100, tokens)
    entered = []
    for size in sizes:
        wanted = request(size, "large")
        with contextlib.suppress(OverloadedError):
            bounds.enter(wanted, 0.0, 0.01)
            entered.append(wanted)
        assert 0 <= bounds.queued_tokens <= tokens
    if len(entered) == 1:
        bounds.enter(request(max(1, tokens // 4), "other"), 0.0, 0.01)
    for one in entered:
        bounds.leave(one, 1.0)


@pytest.mark.parametrize(("kind", "field"), [(Kind.SCORE, "continuations"), (Kind.ENCODE, "texts")])
def test_work_in_many_parts_is_bounded_as_a_whole_whoever_waits(kind: Kind, field: str) -> None:
    bounds = QueueBounds(3, 100)
    prompt = int(kind is Kind.SCORE)
    bounds.enter(Request(id="fits", kind=kind, prompt=prompt, branches=(50, 50 - prompt)), 0.0, 0.01)
    with pytest.raises(InvalidRequestError, match=f"{field}: 101 tokens in all, at most 100; send several") as caught:
        bounds.enter(Request(id="large", kind=kind, prompt=prompt, branches=(50, 51 - prompt)), 0.0, 0.01)
    assert caught.value.field == field
    assert bounds.refused == {"size": 1}


@pytest.mark.parametrize("name", ["max_queue", "max_queue_tokens"])
def test_a_bound_below_one_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}"):
        QueueBounds(*(0 if key == name else 1 for key in ("max_queue", "max_queue_tokens")))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=300, max_size=600), st.integers(128, 256))
def test_clients_that_flood_leave_room_for_one_that_comes_new(clients: list[str], size: int) -> None:
    bounds = QueueBounds(size, 10**9)
    for client in clients:
        try:
            bounds.enter(request(client=client), 0.0, 0.01)
        except OverloadedError:
            continue
    bounds.enter(request(client="new"), 0.0, 0.01)


def test_a_client_that_floods_with_long_prompts_leaves_tokens_for_others() -> None:
    bounds = QueueBounds(1000, 1000)
    fill(bounds, 75, "flood")
    refusal = refused(bounds, request(client="flood"))
    assert "75 of the 75" in str(refusal)
    assert refusal.subject == "flood"
    bounds.enter(request(100, "other"), 0.0, 0.01)


def test_the_retry_is_the_pace_of_the_queue_and_each_is_promised_a_place_of_its_own() -> None:
    bounds = QueueBounds(8, 10**6)
    waiting = fill(bounds, 8)
    for at in range(4):
        bounds.leave(waiting[at], at * 2.0)
        bounds.enter(request(), at * 2.0, 0.01)
    # Four left within eight seconds.
    assert [refused(bounds, request(), 8.0).retry_after for _ in range(3)] == [2.0, 4.0, 6.0]
    for _ in range(100):
        last = refused(bounds, request(), 8.0)
    assert last.retry_after == LONGEST_RETRY_S


def test_before_anybody_has_left_the_retry_is_that_of_the_tokens() -> None:
    bounds = QueueBounds(2, 10**6)
    fill(bounds, 2, prompt=100)
    assert refused(bounds, request()).retry_after == 1.0


def test_an_empty_queue_forgets_its_pace() -> None:
    bounds = QueueBounds(2, 10**6)
    for at in (0.0, 1.0):
        for one in fill(bounds, 2, prompt=100):
            bounds.leave(one, at)
    fill(bounds, 2, prompt=100)
    assert refused(bounds, request(), 3600.0).retry_after == 1.0
