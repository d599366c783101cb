"""What every route asks: the client behind the gateway, its models, and how much may run at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.errors import CrayonError, OverloadedError
from crayon.gateway.shared.models import find_model, hybrid_models, own_models
from crayon.gateway.shared.problems import HttpError, Problem
from crayon.gateway.shared.report import RouteReporter
from crayon.gateway.shared.response_store import ResponseStore
from crayon.sdk.call.device_failures import is_devices_own
from crayon.server.caller import Caller, calling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from crayon.engine import ModelInfo
    from crayon.gateway.shared.models import VirtualModel
    from crayon.gateway.shared.panel import Panel
    from crayon.sdk import AsyncCrayon
    from crayon.server.limits import ClientLimits

logger = logging.getLogger("crayon.gateway")

# A server is asked again what it serves after so long, one that could not say sooner.
_MODELS_S = 60.0
_UNKNOWN_S = 5.0
_LOADING_RETRY_S = 2.0
_BUSY_RETRY_S = 1.0
_LOOK_S = 0.05  # past the moment that is waited for, so that it is past


class Gateway:
    """One client, opened in the background and closed with the application.

    Args:
        client: who answers; None: `take` says so later.
        fixed: the side that all answers are from, where the client's engine is a server's own; None: the router
            decides, and the models are those of the hybrid.
        max_requests: most requests at a time.
        max_tokens: longest answer where a request does not say.
        stored_responses: how many answers are kept for requests that go on from them.
        keep_alive: seconds of silence after which a stream says something.
        panel: what the page asks; None: there is no page.
        reopen: returns a client like `client`, not opened; None: models stay loaded.
        idle_seconds: after so long without a request the client is closed, where one can be made anew for the next.
    """

    def __init__(
        self,
        client: AsyncCrayon | None,
        *,
        fixed: Source | None = None,
        max_requests: int = 64,
        max_tokens: int = 1024,
        keep_alive: float = 10.0,
        panel: Panel | None = None,
        stored_responses: int = 256,
        reopen: Callable[[], AsyncCrayon] | None = None,
        idle_seconds: float = math.inf,
    ) -> None:
        self._client = client
        self._reopen = reopen
        self._idle_s = idle_seconds
        self._used = time.monotonic()
        self._asleep = False
        self._waking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self.reporter = RouteReporter(fixed)
        self.max_tokens = max_tokens
        self.keep_alive = keep_alive
        self.panel = panel
        self.responses = ResponseStore(stored_responses)
        self.created = int(time.time())
        self.draining = False
        self.limits: ClientLimits | None = None
        self._fixed = fixed
        self._max_requests = max_requests
        self._running = 0
        self._loaded = False
        self._failed: CrayonError | None = None
        self._sides: Mapping[Source, tuple[ModelInfo, ...]] = {}
        self._sides_until = 0.0
        self._asking = asyncio.Lock()

    @property
    def client(self) -> AsyncCrayon:
        """Who answers.

        Raises:
            HttpError: nobody does yet.
        """
        if self._client is None:
            raise _not_yet("the models are being loaded", "loading")
        return self._client

    async def take(self, client: AsyncCrayon, limits: ClientLimits) -> None:
        """Answer by this client from now on, each caller within its limits."""
        self._client, self.limits = client, limits
        await self.load()

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return self._running

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._loaded and self._failed is None and not self.draining

    @property
    def embeds(self) -> Source:
        """Which side embeds: the device if there is one."""
        return self._fixed or (Source.DEVICE if Source.DEVICE in self._sides else Source.SERVER)

    async def load(self) -> None:
        """Open the models; a device that cannot be opened is done without where a server may answer.

        Raises:
            CrayonError: nobody can answer; requests are told so, too.
        """
        try:
            try:
                await self.client.load()
            except CrayonError as error:
                if not is_devices_own(error) or (await self.client.status()).server is None:
                    raise
                logger.warning("the device's model cannot be opened, so the server answers: %s", error)
            await self._ask_sides()
        except CrayonError as error:
            self._failed = error
            raise
        self._loaded = True
        if self._reopen is not None and self._idle_s < math.inf:
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Close the client; what still runs on it fails."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def awake(self) -> None:
        """Load the models again, where they were unloaded; from now on they stay for `idle_seconds`.

        Raises:
            CrayonError: they cannot be loaded any more; the next request tries again.
        """
        self._used = time.monotonic()
        async with self._waking:
            if not self._asleep or self._reopen is None:
                return
            client = self._reopen()
            try:
                await client.load()
            except BaseException:
                await client.close()
                raise
            self._client, self._asleep = client, False
            self._used = time.monotonic()
            logger.info("the models are loaded again")

    async def _watch(self) -> None:
        """Unload the models whenever nobody has asked for `idle_seconds`."""
        while True:
            await asyncio.sleep(max(0.0, self._used + self._idle_s - time.monotonic()) + _LOOK_S)
            async with self._waking:
                idle = not self._running and time.monotonic() >= self._used + self._idle_s
                if idle and not self._asleep and self._client is not None:
                    client, self._client, self._asleep = self._client, None, True
                    await client.close()
                    logger.info("the models are unloaded: nobody has asked for %g s", self._idle_s)

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """The names of the models that are loaded now, or connected to."""
        names = [] if self._asleep else [info.name for infos in self._sides.values() for info in infos]
        return tuple(dict.fromkeys(names))

    def check_ready(self) -> None:
        """Refuse while nobody can answer.

        Raises:
            HttpError: the models are being loaded, could not be, or the gateway stops.
        """
        if self.ready:
            return
        if self._failed is not None:
            message = f"the models could not be loaded: {self._failed}"
            raise HttpError(Problem(status=503, message=message, kind="service_unavailable_error", code="load_failed"))
        message, code = (
            ("the gateway stops", "stopping") if self.draining else ("the models are being loaded", "loading")
        )
        raise _not_yet(message, code)

    @contextlib.contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """Count a request of this caller while it is answered.

        Raises:
            OverloadedError: as many as may be are answered now, or the caller has no more to spend.
        """
        if self._running >= self._max_requests:
            raise OverloadedError(f"{self._running} requests are being answered, and more may not be", _BUSY_RETRY_S)
        with contextlib.ExitStack() as stay:
            if self.limits is not None:
                stay.enter_context(self.limits.admit(caller))
                stay.enter_context(calling(Caller(caller, partial(self.limits.charge, caller))))
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1
                self._used = time.monotonic()

    async def models(self) -> tuple[VirtualModel, ...]:
        """Return the models that there are now; customisations come and go."""
        await self._know_sides()
        if self._fixed is not None:
            return self._without_customizations()
        return hybrid_models(self._sides, [each.name for each in await self.client.customizations()])

    async def find(self, name: str | None) -> VirtualModel:
        """Return the model that a request names.

        Raises:
            InvalidRequestError: it names none.
            UnknownModelError: there is no such one.
        """
        await self._know_sides()
        own = self._without_customizations()
        # Who names a side need not wait for the folder of customisations.
        known = name is None or any(model.id == name for model in own)
        return find_model(own if known else await self.models(), name)

    def _without_customizations(self) -> tuple[VirtualModel, ...]:
        if self._fixed is None:
            return hybrid_models(self._sides, ())
        return own_models([info for infos in self._sides.values() for info in infos])

    async def _know_sides(self) -> None:
        if time.monotonic() >= self._sides_until:
            async with self._asking:
                if time.monotonic() >= self._sides_until:
                    await self._ask_sides()

    async def _ask_sides(self) -> None:
        self._sides = await self.client.models()
        self._sides_until = time.monotonic() + (_MODELS_S if all(self._sides.values()) else _UNKNOWN_S)


def _not_yet(message: str, code: str) -> HttpError:
    return HttpError(
        Problem(
            status=503,
            message=f"{message}; try again in a moment",
            kind="service_unavailable_error",
            code=code,
            retry_after=_LOADING_RETRY_S,
        )
    )
