"""Embeds texts by a middle layer of the device's own model: no second model, no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.device.fair_lock import FairLock
from crayon.device.kept_states import KeptStates, texts_hash
from crayon.engine import EverydayStates, RawStates
from crayon.errors import NotFiniteError, PromptTooLongError
from crayon.llama.batch import Batch
from crayon.llama.encoder import LayerEncoder, add_states, mean_states, unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.llama.model import Model

SEQUENCES = 16  # texts computed together


class Encoder:
    """Turns texts into centred unit vectors, comparable by cosine.

    Args:
        model: the device's model.
        n_ctx: most tokens of one text.
        background: texts whose mean is the centre; without any, vectors are not centred.
        everyday: groups of texts, those of one intent each, that a space can be made of; the background as one group,
            if there are none. Computed when asked for.
        cache_dir: where states of background and everyday texts are kept between runs; None computes them each time.
        threads: compute threads.
        layer: the layer to read (None: `middle_layer`).
        source_sha256: hash of the published file that the model is, or was prepared from: for some, Crayon brings the
            states of its background and everyday texts along.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        background: Sequence[str],
        everyday: Sequence[Sequence[str]] = (),
        cache_dir: Path | None = None,
        threads: int | None = None,
        layer: int | None = None,
        source_sha256: str = "",
    ) -> None:
        self.model = model
        self._background = tuple(background)
        groups = everyday or ([self._background] if len(self._background) > 1 else [])
        self._everyday = tuple(tuple(group) for group in groups)
        self._states = LayerEncoder(model, n_ctx=n_ctx, n_seq_max=SEQUENCES, threads=threads, layer=layer)
        self._context = self._states.context
        self.layer = self._states.layer
        self.dimensions = self._states.dimensions
        self._batch = Batch(self._context.n_batch)
        self._turns = FairLock()  # one context, one batch: two jobs would overwrite each other's rows
        self._kept = KeptStates(cache_dir, model.path, self.layer, self.dimensions, source_sha256)
        self._known: NDArray[np.float32] | None = None  # the background's states, (texts, dimensions)
        self._everyday_known: EverydayStates | None = None
        self._everyday_parts: list[NDArray[np.float32]] = []  # states of the first texts, while not all are known

    def tokenize(self, text: str, field: str) -> list[int]:
        """Return sink and tokens of a text.

        Raises:
            PromptTooLongError: it does not fit the context.
        """
        tokens = self._states.tokenize(text)
        if len(tokens) > self._context.n_ctx:
            raise PromptTooLongError(len(tokens), self._context.n_ctx, field)
        return tokens

    def steps(self, texts: Sequence[Sequence[int]], out: Callable[[NDArray[np.float32]], None]) -> Iterator[None]:
        """Embed token lists, giving way after each step; `out` receives vectors of shape (texts, dimensions)."""

        def centred(raw: RawStates) -> None:
            known = raw.background
            out(unit_vectors(raw.states, known.mean(axis=0) if len(known) else np.zeros(self.dimensions, np.float32)))

        return self.raw_steps(texts, centred)

    def raw_steps(
        self, texts: Sequence[Sequence[int]], out: Callable[[RawStates], None], *, everyday: bool = False
    ) -> Iterator[None]:
        """As `steps`; `out` receives the pooled states as they are, with those of our own texts."""
        return self._turns.held(self._steps(texts, out, everyday=everyday))

    def _steps(
        self, texts: Sequence[Sequence[int]], out: Callable[[RawStates], None], *, everyday: bool
    ) -> Generator[None, None, None]:
        raw = np.empty((len(texts), self.dimensions), np.float32)
        yield from self._raw(texts, raw)
        if self._known is None:
            self._known = self._kept.load("background", self._background)
        if self._known is None:
            known = np.empty((len(self._background), self.dimensions), np.float32)
            yield from self._raw([self.tokenize(text, "background") for text in self._background], known)
            self._kept.store("background", self._background, known)
            self._known = known
        if everyday and self._everyday and self._everyday_known is None:
            yield from self._learn_everyday()
        out(RawStates(raw, self._known, self.layer, self._everyday_known if everyday else None))

    def _learn_everyday(self) -> Iterator[None]:
        """Compute the states of the everyday texts; what is done stays if it ends early, so that it gets there."""
        texts = [text for group in self._everyday for text in group]
        states = self._kept.load("everyday", texts)
        if states is None:
            parts = self._everyday_parts
            while (done := sum(map(len, parts))) < len(texts):
                tokens = [self.tokenize(text, "everyday") for text in texts[done : done + SEQUENCES]]
                part = np.empty((len(tokens), self.dimensions), np.float32)
                yield from self._raw(tokens, part)
                parts.append(part)
            states = np.concatenate(parts)
            parts.clear()
            self._kept.store("everyday", texts, states)
        ends = np.cumsum([len(group) for group in self._everyday])
        self._everyday_known = EverydayStates(tuple(np.split(states, ends[:-1])), texts_hash(texts))

    def abort(self) -> None:
        """Stop the running step, from any thread."""
        self._context.abort()

    def clear_abort(self) -> None:
        """Go on after `abort`."""
        self._context.clear_abort()

    def close(self) -> None:
        """Free the context."""
        self._states.close()

    def _raw(self, texts: Sequence[Sequence[int]], out: NDArray[np.float32]) -> Iterator[None]:
        """Fill `out` with the pooled hidden states of each text's tokens after the sink."""
        totals = np.zeros((len(texts), self.dimensions), np.float64)
        for group in self._groups(texts):
            self._context.clear()
            done = dict.fromkeys(group, 0)
            while done:
                yield
                self._batch.clear()
                rows: list[tuple[int, int, range]] = []
                for sequence, i in enumerate(group):
                    if i not in done or not self._batch.room:
                        continue
                    part = texts[i][done[i] : done[i] + self._batch.room]
                    rows.append((i, done[i], self._batch.add(part, done[i], sequence)))
                states = self._states.decode(self._batch)
                for i, start, span in rows:
                    try:
                        add_states(totals[i], states[span.start : span.stop], start)
                    except NotFiniteError:
                        self._context.clear(wipe=True)
                        raise
                    done[i] = start + len(span)
                    if done[i] == len(texts[i]):
                        del done[i]
        out[:] = mean_states(totals, texts)

    def _groups(self, texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Yield indexes of texts that fit the cache together."""
        group: list[int] = []
        cells = 0
        for i, text in enumerate(texts):
            if group and (len(group) == SEQUENCES or cells + len(text) > self._context.n_ctx):
                yield group
                group, cells = [], 0
            group.append(i)
            cells += len(text)
        if group:
            yield group
