"""Draws tokens: llama.cpp's sampler chain, or a plain argmax where that is all it would do."""

from __future__ import annotations

import ctypes
import secrets
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from crayon.errors import EngineError
from crayon.llama import library
from crayon.llama.context import Context
from crayon.llama.signals import check_finite, likeliest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.engine import TokenSignal
    from crayon.llama.rule import Rule
    from crayon.llama.signals import SignalMeter
    from crayon.sampling import Sampling
    from crayon.token_options import LogitBias

PENALTY_WINDOW = 64  # tokens; llama.cpp's default
COLD = 1e-6  # a temperature that only the likeliest token survives; logits divided by less overflow


# As llama.cpp's `llama_token_data`.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LogitRows(Protocol):
    """Logits of the last batch that was computed, by llama.cpp or by another engine."""

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits of a row of the batch, shape (n_vocab,), valid until the next is computed."""
        ...

    def logit_rows(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of rows of the batch, shape (rows, n_vocab), valid until the next is computed."""
        ...


class Sampler:
    """The sampling state of one answer: its random draws and the tokens that penalties look back on.

    Args:
        sampling: how it draws.
        meter: measures signals.
        rule: which tokens may be drawn; None: all. The chain of samplers sees no others, so that top_k=1 is the
            likeliest that may.
        bias: what is added to the logits of tokens that the model has, before anything else.
    """

    def __init__(self, sampling: Sampling, meter: SignalMeter, rule: Rule | None = None, bias: LogitBias = ()) -> None:
        self._api = library.load().api
        self._meter = meter
        self._rule = rule
        self._chain: Any = None
        if bias or not sampling.greedy:
            self._chain = _chain(self._api, sampling, meter.n_vocab, bias)

    def prime(self, prompt: Sequence[int]) -> None:
        """Let penalties see the end of the prompt, as llama.cpp's own programs do."""
        if self._chain is not None:
            for token in prompt[-PENALTY_WINDOW:]:
                self._api.llama_sampler_accept(self._chain, token)

    def sample(self, context: LogitRows, row: int) -> tuple[int, TokenSignal]:
        """Draw from a row of the context's last batch; the signal is of the model's unmodified distribution."""
        logits = context.logits(row)
        allowed = None if self._rule is None else self._rule.mask()
        return self._meter.measure(logits, None if self.greedy else self.draw(context, row), allowed)

    def draw(self, context: LogitRows, row: int) -> int:
        """Draw from a row of the context's last batch.

        Raises:
            EngineError: the row has no logits, or they are not finite.
        """
        logits = context.logits(row)  # first: without any, the chain would end the whole process
        if self._chain is None:
            token = int(logits.argmax())
            check_finite(float(logits[token]))
            # The likeliest is asked for by itself: to know all that may come takes many times as long.
            if self._rule is None or self._rule.allows(token):
                return token
            return likeliest_of(logits, self._rule.mask())
        check_finite(float(logits.max()))  # the chain would draw anything
        if self._rule is not None:
            return self._draw_of(logits, np.flatnonzero(self._rule.mask()))
        if not isinstance(context, Context):
            return self._draw_of(logits, np.arange(len(logits)))
        return int(self._api.llama_sampler_sample(self._chain, context.handle, row))

    def take(self, tokens: Sequence[int]) -> None:
        """Let penalties see tokens that were written without being drawn."""
        if self._chain is not None:
            for token in tokens:
                self._api.llama_sampler_accept(self._chain, token)

    def _draw_of(self, logits: NDArray[np.float32], tokens: NDArray[np.intp]) -> int:
        """Draw as `llama_sampler_sample` does, from these tokens."""
        api = self._api
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"], candidates["logit"] = tokens, logits[tokens]
        data = ctypes.cast(ctypes.c_void_p(candidates.ctypes.data), ctypes.POINTER(api.llama_token_data))
        found = api.llama_token_data_array(data=data, size=len(tokens), selected=-1, sorted=False)
        api.llama_sampler_apply(self._chain, ctypes.byref(found))
        if not 0 <= found.selected < found.size:
            raise EngineError("llama.cpp's samplers drew no token")
        token = int(found.data[found.selected].id)
        api.llama_sampler_accept(self._chain, token)
        return token

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken: whoever has the logits may do so in its place."""
        return self._chain is None

    def close(self) -> None:
        """Free the chain. Safe to call twice."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chain(api: Any, sampling: Sampling, n_vocab: int, bias: LogitBias) -> Any:  # opaque C pointers
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    add = api.llama_sampler_chain_add
    if bias:
        entries = [api.llama_logit_bias(token, value) for token, value in bias]
        held = (api.llama_logit_bias * len(entries))(*entries)
        add(chain, api.llama_sampler_init_logit_bias(n_vocab, len(entries), held))  # it keeps a copy
    if sampling.penalised:
        add(
            chain,
            api.llama_sampler_init_penalties(
                n_vocab,
                PENALTY_WINDOW,
                1.0 if sampling.repeat_penalty is None else sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            ),
        )
    if sampling.temperature < COLD:
        add(chain, api.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        add(chain, api.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        add(chain, api.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        add(chain, api.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, api.llama_sampler_init_temp(sampling.temperature))
    seed = sampling.seed if sampling.seed is not None else secrets.randbelow(2**32 - 1)
    add(chain, api.llama_sampler_init_dist(seed))
    return chain
