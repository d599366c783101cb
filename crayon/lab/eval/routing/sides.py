"""What each side says to a query: the device under a blend or plain, the server over gRPC with the options listed."""

from __future__ import annotations

import json
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.choices import rule_for
from crayon.engine import ScoreRequest, deadline_after
from crayon.lab.eval.device_runner import Question
from crayon.lab.eval.results import values
from crayon.messages import Message
from crayon.router.features import choice_features
from crayon.sdk.call.choosing import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.completion import Blend
    from crayon.data.qa import Item
    from crayon.engine import Engine, ScoreResult
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.device_runner import DeviceRunner
    from crayon.router.features import ChoiceFeatures

PATIENCE_S = 600.0
# More would only wait in the server's queue.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class TakenOption:
    """Which option a side takes, whether it is right, and how its probability is spread over the options."""

    index: int
    right: bool
    choice: ChoiceFeatures

    @property
    def margin(self) -> float:
        """The lead of the likeliest option, 0 to 1."""
        return self.choice.margin


def said(scores: Sequence[float], item: Item) -> TakenOption:
    """Return what log-probabilities of the options come to."""
    index = int(np.argmax(scores))
    return TakenOption(index, index == item.answer, choice_features(scores))


class DeviceSide:
    """The device: a blend's options with the end of the answer, the plain base's without; long ones per token."""

    def __init__(self, subject: DeviceRunner) -> None:
        self._subject = subject

    def ask(self, items: Sequence[Item], blends: Sequence[Blend | None], step: Callable[[], None]) -> list[TakenOption]:
        """Return what the device says to each item under its blend."""
        order = sorted(range(len(items)), key=lambda i: self._subject.identity(blends[i]))
        answers = self._subject.choices([Question(items[i], blends[i]) for i in order], step)
        found = {
            i: said(values(answer, rule_for(items[i].choices, ended=bool(self._subject.identity(blends[i])))), items[i])
            for i, answer in zip(order, answers, strict=True)
        }
        return [found[i] for i in range(len(items))]


class ServerSide:
    """The server: every item is asked once, with its options listed.

    Args:
        engine: the connection.
        cache: where scores are kept.
        model_key: stands for the model that is served.
    """

    def __init__(self, engine: Engine, cache: AnswerCache, model_key: str) -> None:
        self._engine = engine
        self._cache = cache
        self._key = model_key

    def ask(self, items: Sequence[Item], step: Callable[[], None]) -> list[TakenOption]:
        """Return what the server says to each item.

        Raises:
            ServerError: it cannot be reached.
        """
        keys = [
            self._cache.key("server-1", self._key, listed(item.prompt, item.choices), item.choices) for item in items
        ]
        waiting = [i for i, key in enumerate(keys) if self._cache.get(key) is None]
        for _ in range(len(items) - len(waiting)):
            step()
        # Alike prompts one after the other: the server keeps what they share.
        waiting.sort(key=lambda i: (items[i].choices, items[i].id))
        running: dict[Future[ScoreResult], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    i = waiting.pop(0)
                    running[self._engine.score(server_request(items[i]))] = i
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    i = running.pop(future)
                    totals = [[round(score.total, 5), round(score.mean, 5)] for score in future.result().scores]
                    self._cache.put(keys[i], json.dumps(totals).encode())
                    step()
        finally:
            for future in running:
                future.cancel()
        found = []
        for item, key in zip(items, keys, strict=True):
            by_rule = 1 if rule_for(item.choices, ended=False) == "token" else 0
            found.append(said([each[by_rule] for each in json.loads(self._cache.get(key) or b"[]")], item))
        return found


def server_request(item: Item) -> ScoreRequest:
    """Return how the server is asked about an item: its options are listed, and scored."""
    messages = (Message("user", listed(item.prompt, item.choices)),)
    return ScoreRequest(messages=messages, continuations=item.choices, deadline=deadline_after(PATIENCE_S))
