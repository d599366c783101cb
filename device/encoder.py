"""Embeds texts by a middle layer of the device's own model: no second model, no network."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.device.turns import Turns
from crayon.errors import PromptTooLongError
from crayon.llama.batch import Batch
from crayon.llama.encoder import LayerEncoder, add_states, mean_states, unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from crayon.llama.model import Model

logger = logging.getLogger("crayon.device")

SEQUENCES = 16  # texts computed together


class Encoder:
    """Turns texts into centred unit vectors, comparable by cosine.

    Args:
        model: the device's model.
        n_ctx: most tokens of one text.
        background: texts whose mean is the centre; without any, vectors are not centred.
        cache_dir: where the background's states are kept between runs; None computes them each time.
        threads: compute threads.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        background: Sequence[str],
        cache_dir: Path | None = None,
        threads: int | None = None,
        layer: int | None = None,
    ) -> None:
        self.model = model
        self._background = tuple(background)
        self._cache_dir = cache_dir
        self._states = LayerEncoder(model, n_ctx=n_ctx, n_seq_max=SEQUENCES, threads=threads, layer=layer)
        self._context = self._states.context
        self.layer = self._states.layer
        self.dimensions = self._states.dimensions
        self._batch = Batch(self._context.n_batch)
        self._turns = Turns()  # one context, one batch: two jobs would overwrite each other's rows
        self._known: NDArray[np.float32] | None = None  # the background's states, (texts, dimensions)

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

        def centred(states: NDArray[np.float32], background: NDArray[np.float32]) -> None:
            centre = background.mean(axis=0) if len(background) else np.zeros(self.dimensions, np.float32)
            out(unit_vectors(states, centre))

        return self.raw_steps(texts, centred)

    def raw_steps(
        self, texts: Sequence[Sequence[int]], out: Callable[[NDArray[np.float32], NDArray[np.float32]], None]
    ) -> Iterator[None]:
        """As `steps`; `out` receives the mean states as they are, and those of the background texts."""
        return self._turns.held(self._steps(texts, out))

    def _steps(
        self, texts: Sequence[Sequence[int]], out: Callable[[NDArray[np.float32], NDArray[np.float32]], None]
    ) -> Generator[None, None, None]:
        raw = np.empty((len(texts), self.dimensions), np.float32)
        yield from self._raw(texts, raw)
        known = self._known if self._known is not None else self._load_background()
        if known is None:
            known = np.empty((len(self._background), self.dimensions), np.float32)
            yield from self._raw([self.tokenize(text, "background") for text in self._background], known)
            self._store_background(known)
        self._known = known
        out(raw, known)

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
        """Fill `out` with the mean hidden state of each text's tokens after the sink."""
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
                    add_states(totals[i], states[span.start : span.stop], start)
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

    # -- the background's states, kept between runs

    def _cache_path(self) -> Path | None:
        if self._cache_dir is None or not self._background:
            return None
        stat = self.model.path.stat()
        identity = f"{self.model.path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{self.layer}|" + "|".join(
            self._background
        )
        return self._cache_dir / f"background-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"

    def _load_background(self) -> NDArray[np.float32] | None:
        path = self._cache_path()
        if path is None:
            return None
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # EOFError: an empty file
            return None
        shape = (len(self._background), self.dimensions)
        if found.shape != shape or found.dtype != np.float32 or not np.isfinite(found).all():
            return None
        return np.asarray(found, np.float32)

    def _store_background(self, states: NDArray[np.float32]) -> None:
        path = self._cache_path()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Its own folder: two processes may be writing the same states.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="background-") as folder:
                partial = Path(folder) / path.name
                np.save(partial, states, allow_pickle=False)
                partial.replace(path)
        except OSError as error:  # only a cache: the next run computes it again
            logger.warning("the embedding's background cannot be kept in %s: %s", path.parent, error)
