"""llama.cpp's sampler chain inside vLLM: penalties over the last 64 tokens, then filters, before the temperature.

A logits processor, which is a public interface of vLLM's. It runs in vLLM's worker process, on its device.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from crayon.server.engines.vllm.sampling import FORCED, KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOW = 64
"""Tokens, of prompt and answer, that penalties look back on: crayon.llama.sampler.PENALTY_WINDOW."""


class SamplerChain(AdapterLogitsProcessor):  # type: ignore[misc] # vLLM comes untyped
    """Applies what `sampling.chained` asks for to those requests that do."""

    @classmethod
    def validate_params(cls, params: Any) -> None:
        """Accept all: what is asked for was checked by `Sampling`."""

    def is_argmax_invariant(self) -> bool:
        """Return False: penalties change which token is likeliest, and filters have to come before the temperature."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """Return what is to be done to the logits of a new request, None for nothing."""
        wanted = (params.extra_args or {}).get(KEY)
        return partial(apply, wanted) if wanted else None


def apply(
    wanted: Mapping[str, Any], prompt: Sequence[int] | None, answer: Sequence[int], logits: torch.Tensor
) -> torch.Tensor:
    """Return one request's logits, (vocabulary,), penalised and filtered as llama.cpp does it, or with one token left.

    Under `FORCED` it is the next token of a text that is scored; its log-probability is that of the model's own
    distribution, which vLLM takes before this.
    """
    if FORCED in wanted:
        text = wanted[FORCED]
        only = torch.full_like(logits, -torch.inf)
        only[text[min(len(answer), len(text) - 1)]] = 0.0
        return only
    logits = _penalised(wanted, [*(prompt or ())[-WINDOW:], *answer[-WINDOW:]][-WINDOW:], logits)
    top_k = int(wanted.get("top_k", 0))
    if 0 < top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if "top_p" in wanted:
        ranked, order = logits.softmax(-1).sort(descending=True)
        # Kept: up to and with the first token at which the sum reaches top_p; at least one.
        beyond = ranked.cumsum(-1) - ranked >= wanted["top_p"]
        beyond[0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(0, order, beyond), -torch.inf)
    if "min_p" in wanted and wanted["min_p"] > 0:
        floor = logits.max() + torch.tensor(wanted["min_p"], device=logits.device).log()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return logits


def _penalised(wanted: Mapping[str, float], seen: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    repeat = wanted.get("repeat_penalty", 1.0)
    presence, frequency = wanted.get("presence_penalty", 0.0), wanted.get("frequency_penalty", 0.0)
    # Under asynchronous scheduling the newest token may be a placeholder.
    seen = [token for token in seen if token >= 0]
    if not seen or (repeat == 1.0 and not presence and not frequency):
        return logits
    tokens, counts = torch.tensor(seen, device=logits.device).unique(return_counts=True)
    mine = logits[tokens]
    mine = torch.where(mine <= 0, mine * repeat, mine / repeat)
    changed = logits.clone()
    changed[tokens] = mine - counts * frequency - presence
    return changed
