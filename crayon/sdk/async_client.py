"""The client for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar

from crayon.completion import Mode, Source
from crayon.engine import EncodeRequest, deadline_after
from crayon.messages import question
from crayon.sdk.async_stream import AsyncAnswerStream, gate_async, open_async
from crayon.sdk.call.choosing import ONE_TOKEN
from crayon.sdk.choice_stream import AsyncChoiceStream
from crayon.sdk.conversation import AsyncConversation
from crayon.sdk.core import Core
from crayon.sdk.custom_calls import AsyncCustomCalls
from crayon.sdk.route_calls import AsyncRouteCalls
from crayon.sdk.status import client_models, client_status, device_tokens
from crayon.sdk.tool_loop import MAX_ROUNDS
from crayon.sdk.waiting import wait_for_async

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from typing import Literal, Unpack

    from crayon.completion import Blend, Chosen, Completion
    from crayon.engine import EncodeResult, Engine, ModelInfo, ScoreRequest, ScoreResult
    from crayon.errors import PromptTooLongError
    from crayon.messages import MessagesLike
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.hardness import Hardness
    from crayon.router.scope import Scope
    from crayon.sdk.calibration.loaded import CalibrationLike
    from crayon.sdk.call.customizations import CustomizationLike
    from crayon.sdk.call.options import Call, CallOptions, Past, SamplingOptions, SideOptions
    from crayon.sdk.call.privacy import Privacy
    from crayon.sdk.conversation import WhenFull
    from crayon.sdk.status import ClientStatus
    from crayon.sdk.tool_loop import ToolRun

Result = TypeVar("Result")


class AsyncCrayon(AsyncRouteCalls, AsyncCustomCalls):
    """Asks a small model on the device, and a larger one behind a server where that is allowed and needed.

    `Crayon` for asyncio: the same names, arguments and results. Nothing here blocks the event loop.
    """

    def __init__(
        self,
        device: str | os.PathLike[str] | Engine | None = "auto",
        server: str | Sequence[str] | Engine | None = None,
        *,
        mode: Mode | str = Mode.PREFER_ON_DEVICE,
        scopes: Sequence[Scope | str] = (),
        hardness: Hardness | Literal[False] | None = None,
        system: str | None = None,
        timeout: float | None = 120.0,
        private: bool = False,
        customization: CustomizationLike | None = None,
        customizations_dir: str | os.PathLike[str] | None = None,
        calibration: CalibrationLike = "auto",
        budget: Budget | None = None,
        conditions: Conditions | None = None,
        privacy: Privacy | None = None,
        device_options: Mapping[str, Any] | None = None,
        server_options: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> None:
        self._core = Core(
            device,
            server,
            mode=mode,
            scopes=scopes,
            hardness=hardness,
            system=system,
            timeout=timeout,
            private=private,
            device_options=device_options,
            server_options=server_options,
            sampling=sampling,
            customization=customization,
            customizations_dir=customizations_dir,
            calibration=calibration,
            budget=budget,
            conditions=conditions,
            privacy=privacy,
        )

    async def ask(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> Completion:
        """Return the whole answer to `messages`; options and errors as for `Crayon.ask`."""
        async with self.stream(messages, **options) as stream:
            async for _ in stream:
                pass
            return stream.completion

    def stream(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> AsyncAnswerStream:
        """Return the answer as it is written; it starts when its first piece is asked for. As `ask` otherwise."""
        return self._answer(messages, options)

    async def run_tools(
        self,
        messages: MessagesLike,
        functions: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = MAX_ROUNDS,
        private_results: Iterable[str] = (),
        **options: Unpack[CallOptions],
    ) -> ToolRun:
        """As `Crayon.run_tools`; functions are awaited, or called in a thread where they are no coroutines.

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, BudgetError, ServerError, EngineError: as there.
        """
        loop = self._core.tool_loop(
            messages, functions, options, max_rounds=max_rounds, private_results=private_results
        )
        while not loop.done:
            said, told = loop.ask()
            for call in loop.answered(await self.ask(said, **told)):
                function = loop.function(call)
                try:
                    result = loop.unknown(call) if function is None else await asyncio.to_thread(function)
                    if inspect.isawaitable(result):
                        result = await result
                except Exception as error:  # noqa: BLE001 - the caller's own function: the model is told
                    result = error
                loop.took(call, result)
        return loop.run

    async def choose(self, messages: MessagesLike, choices: Iterable[str], **options: Unpack[SideOptions]) -> Chosen:
        """Return the likeliest of `choices` as the answer; as `Crayon.choose`.

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, ServerError, EngineError: as `Crayon.choose`.
        """
        call = self._core.textless_call(messages, options, max_tokens=ONE_TOKEN)
        return await AsyncChoiceStream(self._core, call, choices).choose()

    async def score(
        self, messages: MessagesLike, continuations: Iterable[str], **options: Unpack[SideOptions]
    ) -> ScoreResult:
        """Return how likely each continuation is, by the first side that the mode allows; no gates, no fallback.

        Options as for `choose`.

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, ServerError, EngineError: as `ask`.
        """
        call = self._core.textless_call(messages, options)
        call, source, texts = await asyncio.to_thread(self._core.screen_scored, call, continuations)
        engine = await open_async(self._core.engines, source)
        request = self._core.score_request(call, texts, await self._blend(call, source))
        return await wait_for_async(await self._paid(source, request, engine.score), request.deadline)

    async def encode(
        self,
        texts: str | Iterable[str],
        *,
        private: bool | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 # one meaning on both clients: the deadline of the whole call
    ) -> EncodeResult:
        """Return one vector a text, shape (texts, dimensions), by the device (by the server only without one).

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, ServerError, EngineError: as `ask`.
        """
        source, given, patience = await asyncio.to_thread(
            self._core.encode_call, texts, private=private, timeout=timeout
        )
        engine = await open_async(self._core.engines, source)
        request = self._core.encode_request(given, patience)
        return await wait_for_async(await self._paid(source, request, engine.encode), request.deadline)

    def chat(
        self,
        messages: MessagesLike = (),
        *,
        system: str | None = None,
        when_full: WhenFull = "slide",
        **options: Unpack[CallOptions],
    ) -> AsyncConversation:
        """Return a conversation that keeps its history.

        Args:
            messages: what was said so far.
            system: its system message.
            when_full: "slide" leaves the oldest turns out when the context is full, "fail" raises PromptTooLongError.
            options: what each turn is told unless it says otherwise, as for `ask`; `last_profile` is the profile that
                the conversation begins in.

        Raises:
            InvalidRequestError: an argument is wrong; the field names it.
        """
        return AsyncConversation(self, messages, system=system, when_full=when_full, **options)

    async def status(self) -> ClientStatus:
        """Return how this client stands: server, breaker, budget and what it measured. Asks nobody.

        Raises:
            EngineClosedError: after `close`.
        """
        return await asyncio.to_thread(client_status, self._core.engines, self._core.tracker)

    async def models(self) -> dict[Source, tuple[ModelInfo, ...]]:
        """Return what the device and the server serve, as far as there are; () where it cannot be told now.

        Raises:
            EngineClosedError: after `close`.
        """
        return await asyncio.to_thread(client_models, self._core.engines)

    async def count_tokens(self, messages: MessagesLike) -> int:
        """Return how many tokens the device's model reads for messages, without the samples of a customisation.

        Raises:
            InvalidRequestError: a message is wrong, or there is no device that could count.
            ModelError: the device's model cannot be opened.
        """
        return await asyncio.to_thread(device_tokens, self._core.engines, messages)

    async def load(self) -> None:
        """Open the model and the connection and fit the scopes now, instead of at the first call.

        Raises:
            ModelError: the device's model cannot be found, fetched or read.
        """
        await asyncio.to_thread(self._core.load)

    async def close(self) -> None:
        """Close the engines that this client opened; running calls on them fail. Safe to call twice."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _answer(
        self,
        messages: MessagesLike,
        options: CallOptions,
        *,
        past: Past | None = None,
        on_done: Callable[[Completion], None] | None = None,
        shorten: Callable[[Call, PromptTooLongError], Call | None] | None = None,
    ) -> AsyncAnswerStream:
        return AsyncAnswerStream(self._core, self._core.call(messages, options, past=past), on_done, shorten)

    async def _paid(
        self, source: Source, request: ScoreRequest | EncodeRequest, start: Callable[[Any], Future[Result]]
    ) -> Future[Result]:
        tracker = self._core.tracker
        if source is Source.DEVICE or tracker.budget_guard.budget is None:
            return start(request)
        return await asyncio.to_thread(tracker.paid, source, request, start)

    async def _blend(self, call: Call, source: Source) -> Blend | None:
        """Return the weights that a call wants at one side; where it leaves a choice, by its last message."""
        known, blend = self._core.settled(call, source)
        if known:
            return blend
        until = deadline_after(call.timeout)
        gate = await gate_async(self._core, call, until)
        request = EncodeRequest(texts=(question(call.messages),), deadline=until)
        choice = gate.judge(
            await wait_for_async(gate.encode(await open_async(self._core.engines, source), request), until)
        ).choice
        return None if choice is None else choice.blend
