"""What vLLM is started with: our settings as its engine arguments, and any further ones, checked by name."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError
from crayon.server.engines.vllm.errors import of_start

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger("crayon.server.vllm")

CHAIN = "crayon.server.engines.vllm.logits_processor:SamplerChain"
SCHEDULER = "crayon.server.engines.vllm.scheduler"
SLOTS = 64
LORA_SLOTS = 8
# What the engine decides, since requests are counted, blended or answered by it.
_OURS = {
    "model": "give --model",
    "served_model_name": "the model's folder says it",
    "tokenizer": "it is the model folder's",
    "skip_tokenizer_init": "the text of answers is needed",
    "generation_config": "every request says its own sampling",
    "logprobs_mode": "signals are of the model's unmodified distribution",
    "stream_interval": "every token is streamed",
    "additional_config": "the scheduler's settings are in it",
    "scheduler_cls": "give --vllm-scheduler",
    "logits_processors": "sampling is made equal to llama.cpp's with one",
    "enable_lora": "it follows from --pool and --adapter",
    "disable_log_stats": "metrics are made of them",
    "runner": "answers are generated",
    "structured_outputs_config": "constraints mean the same on every engine by one of vLLM's backends alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How vLLM is to run; None leaves a thing to vLLM.

    Args:
        folder: of the model.
        context_tokens: most tokens of one request; what the model was trained for if that is less.
        slots: most requests computed together.
        batch: most tokens of one step: the constant budget that answers and parts of prompts fill.
        tensor_parallel, pipeline_parallel, data_parallel: into how many parts the work is divided.
        enable_dbo: vLLM's dual batch overlap, for mixtures of experts.
        lora_rank: of the largest adapter; 0: there are none.
        nano: whether our scheduler is to run, with this rule for lengths; None: vLLM's own, and its own sampling.
        more: further arguments of `AsyncEngineArgs`.
    """

    folder: Path
    context_tokens: int | None = None
    slots: int = SLOTS
    batch: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    enable_dbo: bool | None = None
    lora_rank: int = 0
    nano: str | None = "mean"
    more: Mapping[str, Any] = field(default_factory=dict)


def check_names(more: Mapping[str, Any]) -> None:
    """Check that vLLM knows these arguments, and that they are not the engine's own to decide.

    Raises:
        ConfigError: one is unknown, or decided by the engine; names it, and what was probably meant.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {each.name for each in fields(AsyncEngineArgs)}
    for name in more:
        if name in _OURS:
            raise ConfigError("vllm", f"{name} is not for you to set: {_OURS[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "vllm serve --help lists them"
            raise ConfigError("vllm", f"vLLM has no engine argument {name!r}; {hint}")


def engine_arguments(shape: Shape, trained_tokens: int | None) -> dict[str, Any]:
    """Return the keyword arguments of `AsyncEngineArgs`.

    Args:
        shape: what is wanted.
        trained_tokens: the longest context that the model was trained for, where it says so.

    Raises:
        ConfigError: a further argument is unknown, or is set twice.
    """
    check_names(shape.more)
    from vllm.config import StructuredOutputsConfig

    most = [tokens for tokens in (shape.context_tokens, trained_tokens) if tokens]
    ours: dict[str, Any] = {
        "max_model_len": min(most) if most else None,
        "max_num_seqs": shape.slots,
        "max_num_batched_tokens": shape.batch,
        "tensor_parallel_size": shape.tensor_parallel,
        "pipeline_parallel_size": shape.pipeline_parallel,
        "data_parallel_size": shape.data_parallel,
        "enable_dbo": shape.enable_dbo,
    }
    if shape.lora_rank:
        # As many adapters side by side as requests, up to what memory is reasonably kept for.
        ours |= {"max_lora_rank": shape.lora_rank, "max_loras": min(LORA_SLOTS, shape.slots)}
    given: dict[str, Any] = {
        name: value for name, value in ours.items() if value is not None and name not in shape.more
    }
    given |= shape.more
    given |= {"model": str(shape.folder), "generation_config": "vllm", "disable_log_stats": True}
    given["enable_lora"] = shape.lora_rank > 0
    # "auto" takes another backend for some schemas, and each allows other answers.
    given["structured_outputs_config"] = StructuredOutputsConfig(backend="guidance")
    if shape.nano is not None and chained(shape):
        given["logits_processors"] = [CHAIN]
    return given


def chained(shape: Shape) -> bool:
    """Whether our sampler chain runs in vLLM: not with speculative decoding, which takes none, nor without classes."""
    return shape.nano is not None and not shape.more.get("speculative_config")


def engine_config(shape: Shape, trained_tokens: int | None) -> Any:
    """Return vLLM's whole configuration, with our scheduler in it where it is wanted and fits.

    Raises:
        ConfigError: an argument is unknown, or vLLM refuses one.
        EngineError: vLLM cannot run on this machine.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    given = engine_arguments(shape, trained_tokens)
    try:
        config = AsyncEngineArgs(**given).create_engine_config()
    except (ValueError, TypeError, NotImplementedError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError("vllm", f"vLLM refuses its arguments: {' '.join(line.strip() for line in said)}") from None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why there is no server
        raise of_start(error) from None
    if shape.nano is not None:
        install_scheduler(config, shape.nano)
    return config


def install_scheduler(config: Any, rule: str) -> bool:
    """Put our scheduler into vLLM's configuration; where it does not fit this vLLM, warn and leave vLLM's own."""
    from crayon.server.engines.vllm import scheduler as vllm_scheduler

    why = vllm_scheduler.misfit()
    if not why and config.scheduler_config.policy != "fcfs":
        why = f"the policy {config.scheduler_config.policy!r} has an order of its own"
    if why:
        logger.warning("vLLM's own scheduler is used: %s", why)
        return False
    name = "NanoAsyncScheduler" if config.scheduler_config.async_scheduling else "NanoScheduler"
    config.scheduler_config.scheduler_cls = f"{SCHEDULER}.{name}"
    config.additional_config = {**(config.additional_config or {}), vllm_scheduler.KEY: {"predict": str(rule)}}
    return True
