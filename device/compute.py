"""What the device's compute thread does with the model: answers and scores, in steps."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from crayon.completion import Timings, Usage
from crayon.constraints.vocabulary import Constraining
from crayon.device.branches import Group, groups
from crayon.device.fair_lock import FairLock
from crayon.device.slots import KvSlot, SlotTable
from crayon.engine import ContinuationScore, Delta, Finished, ScoreResult, Started, needs
from crayon.errors import EngineError, NotFiniteError
from crayon.llama.answer import AnswerWriter
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.logprobs import token_logprob
from crayon.llama.sampler import Sampler
from crayon.llama.signals import SignalMeter, log_softmax_at
from crayon.llama.vocabulary import ModelVocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from crayon.blending.lease import Lease
    from crayon.completion import Blend
    from crayon.constraint import Constraint
    from crayon.device.job import Job
    from crayon.device.prefixes import SharedPrefix
    from crayon.engine import GenerateRequest, Stream
    from crayon.llama.adapter import Adapter
    from crayon.llama.model import Model

    Adapters: TypeAlias = Sequence[tuple[Adapter, float]]
    Hold: TypeAlias = Callable[[], Lease]  # loads a blend's adapters; they are freed once the lease is released

logger = logging.getLogger("crayon.device")

SLOTS = 4  # conversations whose prefix stays computed; also the most answers written in turn
BRANCHES = 16  # continuations scored together
PINS = 2  # shared prefixes that stay computed beside the conversations
SCORED_ROWS = 64  # rows with logits in one step: 64 x 49,152 floats are 12 MB


class Compute:
    """One context and the steps of jobs on it. `n_ctx` cells are shared by all. For one thread, save `abort`."""

    def __init__(self, model: Model, *, name: str, n_ctx: int, n_batch: int, threads: int | None) -> None:
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_seq_max=SLOTS + BRANCHES + PINS,
            n_outputs_max=SCORED_ROWS,
            threads=threads,
        )
        self.n_ctx = n_ctx
        self._model = model
        self._name = name
        self._batch = Batch(self._context.n_batch, sequences_per_row=BRANCHES)
        pins = range(SLOTS + BRANCHES, SLOTS + BRANCHES + PINS)
        self._slots = SlotTable(self._context, slots=SLOTS, capacity=self._context.n_ctx, pins=pins)
        self._meter = SignalMeter(model.n_vocab)
        self._constraining = Constraining(ModelVocabulary(model))
        self._entry = FairLock()  # a large request is not overtaken for ever by small ones
        self._branching = FairLock()  # the branch sequences are there once

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

    def _admit(self, blend: Blend | None, tokens: list[int], reserve: int) -> Generator[None, None, tuple[KvSlot, int]]:
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
        prefix: SharedPrefix | None = None,
        shown: int = 0,
        rule_of: Constraint | None = None,
        *,
        checked: bool = False,
        primed: bool = True,
        marks: Mapping[int, bytes] | None = None,
    ) -> Iterator[None]:
        """Answer a prompt into `stream`; `blend` is what `hold` applies (None: the base), and keys the cache.

        `prefix` are the prompt's first tokens that are worth keeping for others, `shown` how many of its tokens tell
        of the constraint. `rule_of` is what the answer is held to; see `Constraining.matcher` for `checked`, and
        `AnswerWriter` for `marks`. Without `primed`, penalties look at the answer alone, not at the prompt's end.
        """
        # Before anything is computed: it may be one that cannot be kept.
        rule = None if rule_of is None else self._constraining.matcher(rule_of, checked=checked)
        limit = min(request.sampling.max_tokens, self.n_ctx - len(tokens))
        slot, cached = yield from self._entry.held(self._admit(blend, tokens, len(tokens) + limit))
        try:
            with hold() as adapters, Sampler(request.sampling, self._meter, rule, request.logit_bias) as sampler:
                started = time.monotonic()
                stream.push(
                    Started(
                        request.request_id, self._name, request.blend, request.constraint is not None, needs(request)
                    )
                )
                if primed:
                    sampler.prime(tokens)
                top = request.top_logprobs
                answer = AnswerWriter(self._model, request.sampling, limit, rule, marks, forces=top is None)
                given = answer.begin()
                sampler.take(given)
                cached = self._recall(slot, cached, prefix)
                first = 0.0
                if answer.reason is None:
                    yield from self._read(slot, [*tokens, *given], adapters, prefix)
                while answer.reason is None:
                    row = self._batch.size - 1
                    token, signal = sampler.sample(self._context, row)
                    told = () if top is None else (token_logprob(self._context.logits(row), token, top, answer.piece),)
                    first = first or time.monotonic()
                    given = answer.take(token)
                    sampler.take(given[1:])
                    if given:
                        text, count = answer.fresh()
                        job.partial += text
                        stream.push(Delta(text, (signal,), count, logprobs=told))
                    if answer.reason is None:
                        yield
                        yield from self._prefill(slot, given, adapters)
                rest, count = answer.finish()
                if rest or count:
                    stream.push(Delta(rest, tokens=count))
                ended = time.monotonic()
                first = first or ended
                usage = Usage(len(tokens), answer.written, cached, shown, answer.forced)
                stream.push(
                    Finished(
                        answer.reason,
                        usage,
                        Timings(1000 * (started - job.submitted), 1000 * (first - started), 1000 * (ended - first)),
                    )
                )
                self._store(slot, prefix)  # nobody waits for it any more
        except NotFiniteError:
            self._slots.spoil(slot)
            raise
        finally:
            self._slots.release(slot)

    def score(
        self,
        deliver: Callable[[ScoreResult], None],
        tokens: list[int],
        lists: list[list[int]],
        blend: Blend | None,
        hold: Hold,
        prefix: SharedPrefix | None = None,
    ) -> Iterator[None]:
        """Score continuations (token lists) after a prompt; `blend`, `hold` and `prefix` as in `generate`."""
        tree = list(groups(lists, branches=BRANCHES, cells=self.n_ctx - len(tokens), shared=self._context.shares_rows))
        branched = max((len(group.nodes) for group in tree), default=0)
        slot, cached = yield from self._entry.held(self._admit(blend, tokens, len(tokens) + branched))
        try:
            with hold() as adapters:
                cached = self._recall(slot, cached, prefix)
                yield from self._read(slot, tokens, adapters, prefix)
                scores = [[0.0] * len(part) for part in lists]
                firsts = log_softmax_at(self._context.logits(self._batch.size - 1), [part[0] for part in lists])
                for own, first in zip(scores, firsts, strict=True):
                    own[0] = float(first)
                for group in tree:
                    yield from self._branching.held(self._branch(slot, group, scores, adapters))
            usage = Usage(len(tokens) + sum(len(part) for part in lists), 0, cached)
            deliver(ScoreResult(tuple(ContinuationScore(tuple(s)) for s in scores), usage, self._name))
            self._store(slot, prefix)
        except NotFiniteError:
            self._slots.spoil(slot)
            raise
        finally:
            self._slots.release(slot)

    def _branch(
        self, slot: KvSlot, group: Group, scores: list[list[float]], adapters: Adapters
    ) -> Generator[None, None, None]:
        """Fill in the scores of the tokens that a group's nodes predict, all under the shared prompt."""
        base = len(slot.tokens)
        branches = range(SLOTS, SLOTS + group.branches)
        try:
            for branch in branches:
                self._context.copy(slot.sequence, branch, 0, base)
            todo = group.nodes
            while todo:
                yield
                size = min(SCORED_ROWS, self._batch.capacity)
                part, todo = todo[:size], todo[size:]
                self._batch.clear()
                for node in part:
                    self._batch.add([node.token], base + node.depth, [branches[b] for b in node.branches], "last")
                self._context.set_adapters(adapters)
                self._context.decode(self._batch)
                for row, node in enumerate(part):
                    found = log_softmax_at(self._context.logits(row), list(node.reads))
                    for readers, score in zip(node.reads.values(), found, strict=True):
                        for i in readers:
                            scores[i][node.depth + 1] = float(score)
        finally:
            for branch in branches:
                self._context.remove(branch)

    # -- prefixes that others share

    def _recall(self, slot: KvSlot, cached: int, prefix: SharedPrefix | None) -> int:
        """Take up a prefix that is kept from an earlier run, if the slot lacks it; return how many tokens it holds."""
        if prefix is None or prefix.kept is None or cached >= len(prefix.tokens):
            return cached
        state = prefix.kept.load()
        pin = self._slots.place(slot, prefix.tokens) if state is not None else None
        if state is None or pin is None:
            return cached
        try:
            self._context.restore(pin.sequence, state)
            if self._context.length(pin.sequence) != len(prefix.tokens):
                raise EngineError("its state has another length")
        except EngineError as error:
            logger.debug("the prefix kept in %s is computed anew: %s", prefix.kept.path, error)
            self._slots.drop(pin)
            prefix.kept.discard()
        else:
            pin.file = prefix.kept.path
            self._slots.take(slot, pin)
        return len(slot.tokens)

    def _read(
        self, slot: KvSlot, tokens: Sequence[int], adapters: Adapters, prefix: SharedPrefix | None
    ) -> Iterator[None]:
        """Compute what a slot lacks of a prompt, and keep the part that others share."""
        if prefix is not None:
            missing = prefix.tokens[len(slot.tokens) :]
            if missing:
                yield from self._prefill(slot, missing, adapters, logits=False)
                yield
            self._slots.keep(slot, len(prefix.tokens))
        yield from self._prefill(slot, tokens[len(slot.tokens) :], adapters)

    def _store(self, slot: KvSlot, prefix: SharedPrefix | None) -> None:
        """Write a resident prefix to where it is kept between runs, once."""
        if prefix is None or prefix.kept is None:
            return
        pin, path = self._slots.pinned(slot.key, prefix.tokens), prefix.kept.path
        if pin is None or pin.file == path:
            return
        pin.file = path  # whatever comes of it: a full disk is not asked at every question
        if not path.exists():
            try:
                prefix.kept.store(self._context.save(pin.sequence))
            except EngineError as error:
                logger.debug("a prefix cannot be kept: %s", error)

    # -- steps

    def _prefill(
        self, slot: KvSlot, tokens: Sequence[int], adapters: Adapters, *, logits: bool = True
    ) -> Iterator[None]:
        size = self._batch.capacity
        for start in range(0, len(tokens), size):
            if start:
                yield
            part = tokens[start : start + size]
            self._compute(slot, part, adapters, last=logits and start + size >= len(tokens))

    def _compute(self, slot: KvSlot, tokens: Sequence[int], adapters: Adapters, *, last: bool) -> int:
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
