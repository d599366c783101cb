"""Reads a named middle layer while llama.cpp computes: its embedding call gives the final layer only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.llama import library

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tap:
    """Collects the rows of one tensor, float32 of shape (rows, n_embd), in the order they are computed.

    Args:
        tensor: the graph's name of it, for example "l_out-14": the output of layer 14, counted from 0.
        n_embd: its row length.
        stop: end the graph there. Saves the layers above, but leaves the sequence's KV incomplete: remove it.
    """

    def __init__(self, tensor: str, n_embd: int, *, stop: bool) -> None:
        lib = library.load()
        ggml, wanted, n_bytes = lib.ggml, tensor.encode(), 4 * n_embd
        rows: list[NDArray[np.float32]] = []
        self._rows = rows
        self.tensor = tensor
        self.n_embd = n_embd

        # ggml asks at every node ("ask") whether we want to see it, then calls again with its data ready; the answer
        # to that says whether the graph goes on.
        def on_node(node: Any, ask: bool, _: Any) -> bool:  # noqa: FBT001  # the C signature
            if ask:
                return bool(ggml.ggml_get_name(node) == wanted)
            size = ggml.ggml_nbytes(node)
            if size % n_bytes == 0:
                found = np.empty((size // n_bytes, n_embd), np.float32)
                ggml.ggml_backend_tensor_get(node, found.ctypes.data, 0, size)
                rows.append(found)
            return not stop

        self.callback = lib.api.ggml_backend_sched_eval_callback(on_node)

    def take(self) -> NDArray[np.float32]:
        """Return and forget what was collected; shape (0, n_embd) if nothing was."""
        found = np.concatenate(self._rows) if self._rows else np.empty((0, self.n_embd), np.float32)
        self._rows.clear()
        return found
