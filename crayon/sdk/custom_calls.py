"""What both clients can be asked about customisations: make one, find one, list them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.customising.customization import Customization
    from crayon.sdk.call.customizations import CustomizationLike, SamplesLike
    from crayon.sdk.core import Core


class CustomCalls:
    """These calls for `Crayon`."""

    _core: Core

    def customize(
        self,
        name: str,
        samples: SamplesLike,
        *,
        refine: bool = False,
        check: bool = True,
        replace: bool = False,
        timeout: float | None = None,
        ready: Callable[[Customization], None] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Customization:
        """Make a customisation from samples of the user's own tasks, and keep it: seconds, no training, no upload.

        Examples, a classifier of closed answers and, where the model has a pool, a blend of its members are each tried
        on the samples; what does worse than the plain base on them is not used. Nothing is kept under the name before
        that has ended: an interrupt, an error or a kill leaves what was there.

        Args:
            name: what it is called from then on.
            samples: 1 to 1,000 of them, or the file that holds them; see `crayon.Sample`.
            refine: search for better weights on the samples; kept only if better on held-out ones. Minutes.
            check: score about 24 of the samples, each answered by the others, against the plain base. False makes the
                quick check alone, of at most 8 samples of each profile under the plain base: it lets the classifier go
                live, neither blend nor examples, and its figures say little. Samples without an answer cannot be
                checked: their blend is kept, which the note says.
            replace: whether one of this name may be replaced.
            timeout: seconds for each single step on the device; the client's own by default.
            ready: is called with what the first stage of the check lets go live. This draft is in memory only: pass the
                object itself as `blend=` to use it.
            progress: is called with "check" or "refine", steps done and steps in all.

        Raises:
            InvalidRequestError: the name is taken, or the samples cannot be used; says which and why.
            PrivacyError: the device engine does not compute here; nothing was sent.
            AdapterError: the engine cannot compare texts, or its pool's keys are of another layer.
        """
        return self._core.customise(
            name,
            samples,
            refine=refine,
            check=check,
            replace=replace,
            timeout=timeout,
            ready=ready,
            progress=progress,
        )

    def customization(self, name: CustomizationLike) -> Customization:
        """Return a customisation by its name, or from an exported file (a path that ends with .json).

        Raises:
            InvalidRequestError: there is none.
            AdapterError: its record is damaged.
        """
        return self._core.customizations.find("customization", name)

    def customizations(self) -> tuple[Customization, ...]:
        """Return the customisations on this device, by name."""
        return self._core.customizations.all()


class AsyncCustomCalls:
    """These calls for `AsyncCrayon`."""

    _core: Core

    async def customize(
        self,
        name: str,
        samples: SamplesLike,
        *,
        refine: bool = False,
        check: bool = True,
        replace: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 # one meaning on both clients: the patience of each step
        ready: Callable[[Customization], None] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Customization:
        """Make a customisation from samples and keep it; as `Crayon.customize`, and without blocking the event loop.

        `ready` and `progress` are called from another thread.
        """
        gone = threading.Event()
        try:
            return await asyncio.to_thread(
                self._core.customise,
                name,
                samples,
                refine=refine,
                check=check,
                replace=replace,
                timeout=timeout,
                ready=ready,
                progress=progress,
                cancelled=gone.is_set,
            )
        finally:
            gone.set()  # a task that was cancelled leaves no work behind on the device

    async def customization(self, name: CustomizationLike) -> Customization:
        """Return a customisation by its name, or from an exported file (a path that ends with .json).

        Raises:
            InvalidRequestError: there is none.
            AdapterError: its record is damaged.
        """
        return await asyncio.to_thread(self._core.customizations.find, "customization", name)

    async def customizations(self) -> tuple[Customization, ...]:
        """Return the customisations on this device, by name."""
        return await asyncio.to_thread(self._core.customizations.all)
