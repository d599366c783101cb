"""What a query costs on each side: tokens of the server, bytes that leave the device, seconds of the device.

Measured on some of the users' own traffic, one query at a time with nothing beside it. A share of the server then costs
what its queries cost: those that are sent, in the order of the router.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from crayon.engine import EncodeRequest, ScoreRequest, deadline_after
from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.interval import bootstrap
from crayon.lab.eval.routing.sides import PATIENCE_S, server_request
from crayon.lab.eval.whole.shares import TRAFFIC, sent_at
from crayon.messages import Message
from crayon.models import prepared
from crayon.wire.requests import score_request_to_proto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.completion import Blend
    from crayon.data.qa import Item
    from crayon.device import DeviceEngine
    from crayon.engine import Engine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.routing.decide import Routed
    from crayon.lab.eval.routing.traffic import User

    Values: TypeAlias = NDArray[np.float64]
    Results: TypeAlias = Sequence[tuple[User, Sequence[Routed]]]

T = TypeVar("T")
METRICS = {
    "server_tokens_per_query": "tokens",
    "bytes_sent_per_query": "bytes",
    "device_seconds_per_query": "s",
}


@dataclass(frozen=True, slots=True)
class QueryCost:
    """One query on both sides, whichever will answer it.

    Args:
        server_tokens: that the server reads: the prompt with the options, and each option.
        sent_bytes: of the request's message.
        server_seconds: from the request to the answer.
        embed_seconds: of the scope gate, which sees every query.
        device_seconds: of the device's own answer.
    """

    server_tokens: int
    sent_bytes: int
    server_seconds: float
    embed_seconds: float
    device_seconds: float


class CostMeter:
    """Measures queries one at a time, each once.

    Args:
        device: with the pool that blends are of.
        server: the connection.
        cache: keeps what was measured, by models and machine.
        model_key: stands for both models.
        step: is called for each query.
    """

    def __init__(
        self,
        device: DeviceEngine,
        server: Engine,
        cache: AnswerCache,
        model_key: str,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._server = server
        self._cache = cache
        self._key = f"{model_key} {prepared.machine_key()}"
        self._step = step
        self._warm = False

    def of(self, item: Item, blend: Blend | None) -> QueryCost:
        """Return what an item costs, answered by the device under a blend, and by the server."""
        change = [blend.pool_id, list(blend.weights)] if blend is not None else None
        key = self._cache.key("cost-1", self._key, change, item.prompt, item.choices)
        kept = self._cache.get(key)
        if kept is None:
            self._warm_up(item)
            kept = json.dumps(asdict(self._measured(item, blend))).encode()
            self._cache.put(key, kept)
        self._step()
        return QueryCost(**json.loads(kept))

    def _warm_up(self, item: Item) -> None:
        """Touch everything once: the encoder is made at its first use, and the background embedded."""
        if not self._warm:
            self._warm = True
            self._device.encode_raw(EncodeRequest(texts=(item.prompt,), deadline=deadline_after(PATIENCE_S))).result()

    def _measured(self, item: Item, blend: Blend | None) -> QueryCost:
        request = server_request(item)
        found, server_seconds = _timed(lambda: self._server.score(request).result(PATIENCE_S))
        encode = EncodeRequest(texts=(item.prompt,), deadline=deadline_after(PATIENCE_S))
        _, embed_seconds = _timed(lambda: self._device.encode_raw(encode).result(PATIENCE_S))
        own = ScoreRequest(
            messages=(Message("user", item.prompt),), continuations=item.choices, blend=blend,
            deadline=deadline_after(PATIENCE_S),
        )  # fmt: skip
        _, device_seconds = _timed(lambda: self._device.score(own, ended=True).result(PATIENCE_S))
        sent = score_request_to_proto(request).ByteSize()  # what a connection hands on
        return QueryCost(found.usage.total_tokens, sent, server_seconds, embed_seconds, device_seconds)


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def chosen(user: User, count: int) -> list[int]:
    """Return which of a user's queries are measured: evenly spread over own ones and strangers."""
    return sorted({int(i) for i in np.linspace(0, len(user.queries) - 1, min(count, len(user.queries)))})


def cost_rows(results: Results, meter: CostMeter, model: str, count: int, shares: Sequence[int]) -> Iterator[BenchRow]:
    """Yield what a query costs on average at each share, for each group of users, from the users' first draw."""
    every: list[QueryCost] = []
    for group in dict.fromkeys(user.group for user, _ in results):
        measured = []
        for user, draws in results:
            if user.group == group:
                places = chosen(user, count)
                first = draws[0]
                costs = [meter.of(user.queries[i].item, first.blends[i] if first.let_in[i] else None) for i in places]
                every += costs
                measured.append((first, places, costs))
        for share in shares:
            at = [_at(draw, places, costs, share / 100) for draw, places, costs in measured]
            for column, (metric, unit) in enumerate(METRICS.items()):
                value, low, high = bootstrap([(a[column][None, :], np.zeros((1, a.shape[1]))) for a in at])
                yield BenchRow(
                    metric, value, unit, (), model, TRAFFIC, None, None, low, high, sum(a.shape[1] for a in at), 1,
                    group, None, f"{share}%",
                )  # fmt: skip
    seconds = {
        "server_answer_seconds": [cost.server_seconds for cost in every],
        "device_answer_seconds": [cost.device_seconds for cost in every],
        "embed_seconds": [cost.embed_seconds for cost in every],
    }
    for metric, values in seconds.items():
        yield BenchRow(
            metric, statistics.median(values), "s", tuple(values), model, "one query at a time", n=len(values)
        )


def _at(draw: Routed, places: Sequence[int], costs: Sequence[QueryCost], share: float) -> Values:
    """Return tokens, bytes and device seconds of each measured query, shape (3, queries)."""
    sent = sent_at(draw.benefit, share)[list(places)]
    # Outside the scopes the query is decided before the device answers; inside, after.
    answered = np.where(draw.let_in[list(places)], 1.0, 1.0 - sent)
    table = np.array([[c.server_tokens, c.sent_bytes, c.embed_seconds, c.device_seconds] for c in costs], np.float64).T
    return np.stack([sent * table[0], sent * table[1], table[2] + answered * table[3]])
