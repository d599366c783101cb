"""One table: how each of our sampling parameters reaches vLLM, so that it means what it means with llama.cpp.

vLLM has parameters of the same names, but some of them mean something else: its `repetition_penalty` looks back on the
whole prompt and answer and the other two penalties on the answer only, where llama.cpp looks back on 64 tokens of both,
and its filters see probabilities after the temperature, llama.cpp's before it. Those rows are computed by
`logits_processor.SamplerChain`, a logits processor of ours inside vLLM. Where it cannot be (`native`: with speculative
decoding), vLLM's own parameters of that name are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from crayon.constraint import ConstraintKind
from crayon.constraints.grammar import schema_of
from crayon.text_form import every_form
from crayon.token_options import MAX_TOP_LOGPROBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from crayon.constraint import Constraint
    from crayon.sampling import Sampling
    from crayon.token_options import LogitBias

KEY = "crayon"
"""Where `SamplerChain` finds its parameters in a request's `extra_args`."""
FORCED = "forced"
"""Under `KEY`, instead of parameters: the tokens that are the whole answer, for their log-probabilities."""
STRUCTURED = "structured_outputs"
"""The parameter that holds a constraint; the `guided_*` ones of older versions are ignored without a word."""
COLD = 1e-6
"""As in crayon/llama/sampler.py: a temperature that only the likeliest token survives."""
LIKELIEST = MAX_TOP_LOGPROBS
"""Tokens whose probabilities are asked for where signals are wanted; vLLM's default bound."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A row of the table.

    Args:
        name: our field of `Sampling`.
        vllm: vLLM's parameter of that meaning.
        by: who computes it: vLLM as it is, or our chain, with vLLM's in its place where there can be no chain.
        off: value at which it does nothing; None: it always does.
        value: what vLLM's parameter is given.
    """

    name: str
    vllm: str
    by: Literal["vllm", "chain"] = "vllm"
    off: float | None = None
    value: Callable[[Any], Any] = lambda given: given


TABLE: tuple[Parameter, ...] = (
    Parameter("max_tokens", "max_tokens"),
    Parameter("temperature", "temperature", value=lambda given: 0.0 if given < COLD else given),
    Parameter("top_k", "top_k", "chain", off=0),
    # vLLM takes no 0; llama.cpp keeps one token there.
    Parameter("top_p", "top_p", "chain", off=1.0, value=lambda given: max(given, 1e-6)),
    Parameter("min_p", "min_p", "chain", off=0.0),
    Parameter(
        "repeat_penalty", "repetition_penalty", "chain", off=1.0, value=lambda given: 1.0 if given is None else given
    ),
    Parameter("presence_penalty", "presence_penalty", "chain", off=0.0),
    Parameter("frequency_penalty", "frequency_penalty", "chain", off=0.0),
    Parameter("stop", "stop", value=lambda given: [form for text in given for form in every_form(text)]),
    Parameter("seed", "seed"),
    Parameter("ignore_eos", "ignore_eos"),
)


def arguments(
    sampling: Sampling,
    *,
    room: int,
    ends: Sequence[int],
    signals: bool,
    native: bool = False,
    constraint: Constraint | None = None,
    bias: LogitBias = (),
    top_logprobs: int | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's `SamplingParams`.

    Args:
        sampling: what the caller wants.
        room: tokens that the context has left for the answer, at least 1.
        ends: tokens that end an answer.
        signals: whether the caller reads them.
        native: whether vLLM computes every row, since there is no chain.
        constraint: what the answer must look like; it can be kept.
        bias: what is added to the logits of tokens that the model has; vLLM does so before our chain.
        top_logprobs: how many likely tokens the caller wants to know in each one's place; None: no log-probability.
    """
    given: dict[str, Any] = {"stop_token_ids": [] if sampling.ignore_eos else list(ends)}
    for row in TABLE:
        if row.by == "vllm" or native:
            given[row.vllm] = row.value(getattr(sampling, row.name))
    given["max_tokens"] = min(sampling.max_tokens, room)
    if not native and (chain := chained(sampling)):
        given["extra_args"] = {KEY: dict(chain)}
    if signals:
        given["logprobs"] = LIKELIEST
    elif top_logprobs is not None:
        given["logprobs"] = top_logprobs
    if bias:
        given["logit_bias"] = dict(bias)
    if constraint is not None:
        given[STRUCTURED] = structured(constraint)
    return given


def structured(constraint: Constraint) -> dict[str, Any]:
    """Return the keyword argument of vLLM's `StructuredOutputsParams` for a constraint.

    Its backend is llguidance (`arguments` sees to that), to which a schema itself says how JSON is written: so the
    same answers are allowed as on the other engines. Structural tags are not used: that backend refuses them all.
    """
    match constraint.kind:
        case ConstraintKind.SCHEMA | ConstraintKind.JSON:
            return {"json": schema_of(constraint)}
        case ConstraintKind.REGEX:
            return {"regex": constraint.text}
        case ConstraintKind.CHOICES:
            return {"choice": list(constraint.choices)}
        case ConstraintKind.GRAMMAR:
            return {"grammar": constraint.text}


def scoring(text: Sequence[int]) -> dict[str, Any]:
    """Return the keyword arguments that have vLLM write a given text, and say how likely each of its tokens was.

    vLLM's own `prompt_logprobs` reads nothing from the prefix cache, and with LoRA enabled ends vLLM (0.32.0, CPU).
    """
    return {
        "max_tokens": len(text),
        "temperature": 0.0,
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
        "extra_args": {KEY: {FORCED: list(text)}},
    }


def scoring_natively() -> dict[str, Any]:
    """Return the keyword arguments for a prompt's log-probabilities, where there is no chain."""
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}


def chained(sampling: Sampling) -> Mapping[str, float]:
    """Return the chain's parameters that do something; greedy answers need no filters, which change nothing there."""
    filters = {"top_k", "top_p", "min_p"} if sampling.temperature < COLD else set()
    rows = (row for row in TABLE if row.by == "chain" and row.name not in filters)
    return {row.name: value for row in rows if (value := getattr(sampling, row.name)) not in {row.off, None}}
