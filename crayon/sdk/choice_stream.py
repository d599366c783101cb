"""A choice on its way: a turn whose answer is one of given texts, scored instead of written.

The turn and its drivers are those of `ask`, so that modes, privacy, gates, fallback, deadline and cancellation are the
same; only what an engine is asked differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from crayon.completion import Chosen, Source
from crayon.messages import question, with_question
from crayon.router.hardness import choice_gate
from crayon.sdk.answer import Answer
from crayon.sdk.async_stream import AsyncAnswerStream
from crayon.sdk.call.choosing import MAX_CHOICES, check_choices, listed
from crayon.sdk.scoring import Scoring, score_request
from crayon.sdk.stream import AnswerStream

if TYPE_CHECKING:
    from crayon.engine import Engine, GenerateRequest, ScoreRequest, Stream
    from crayon.sdk.actions import Generate
    from crayon.sdk.call.options import Call
    from crayon.sdk.core import Core
    from crayon.sdk.turn import Turn


class ChoiceAnswer(Answer):
    """The part of choosing that never waits.

    Args:
        core: the client's.
        call: the resolved call.
        choices: the texts to choose from.

    Raises:
        InvalidRequestError: the choices are wrong; the field names the first that is.
    """

    def __init__(self, core: Core, call: Call, choices: Iterable[str]) -> None:
        super().__init__(core, call)
        if not isinstance(choices, str) and isinstance(choices, Iterable):
            choices = tuple(islice(choices, MAX_CHOICES + 1))
        self._choices = check_choices(choices)
        self._own_texts = tuple(choices)
        self._scoring = Scoring(self._choices)

    @property
    def chosen(self) -> Chosen:
        """The choice as the caller wrote it, once the stream was read to its end; errors as `completion`."""
        done = self.completion
        found = self._scoring.rankings[done.route.source]
        return Chosen(
            text=self._own_texts[found.index],
            index=found.index,
            probabilities=found.probabilities,
            margin=found.margin,
            # No token is written, so none was held back or thrown away.
            route=replace(done.route, holdback_ms=None, discarded_tokens=0),
            model=done.model,
            total_ms=done.total_ms,
        )

    def _look(self) -> None:
        self._call = self._core.screen.look(self._call, self._choices)

    def _new_turn(self) -> Turn:
        def request_bytes(request: GenerateRequest) -> int:
            return self._core.engines.request_bytes(self._request(Source.SERVER, request))

        return self._core.turn(self._call, gate=choice_gate, request_bytes=request_bytes, of_choices=True)

    def _sent(self, action: Generate) -> ScoreRequest:
        return self._request(action.source, action.request)

    def _ask(self, engine: Engine, action: Generate) -> Stream:
        return self._scoring.start(engine, action.source, self._sent(action), action.support)

    def _request(self, source: Source, request: GenerateRequest) -> ScoreRequest:
        """Return the scoring that one side is asked for; the server sees the options."""
        messages, choices = request.messages, self._choices
        if source is Source.SERVER:
            choices = self._call.screened.others if self._call.screened else choices
            options = [choice.strip() for choice in choices]
            messages = with_question(messages, listed(question(messages), options))
        return score_request(replace(request, messages=messages), choices)


class ChoiceStream(ChoiceAnswer, AnswerStream):
    """A choice for threads."""

    def choose(self) -> Chosen:
        """Wait for the choice; errors as `Crayon.ask`."""
        with self:
            for _ in self:
                pass
        return self.chosen


class AsyncChoiceStream(ChoiceAnswer, AsyncAnswerStream):
    """A choice for asyncio; cancelling the task frees the engine."""

    async def choose(self) -> Chosen:
        """Wait for the choice; errors as `Crayon.ask`."""
        async with self:
            async for _ in self:
                pass
        return self.chosen
