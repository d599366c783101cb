"""Trains and measures B's on one network."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from crayon.training.descent import Watch, descend
from crayon.training.network import KeyValues

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.training.examples import Example
    from crayon.training.network import Network

CHUNK = 16  # questions measured together
HEAD_ROWS = 256  # rows of logits at a time: 256 x 49,152 floats are 50 MB
LOW_BYTES = 2 << 30  # of states under the first adapted layer that are kept; others are computed whenever needed


class Learned(Protocol):
    """Tokens behind the common start, and the places of those that are to be learned."""

    @property
    def text(self) -> tuple[int, ...]:
        """All tokens."""

    @property
    def said(self) -> Sequence[int]:
        """Places in `text`."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Points, 0 to 100: `scored` by the likeliest choice, `exact` by greedy writing.

    `scored` is NaN unless all examples have choices.
    """

    scored: float
    exact: float
    n: int


class Trainer:
    """Computes losses and scores over examples; the layers under the first adapted one run once for each example.

    Args:
        network: adapted (`Network.adapt`).
        start: tokens that every prompt begins with.
        first: the first layer that is adapted.
        end: the token that ends a turn.
    """

    def __init__(self, network: Network, start: Sequence[int], first: int, end: int) -> None:
        self._network, self._first, self._end = network, first, end
        self._start = len(start)
        self._low_states: dict[tuple[int, ...], Any] = {}
        self._room = LOW_BYTES
        self._keep = True  # what comes once need not be kept
        self._visible = torch.ones(1, self._start, dtype=torch.bool, device=network.device)
        self._below = KeyValues()
        with torch.no_grad():
            tokens = torch.tensor([list(start)], device=network.device)
            positions = torch.arange(self._start, device=network.device)[None]
            self._start_states = network.run(network.embed(tokens), positions, (), self._below, 0, first)

    # -- training

    def train(
        self,
        examples: Sequence[Learned],
        *,
        steps: int,
        rate: float,
        batch: int,
        seed: int,
        init: NDArray[np.float32] | None = None,
        watch: Watch | None = None,
    ) -> NDArray[np.float32]:
        """Return B's, (N,), trained on the answers' tokens; equal arguments give equal results.

        With `init` of A's and B's, (M + N,), both are trained and returned.

        Args:
            examples: at least one.
            steps: how many batches.
            rate: the highest learning rate.
            batch: examples in a batch.
            seed: orders the examples.
            init: where to start (B's of zeros).
            watch: is told of it, and may bring a state to go on from.
        """

        def loss(b: Any, indexes: list[int]) -> Any:
            self._network.apply(b)
            return self.loss([examples[i] for i in indexes])

        start = np.zeros(self._network.size, np.float32) if init is None else init
        self._keep = steps * batch > len(examples)
        try:
            return self._descend(start, _order(len(examples), batch, seed), loss, steps, rate, watch)
        finally:
            self._keep = True

    def train_blends(
        self,
        tasks: Sequence[Sequence[Example]],
        shares: NDArray[np.floating],
        init: NDArray[np.float32],
        *,
        steps: int,
        rate: float,
        batch: int,
        seed: int,
        watch: Watch | None = None,
    ) -> NDArray[np.float32]:
        """Return the B's of all members, (K, N), trained further as blends; equal arguments give equal results.

        Args:
            tasks: examples of each task; a batch is of one task.
            shares: for each task the weights of its blend, (tasks, K).
            init: where to start, (K, N).
            steps: how many batches.
            rate: the highest learning rate.
            batch: examples in a batch.
            seed: draws tasks and examples.
            watch: is told of it, and may bring a state to go on from.
        """
        weights = torch.from_numpy(shares.astype(np.float32)).to(self._network.device)

        def batches() -> Iterator[tuple[int, list[int]]]:
            rng = np.random.default_rng(seed)
            while True:
                task = int(rng.integers(len(tasks)))
                yield task, rng.integers(len(tasks[task]), size=batch).tolist()

        def loss(b: Any, drawn: tuple[int, list[int]]) -> Any:
            task, indexes = drawn
            self._network.apply(weights[task] @ b)
            return self.loss([tasks[task][i] for i in indexes])

        return self._descend(init, batches(), loss, steps, rate, watch)

    def _descend(
        self,
        start: NDArray[np.float32],
        batches: Iterator[Any],
        loss: Any,
        steps: int,
        rate: float,
        watch: Watch | None,
    ) -> NDArray[np.float32]:
        first = torch.from_numpy(start).to(self._network.device)
        b = descend(first, batches, loss, steps=steps, rate=rate, watch=watch or Watch())
        self._network.apply(None)
        return np.ascontiguousarray(b.cpu().numpy())

    def loss(self, batch: Sequence[Learned]) -> Any:
        """Return the mean negative log-likelihood of the answers' tokens, in nats, under the B's applied."""
        # Conversations differ much in length: each runs alone, and nothing is padded.
        parts = [batch] if self._keep else [[example] for example in batch]
        states, wanted = [], []
        for part in parts:
            found, rows, columns, tokens = self._answers(part)
            states.append(found[rows, columns])
            wanted.append(tokens)
        return functional.cross_entropy(self._network.logits(torch.cat(states)), torch.cat(wanted))

    # -- measuring

    def accuracy(self, examples: Sequence[Example], b: NDArray[np.float32] | None) -> Accuracy:
        """Measure B's, (N,), or the plain base (None).

        With B's an option's score is the log-probability of its text and of the end of the turn: they were trained to
        answer so. The plain base would write on; it is given the better of total and mean log-probability of the text.
        """
        with torch.no_grad():
            return self._accuracy(examples, b)

    def _accuracy(self, examples: Sequence[Example], b: NDArray[np.float32] | None) -> Accuracy:
        self._network.apply(None if b is None else torch.from_numpy(b).to(self._network.device))
        scored = float("nan")
        if all(example.options for example in examples):
            sums = list(self._option_scores(examples))
            gold = [example.gold for example in examples]
            rules = (0,) if b is not None else (1, 2)
            scored = max(
                100.0 * float(np.mean([int(np.argmax(s[rule])) == g for s, g in zip(sums, gold, strict=True)]))
                for rule in rules
            )
        exact = []
        for batch in _chunks(examples):
            states, rows, columns, wanted = self._answers(batch)
            right = torch.ones(len(batch), dtype=torch.bool, device=self._network.device)
            for at in range(0, len(rows), HEAD_ROWS):
                part = slice(at, at + HEAD_ROWS)
                hit = self._network.logits(states[rows[part], columns[part]]).argmax(-1) == wanted[part]
                right[rows[part][~hit]] = False
            exact += right.tolist()
        self._network.apply(None)
        return Accuracy(scored, 100.0 * float(np.mean(exact)), len(examples))

    def _option_scores(self, examples: Sequence[Example]) -> Iterator[NDArray[np.float64]]:
        """Yield for each example (3, options): total with the end, total and mean without."""
        network = self._network
        above = self._above()
        for batch in _chunks(examples):
            prompts = [example.prompt for example in batch]
            below = KeyValues(self._below)
            tokens = _padded(prompts, network.device)
            positions = self._positions(*tokens.shape)
            low = network.run(network.embed(tokens), positions, (self._visible,), below, 0, self._first)
            upper = KeyValues(above)
            states = network.run(low, positions, (self._visible,), upper, self._first, network.layers)
            lengths = torch.tensor([len(prompt) for prompt in prompts], device=network.device)
            lasts = states[torch.arange(len(batch), device=network.device), lengths - 1]
            first = torch.log_softmax(network.logits(lasts), -1)
            pairs = [(row, option) for row, example in enumerate(batch) for option in example.options]
            rows = torch.tensor([row for row, _ in pairs], device=network.device)
            options = [option for _, option in pairs]
            tokens = _padded(options, network.device)
            positions = self._start + lengths[rows][:, None] + torch.arange(tokens.shape[1], device=network.device)
            known = torch.arange(low.shape[1], device=network.device)[None] < lengths[:, None]
            visible = (self._visible, known[rows])
            states = network.embed(tokens)
            # The start stands before the prompt, the prompt before the option.
            states = network.run(states, positions, visible, KeyValues(below, rows), 0, self._first)
            states = network.run(states, positions, visible, KeyValues(upper, rows), self._first, network.layers)
            beginnings = first[rows, torch.tensor([option[0] for option in options], device=network.device)]
            yield from self._sum_options(batch, options, beginnings.tolist(), states)

    def _sum_options(
        self, batch: Sequence[Example], options: Sequence[tuple[int, ...]], first: Sequence[float], states: Any
    ) -> Iterator[NDArray[np.float64]]:
        where = [(row, at) for row, option in enumerate(options) for at in range(len(option))]
        following = [(*options[row], self._end)[at + 1] for row, at in where]
        found = np.empty(len(where))
        for start in range(0, len(where), HEAD_ROWS):
            part = where[start : start + HEAD_ROWS]
            logits = self._network.logits(states[[row for row, _ in part], [at for _, at in part]])
            wanted = torch.tensor(following[start : start + HEAD_ROWS], device=logits.device)
            picked = logits.gather(1, wanted[:, None])[:, 0] - torch.logsumexp(logits, 1)
            found[start : start + HEAD_ROWS] = picked.double().cpu().numpy()
        totals = np.empty((3, len(options)))
        at = 0
        for row, option in enumerate(options):
            inside = first[row] + float(found[at : at + len(option) - 1].sum())
            totals[:, row] = inside + found[at + len(option) - 1], inside, inside / len(option)
            at += len(option)
        start = 0
        for example in batch:
            yield totals[:, start : start + len(example.options)]
            start += len(example.options)

    # -- inside

    def _answers(self, batch: Sequence[Learned]) -> tuple[Any, Any, Any, Any]:
        """Return last-layer states, and row, column and token of everything that the answers say."""
        network = self._network
        low = self._lower([example.text for example in batch])
        rows, columns, wanted = [], [], []
        for row, example in enumerate(batch):
            for at in example.said:
                rows.append(row)
                columns.append(at - 1)
                wanted.append(example.text[at])
        positions = self._positions(low.shape[0], low.shape[1])
        states = network.run(low, positions, (self._visible,), KeyValues(self._above()), self._first, network.layers)
        return (states, *(torch.tensor(part, device=network.device) for part in (rows, columns, wanted)))

    def _above(self) -> KeyValues:
        """Return the start's keys and values in the adapted layers: they depend on the B's applied."""
        past = KeyValues()
        # Once for all rows, unless each row has B's of its own.
        rows = self._network.rows
        positions = torch.arange(self._start, device=self._network.device)[None].expand(rows, -1)
        states = self._start_states.expand(rows, -1, -1)
        self._network.run(states, positions, (), past, self._first, self._network.layers)
        return past

    def _lower(self, texts: Sequence[tuple[int, ...]]) -> Any:
        """Return the states under the first adapted layer, (texts, longest, width); they are kept."""
        width = max(map(len, texts))
        out = torch.zeros(len(texts), width, self._network.width, device=self._network.device)
        for row, text in enumerate(texts):
            states = self._low_states.get(text)
            if states is None:
                states = self._low(text)
                if self._keep and states.nbytes <= self._room:
                    self._low_states[text] = states
                    self._room -= states.nbytes
            out[row, : len(text)] = states.float()
        return out

    def _low(self, text: tuple[int, ...]) -> Any:
        # One text at a time: in a batch its numbers would depend, in their last bits, on the texts beside it, and a
        # training that goes on would not be the one that was stopped. It is no slower: nothing is padded.
        network = self._network
        with torch.no_grad():
            tokens = torch.tensor([text], device=network.device)
            positions = self._positions(1, len(text))
            below = KeyValues(self._below)
            return network.run(network.embed(tokens), positions, (self._visible,), below, 0, self._first)[0].to(
                network.dtype
            )

    def _positions(self, rows: int, tokens: int) -> Any:
        return (self._start + torch.arange(tokens, device=self._network.device))[None].expand(rows, tokens)


def _padded(texts: Sequence[Sequence[int]], device: Any) -> Any:
    # What stands behind a text is never looked at: later tokens see only what `visible` shows, earlier ones nothing.
    out = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        out[row, : len(text)] = torch.tensor(text)
    return out.to(device)


def _chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for at in range(0, len(examples), CHUNK):
        yield examples[at : at + CHUNK]


def _order(n: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Yield the indexes of each batch: every example once before any comes again."""
    generator = random.Random(seed)  # noqa: S311 - an order, not a secret
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting = generator.sample(range(n), n) + waiting
        waiting, part = waiting[:-batch], waiting[-batch:]
        yield part
