"""What vLLM raises, as errors of ours: a caller learns a status, never words that could quote a prompt."""

from __future__ import annotations

import logging

from crayon.errors import CrayonError, EngineError, InvalidRequestError, fault_report

logger = logging.getLogger("crayon.server.vllm")

_LESS = (
    "lower --slots, --ctx or --vllm gpu_memory_utilization=...; "
    "--vllm kv_cache_memory_bytes=... sets what the cache takes, which has to hold one request of --ctx"
)
_MEMORY = ("out of memory", "OutOfMemory", "cannot allocate memory", "No available memory", "KV cache is needed")


def innermost(error: BaseException) -> BaseException:
    """Return what went wrong, without what was put around it: a group of tasks, or vLLM's own wrapper."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif type(error).__name__ == "EngineGenerateError" and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error


def is_death(error: BaseException) -> bool:
    """Whether vLLM's engine is gone with this, for every request."""
    return type(innermost(error)).__name__ == "EngineDeadError"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, as far as the error or what caused it says."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or any(word in f"{type(seen).__name__} {seen}" for word in _MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def of_request(error: BaseException) -> CrayonError:
    """Return what the caller of a request is told, and log the rest."""
    error = innermost(error)
    if isinstance(error, CrayonError):
        return error
    if is_death(error):
        return EngineError("vLLM's engine has broken down; the server has to be started again")
    if out_of_memory(error):
        logger.error("out of memory: %s", fault_report(error))
        return EngineError("vLLM has no memory left for the request; try it again later, or shorter")
    if isinstance(error, ValueError) or type(error).__name__ == "VLLMValidationError":
        logger.warning("vLLM refuses a request: %s", fault_report(error))
        name = getattr(error, "parameter", None)
        return InvalidRequestError(str(name) if name else "request", "vLLM refuses it; the server's log says where")
    logger.error("a request failed: %s", fault_report(error))
    return EngineError(f"the request could not be computed ({type(error).__name__}); the engine's log says where")


def of_start(error: BaseException) -> CrayonError:
    """Return why vLLM did not start. Nothing of a user's is in it yet, so its own words are told."""
    if isinstance(error, CrayonError):
        return error
    said = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {said[0] if said else 'no reason given'}"
    if out_of_memory(error):
        return EngineError(f"vLLM does not start, memory is short ({words}); {_LESS}")
    # What ends one of its processes is told in that process's lines only.
    return EngineError(f"vLLM does not start ({words}); its own lines above say why. If memory is short, {_LESS}")
