"""Events and results: Crayon's own <-> protobuf.

A server's answer is checked too. One that breaks the protocol is a ServerError, since it is not the caller's fault.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import (
    ContinuationScore,
    Delta,
    EncodeResult,
    Event,
    Finished,
    ModelInfo,
    ScoreResult,
    Started,
    TokenSignal,
)
from crayon.errors import InvalidRequestError, ServerError
from crayon.token_options import TokenLogprob
from crayon.v1 import inference_pb2 as pb
from crayon.wire.requests import blend_from_proto, blend_to_proto, calls_from_proto, calls_to_proto

if TYPE_CHECKING:
    from collections.abc import Iterable

_FINISH_TO_PROTO = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}
_FINISH_FROM_PROTO: dict[int, FinishReason] = {number: reason for reason, number in _FINISH_TO_PROTO.items()}


# -- ours to protobuf


def event_to_proto(event: Event) -> pb.GenerateResponse:
    """Return the message of one event."""
    match event:
        case Started():
            blend = blend_to_proto(event.blend)
            return pb.GenerateResponse(
                started=pb.Started(
                    request_id=event.request_id,
                    model=event.model,
                    blend=blend,
                    constrained=event.constrained,
                    kept=sorted(event.kept),
                )
            )
        case Delta():
            signals = [
                pb.TokenSignal(logprob=s.logprob, entropy=s.entropy, margin=s.margin, withheld=s.withheld)
                for s in event.signals
            ]
            calls = calls_to_proto(event.calls)
            return pb.GenerateResponse(
                delta=pb.Delta(
                    text=event.text,
                    signals=signals,
                    tokens=event.tokens,
                    reasoning=event.reasoning,
                    tool_calls=calls,
                    logprobs=_logprobs_to_proto(event.logprobs),
                )
            )
        case Finished():
            timings = event.timings
            return pb.GenerateResponse(
                finished=pb.Finished(
                    finish_reason=_FINISH_TO_PROTO[event.finish_reason],
                    usage=_usage_to_proto(event.usage),
                    timings=pb.Timings(
                        queue_ms=timings.queue_ms, prompt_ms=timings.prompt_ms, decode_ms=timings.decode_ms
                    ),
                )
            )


def score_result_to_proto(result: ScoreResult) -> pb.ScoreResponse:
    """Return the message of a score."""
    scores = [pb.ContinuationScore(token_logprobs=score.token_logprobs) for score in result.scores]
    return pb.ScoreResponse(scores=scores, usage=_usage_to_proto(result.usage), model=result.model)


def encode_result_to_proto(result: EncodeResult) -> pb.EncodeResponse:
    """Return the message of a set of vectors."""
    return pb.EncodeResponse(
        dimensions=result.vectors.shape[1],
        values=result.vectors.ravel(),
        usage=_usage_to_proto(result.usage),
        model=result.model,
    )


def models_to_proto(models: Iterable[ModelInfo]) -> pb.ListModelsResponse:
    """Return the message of a list of models."""
    return pb.ListModelsResponse(
        models=[
            pb.Model(
                name=model.name,
                context_tokens=model.context_tokens,
                source_sha256=model.source_sha256,
                quantization=model.quantization,
                capabilities=sorted(model.capabilities),
            )
            for model in models
        ]
    )


def _logprobs_to_proto(logprobs: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(token=each.token, piece=each.piece, logprob=each.logprob, top=_logprobs_to_proto(each.top))
        for each in logprobs
    ]


def _usage_to_proto(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        shown_tokens=usage.shown_tokens,
        forced_tokens=usage.forced_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


# -- protobuf to ours


def event_from_proto(message: pb.GenerateResponse) -> Event | None:
    """Return the event, or None for a kind that a newer server knows and we do not.

    Raises:
        ServerError: the event breaks the protocol.
    """
    match message.WhichOneof("event"):
        case "started":
            started = message.started
            try:
                blend = blend_from_proto(started.blend) if started.HasField("blend") else None
            except InvalidRequestError as error:
                raise _broken(f"started.{error}") from None
            return Started(started.request_id, started.model, blend, started.constrained, frozenset(started.kept))
        case "delta":
            delta = message.delta
            if delta.tokens < 0:
                raise _broken(f"delta.tokens: {delta.tokens} is less than 0")
            signals = tuple(TokenSignal(s.logprob, s.entropy, s.margin, s.withheld) for s in delta.signals)
            calls, likely = calls_from_proto(delta.tool_calls), _logprobs_from_proto(delta.logprobs)
            return Delta(delta.text, signals, delta.tokens, delta.reasoning, calls, likely)
        case "finished":
            finished, timings = message.finished, message.finished.timings
            reason = _FINISH_FROM_PROTO.get(finished.finish_reason)
            if reason is None:
                raise _broken(f"finished.finish_reason: {finished.finish_reason} is unknown")
            return Finished(
                reason,
                _usage_from_proto(finished.usage),
                Timings(queue_ms=timings.queue_ms, prompt_ms=timings.prompt_ms, decode_ms=timings.decode_ms),
            )
        case _:
            return None


def score_result_from_proto(message: pb.ScoreResponse, continuations: int) -> ScoreResult:
    """Return the scores of a request with this many continuations.

    Raises:
        ServerError: another number of scores, or one without tokens, or what is no number.
    """
    if len(message.scores) != continuations or not all(score.token_logprobs for score in message.scores):
        raise _broken(f"scores: {len(message.scores)} of {continuations}, each needs at least one token")
    scores = tuple(ContinuationScore(tuple(score.token_logprobs)) for score in message.scores)
    if not all(math.isfinite(value) for score in scores for value in score.token_logprobs):
        raise _broken("scores: a log-probability is not a finite number")
    return ScoreResult(scores, _usage_from_proto(message.usage), message.model)


def encode_result_from_proto(message: pb.EncodeResponse, texts: int) -> EncodeResult:
    """Return the vectors of a request with this many texts.

    Raises:
        ServerError: the numbers are not texts x dimensions, or are none.
    """
    if message.dimensions < 1 or len(message.values) != texts * message.dimensions:
        raise _broken(f"values: {len(message.values)} are not {texts} texts x {message.dimensions} dimensions")
    vectors = np.array(message.values, dtype=np.float32).reshape(texts, message.dimensions)
    if not np.isfinite(vectors).all():
        raise _broken("values: one is not a finite number")
    return EncodeResult(vectors, _usage_from_proto(message.usage), message.model)


def models_from_proto(message: pb.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """Return the models.

    Raises:
        ServerError: none, or one without a name or a context.
    """
    if not message.models or not all(model.name and model.context_tokens > 0 for model in message.models):
        raise _broken("models: needs at least one, each with a name and a context")
    return tuple(
        ModelInfo(
            name=model.name,
            context_tokens=model.context_tokens,
            source_sha256=model.source_sha256,
            quantization=model.quantization,
            capabilities=frozenset(model.capabilities),
        )
        for model in message.models
    )


def _logprobs_from_proto(messages: Iterable[pb.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    found = tuple(
        TokenLogprob(each.token, each.piece, each.logprob, _logprobs_from_proto(each.top)) for each in messages
    )
    if not all(math.isfinite(each.logprob) for each in found):
        raise _broken("delta.logprobs: one is not a finite number")
    return found


def _usage_from_proto(message: pb.Usage) -> Usage:
    return Usage(
        message.prompt_tokens,
        message.completion_tokens,
        message.cached_tokens,
        message.shown_tokens,
        message.forced_tokens,
        message.reasoning_tokens,
    )


def _broken(what: str) -> ServerError:
    return ServerError(f"the server's answer breaks the protocol: {what}; do client and server have one version?")
