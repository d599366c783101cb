"""What a client's answers cost and how fast they were, and what that means for its next query."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from crayon.completion import Source
from crayon.contention import here
from crayon.engine import Delta, EncodeRequest, Finished, ScoreRequest, Started
from crayon.errors import (
    AdapterError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    ServerInterruptedError,
    ServerRejectedError,
    ServerUnavailableError,
)
from crayon.messages import question
from crayon.router.budget import Budget, Cost
from crayon.router.conditions import Conditions, weigh
from crayon.router.language import possible_languages
from crayon.router.overrides import Circumstances, is_foreign, least_tokens, likely_tokens, under
from crayon.sdk.budget.guard import BudgetGuard
from crayon.sdk.budget.speed_meters import Meters
from crayon.sdk.budget.store import BudgetStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from crayon.completion import Reason
    from crayon.engine import Engine, Event, GenerateRequest
    from crayon.messages import Message
    from crayon.router.budget import Reserved
    from crayon.router.policy import Allowed
    from crayon.sdk.call.engines import Engines
    from crayon.sdk.call.options import Call

Work = TypeVar("Work", bound="Future[Any]")

# What says that the server never took a request, if nothing had come back.
NOT_TAKEN = (ServerUnavailableError, ServerRejectedError, OverloadedError, InvalidRequestError, AdapterError)
LOST = (ServerUnavailableError, ServerInterruptedError, DeadlineExceededError)


class UsageTracker:
    """Budget, meters and circumstances of one client, for any thread.

    Args:
        budget: limits of what may go to the server, or None.
        conditions: when circumstances have a say; None: only for prompts that do not fit the device.
        engines: the client's.

    Raises:
        InvalidRequestError: an argument is of another kind.
    """

    def __init__(self, budget: Budget | None, conditions: Conditions | None, engines: Engines) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise InvalidRequestError("budget", f"must be a Budget or None, not {type(budget).__name__}")
        if conditions is not None and not isinstance(conditions, Conditions):
            raise InvalidRequestError("conditions", f"must be Conditions or None, not {type(conditions).__name__}")
        self._engines = engines
        self._conditions = conditions or Conditions()
        self.budget_guard = BudgetGuard(budget, BudgetStore())
        self.meters = Meters(slowdown=lambda: here().slowdown())
        self.weighed: Reason | None = None
        """What the conditions said last."""

    # -- before a query

    def affordable(self, allowed: Allowed) -> Allowed:
        """Return what the policy allows as far as the budget goes.

        Raises:
            BudgetError: it is used up, and only the server may answer.
        """
        left = self.budget_guard.status() if Source.SERVER in allowed.sources else None
        return allowed if left is None else under(allowed, Circumstances(limit=left.limit, problem=left.problem))

    def fitting(self, call: Call) -> Allowed:
        """Return which sides a call allows, in the order that prompt, language and conditions ask for."""
        allowed = call.allowed
        if len(allowed.sources) == 1:
            return allowed
        text = question(call.messages)
        languages = self._conditions.device_languages
        now = Circumstances(
            long=allowed.sources[0] is Source.DEVICE and self._too_long(call.messages),
            foreign=bool(languages) and is_foreign(possible_languages(text), languages),
            weighed=self._weigh(call),
        )
        return under(allowed, now)

    def _weigh(self, call: Call) -> Reason | None:
        if not self._conditions.speed:
            return None
        prompt_tokens = likely_tokens(_characters(call.messages))
        self.weighed = weigh(
            self._conditions,
            self.meters.read(),
            prompt_tokens=prompt_tokens,
            max_tokens=call.sampling.max_tokens,
            before=self.weighed,
        )
        return self.weighed

    def _too_long(self, messages: tuple[Message, ...]) -> bool:
        engine = self._engines.open(Source.DEVICE) if self._engines.opened(Source.DEVICE) else None
        limits = [self._conditions.max_prompt_tokens, _context(engine)]
        limit = min((limit for limit in limits if limit is not None), default=None)
        # A token has a byte at least; what a template adds to a prompt this near to the limit, the engine finds out.
        if limit is None or sum(len(text.encode()) for each in messages for text in each.texts) <= limit:
            return False
        count = getattr(engine, "count_tokens", None)
        if callable(count):
            try:
                return int(count(messages)) > limit
            except CrayonError:  # it cannot read them at all, which it says itself where it is asked to answer
                return False
        return sum(least_tokens(text) for message in messages for text in message.texts) > limit

    # -- around a query

    def open(self, source: Source, request: GenerateRequest | ScoreRequest, *, counted: bool = False) -> Account:
        """Return the account of one request that is about to be made; waits for the budget's file where there is one.

        Args:
            source: who is asked.
            request: what is asked; scores stand for a choice, which is an answer of one token.
            counted: whether the query has been counted as sent already.

        Raises:
            BudgetError: the budget is used up, or cannot be told; nothing may be sent.
        """
        reserved = None
        if source is Source.SERVER:
            answer_tokens = 1 if isinstance(request, ScoreRequest) else request.sampling.max_tokens
            reserved = self.budget_guard.reserve(Cost(likely_tokens(_sent_characters(request)), answer_tokens))
        return Account(self, source, reserved, counted=counted)

    def paid(self, source: Source, request: ScoreRequest | EncodeRequest, start: Callable[[Any], Work]) -> Work:
        """Start a request that is no answer, and charge it at its end where it goes to the server.

        Raises:
            BudgetError: as `open`.
        """
        if source is Source.DEVICE or self.budget_guard.budget is None:
            return start(request)
        reserved = self.budget_guard.reserve(Cost(likely_tokens(_sent_characters(request)), 0))
        if reserved is None:
            return start(request)
        try:
            future = start(request)
        except CrayonError:
            self.budget_guard.settle(reserved, None)
            raise
        future.add_done_callback(lambda done: self.budget_guard.settle(reserved, _result_cost(done, reserved)))
        return future


@dataclass(slots=True)
class _Seen:
    """What came back so far, and when."""

    started: float | None = None
    first_token: float | None = None
    tokens: int = 0
    finished: Finished | None = None
    end: float = 0.0


class Account:
    """One request at one engine: sees its events, and is closed once."""

    def __init__(self, tracker: UsageTracker, source: Source, reserved: Reserved | None, *, counted: bool) -> None:
        self._accounts = tracker
        self.source = source
        self._reserved = reserved
        self.sent = False
        """Whether the engine took the request, so that it may cost something."""
        self._counted = counted
        self._begin = time.monotonic()
        self._seen = _Seen()
        self._lock = threading.Lock()
        self._closed = False
        self._beside = tracker.meters.device_begins() if source is Source.DEVICE else 0

    def saw(self, event: Event) -> None:
        """Take in an event as it comes."""
        now, seen = time.monotonic(), self._seen
        match event:
            case Started():
                seen.started = now
            case Delta():
                seen.tokens += event.tokens
                seen.first_token = now if seen.first_token is None else seen.first_token
            case Finished():
                seen.finished, seen.end = event, now

    def close(self, error: CrayonError | None = None, *, answered: bool = False) -> Callable[[], None] | None:
        """Take in the end; return what is left to do if anything: it may wait for a file, and does not raise.

        Args:
            error: what the engine, or the lack of an answer, said.
            answered: whether this was the answer that the caller got.
        """
        with self._lock:
            if self._closed:
                return None
            self._closed = True
        seen, budget_guard = self._seen, self._accounts.budget_guard
        if self.source is Source.DEVICE:
            self._accounts.meters.device_ends(seen.finished, self._beside)
            return budget_guard.keep if answered and not self._counted else None
        self._measure(error)
        return None if self._reserved is None else partial(budget_guard.settle, self._reserved, self._cost(error))

    def _measure(self, error: CrayonError | None) -> None:
        seen, meters, begin = self._seen, self._accounts.meters, self._begin
        if seen.finished is not None:
            meters.server_answered(
                seen.finished,
                started_s=None if seen.started is None else seen.started - begin,
                first_token_s=None if seen.first_token is None else seen.first_token - begin,
                total_s=seen.end - begin,
            )
        elif isinstance(error, LOST):
            meters.server_lost()

    def _cost(self, error: CrayonError | None) -> Cost | None:
        seen = self._seen
        least = self._reserved.cost.prompt_tokens if self._reserved else 0
        if seen.finished is not None:
            usage = seen.finished.usage
            return Cost(usage.prompt_tokens or least, max(usage.completion_tokens, seen.tokens))
        if not self.sent:
            return None
        untouched = seen.started is None and not seen.tokens
        return None if untouched and isinstance(error, NOT_TAKEN) else Cost(least, seen.tokens)


def _result_cost(done: Future[Any], reserved: Reserved) -> Cost | None:
    if done.cancelled():
        return reserved.cost
    error = done.exception()
    if error is not None:
        return None if isinstance(error, NOT_TAKEN) else reserved.cost
    usage = done.result().usage
    return Cost(usage.prompt_tokens or reserved.cost.prompt_tokens, usage.completion_tokens)


def _characters(messages: tuple[Message, ...]) -> int:
    return sum(message.size for message in messages)


def _sent_characters(request: GenerateRequest | ScoreRequest | EncodeRequest) -> int:
    if isinstance(request, EncodeRequest):
        return sum(map(len, request.texts))
    continuations = request.continuations if isinstance(request, ScoreRequest) else ()
    return _characters(request.messages) + sum(map(len, continuations))


def _context(engine: Engine | None) -> int | None:
    """Return the longest prompt that an engine in this process takes, if it tells."""
    if engine is None or hasattr(engine, "address"):
        return None  # a connection would have to ask
    try:
        models = engine.models()
    except CrayonError:
        return None
    return models[0].context_tokens - 1 if models else None
