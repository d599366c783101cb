"""A streamed answer: its state, and the parts of driving a turn that never wait."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from crayon import tracing
from crayon.completion import Source
from crayon.engine import EncodeRequest
from crayon.errors import (
    BudgetError,
    CancelledError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    PromptTooLongError,
)
from crayon.sdk.actions import Done, Embed, Emit, Fail, Generate
from crayon.sdk.scoring import Scoring, score_request
from crayon.tracing import NO_SPAN, start_span

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from crayon.completion import Completion, Route
    from crayon.engine import Engine, Event, GenerateRequest, ScoreRequest, Stream
    from crayon.messages import ToolCall
    from crayon.sdk.actions import Action
    from crayon.sdk.budget.usage import Account
    from crayon.sdk.call.options import Call
    from crayon.sdk.core import Core
    from crayon.sdk.query_gate import Embedding, QueryGate
    from crayon.sdk.turn import Turn
    from crayon.token_options import TokenLogprob


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more of the answer's text, and which side wrote it.

    `reasoning` is some more of what the model thought, which is no part of the answer; `calls` are the tools that it
    asks for; `logprobs` how likely the model found the tokens of it, where the call wants to know. Where one of these
    is there, the text may be empty.
    """

    text: str
    source: Source
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text


class Answer:
    """The state of a streamed answer; nothing runs before the first piece is asked for."""

    def __init__(
        self,
        core: Core,
        call: Call,
        on_done: Callable[[Completion], None] | None = None,
        shorten: Callable[[Call, PromptTooLongError], Call | None] | None = None,
    ) -> None:
        self._core = core
        self._call = call
        self._on_done = on_done
        self._shorten = shorten
        self._asked = call  # before anything was looked at
        self._turn: Turn | None = None
        self._action: Action | None = None
        self._stream: Stream | None = None
        self._account: Account | None = None
        self._counted = False  # as a query that was sent
        self._future: Future[Embedding] | None = None
        self._completion: Completion | None = None
        self._error: CrayonError | None = None
        self._closed = False
        self._span = NO_SPAN
        self._unopened: CrayonError | None = None  # why there is no device

    @property
    def route(self) -> Route | None:
        """How the answer was routed, from its first piece on (final with `completion`), else None."""
        return self._completion.route if self._completion else self._turn.route if self._turn else None

    @property
    def text(self) -> str:
        """The text so far."""
        return self._turn.text if self._turn else ""

    @property
    def partial(self) -> Any:
        """What the JSON written so far says, as plain values: a text that has begun is there as far as it goes.

        None before the first, and without a `response_format`.
        """
        return self._call.form.so_far(self.text) if self._call.form else None

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self._completion is not None

    @property
    def completion(self) -> Completion:
        """The whole answer, after its last piece.

        Raises:
            CrayonError: the answer failed.
            CancelledError: the answer was closed before its end.
            InvalidRequestError: it has not ended yet.
        """
        if self._completion is not None:
            return self._completion
        if self._error is not None:
            raise self._error
        if self._closed:
            raise CancelledError("the answer was closed before it was complete")
        raise InvalidRequestError("completion", "is there after the last piece; read the stream to its end first")

    def _cancel(self) -> None:
        """End what runs; safe from any thread, at any time, and twice."""
        self._closed = True
        if self._future is not None:
            self._future.cancel()
        if self._stream is not None:
            self._stream.cancel()
        self._close_account()
        self._span.end(CancelledError())

    def __del__(self) -> None:
        # Half-built if the constructor raised.
        if getattr(self, "_stream", None) is not None:
            self._cancel()

    # -- the parts of driving that never wait

    def _new_turn(self) -> Turn:
        return self._core.turn(self._call)

    def _ask(self, engine: Engine, action: Generate) -> Stream:
        support = action.support
        if support is None or not support.answers:
            return engine.generate(action.request)
        # One of a closed set is wanted: all are scored, and the likeliest comes as an answer of one token.
        request = score_request(action.request, support.answers)
        return Scoring(support.answers, given=False).start(engine, action.source, request, support)

    def _sent(self, action: Generate) -> GenerateRequest | ScoreRequest:
        """Return the request as the engine gets it."""
        return action.request

    def _look(self) -> None:
        """Look at what a server would be sent; that takes its time, and may ask the user.

        Raises:
            PrivacyError: the call must stay on the device, which may not answer it.
        """
        self._call = self._core.screen.look(self._call)

    def _begin(self) -> Turn:
        self._span = start_span(tracing.DEVICE_QUERY, {tracing.OPERATION: tracing.CHAT})
        self._turn = self._new_turn()
        lost = self._unopened
        self._action = self._turn.begin() if lost is None else self._turn.begin_without_device(lost)
        return self._turn

    def _do_without(self, source: Source, error: CrayonError) -> None:
        """Go on without the device where it cannot be opened and the server may answer.

        Raises:
            CrayonError: `error`, everywhere else.
        """
        if source is Source.SERVER or not self._core.engines.lost_device(error, self._call.allowed.sources):
            raise error
        self._unopened = error

    def _encode(self, gate: QueryGate, engine: Engine, action: Embed) -> Future[Embedding]:
        self._future = gate.encode(engine, EncodeRequest(texts=(action.text,), deadline=action.until))
        if self._closed:  # closed by another thread just before
            self._future.cancel()
        return self._future

    def _pay(self, action: Generate) -> BudgetError | None:
        """Open the request's account, or return why not; waits for the budget's file where there is a budget."""
        try:
            self._account = self._core.tracker.open(action.source, self._sent(action), counted=self._counted)
        except BudgetError as error:
            return error
        self._counted = self._counted or action.source is Source.SERVER
        if self._closed:  # while this waited
            self._close_account()
        return None

    def _start(self, turn: Turn, engine: Engine, action: Generate, refused: BudgetError | None) -> Action:
        if refused is not None:
            return turn.spent(refused)
        account = self._account
        if account is None:
            return self._failed(turn, CancelledError("the answer was closed before it began"))
        try:
            with self._span.active():
                self._stream = self._ask(engine, action)
            account.sent = True
        except CrayonError as error:
            self._close_account(error)
            return turn.failed(error)
        return turn.begun()

    def _received(self, turn: Turn, event: Event) -> Action:
        if self._account is not None:
            self._account.saw(event)
        return turn.received(event)

    def _timed_out(self, turn: Turn) -> Action:
        self._close_account(DeadlineExceededError())
        return turn.timed_out()

    def _close_account(self, error: CrayonError | None = None, *, answered: bool = False) -> None:
        account, self._account = self._account, None
        left = None if account is None else account.close(error, answered=answered)
        if left is not None:
            self._write(left)

    def _trace(self, done: Completion) -> None:
        attributes: dict[str, str | int] = {
            tracing.SOURCE: done.route.source.value,
            tracing.REASON: done.route.reason.value,
            tracing.MODEL: done.model,
            tracing.INPUT_TOKENS: done.usage.prompt_tokens,
            tracing.OUTPUT_TOKENS: done.usage.completion_tokens,
        }
        self._span.set(attributes)
        self._span.end()

    def _write(self, work: Callable[[], None]) -> None:
        """Do what may wait for a file, and does not raise."""
        work()

    def _stop(self) -> None:
        self._close_account()
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _failed(self, turn: Turn, error: CrayonError) -> Action:
        self._close_account(error if not self._closed else None)
        if self._closed:
            raise CancelledError("the answer was closed while it was read") from error
        return turn.failed(error)

    def _begin_shorter(self, turn: Turn, error: CrayonError) -> bool:
        """Begin anew with less, where there is too much and somebody knows what to leave out: there is no turn then."""
        if self._shorten is None or turn.text or self._closed or not isinstance(error, PromptTooLongError):
            return False
        shorter = self._shorten(self._asked, error)
        if shorter is None:
            return False
        self._span.end(error)
        self._stop()
        self._asked = self._call = shorter
        self._turn = self._action = None
        return True

    def _settle(self, turn: Turn) -> Piece | None:
        """Do what an action asks for towards the caller; None: there is still something to wait for or nothing left.

        Raises:
            CrayonError: the turn failed.
        """
        action = self._action
        if isinstance(action, Emit):
            self._action = turn.shown()
            return Piece(action.text, action.source, action.reasoning, action.calls, action.logprobs)
        if isinstance(action, Fail):
            if self._begin_shorter(turn, action.error):
                return None
            self._error = action.error
            self._span.end(action.error)
            raise action.error
        if isinstance(action, Done):
            self._completion = action.completion
            self._trace(action.completion)
            self._close_account(answered=True)
            self._write(partial(self._core.note, action.completion, turn.route_log.request_id))
            self._stop()
            if self._on_done is not None:
                self._on_done(action.completion)
        elif self._closed:
            raise CancelledError("the answer was closed while it was read")
        return None
