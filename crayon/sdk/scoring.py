"""Scoring a call's choices at one side; the choice comes as an answer of one token, so that the gates can judge it."""

from __future__ import annotations

from concurrent.futures import CancelledError as FutureCancelledError
from typing import TYPE_CHECKING

from crayon.completion import FinishReason, Source, Timings
from crayon.customising.device_calls import PoolEngine
from crayon.engine import Delta, Finished, ScoreRequest, Started, Stream
from crayon.errors import (
    CancelledError,
    CrayonError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
    ServerRejectedError,
)
from crayon.sdk.call.choosing import ranking

if TYPE_CHECKING:
    from concurrent.futures import Future

    from crayon.completion import Blend
    from crayon.customising.support import Support
    from crayon.engine import Engine, GenerateRequest, ScoreResult
    from crayon.messages import Message
    from crayon.sdk.call.choosing import Ranking


class Scoring:
    """What each side makes of the choices.

    Args:
        choices: the texts.
        given: whether the caller gave them, so that an error may name one of them; else they are a closed set of
            answers, and the error names the messages.
    """

    def __init__(self, choices: tuple[str, ...], *, given: bool = True) -> None:
        self.choices = choices
        self._given = given
        self.rankings: dict[Source, Ranking] = {}
        self._kept: tuple[Blend | None, tuple[Message, ...], ScoreResult] | None = None  # what the device found

    def start(self, engine: Engine, source: Source, request: ScoreRequest, support: Support | None = None) -> Stream:
        """Start scoring at one side; what the device found before, asked the same, is taken again.

        `support` is what a customisation's samples say of the query, on the device.

        Raises:
            InvalidRequestError: the request is wrong; the field names the choice.
        """
        try:
            return self._start(engine, source, request, support)
        except InvalidRequestError as error:
            raise self._told(error) from None

    def _start(self, engine: Engine, source: Source, request: ScoreRequest, support: Support | None) -> Stream:
        # Only an engine that blends here tells how likely an answer ends, and only under a blend or with support does
        # it count: the plain base was never taught where an answer ends. (Asking what an engine is reads a pool: only
        # then.)
        blend = request.blend
        taught = support is not None or (blend is not None and any(blend.weights))
        ends = engine if taught and isinstance(engine, PoolEngine) else None

        def take(stream: Stream, result: ScoreResult) -> None:
            found = self._ranking(source, result, ended=ends is not None, support=support if ends else None)
            self.rankings[source] = found
            if source is Source.DEVICE:
                self._kept = (blend, request.messages, result)
            stream.push(Started(request.request_id, result.model, blend))
            stream.push(Delta(self.choices[found.index], (found.signal,)))
            stream.push(Finished(FinishReason.STOP, result.usage, Timings()))

        if source is Source.DEVICE and self._kept is not None and self._kept[:2] == (blend, request.messages):
            kept = Stream()
            take(kept, self._kept[2])
            return kept
        future = engine.score(request) if ends is None else ends.score(request, ended=True)

        def cancel() -> None:
            future.cancel()

        stream = Stream(on_cancel=cancel)

        def done(finished: Future[ScoreResult]) -> None:
            try:
                take(stream, finished.result())
            except CrayonError as error:
                stream.fail(self._told(error))
            except FutureCancelledError:
                stream.fail(CancelledError("the call was cancelled"))
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to be told
                stream.fail(EngineError(f"the engine failed: {error!r}"))

        future.add_done_callback(done)
        return stream

    def _ranking(self, source: Source, result: ScoreResult, *, ended: bool, support: Support | None) -> Ranking:
        try:
            return ranking(self.choices, result.scores, ended=ended, support=support)
        except EngineError as error:
            if source is Source.DEVICE:
                raise
            raise ServerRejectedError(f"the server's scores are unusable: {error}") from None

    def _told(self, error: CrayonError) -> CrayonError:
        """Return an error in the caller's words: a caller of `choose` or `ask` knows of no continuations."""
        if not isinstance(error, InvalidRequestError) or not error.field.startswith("continuations"):
            return error
        field = error.field.replace("continuations", "choices", 1) if self._given else "messages"
        if isinstance(error, PromptTooLongError):
            return PromptTooLongError(error.prompt_tokens, error.limit, field)
        return InvalidRequestError(field, error.problem)


def score_request(request: GenerateRequest, choices: tuple[str, ...]) -> ScoreRequest:
    """Return the scoring that takes the place of an answer being written."""
    return ScoreRequest(
        messages=request.messages,
        continuations=choices,
        blend=request.blend,
        deadline=request.deadline,
        request_id=request.request_id,
        model=request.model,
        prefix=request.prefix,
    )
