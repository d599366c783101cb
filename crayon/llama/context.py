"""A llama.cpp context: one KV cache for many sequences, and the steps computed on it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from crayon.contention import here
from crayon.errors import AbortedError, EngineClosedError, EngineError, InvalidRequestError, KvFullError, NoMemoryError
from crayon.llama import library
from crayon.llama.scarce import is_memory_short
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.llama.adapter import Adapter
    from crayon.llama.batch import Batch
    from crayon.llama.model import Model
    from crayon.llama.tap import Tap

# With more rows a barrier comes after so much work, dealt out in small pieces, that a thread which waits for its core
# costs little: beside one neighbour two threads read a prompt 1.0 to 1.3 times as fast as one (SmolLM2, Qwen 0.5B).
FEW_ROWS = 16


class Context:
    """Decodes batches. One thread at a time; only `abort` may be called from another.

    Args:
        model: the weights; must outlive the context.
        n_ctx: cells of the KV cache, shared by all sequences (one cell is one token).
        n_batch: most rows in one `decode`.
        n_ubatch: most rows in one graph (None: `n_batch`, so that each `decode` is one); `abort` and the cost of a
            call go by graphs.
        n_seq_max: most sequences, numbered from 0.
        n_outputs_max: most rows with logits in one step (0: `n_batch`), at least `n_seq_max`; few save memory.
        threads: most compute threads (None: the cores this process may use); fewer run beside busy neighbours.
        kv_unified: whether sequences share cells: a prefix is stored once, and any of them may grow to `n_ctx`, but
            each token attends over all used cells. Else each has `n_ctx / n_seq_max` cells of its own.
        embeddings: give final hidden states of the rows that ask for logits.
        tap: reads a middle layer while the graph runs.

    Raises:
        InvalidRequestError: a size is below 1.
        NoMemoryError: too little memory is left for it.
        EngineError: llama.cpp cannot make it for another reason.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int | None = None,
        n_seq_max: int = 1,
        n_outputs_max: int = 0,
        threads: int | None = None,
        kv_unified: bool = True,
        embeddings: bool = False,
        tap: Tap | None = None,
    ) -> None:
        threads = usable_cores() if threads is None else threads
        n_ubatch = n_batch if n_ubatch is None else n_ubatch
        sizes = {"n_ctx": n_ctx, "n_batch": n_batch, "n_ubatch": n_ubatch, "n_seq_max": n_seq_max, "threads": threads}
        for name, size in sizes.items():
            if size < 1:
                raise InvalidRequestError(name, f"must be at least 1, not {size}")
        lib = library.load()
        api = self._api = lib.api
        self.model = model
        self._tap = tap  # holds the callback, which must outlive the context
        # abort() has to reach a graph that is running in C. ggml asks this callback at every node, so it must not be
        # Python (1,000 calls a token, each wanting the interpreter lock). C's strlen is the callback: on a buffer of
        # two bytes it returns the 0 or 1 that we keep in the first.
        self._abort_flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        self._should_abort = ctypes.cast(strlen or 0, api.ggml_abort_callback)

        params = api.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(n_batch, n_ctx)
        params.n_ubatch = min(n_ubatch, n_batch, n_ctx)
        params.n_seq_max = n_seq_max
        # llama.cpp ends the whole process where there are fewer outputs than sequences.
        params.n_outputs_max = max(min(n_outputs_max or n_batch, n_batch), n_seq_max)
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = kv_unified
        if embeddings:
            params.embeddings = True
            params.pooling_type = api.LLAMA_POOLING_TYPE_NONE  # one state a row, not one a sequence
        params.no_perf = True
        params.offload_kqv = params.op_offload = False
        if tap is not None:
            params.cb_eval = tap.callback
        lib.log.take_errors()
        self._handle: Any = api.llama_init_from_model(model.handle, params)
        if not self._handle:
            why = lib.log.take_errors() or "llama.cpp gives no reason, most often memory"
            if is_memory_short(why):
                raise NoMemoryError(
                    f"too little memory for a context of {n_ctx:,} tokens of {model.path.name}: close other programs, "
                    f"raise the process's limit, or take a smaller context or model ({why})"
                )
            raise EngineError(f"no context of {n_ctx} tokens for {model.path.name}: {why}")
        api.llama_set_abort_callback(self._handle, self._should_abort, ctypes.addressof(self._abort_flag))
        self._memory: Any = api.llama_get_memory(self._handle)
        self.n_ctx = int(api.llama_n_ctx(self._handle))
        self.n_batch = int(api.llama_n_batch(self._handle))
        self.n_seq_max = n_seq_max
        self.kv_unified = kv_unified or n_seq_max == 1
        self.threads = self._running = threads
        here()  # begins to watch now, so that the first step knows something
        # Names all that a saved state depends on beside the model and its adapters.
        self.state_kind = f"{params.type_k}/{params.type_v}/{params.swa_full}/{params.flash_attn_type}/{kv_unified}"
        # Where there is no window, every position is in sight.
        self._window = model.window or self.n_ctx
        # A recurrent memory has one state a sequence: a row of several sequences is an error there.
        self.shares_rows = self.kv_unified and not model.recurrent
        self._adapters: tuple[tuple[Adapter, float], ...] = ()
        self._logit_views: dict[int, NDArray[np.float32]] = {}

    @property
    def handle(self) -> Any:  # an opaque C pointer
        """The C pointer, for the other classes of this room."""
        if self._handle is None:
            raise EngineClosedError("the context is closed")
        return self._handle

    # -- computing

    def decode(self, batch: Batch) -> None:
        """Compute the rows of `batch`; the interpreter lock is free meanwhile.

        Raises:
            KvFullError: no room; nothing was changed.
            AbortedError: `abort` was called; rows may have been computed, remove them from the cache.
            EngineClosedError: an adapter that is applied was closed.
            EngineError: anything else that llama.cpp reports.
        """
        if any(adapter.closed for adapter, _ in self._adapters):
            raise EngineClosedError("an adapter that this context applies is closed")
        handle = self.handle
        few = self.threads > 1 and batch.size <= FEW_ROWS
        threads = here().threads(self.threads) if few else self.threads
        if threads != self._running:
            self._api.llama_set_n_threads(handle, threads, threads)
            self._running = threads
        code = self._api.llama_decode(handle, batch.struct)
        if code == 0:
            return
        if code == 1:
            raise KvFullError(f"the KV cache of {self.n_ctx} tokens has no room for {batch.size} more")
        if code == 2:
            raise AbortedError("the step was aborted")
        why = library.load().log.take_errors()
        raise EngineError(f"llama_decode failed with code {code}{': ' + why if why else ''}")

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits of a row of the last batch, shape (n_vocab,): a view, valid until the next decode.

        Raises:
            EngineError: the row did not ask for logits.
        """
        pointer = self._api.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"row {row} of the last batch has no logits")
        # llama.cpp writes every step's logits to the same few places: making a view anew costs more than reading it.
        address = ctypes.addressof(pointer.contents)
        view = self._logit_views.get(address)
        if view is None:
            if len(self._logit_views) > self.n_batch:  # its buffer was moved
                self._logit_views.clear()
            view = self._logit_views[address] = _view(pointer, self.model.n_vocab)
        return view

    def logit_rows(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of rows of the last batch, shape (rows, n_vocab), valid until the next decode.

        A view where they lie one after the other: llama.cpp writes rows that asked for logits in the batch's order.
        Else a copy.

        Raises:
            EngineError: a row did not ask for logits.
        """
        n, n_vocab = len(rows), self.model.n_vocab
        if not n:
            return np.empty((0, n_vocab), np.float32)
        if n == 1:
            return self.logits(rows[0])[None]
        pointers = [self._api.llama_get_logits_ith(self.handle, row) for row in rows]
        if all(pointers):
            stride = n_vocab * ctypes.sizeof(ctypes.c_float)
            addresses = [ctypes.addressof(pointer.contents) for pointer in pointers]
            if addresses == list(range(addresses[0], addresses[0] + n * stride, stride)):
                return _view(pointers[0], n * n_vocab).reshape(n, n_vocab)
        return np.stack([self.logits(row) for row in rows])

    def embedding(self, row: int) -> NDArray[np.float32]:
        """Return the final hidden state of a row of the last batch, shape (n_embd,): a view until the next decode.

        Raises:
            EngineError: the context was made without `embeddings`, or the row did not ask for logits.
        """
        pointer = self._api.llama_get_embeddings_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"row {row} of the last batch has no embedding")
        return _view(pointer, self.model.n_embd)

    def abort(self) -> None:
        """Make the running decode, or the next, stop at its next graph node. From any thread."""
        self._abort_flag[0] = b"\x01"

    def clear_abort(self) -> None:
        """Let decoding go on after `abort`."""
        self._abort_flag[0] = b"\x00"

    def set_adapters(self, adapters: Sequence[tuple[Adapter, float]] = ()) -> None:
        """Apply exactly these adapters, each times its scale; a scale of 0 leaves it out.

        Cached KV of other adapters stays and is then wrong: remove it, or keep sequences apart by adapters.

        Raises:
            EngineClosedError: one of them is closed.
            EngineError: llama.cpp refuses them.
        """
        wanted = tuple((adapter, float(scale)) for adapter, scale in adapters if scale)
        pointers = [adapter.handle for adapter, _ in wanted]  # raises for one that is closed
        if wanted == self._adapters:
            return
        kind = self._api.llama_adapter_lora_p_ctypes
        handles = (kind * len(wanted))(*(ctypes.cast(pointer, kind) for pointer in pointers))
        scales = (ctypes.c_float * len(wanted))(*(scale for _, scale in wanted))
        code = self._api.llama_set_adapters_lora(self.handle, handles, len(wanted), scales)
        if code != 0:
            raise EngineError(f"llama.cpp refuses the adapters (code {code})")
        self._adapters = wanted

    @property
    def adapters(self) -> tuple[tuple[Adapter, float], ...]:
        """The adapters applied now, with their scales: none of them may be closed. From any thread."""
        return self._adapters

    # -- the KV cache, by sequence. Positions are [start, end); end -1 is "to the end".

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> bool:
        """Forget positions of a sequence (-1: of all). False if the model's kind of memory cannot remove a part.

        A sliding window may have let go of positions before `start` that the next token should see: `cut` asks first.
        """
        return bool(self._api.llama_memory_seq_rm(self._memory_handle, sequence, start, end))

    def cut(self, sequence: int, end: int) -> None:
        """Forget all but the first `end` positions of a sequence.

        Raises:
            EngineError: these cannot be gone on from without the others (see `reaches`).
        """
        if end and self.model.cut_limit is not None and not self.reaches(sequence, end):
            raise EngineError(f"sequence {sequence} cannot be cut to {end} tokens: this kind of memory is used whole")
        if not self.remove(sequence, end):
            raise EngineError(f"sequence {sequence} cannot be cut to {end} tokens: llama.cpp refuses it")

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Let `target` share positions of `source`; no data is copied where the cache is unified.

        Where it is split, `target` becomes a copy of what `source` holds.

        Raises:
            InvalidRequestError: `start` is not 0 and the cache is split, which copies from the beginning only.
            EngineError: the cells cannot be copied, or `target` could not go on from them (see `reaches`).
        """
        if end >= 0 and self.model.cut_limit is not None and not self.reaches(source, end):
            raise EngineError(f"a part of sequence {source} cannot be copied: this kind of memory is used whole")
        if not self.kv_unified and source != target:
            if start:
                raise InvalidRequestError("start", f"must be 0 where the KV cache is split, not {start}")
            # Not llama.cpp's copy: it moves all cells that a sequence could have, used or not.
            self.restore(target, self.save(source))
            if end >= 0:
                try:
                    self.cut(target, end)
                except EngineError:
                    self.remove(target)
                    raise
            return
        self._api.llama_memory_seq_cp(self._memory_handle, source, target, start, end)

    def keep(self, sequence: int) -> None:
        """Forget every sequence but this one."""
        self._api.llama_memory_seq_keep(self._memory_handle, sequence)

    def length(self, sequence: int) -> int:
        """Return how many positions a sequence has."""
        return int(self._api.llama_memory_seq_pos_max(self._memory_handle, sequence)) + 1

    def reaches(self, sequence: int, end: int) -> bool:
        """Tell whether the first `end` positions of a sequence can be gone on from, or copied, without the others.

        Not where the memory is one state of all positions (recurrent models), nor where a sliding window has let go of
        some that the positions before `end` lie in sight of.
        """
        length = self.length(sequence)
        if end in {0, length}:
            return True
        if end > length or self.model.recurrent:
            return False
        # The next token sees itself and the `window - 1` before it.
        first = int(self._api.llama_memory_seq_pos_min(self._memory_handle, sequence))
        return first <= max(0, end + 1 - self._window)

    def clear(self, *, wipe: bool = False) -> None:
        """Forget every sequence, and with `wipe` set all cells to 0.

        A cell that holds nan spoils whatever is computed beside it, even after it is free: 0 times nan is nan.
        """
        self._api.llama_memory_clear(self._memory_handle, wipe)

    def save(self, sequence: int) -> bytes:
        """Return the KV state of a sequence, of which a sliding window may leave only what lies in sight of its end.

        Raises:
            EngineError: llama.cpp cannot save it.
        """
        size = int(self._api.llama_state_seq_get_size(self.handle, sequence))
        buffer = (ctypes.c_uint8 * size)()
        written = int(self._api.llama_state_seq_get_data(self.handle, buffer, size, sequence))
        if written == 0:
            raise EngineError(f"the state of sequence {sequence} cannot be saved")
        return bytes(memoryview(buffer)[:written])

    def restore(self, sequence: int, state: bytes | memoryview) -> None:
        """Replace a sequence by a state that `save` gave, of the same model and adapters.

        Raises:
            EngineError: the bytes are not such a state, or there is no room.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if int(self._api.llama_state_seq_set_data(self.handle, buffer, len(state), sequence)) == 0:
            raise EngineError(f"the state cannot be restored into sequence {sequence}")

    @property
    def _memory_handle(self) -> Any:  # an opaque C pointer
        if self._handle is None:
            raise EngineClosedError("the context is closed")
        return self._memory

    # -- life

    def close(self) -> None:
        """Free the context. Safe to call twice; not while another thread decodes."""
        if self._handle is not None:
            self._api.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _view(pointer: Any, n: int) -> NDArray[np.float32]:  # a C pointer to float
    address = ctypes.addressof(pointer.contents)
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))
