"""Our policy inside vLLM's scheduler: it holds requests back until the predicted peak of the cache has room for them.

A thin subclass. Before each of vLLM's steps, those who wait are put into our order and those who may not enter yet are
set aside; then vLLM's own `schedule` does everything else, with its constant budget of tokens that answers and parts
of prompts fill; then they are put back. vLLM's scheduler is no public interface: `misfit` compares what is used of it,
and where it differs vLLM's own runs, with a warning.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from crayon.server.engines.vllm import sampling as vllm_sampling
from crayon.server.engines.vllm.admission import WaitingRequest, admitted, in_turn
from crayon.server.engines.vllm.sampling import FORCED
from crayon.server.forecast.lengths import Lengths
from crayon.server.forecast.occupancy import Holder
from crayon.server.forecast.rules import LengthRule

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger("crayon.server.vllm")

KEY = "crayon"
"""Of our settings in vLLM's `additional_config`."""
_SIGNATURES = {"schedule": ("self", "throttle_prefills"), "_free_request": ("self", "request", "delay_free_blocks")}
_ANY = 1 << 30


def misfit() -> str:
    """Return what keeps our scheduler from this vLLM, "" for nothing."""
    for base in (Scheduler, AsyncScheduler):
        for name, wanted in _SIGNATURES.items():
            method = getattr(base, name, None)
            found = () if method is None else tuple(inspect.signature(method).parameters)
            if found != wanted:
                return f"{base.__name__}.{name} takes ({', '.join(found)}) here, not ({', '.join(wanted)})"
    source = inspect.getsource(Scheduler.__init__)
    for name in ("waiting", "running", "max_num_active_reqs", "deferred_waiting", "block_size"):
        if f"self.{name}" not in source:
            return f"Scheduler has no {name} here"
    return ""


class _Nano:
    """What both of our schedulers add to the one of vLLM's that they are, which has these attributes."""

    vllm_config: Any
    cache_config: Any
    block_size: int
    max_num_active_reqs: int
    waiting: Any
    running: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = (self.vllm_config.additional_config or {}).get(KEY, {})
        self._lengths = Lengths(settings.get("predict", LengthRule.MEAN))
        lora = self.vllm_config.lora_config
        self._lora_slots = lora.max_loras if lora is not None else _ANY
        self._capacity = self.cache_config.num_gpu_blocks * self.block_size
        self._overtaken: dict[str, int] = {}

    def schedule(self, throttle_prefills: bool = False) -> Any:  # noqa: FBT001, FBT002 - vLLM's signature
        """Plan the next step, of those that may be computed."""
        held = self._hold()
        try:
            return super().schedule(throttle_prefills)  # type: ignore[misc] # of the class beside this one
        finally:
            # Behind those that vLLM put back: they were to come first.
            for request in held:
                self.waiting.add_request(request)

    def _hold(self) -> Sequence[Any]:
        """Put the queue into our order and return, in order, the requests that were taken out of it."""
        queue = [request for request in self.waiting if request.status in _WAITING]
        if not queue:
            return []
        running = [_holder(request) for request in self.running]
        line = in_turn(
            [WaitingRequest(request.request_id, _holder(request)) for request in queue],
            {holder.group for holder in running},
            self._overtaken,
            slots=self._lora_slots,
        )
        entering = admitted(
            running,
            line,
            capacity=self._capacity,
            lengths=self._lengths,
            places=self.max_num_active_reqs - len(running),
            block=self.block_size,
        )
        by_id = {request.request_id: request for request in queue}
        last = max((i for i, request in enumerate(queue) if request.request_id in set(entering)), default=-1)
        for request in queue[: last + 1]:
            if request.request_id not in set(entering):
                self._overtaken[request.request_id] = self._overtaken.get(request.request_id, 0) + 1
        self.waiting.remove_requests(queue)
        for name in entering:
            self.waiting.add_request(by_id.pop(name))
        return list(by_id.values())

    def _free_request(self, request: Any, delay_free_blocks: bool = False) -> Any:  # noqa: FBT001, FBT002 - vLLM's
        """Learn how long an answer got, then let vLLM free it."""
        self._overtaken.pop(request.request_id, None)
        if _is_answer(request):
            ended = request.status == RequestStatus.FINISHED_STOPPED
            self._lengths.observe(request.num_output_tokens, ended=ended, group=_adapter(request))
        return super()._free_request(request, delay_free_blocks)  # type: ignore[misc] # of the class beside this one


_WAITING = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def _adapter(request: Any) -> str:
    return "" if request.lora_request is None else str(request.lora_request.lora_name)


def _is_answer(request: Any) -> bool:
    """Whether something can be learnt from its length: not from what is scored."""
    params = request.sampling_params
    return (
        params is not None
        and params.prompt_logprobs is None
        and FORCED not in (params.extra_args or {}).get(vllm_sampling.KEY, {})
    )


def _holder(request: Any) -> Holder:
    """Return what a request holds once its prompt is read, and what it may still get."""
    left = max(request.max_tokens - request.num_output_tokens, 1)
    return Holder(request.num_tokens, request.num_output_tokens, left, _adapter(request))


class NanoScheduler(_Nano, Scheduler):  # type: ignore[misc] # vLLM comes untyped
    """Ours, where steps do not overlap: on CPUs."""


class NanoAsyncScheduler(_Nano, AsyncScheduler):  # type: ignore[misc] # vLLM comes untyped
    """Ours, where the next step is planned while one runs: on GPUs."""
