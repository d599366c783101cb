"""The methods of `crayon.v1.InferenceService`, over any engine."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from crayon.engine import (
    BLEND,
    CONSTRAIN,
    ENCODE,
    GENERATE,
    SCORE,
    EncodeRequest,
    EncodeResult,
    Finished,
    ScoreRequest,
    ScoreResult,
)
from crayon.errors import (
    AdapterError,
    CrayonError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownModelError,
)
from crayon.server.caller import Meter, current_caller
from crayon.server.observability.observation import observed
from crayon.server.stream_batching import WriteBatcher, coalesced
from crayon.server.tokenize_pool import TokenizePool
from crayon.stream import Work
from crayon.v1 import inference_pb2 as pb
from crayon.v1 import inference_pb2_grpc
from crayon.wire.requests import (
    encode_request_from_proto,
    generate_request_from_proto,
    score_request_from_proto,
)
from crayon.wire.responses import (
    encode_result_to_proto,
    event_to_proto,
    models_to_proto,
    score_result_to_proto,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import grpc

    from crayon.completion import Blend
    from crayon.engine import Engine, Event, GenerateRequest, ModelInfo

    Context = grpc.aio.ServicerContext[Any, Any]

Result = TypeVar("Result")
Scored = TypeVar("Scored", ScoreResult, EncodeResult)

# Engines hold themselves to deadlines, and say more; this is for one that hangs.
_GRACE_S = 2.0
# How long an answer waits for who reads no more of it, with its connection open.
_UNREAD_S = 60.0


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Answers RPCs from `engine` once there is one, until `draining`.

    Failures are raised; the interceptor turns them into statuses.

    Args:
        default_deadline: seconds for a caller that sets no deadline of its own.
        max_deadline: most seconds for one that does.
    """

    def __init__(self, *, default_deadline: float, max_deadline: float = math.inf) -> None:
        self.engine: Engine | None = None
        self.draining = False
        self._default_deadline = default_deadline
        self._max_deadline = max(max_deadline, default_deadline)
        self._running = 0
        self._batcher = WriteBatcher()
        self._tokenize_pool = TokenizePool()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """How many RPCs are being answered."""
        return self._running

    async def idle(self) -> None:
        """Wait until no RPC is being answered."""
        await self._idle.wait()

    # The generated base class describes handlers that return an iterator; grpc.aio also takes coroutines that write,
    # and only those are told of a cancellation where they stand.
    async def Generate(  # type: ignore[override]  # noqa: N802 - the name in the protocol
        self, request: pb.GenerateRequest, context: Context
    ) -> None:
        """Answer a conversation with a stream of events."""
        with self._counted():
            engine = self._engine()
            caller = current_caller()
            wanted = replace(generate_request_from_proto(request, self._deadline(context)), client=caller.name)
            (seen := observed()).asked(wanted)
            _check(engine, wanted.model, GENERATE, wanted.blend)
            if wanted.constraint is not None:
                _check(engine, wanted.model, CONSTRAIN, None)
            characters = _characters(wanted)
            began = self._tokenize_pool.run(partial(engine.generate, wanted), characters, wanted.deadline, caller.name)
            with (
                Meter(caller, characters) as meter,
                await began as stream,
                _in_time(wanted.deadline, stream.cancel),
            ):
                # Leaving the `with` covers a cancelled task; the callback covers an RPC that ends in any other way.
                _when_over(context, stream.cancel)
                last: Event | None = None
                async for events in coalesced(stream, self._batcher):
                    for last in events:
                        meter.see(last)
                        seen.saw(last)
                        async with asyncio.timeout(_UNREAD_S):
                            await context.write(event_to_proto(last))
            if not isinstance(last, Finished):
                raise EngineError("the engine ended an answer without Finished")

    async def Score(  # noqa: N802 - the name in the protocol
        self, request: pb.ScoreRequest, context: Context
    ) -> pb.ScoreResponse:
        """Score continuations."""
        with self._counted():
            engine = self._engine()
            wanted = replace(score_request_from_proto(request, self._deadline(context)), client=current_caller().name)
            (seen := observed()).asked(wanted)
            _check(engine, wanted.model, SCORE, wanted.blend)
            start, characters = partial(engine.score, wanted), _characters(wanted)
            began = self._tokenize_pool.run(start, characters, wanted.deadline, wanted.client)
            scored = await _finished(await began, wanted.deadline, context)
            seen.used(scored.usage, scored.model)
            return score_result_to_proto(scored)

    async def Encode(  # noqa: N802 - the name in the protocol
        self, request: pb.EncodeRequest, context: Context
    ) -> pb.EncodeResponse:
        """Embed texts."""
        with self._counted():
            engine = self._engine()
            wanted = replace(encode_request_from_proto(request, self._deadline(context)), client=current_caller().name)
            (seen := observed()).asked(wanted)
            _check(engine, wanted.model, ENCODE, None)
            start, characters = partial(engine.encode, wanted), _characters(wanted)
            began = self._tokenize_pool.run(start, characters, wanted.deadline, wanted.client)
            encoded = await _finished(await began, wanted.deadline, context)
            seen.used(encoded.usage, encoded.model)
            return encode_result_to_proto(encoded)

    async def ListModels(  # noqa: N802 - the name in the protocol
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - it has no fields
        context: Context,  # noqa: ARG002 - nothing to wait for
    ) -> pb.ListModelsResponse:
        """List what is served."""
        return models_to_proto(self._engine().models())

    def _engine(self) -> Engine:
        if self.draining:
            raise ServerUnavailableError("the server is shutting down")
        if self.engine is None:
            raise ServerUnavailableError("the server is still loading its model")
        return self.engine

    def _deadline(self, context: Context) -> float:
        left = context.time_remaining()
        # grpc knows the wall clock; engines count on the monotonic one, which nobody can set back.
        return time.monotonic() + min(self._default_deadline if left is None else left, self._max_deadline)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


def _characters(request: GenerateRequest | ScoreRequest | EncodeRequest) -> int:
    """Return how much text there is to turn into tokens."""
    if isinstance(request, EncodeRequest):
        return sum(map(len, request.texts))
    continuations = request.continuations if isinstance(request, ScoreRequest) else ()
    return sum(message.size for message in request.messages) + sum(map(len, continuations))


def _check(engine: Engine, model: str, capability: str, blend: Blend | None) -> None:
    """Refuse by name what the model cannot do, so that no engine has to.

    Raises:
        UnknownModelError: no such model.
        ServerRejectedError: the model cannot do this at all.
        AdapterError: it can, but not with a blend.
    """
    info = _model(engine.models(), model)
    if capability not in info.capabilities:
        raise ServerRejectedError(f"model {info.name!r} cannot {capability}; ListModels says what each can")
    if blend is not None and BLEND not in info.capabilities:
        raise AdapterError(f"model {info.name!r} cannot blend adapters; leave `blend` unset")


def _model(models: tuple[ModelInfo, ...], name: str) -> ModelInfo:
    if not name:
        return models[0]
    for info in models:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in models)
    raise UnknownModelError(f"model {name!r} is not served here; there is: {known}")


def _when_over(context: Context, action: Callable[[], object]) -> None:
    def callback(_: object) -> None:
        action()

    context.add_done_callback(callback)  # type: ignore[arg-type]  # the stub's type is a class that nothing can be


@contextlib.contextmanager
def _in_time(deadline: float | None, cancel: Callable[[], object]) -> Iterator[None]:
    """Call `cancel` a little after a deadline that the engine has missed.

    Raises:
        DeadlineExceededError: it has.
    """
    missed = False

    def ring() -> None:
        nonlocal missed
        missed = True
        cancel()

    left = math.inf if deadline is None else max(deadline - time.monotonic(), 0.0)
    alarm = asyncio.get_running_loop().call_later(left + _GRACE_S, ring)
    try:
        yield
    except CrayonError:
        if missed:
            raise DeadlineExceededError("the deadline passed, and the engine did not say so") from None
        raise
    finally:
        alarm.cancel()


async def _finished(future: Future[Scored], deadline: float | None, context: Context) -> Scored:
    """Wait for an engine's future; a deadline, or an RPC that ends earlier, cancels it.

    The caller is charged for the result, or else for what was computed of it.
    """
    _when_over(context, future.cancel)
    try:
        with _in_time(deadline, future.cancel):
            result = await _given(future)
    except BaseException:
        if isinstance(future, Work):
            current_caller().charge(future.used())
        raise
    current_caller().pay(result.usage)
    return result


async def _given(future: Future[Result]) -> Result:
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and task is not None and not task.cancelling():
            # The engine cancelled it, not the client, who still waits for a status.
            raise EngineClosedError("the engine gave the request up") from None
        raise
