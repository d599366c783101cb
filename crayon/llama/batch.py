"""The rows of one decoding step, in arrays that llama.cpp reads in place."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crayon.llama import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Logits = Literal["none", "last", "all"]


class Batch:
    """Up to `capacity` rows; each is one token of one or more sequences at a position. Made once, filled each step.

    Args:
        capacity: most rows.
        sequences_per_row: most sequences that one row may belong to (a prefix that several share).
    """

    def __init__(self, capacity: int, sequences_per_row: int = 1) -> None:
        api = library.load().api
        self.capacity = capacity
        self.size = 0
        self._tokens: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self._positions: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self._counts: NDArray[np.int32] = np.ones(capacity, np.int32)
        self._sequences: NDArray[np.int32] = np.zeros((capacity, sequences_per_row), np.int32)
        self._logits: NDArray[np.int8] = np.zeros(capacity, np.int8)
        # llama_batch wants a pointer to each row's list of sequences: point into one array, so filling is a slice.
        start, stride = self._sequences.ctypes.data, self._sequences.strides[0]
        self._pointers: NDArray[np.uint64] = (start + stride * np.arange(capacity)).astype(np.uint64)
        self._struct: Any = api.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    @property
    def struct(self) -> Any:  # a C structure
        """The `llama_batch`, valid until the batch changes."""
        self._struct.n_tokens = self.size
        return self._struct

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return self.capacity - self.size

    def clear(self) -> None:
        """Forget all rows."""
        self.size = 0

    def add(
        self, tokens: Sequence[int], position: int, sequences: int | Sequence[int], logits: Logits = "none"
    ) -> range:
        """Append tokens at `position`, `position + 1`, ... and return their row numbers.

        Raises:
            ValueError: they do not fit, or a row has more sequences than the batch was made for.
        """
        n, start = len(tokens), self.size
        end = start + n
        if end > self.capacity:
            raise ValueError(f"{n} rows do not fit in {self.room}")
        ids = (sequences,) if isinstance(sequences, int) else tuple(sequences)
        if not 1 <= len(ids) <= self._sequences.shape[1]:
            raise ValueError(f"a row belongs to 1 to {self._sequences.shape[1]} sequences, not {len(ids)}")
        self._tokens[start:end] = tokens
        self._positions[start:end] = range(position, position + n) if n > 1 else position
        self._counts[start:end] = len(ids)
        self._sequences[start:end, : len(ids)] = ids
        self._logits[start:end] = logits == "all"
        if logits == "last" and n:
            self._logits[end - 1] = 1
        self.size = end
        return range(start, end)


def _pointer(array: NDArray[Any], ctype: Any) -> Any:  # ctypes has no useful static types here
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(ctype))
