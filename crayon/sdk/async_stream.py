"""A streamed answer for asyncio: the awaiting driver of a turn."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from crayon.completion import Source
from crayon.errors import CrayonError, EngineError
from crayon.sdk.actions import Done, Embed, Generate, Read
from crayon.sdk.answer import Answer, Piece
from crayon.sdk.waiting import wait_for_async

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.engine import Engine
    from crayon.sdk.actions import Action
    from crayon.sdk.call.engines import Engines
    from crayon.sdk.call.options import Call
    from crayon.sdk.core import Core
    from crayon.sdk.query_gate import QueryGate
    from crayon.sdk.turn import Turn


class AsyncAnswerStream(Answer):
    """An answer as it is written: iterate for `Piece`s, then look at `completion`.

    Leaving the `async with` block, `close()` or cancelling the task cancels what is not finished.
    """

    _writing: tuple[asyncio.Future[None], ...] = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if self._closed or self.ended:
            raise StopAsyncIteration
        try:
            if self._turn is None:
                if Source.SERVER in self._call.allowed.sources:
                    await asyncio.to_thread(self._look)
                for source in self._core.needed_first(self._call.allowed):
                    await self._open(source)
                calibrated = self._call.allowed.gated and not self._core.calibrations.off
                if self._unopened is None and (calibrated or self._call.customization is not None):
                    await asyncio.to_thread(self._core.prepare, self._call)
            turn = self._turn or self._begin()
            while True:
                piece = self._settle(turn)
                if piece is not None:
                    return piece
                if self._turn is None:  # it begins anew
                    return await self.__anext__()
                if isinstance(self._action, Done):
                    await self._written()
                    break
                self._action = await self._step(turn)
        except BaseException:
            self._cancel()
            raise
        raise StopAsyncIteration

    async def _open(self, source: Source) -> None:
        try:
            await open_async(self._core.engines, source, self._call.allowed.sources)
        except CrayonError as error:
            self._do_without(source, error)

    async def _step(self, turn: Turn) -> Action:
        match self._action:
            case Embed() as action:
                return await self._embed(turn, action)
            case Generate() as action:
                self._stop()
                try:
                    engine = await open_async(self._core.engines, action.source)
                except CrayonError as error:
                    return self._failed(turn, error)
                # Only the server's account may wait, for the budget's file.
                waits = action.source is Source.SERVER and self._core.tracker.budget_guard.budget is not None
                refused = await asyncio.to_thread(self._pay, action) if waits else self._pay(action)
                return self._start(turn, engine, action, refused)
            case Read() as action:
                return await self._read(turn, action)
            case other:
                raise EngineError(f"the turn asked for {other!r}")

    async def _embed(self, turn: Turn, action: Embed) -> Action:
        try:
            gate = await gate_async(self._core, self._call, action.until, gated=self._call.allowed.gated)
            start = time.perf_counter()
            future = self._encode(gate, self._core.engines.open(Source.DEVICE), action)
            verdict = gate.judge(await wait_for_async(future, action.until))
        except CrayonError as error:
            return self._failed(turn, error)
        return turn.embedded(verdict.scope, 1000.0 * (time.perf_counter() - start), verdict.choice)

    async def _read(self, turn: Turn, action: Read) -> Action:
        stream = self._stream
        if stream is None:
            raise EngineError("nothing runs that could be read")
        try:
            async with asyncio.timeout(None if action.until is None else action.until - time.monotonic()):
                event = await anext(stream)
        except StopAsyncIteration:
            return self._failed(turn, EngineError("the engine ended its answer without finishing it"))
        except CrayonError as error:
            return self._failed(turn, error)
        except TimeoutError:
            return self._timed_out(turn)
        return self._received(turn, event)

    async def close(self) -> None:
        """Cancel what is not finished. Safe to call twice."""
        self._cancel()
        await self._written()

    def _write(self, work: Callable[[], None]) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # dropped outside of any loop
            work()
        else:
            self._writing += (loop.run_in_executor(None, work),)

    async def _written(self) -> None:
        """Wait until the budget is charged and the answer noted, so that the next call finds it so."""
        await asyncio.gather(*self._writing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def open_async(engines: Engines, source: Source, others: Sequence[Source] = ()) -> Engine:
    """Return an engine, opening it on first use in a thread; as `Engines.open`."""
    if engines.opened(source):
        return engines.open(source)
    return await asyncio.to_thread(engines.open, source, others)


async def gate_async(core: Core, call: Call, until: float | None, *, gated: bool = False) -> QueryGate:
    """Return what judges a call's query; the first time in a thread. Errors as `Core.query_gate`."""
    if core.gate_ready(call):
        return core.query_gate(call, until, gated=gated)
    return await asyncio.to_thread(core.query_gate, call, until, gated=gated)
