"""Getting an adapter for a request, beside the others: made in a thread, read by vLLM once, kept while it is needed."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from crayon.errors import AdapterError, fault_report
from crayon.server.engines.vllm.errors import is_death

if TYPE_CHECKING:
    from crayon.completion import Blend
    from crayon.server.engines.vllm.adapters import Adapters, Lora
    from crayon.server.engines.vllm.loop import VllmLoop

logger = logging.getLogger("crayon.server.vllm")

_THREADS = 2


class AdapterCache:
    """Adapters for requests; on the loop.

    vLLM reads an adapter before the first request with it is begun. So one that it cannot read fails those requests,
    where vLLM's own reading, in the midst of a step, would end it for everybody.
    """

    def __init__(self, adapters: Adapters, loop: VllmLoop) -> None:
        self._adapters = adapters
        self._loop = loop
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="crayon-blend")
        self._adding: dict[int, asyncio.Task[None]] = {}

    async def base(self) -> Lora | None:
        """Return what the base is computed with; an adapter is to be given back."""
        return None if self._adapters.base is None else await self.named(self._adapters.base)

    async def named(self, lora: Lora) -> Lora:
        """Return an adapter that has a name of its own; it is to be given back.

        Raises:
            AdapterError: vLLM cannot read it.
        """
        await self._added(lora)
        lora.leases += 1  # nothing depends on the count: it is never forgotten
        return lora

    async def blend(self, blend: Blend) -> Lora:
        """Return a blend's adapter; it is to be given back.

        Raises:
            AdapterError: it cannot be made, or vLLM cannot read it.
            EngineClosedError: the engine is closed.
        """
        making = asyncio.get_running_loop().run_in_executor(self._threads, self._adapters.hold, blend)
        try:
            lora = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._give_back)
            raise
        try:
            await self._added(lora)
        except BaseException:
            self._adapters.give_back(lora)
            raise
        return lora

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    async def _added(self, lora: Lora) -> None:
        if lora.added:
            return
        task = self._adding.get(lora.number)
        if task is None:
            task = self._adding[lora.number] = asyncio.get_running_loop().create_task(self._add(lora))
            task.add_done_callback(lambda _: self._adding.pop(lora.number, None))
        await asyncio.shield(task)

    async def _add(self, lora: Lora) -> None:
        try:
            await self._loop.llm.add_lora(as_request(lora))
        except Exception as error:
            if is_death(error):
                raise
            logger.error("vLLM cannot read the adapter %s: %s", lora.name, fault_report(error))
            self._adapters.drop(lora)
            raise AdapterError(f"vLLM cannot read the adapter {lora.name!r}; the server's log says more") from None
        lora.added = True

    def _give_back(self, made: asyncio.Future[Lora]) -> None:
        if not made.cancelled() and made.exception() is None:
            self._adapters.give_back(made.result())


def as_request(lora: Lora) -> Any:
    """Return an adapter as vLLM is told of it."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora.name, lora.number, str(lora.folder))
