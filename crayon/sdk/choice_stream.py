"""A choice on its way: a turn whose answer is one of given texts, scored instead of written.

The turn and its drivers are those of `ask`, so that modes, privacy, gates, fallback, deadline and cancellation are the
same; only what an engine is asked differs.
"""

from __future__ import annotations

from concurrent.futures import CancelledError as FutureCancelledError
from dataclasses import replace
from typing import TYPE_CHECKING

from crayon.completion import Chosen, FinishReason, Source, Timings
from crayon.customising.device_calls import PoolEngine
from crayon.engine import Delta, Finished, ScoreRequest, Started, Stream
from crayon.errors import CancelledError, CrayonError, EngineError, InvalidRequestError, PromptTooLongError
from crayon.router.hardness import choice_gate
from crayon.sdk.answer import Answer
from crayon.sdk.async_stream import AsyncAnswerStream
from crayon.sdk.choosing import check_choices, ranking
from crayon.sdk.listing import listed
from crayon.sdk.stream import AnswerStream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from crayon.completion import Blend
    from crayon.engine import Engine, GenerateRequest, ScoreResult
    from crayon.router.policy import Allowed
    from crayon.sdk.actions import Generate
    from crayon.sdk.choosing import Ranking
    from crayon.sdk.core import Core
    from crayon.sdk.options import Call
    from crayon.sdk.turn import Turn


class ChoiceAnswer(Answer):
    """The part of choosing that never waits.

    Args:
        core: the client's.
        call: the resolved call.
        allowed: what the policy allows.
        choices: the texts to choose from.

    Raises:
        InvalidRequestError: the choices are wrong; the field names the first that is.
    """

    def __init__(self, core: Core, call: Call, allowed: Allowed, choices: Iterable[str]) -> None:
        super().__init__(core, call, allowed)
        self._choices = check_choices(choices)
        self._rankings: dict[Source, Ranking] = {}
        self._kept: tuple[Blend | None, ScoreResult] | None = None  # what the device found

    @property
    def chosen(self) -> Chosen:
        """The choice, once the stream was read to its end; errors as `completion`."""
        done = self.completion
        found = self._rankings[done.route.source]
        return Chosen(
            text=self._choices[found.index],
            index=found.index,
            probabilities=found.probabilities,
            margin=found.margin,
            # No token is written, so none was held back or thrown away.
            route=replace(done.route, holdback_ms=None, discarded_tokens=0),
            model=done.model,
            total_ms=done.total_ms,
        )

    def _look(self) -> None:
        self._call, self._allowed = self._core.screen.look(self._call, self._allowed, self._choices)

    def _new_turn(self) -> Turn:
        def request_bytes(request: GenerateRequest) -> int:
            return self._core.engines.request_bytes(self._request(Source.SERVER, request))

        return self._core.turn(
            self._call, self._allowed, gate=choice_gate, request_bytes=request_bytes, of_choices=True
        )

    def _sent(self, action: Generate) -> ScoreRequest:
        return self._request(action.source, action.request)

    def _ask(self, engine: Engine, action: Generate) -> Stream:
        try:
            return self._scored(engine, action)
        except InvalidRequestError as error:
            raise _of_choices(error) from None

    def _request(self, source: Source, request: GenerateRequest) -> ScoreRequest:
        """Return the scoring that one side is asked for; the server sees the options."""
        messages, choices = request.messages, self._choices
        if source is Source.SERVER:
            choices = self._call.screened.others if self._call.screened else choices
            options = [choice.strip() for choice in choices]
            last = replace(messages[-1], content=listed(messages[-1].content, options))
            messages = (*messages[:-1], last)
        return ScoreRequest(
            messages=messages,
            continuations=choices,
            blend=request.blend,
            deadline=request.deadline,
            request_id=request.request_id,
            model=request.model,
        )

    def _scored(self, engine: Engine, action: Generate) -> Stream:
        """Start scoring; the choice comes as an answer of one token."""
        source, blend = action.source, action.request.blend
        # Only an engine that blends here tells how likely an answer ends, and only under a blend does it count: the
        # plain base was never taught where an answer ends. (Asking what an engine is reads a pool: only then.)
        blended = blend is not None and any(blend.weights)
        ends = engine if blended and isinstance(engine, PoolEngine) else None

        def take(stream: Stream, result: ScoreResult) -> None:
            found = ranking(self._choices, result.scores, ended=ends is not None)
            self._rankings[source] = found
            if source is Source.DEVICE:
                self._kept = (blend, result)
            stream.push(Started(action.request.request_id, result.model, blend))
            stream.push(Delta(self._choices[found.index], (found.signal,)))
            stream.push(Finished(FinishReason.STOP, result.usage, Timings()))

        if source is Source.DEVICE and self._kept is not None and self._kept[0] == blend:
            kept = Stream()
            take(kept, self._kept[1])
            return kept
        request = self._sent(action)
        future = engine.score(request) if ends is None else ends.score(request, ended=True)

        def cancel() -> None:
            future.cancel()

        stream = Stream(on_cancel=cancel)

        def done(finished: Future[ScoreResult]) -> None:
            try:
                take(stream, finished.result())
            except CrayonError as error:
                stream.fail(_of_choices(error))
            except FutureCancelledError:
                stream.fail(CancelledError("the call was cancelled"))
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
                stream.fail(EngineError(f"the engine failed: {error!r}"))

        future.add_done_callback(done)
        return stream


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


def _of_choices(error: CrayonError) -> CrayonError:
    """Return an error in the caller's words: who chooses knows of no continuations."""
    if not isinstance(error, InvalidRequestError) or not error.field.startswith("continuations"):
        return error
    field = error.field.replace("continuations", "choices", 1)
    if isinstance(error, PromptTooLongError):
        return PromptTooLongError(error.prompt_tokens, error.limit, field)
    return InvalidRequestError(field, error.problem)
