"""A streamed answer for threads: the waiting driver of a turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from crayon.completion import Source
from crayon.engine import wait_for
from crayon.errors import CrayonError, EngineError
from crayon.sdk.actions import Done, Embed, Generate, Read
from crayon.sdk.answer import Answer, Piece

if TYPE_CHECKING:
    from crayon.sdk.actions import Action
    from crayon.sdk.turn import Turn

# A lock that is waited for with a very long timeout overflows; nothing is checked when this passes.
_POLL = 3600.0


class AnswerStream(Answer):
    """An answer as it is written: iterate for `Piece`s, then look at `completion`.

    Leaving the `with` block or `close()` cancels what is not finished.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        if self._closed or self.ended:
            raise StopIteration
        try:
            if self._turn is None:
                self._look()
                for source in self._core.needed_first(self._call.allowed):
                    self._open(source)
                if self._unopened is None:
                    self._core.prepare(self._call)
            turn = self._turn or self._begin()
            while True:
                piece = self._settle(turn)
                if piece is not None:
                    return piece
                if self._turn is None:  # it begins anew
                    return self.__next__()
                if isinstance(self._action, Done):
                    break
                self._action = self._step(turn)
        except BaseException:
            self._cancel()
            raise
        raise StopIteration

    def _open(self, source: Source) -> None:
        try:
            self._core.engines.open(source, self._call.allowed.sources)
        except CrayonError as error:
            self._do_without(source, error)

    def _step(self, turn: Turn) -> Action:
        match self._action:
            case Embed() as action:
                return self._embed(turn, action)
            case Generate() as action:
                self._stop()
                try:
                    engine = self._core.engines.open(action.source)
                except CrayonError as error:
                    return self._failed(turn, error)
                return self._start(turn, engine, action, self._pay(action))
            case Read() as action:
                return self._read(turn, action)
            case other:
                raise EngineError(f"the turn asked for {other!r}")

    def _embed(self, turn: Turn, action: Embed) -> Action:
        try:
            gate = self._core.query_gate(self._call, action.until, gated=self._call.allowed.gated)
            start = time.perf_counter()
            future = self._encode(gate, self._core.engines.open(Source.DEVICE), action)
            verdict = gate.judge(wait_for(future, action.until))
        except CrayonError as error:
            return self._failed(turn, error)
        return turn.embedded(verdict.scope, 1000.0 * (time.perf_counter() - start), verdict.choice)

    def _read(self, turn: Turn, action: Read) -> Action:
        stream = self._stream
        if stream is None:
            raise EngineError("nothing runs that could be read")
        try:
            while True:
                left = _POLL if action.until is None else min(_POLL, action.until - time.monotonic())
                event = stream.get(max(0.0, left))
                if event is not None:
                    return self._received(turn, event)
                if action.until is not None and time.monotonic() >= action.until:
                    return self._timed_out(turn)
        except StopIteration:
            return self._failed(turn, EngineError("the engine ended its answer without finishing it"))
        except CrayonError as error:
            return self._failed(turn, error)

    def close(self) -> None:
        """Cancel what is not finished. Safe to call twice, and from another thread."""
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
