"""What the device's compute thread does with the model: answers and scores, in steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from crayon.completion import FinishReason, Timings, Usage
from crayon.device.slots import Slot, SlotTable
from crayon.device.turns import Turns
from crayon.engine import ContinuationScore, Delta, Finished, ScoreResult, Started
from crayon.errors import EngineError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.sampler import Sampler
from crayon.llama.signals import SignalMeter, log_softmax_at
from crayon.llama.text import TextAssembler

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from crayon.blending.lease import Lease
    from crayon.completion import Blend
    from crayon.device.job import Job
    from crayon.engine import GenerateRequest, Stream
    from crayon.llama.adapter import Adapter
    from crayon.llama.model import Model

    Adapters: TypeAlias = Sequence[tuple[Adapter, float]]
    Hold: TypeAlias = Callable[[], Lease]  # loads a blend's adapters; they are freed once the lease is released

SLOTS = 4  # conversations whose prefix stays computed; also the most answers written in turn
BRANCHES = 16  # continuations scored together
SCORED_ROWS = 64  # rows with logits in one step: 64 x 49,152 floats are 12 MB


class Compute:
    """One context and the steps of jobs on it. `n_ctx` cells are shared by all. For one thread, save `abort`."""

    def __init__(self, model: Model, *, name: str, n_ctx: int, n_batch: int, threads: int | None) -> None:
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_seq_max=SLOTS + BRANCHES,
            n_outputs_max=SCORED_ROWS,
            threads=threads,
        )
        self.n_ctx = n_ctx
        self._model = model
        self._name = name
        self._batch = Batch(self._context.n_batch)
        self._slots = SlotTable(self._context, slots=SLOTS, capacity=self._context.n_ctx)
        self._meter = SignalMeter(model.n_vocab)
        self._entry = Turns()  # a large request is not overtaken for ever by small ones
        self._branching = Turns()  # the branch sequences are there once

    @property
    def context(self) -> Context:
        """The context: which adapters it applies may be asked from any thread."""
        return self._context

    def abort(self) -> None:
        """Stop the running step, from any thread."""
        self._context.abort()

    def clear_abort(self) -> None:
        """Let steps run again."""
        self._context.clear_abort()

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def _admit(self, blend: Blend | None, tokens: list[int], reserve: int) -> Generator[None, None, tuple[Slot, int]]:
        """Wait for a slot; return it and how many of the tokens it already holds."""
        while (found := self._slots.acquire(blend, tokens, reserve)) is None:
            yield
        return found

    def generate(
        self,
        job: Job,
        stream: Stream,
        request: GenerateRequest,
        tokens: list[int],
        blend: Blend | None,
        hold: Hold,
    ) -> Iterator[None]:
        """Answer a prompt into `stream`; `blend` is what `hold` applies (None: the base), and keys the cache."""
        limit = min(request.sampling.max_tokens, self.n_ctx - len(tokens))
        slot, cached = yield from self._entry.held(self._admit(blend, tokens, len(tokens) + limit))
        try:
            with hold() as adapters, Sampler(request.sampling, self._meter) as sampler:
                started = time.monotonic()
                stream.push(Started(request.request_id, self._name, request.blend))
                sampler.prime(tokens)
                yield from self._prefill(slot, tokens[cached:], adapters)
                row = self._batch.size - 1
                assembler = TextAssembler(request.sampling.stop)
                written, first, reason = 0, 0.0, FinishReason.LENGTH
                while True:
                    token, signal = sampler.sample(self._context, row)
                    first = first or time.monotonic()
                    if self._model.is_end(token) and not request.sampling.ignore_eos:
                        reason = FinishReason.STOP
                        break
                    written += 1
                    text = assembler.push(self._model.piece(token))
                    job.partial += text
                    stream.push(Delta(text, (signal,)))
                    if assembler.stopped:
                        reason = FinishReason.STOP
                        break
                    if written >= limit:
                        break
                    yield
                    row = self._compute(slot, [token], adapters, last=True)
                rest = assembler.finish()
                if rest:
                    stream.push(Delta(rest, tokens=0))
                ended = time.monotonic()
                stream.push(
                    Finished(
                        reason,
                        Usage(len(tokens), written, cached),
                        Timings(1000 * (started - job.submitted), 1000 * (first - started), 1000 * (ended - first)),
                    )
                )
        finally:
            self._slots.release(slot)

    def score(
        self,
        deliver: Callable[[ScoreResult], None],
        tokens: list[int],
        lists: list[list[int]],
        blend: Blend | None,
        hold: Hold,
    ) -> Iterator[None]:
        """Score continuations (token lists) after a prompt; `blend` and `hold` as in `generate`."""
        groups = list(self._branch_groups(lists, len(tokens)))
        branched = max((sum(len(lists[i]) - 1 for i in group) for group in groups), default=0)
        slot, cached = yield from self._entry.held(self._admit(blend, tokens, len(tokens) + branched))
        try:
            with hold() as adapters:
                yield from self._prefill(slot, tokens[cached:], adapters)
                firsts = log_softmax_at(self._context.logits(self._batch.size - 1), [part[0] for part in lists])
                scores = [[float(first)] for first in firsts]
                for group in groups:
                    yield from self._branching.held(self._branch(slot, group, lists, scores, adapters))
            usage = Usage(len(tokens) + sum(len(part) for part in lists), 0, cached)
            deliver(ScoreResult(tuple(ContinuationScore(tuple(s)) for s in scores), usage, self._name))
        finally:
            self._slots.release(slot)

    def _branch_groups(self, lists: list[list[int]], prompt: int) -> Iterator[list[int]]:
        """Yield indexes of continuations that are computed together: sequences and cells are limited."""
        group: list[int] = []
        cells = 0
        for i, part in enumerate(lists):
            need = len(part) - 1
            if need == 0:
                continue
            if group and (len(group) == BRANCHES or prompt + cells + need > self.n_ctx):
                yield group
                group, cells = [], 0
            group.append(i)
            cells += need
        if group:
            yield group

    def _branch(
        self,
        slot: Slot,
        group: list[int],
        lists: list[list[int]],
        scores: list[list[float]],
        adapters: Adapters,
    ) -> Generator[None, None, None]:
        """Score the tokens after the first of each continuation of a group, all under the shared prompt."""
        base = len(slot.tokens)
        branches = {i: SLOTS + b for b, i in enumerate(group)}
        try:
            for branch in branches.values():
                self._context.copy(slot.sequence, branch, 0, base)
            # Every row predicts the token after it; the last token of a continuation predicts nothing we want.
            todo = [(i, at) for i in group for at in range(len(lists[i]) - 1)]
            while todo:
                yield
                size = min(SCORED_ROWS, self._batch.capacity)
                part, todo = todo[:size], todo[size:]
                self._batch.clear()
                for i, at in part:
                    self._batch.add([lists[i][at]], base + at, branches[i], "last")
                self._context.set_adapters(adapters)
                self._context.decode(self._batch)
                for row, (i, at) in enumerate(part):
                    scores[i].append(float(log_softmax_at(self._context.logits(row), [lists[i][at + 1]])[0]))
        finally:
            for branch in branches.values():
                self._context.remove(branch)

    def _prefill(self, slot: Slot, tokens: Sequence[int], adapters: Adapters) -> Iterator[None]:
        size = self._batch.capacity
        for start in range(0, len(tokens), size):
            if start:
                yield
            part = tokens[start : start + size]
            self._compute(slot, part, adapters, last=start + size >= len(tokens))

    def _compute(self, slot: Slot, tokens: Sequence[int], adapters: Adapters, *, last: bool) -> int:
        """Decode tokens at the end of a slot; return the row of the last."""
        self._batch.clear()
        self._batch.add(tokens, len(slot.tokens), slot.sequence, "last" if last else "none")
        self._context.set_adapters(adapters)
        try:
            self._context.decode(self._batch)
        except EngineError:
            self._slots.forget(slot)
            raise
        slot.tokens.extend(tokens)
        return self._batch.size - 1
