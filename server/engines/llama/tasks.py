"""What the llama.cpp engine keeps of a request: its tokens, where its result goes, and what was computed so far."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from crayon.blending.lease import Lease
from crayon.completion import Timings, Usage
from crayon.engine import ContinuationScore, Delta, EncodeResult, Finished, ScoreResult, Started, needs
from crayon.errors import CancelledError, CrayonError, DeadlineExceededError, EngineError
from crayon.llama.answer import AnswerWriter
from crayon.llama.encoder import add_states
from crayon.llama.logprobs import token_logprob
from crayon.llama.sampler import Sampler
from crayon.llama.signals import log_softmax_at
from crayon.server.scheduler import DropReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from crayon.constraints import Matcher
    from crayon.engine import GenerateRequest, Stream, TokenSignal
    from crayon.llama.model import Model
    from crayon.llama.sampler import LogitRows
    from crayon.llama.signals import SignalMeter
    from crayon.server.engines.llama.encoder import CentredEncoder
    from crayon.server.scheduler import Request, Row
    from crayon.stream import Promise
    from crayon.token_options import TokenLogprob

Result = TypeVar("Result")


@dataclass(slots=True, eq=False, kw_only=True)
class Task(ABC):
    """One request on its way. Made by the caller's thread, afterwards only the engine's thread touches it."""

    entry: Request
    """What the scheduler knows of it."""
    model_name: str
    hold: Callable[[], Lease] = Lease
    """Loads the adapters of the request's blend."""
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    steps: int = 0
    """Engine calls that computed a part of it."""
    _lease: Lease | None = None

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""

    @abstractmethod
    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""

    @abstractmethod
    def tokens(self, row: Row) -> Sequence[int]:
        """Return the tokens of a row."""

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt's tokens; none of a request without one."""
        return ()

    @property
    def all_ids(self) -> Sequence[int]:
        """The tokens that a sequence holds of the request at its end, and perhaps one more."""
        return self.prompt_ids

    def start(self) -> None:
        """Note that the request has left the queue."""
        self.started = time.monotonic()

    def adapters(self) -> Lease:
        """Return the adapters to compute with: loaded at the first call, and held until `close`.

        Raises:
            CrayonError: they cannot be loaded.
        """
        if self._lease is None:
            self._lease = self.hold()
        return self._lease

    def finish(self) -> None:
        """Hand over the result: everything is computed. Here for tasks that did so on the way."""
        return

    def close(self) -> None:
        """Free what the task holds. Safe to call twice."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def drop(self, reason: DropReason) -> None:
        """Hand the caller the error that the scheduler's reason stands for."""
        match reason:
            case DropReason.CANCELLED:
                self.fail(CancelledError("the caller cancelled"))
            case DropReason.EXPIRED:
                where = "in the queue" if self.started is None else "while the request was computed"
                self.fail(DeadlineExceededError(f"the deadline passed {where}", self.partial))
            case DropReason.NEVER_FITS:
                self.fail(EngineError("the request needs more cache than the engine has"))

    @property
    def partial(self) -> str:
        """What was written so far."""
        return ""


@dataclass(slots=True, eq=False, kw_only=True)
class GenerateTask(Task):
    """An answer being written. `ids` is the prompt, later followed by the answer's tokens.

    What every answer under the constraint begins with is read with the prompt: for the scheduler it is a part of it.
    """

    request: GenerateRequest
    ids: list[int]
    stream: Stream
    model: Model
    meter: SignalMeter
    rule: Matcher | None = None
    """What the answer must look like."""
    shown: int = 0
    """Tokens of the prompt that say so."""
    marks: Mapping[int, bytes] | None = None
    """Tokens that are no text, and yet are to be seen in the answer: as which text."""
    forced: int = 0
    """Tokens that the last one taken left no choice about, and that are computed with it."""
    _prompt: int = field(init=False)
    _answer: AnswerWriter = field(init=False)
    _sampler: Sampler | None = None
    _pieces: list[str] = field(default_factory=list)
    _likely: tuple[TokenLogprob, ...] = ()
    _first_at: float = 0.0
    _first_steps: int = 0

    def __post_init__(self) -> None:
        self._prompt = len(self.ids)
        self._answer = AnswerWriter(
            self.model,
            self.request.sampling,
            self.entry.max_tokens,
            self.rule,
            self.marks,
            forces=self.request.top_logprobs is None,
        )
        begun = self._answer.begin()
        self.ids += begun
        self.entry.prompt += len(begun)
        self.entry.max_tokens -= len(begun)

    @property
    def complete(self) -> bool:
        """Whether the constraint left no choice at all, so that nothing is to be computed."""
        return self._answer.reason is not None

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""
        return self.stream.cancelled

    @property
    def partial(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        self.stream.fail(error)

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt's tokens."""
        return self.ids[: self.entry.prompt]

    @property
    def all_ids(self) -> Sequence[int]:
        """The prompt's tokens and those of the answer."""
        return self.ids

    def tokens(self, row: Row) -> Sequence[int]:
        """Return the tokens of a row."""
        return self.ids[row.start : row.start + row.tokens]

    def start(self) -> None:
        """Note that the request has left the queue, and get ready to sample."""
        Task.start(self)
        self._sampler = Sampler(self.request.sampling, self.meter, self.rule, self.request.logit_bias)
        self._sampler.prime(self.ids)
        wanted = self.request
        constrained = wanted.constraint is not None
        self.stream.push(Started(wanted.request_id, self.model_name, wanted.blend, constrained, needs(wanted)))

    def sample(self, context: LogitRows, row: int) -> bool:
        """Take the next token from a row of logits; return whether the answer ends with it."""
        return self.take(*self.pick(context, row))

    def pick(self, context: LogitRows, row: int) -> tuple[int, TokenSignal | None]:
        """Return the next token from a row of logits, and its signal where it is wanted, as `draw`."""
        token, signal = (
            self._started_sampler.sample(context, row) if self.request.signals else (self.draw(context, row), None)
        )
        top = self.request.top_logprobs
        if top is not None:
            self._likely = (token_logprob(context.logits(row), token, top, self._answer.piece),)
        return token, signal

    def needs_mask(self, context: LogitRows, row: int) -> bool:
        """Whether all tokens that may come next have to be known, and not only whether the likeliest may."""
        if self.request.signals or not self.greedy:
            return True
        return self.rule is not None and not self.rule.allows(int(context.logits(row).argmax()))

    @property
    def greedy(self) -> bool:
        """Whether the next token is simply the likeliest, so that nobody has to `draw` it.

        Raises:
            EngineError: the request was never started.
        """
        return self._started_sampler.greedy

    def draw(self, context: LogitRows, row: int) -> int:
        """Return the next token, from a row of logits; it is `take` that makes it part of the answer.

        Raises:
            EngineError: the request was never started.
        """
        return self._started_sampler.draw(context, row)

    def take(self, token: int, signal: TokenSignal | None = None) -> bool:
        """Make a token the next of the answer; return whether the answer ends with it."""
        if not self._first_at:
            self._first_at = time.monotonic()
            self._first_steps = self.steps
        given = self._answer.take(token)
        self.forced = max(len(given) - 1, 0)
        if given:
            self.ids += given
            self._started_sampler.take(given[1:])
            self._tell(() if signal is None else (signal,))
        if self._answer.reason is None:
            return False
        self.end()
        return True

    def close(self) -> None:
        """Free the sampler and what else the task holds. Safe to call twice."""
        Task.close(self)
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    @property
    def _started_sampler(self) -> Sampler:
        if self._sampler is None:
            raise EngineError("the request was never started")
        return self._sampler

    def _tell(self, signals: tuple[TokenSignal, ...]) -> None:
        text, count = self._answer.fresh()
        if text:
            self._pieces.append(text)
        self.stream.push(Delta(text, signals, count, logprobs=self._likely))

    def end(self) -> None:
        """Tell the caller that the answer, for which there is a reason, has ended."""
        answer = self._answer
        if answer.reason is None:
            raise EngineError("an answer was ended before its end")
        rest, count = answer.finish()
        if rest or count:
            self._pieces.append(rest)
            self.stream.push(Delta(rest, tokens=count))
        now = time.monotonic()
        started, first = self.started or self.submitted, self._first_at or now
        timings = Timings(
            queue_ms=1000 * (started - self.submitted),
            prompt_ms=1000 * (first - started),
            decode_ms=1000 * (now - first),
            prompt_steps=self._first_steps,
            decode_steps=self.steps - self._first_steps,
        )
        usage = Usage(self._prompt, answer.written, shown_tokens=self.shown, forced_tokens=answer.forced)
        self.stream.push(Finished(answer.reason, usage, timings))


@dataclass(slots=True, eq=False, kw_only=True)
class FutureTask(Task, Generic[Result]):
    """A request whose result comes in one piece."""

    promise: Promise[Result]

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants it. From any thread."""
        return self.promise.cancelled

    def fail(self, error: CrayonError) -> None:
        """Hand the caller an error in place of the result; ignored after the end."""
        self.promise.fail(error)


@dataclass(slots=True, eq=False, kw_only=True)
class ScoreTask(FutureTask[ScoreResult]):
    """Continuations being scored. The scheduler's branch b is the b-th continuation of more than one token."""

    prompt: list[int]
    continuations: list[list[int]]
    _long: list[int] = field(init=False)
    _scores: list[list[float]] = field(init=False)

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt's tokens."""
        return self.prompt

    def __post_init__(self) -> None:
        self._long = [i for i, part in enumerate(self.continuations) if len(part) > 1]
        self._scores = [[] for _ in self.continuations]

    @staticmethod
    def branches(continuations: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the lengths to compute: every token but the last predicts the next one."""
        return tuple(len(part) - 1 for part in continuations if len(part) > 1)

    def tokens(self, row: Row) -> Sequence[int]:
        """Return the tokens of a row."""
        if row.branch is None:
            return self.prompt[row.start : row.start + row.tokens]
        at = row.start - len(self.prompt)
        return self.continuations[self._long[row.branch]][at : at + row.tokens]

    def read(self, context: LogitRows, row: Row, batch_rows: range) -> None:
        """Book the log-probabilities that a computed row gives."""
        if row.branch is None:
            if row.logits:
                firsts = log_softmax_at(context.logits(batch_rows[-1]), [part[0] for part in self.continuations])
                for scores, first in zip(self._scores, firsts, strict=True):
                    scores.append(float(first))
            return
        which = self._long[row.branch]
        at = row.start - len(self.prompt)
        for offset, batch_row in enumerate(batch_rows):
            following = self.continuations[which][at + offset + 1]
            self._scores[which].append(float(log_softmax_at(context.logits(batch_row), [following])[0]))

    def finish(self) -> None:
        """Hand over the result."""
        usage = Usage(len(self.prompt) + sum(map(len, self.continuations)))
        scores = tuple(ContinuationScore(tuple(part)) for part in self._scores)
        result = ScoreResult(scores, usage, self.model_name)
        self.promise.succeed(result)


@dataclass(slots=True, eq=False, kw_only=True)
class EncodeTask(FutureTask[EncodeResult]):
    """Texts being embedded: `texts` of the caller, followed by the background while the centre is not known yet."""

    texts: list[list[int]]
    background: list[int]
    """Numbers of the background texts that follow the caller's."""
    encoder: CentredEncoder
    _sums: NDArray[np.float64] = field(init=False)
    """Sum of hidden states of each text, shape (len(texts), dimensions)."""

    def __post_init__(self) -> None:
        self._sums = np.zeros((len(self.texts), self.encoder.dimensions))

    @property
    def wanted(self) -> int:
        """How many texts are the caller's."""
        return len(self.texts) - len(self.background)

    def tokens(self, row: Row) -> Sequence[int]:
        """Return the tokens of a row."""
        if row.branch is None:
            raise EngineError("an encoded text has no prompt")
        return self.texts[row.branch][row.start : row.start + row.tokens]

    def read(self, states: NDArray[np.float32], row: Row) -> None:
        """Add the hidden states of a computed row, shape (tokens, dimensions)."""
        if row.branch is None:
            raise EngineError("an encoded text has no prompt")
        add_states(self._sums[row.branch], states, row.start)
        if row.branch >= self.wanted and row.start + row.tokens == len(self.texts[row.branch]):
            self.encoder.learn(self.background[row.branch - self.wanted], self._sums[row.branch])

    def finish(self) -> None:
        """Hand over the result."""
        texts = self.texts[: self.wanted]
        vectors = self.encoder.vectors(texts, self._sums[: self.wanted])
        self.promise.succeed(EncodeResult(vectors, Usage(sum(map(len, texts))), self.model_name))
