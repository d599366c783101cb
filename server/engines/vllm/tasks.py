"""What is computed for one request: vLLM's outputs as the events, or the result, that its caller waits for."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import ContinuationScore, Delta, Finished, ScoreResult, Started, TokenSignal, needs
from crayon.errors import EngineError
from crayon.llama.signals import check_finite
from crayon.server.engines.vllm.sampling import scoring, scoring_natively
from crayon.token_options import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from crayon.engine import GenerateRequest, ScoreRequest, Stream
    from crayon.errors import CrayonError
    from crayon.server.engines.vllm.adapters import Lora
    from crayon.stream import Promise

_LEAST = 1e-12  # a share of probability; less is rounding


class Outputs(Protocol):
    """Asks vLLM: tokens of the prompt, keyword arguments of `SamplingParams`, adapter; gives its outputs."""

    def __call__(self, ids: Sequence[int], params: dict[str, Any], lora: Lora | None) -> Any:
        """Return an asynchronous generator of `RequestOutput`s."""
        ...


@dataclass(eq=False, kw_only=True)
class VllmTask:
    """One request.

    Args:
        outputs: asks vLLM.
        hold: gets the adapter that it is computed with, and keeps it until `give_back`.
        give_back: takes it back.
        leave: called once, when it has left the queue: its first output came, or it ended before.
        deadline: a `time.monotonic()`.
    """

    outputs: Outputs
    hold: Callable[[], Awaitable[Lora | None]]
    give_back: Callable[[Lora], None]
    leave: Callable[[], None]
    deadline: float | None
    submitted: float = field(default_factory=time.monotonic)
    partial: str = ""
    _lora: Lora | None = None
    _waits: bool = True

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""
        raise NotImplementedError

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        raise NotImplementedError

    async def work(self) -> None:
        """Compute it."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what it holds. Safe to call twice."""
        self.begun()
        lora, self._lora = self._lora, None
        if lora is not None:
            self.give_back(lora)

    def begun(self) -> None:
        """Note that it no longer waits. Safe to call twice."""
        if self._waits:
            self._waits = False
            self.leave()


@dataclass(eq=False, kw_only=True)
class AnswerJob(VllmTask):
    """An answer, streamed."""

    wanted: GenerateRequest
    model: str
    ids: list[int]
    params: dict[str, Any]
    ends: frozenset[int]
    piece: Callable[[int], bytes]
    """Gives the bytes that a token adds to the text."""
    stream: Stream
    shown: int = 0

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""
        return self.stream.cancelled

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the rest; ignored after the end."""
        self.stream.fail(error)

    async def work(self) -> None:
        """Stream the answer."""
        self._lora = await self.hold()
        written, first, output = 0, 0.0, None
        async with aclosing(self.outputs(self.ids, self.params, self._lora)) as outputs:
            async for output in outputs:
                if not first:
                    first = time.monotonic()
                    self.begun()
                    wanted, constrained = self.wanted, self.wanted.constraint is not None
                    self.stream.push(Started(wanted.request_id, self.model, wanted.blend, constrained, needs(wanted)))
                part = output.outputs[0]
                tokens = len(part.token_ids) - self._ended_by_token(part)
                rows = tuple(zip(part.token_ids, part.logprobs or (), strict=False))[:tokens]
                signals = tuple(_signal(*row) for row in rows) if self.wanted.signals else ()
                top = self.wanted.top_logprobs
                likely = () if top is None else tuple(_likely(*row, top, self.piece) for row in rows)
                written += tokens
                self.partial += part.text
                if tokens or part.text:
                    self.stream.push(Delta(part.text, signals, tokens, logprobs=likely))
        if output is None or output.outputs[0].finish_reason not in _REASONS:
            raise EngineError("vLLM ended an answer without a reason")
        usage = Usage(len(self.ids), written, output.num_cached_tokens or 0, self.shown)
        reason = _REASONS[output.outputs[0].finish_reason]
        self.stream.push(Finished(reason, usage, self._timings(output.metrics, first)))

    def _ended_by_token(self, part: Any) -> bool:
        """Whether the last token is the model's end: it is no part of the answer."""
        if part.finish_reason != "stop" or isinstance(part.stop_reason, str) or self.wanted.sampling.ignore_eos:
            return False
        return bool(part.token_ids) and part.token_ids[-1] in self.ends

    def _timings(self, metrics: Any, first: float) -> Timings:
        now = time.monotonic()
        if metrics is None or not metrics.scheduled_ts or not metrics.first_token_ts:
            return Timings(prompt_ms=1000 * (first - self.submitted), decode_ms=1000 * (now - first))
        prompt = metrics.first_token_ts - metrics.scheduled_ts
        # What is not reading or writing is waiting: for the blend to be made, and for vLLM.
        return Timings(
            queue_ms=1000 * max(first - self.submitted - prompt, 0.0),
            prompt_ms=1000 * max(prompt, 0.0),
            decode_ms=1000 * (now - first),
        )


_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def _logprob(entry: Any) -> float:
    return min(check_finite(float(entry.logprob), "log-probabilities"), 0.0)


def _likely(token: int, likely: Any, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """Return how likely a token was, with the `top` likeliest of those that vLLM lists."""
    told = {each: TokenLogprob(each, piece(each), _logprob(found)) for each, found in likely.items()}
    ranked = sorted(told.values(), key=lambda each: (-each.logprob, each.token))
    return replace(told[token], top=tuple(ranked[:top]))


def _signal(token: int, likely: Any) -> TokenSignal:
    """Return a token's signal; tokens beyond those that vLLM lists count as one in the entropy, which is a bound."""
    logprob = _logprob(likely[token])
    shares = sorted((math.exp(each.logprob) for each in likely.values()), reverse=True)
    rest = max(1.0 - sum(shares), 0.0)
    entropy = -sum(share * math.log(share) for share in (*shares, rest) if share > _LEAST)
    margin = shares[0] - (shares[1] if len(shares) > 1 else 0.0)
    return TokenSignal(logprob, max(entropy, 0.0), min(max(margin, 0.0), 1.0))


@dataclass(eq=False, kw_only=True)
class ScoreJob(VllmTask):
    """Continuations scored, each with the prompt before it."""

    wanted: ScoreRequest
    model: str
    prompt: list[int]
    continuations: list[list[int]]
    native: bool
    promise: Promise[ScoreResult]

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""
        return self.promise.cancelled

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        self.promise.fail(error)

    async def work(self) -> None:
        """Score all of them, beside each other."""
        self._lora = await self.hold()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._score(part)) for part in self.continuations]
        scores = tuple(task.result() for task in tasks)
        usage = Usage(len(self.prompt) + sum(len(part) for part in self.continuations))
        self.promise.succeed(ScoreResult(scores, usage, self.model))

    async def _score(self, part: list[int]) -> ContinuationScore:
        if self.native:
            return await self._score_natively(part)
        rows: list[Any] = []
        async with aclosing(self.outputs(self.prompt, scoring(part), self._lora)) as outputs:
            async for output in outputs:
                self.begun()
                rows += zip(output.outputs[0].token_ids, output.outputs[0].logprobs or (), strict=True)
        if [token for token, _ in rows] != part:
            raise EngineError("vLLM did not score the text that it was given")
        return ContinuationScore(tuple(_logprob(row[token]) for token, row in rows))

    async def _score_natively(self, part: list[int]) -> ContinuationScore:
        ids = [*self.prompt, *part]
        found: Any = None
        async with aclosing(self.outputs(ids, scoring_natively(), self._lora)) as outputs:
            async for output in outputs:
                self.begun()
                found = output.prompt_logprobs or found
        if found is None or len(found) < len(ids):
            raise EngineError("vLLM gave no log-probabilities of the prompt")
        rows = zip(part, found[len(self.prompt) : len(ids)], strict=True)
        return ContinuationScore(tuple(_logprob(row[token]) for token, row in rows))
