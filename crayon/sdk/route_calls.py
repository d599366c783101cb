"""What both clients can be asked about routing itself: calibrate it, explain it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from crayon.sdk.calibration.files import delete_record
from crayon.sdk.call.choosing import ONE_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from crayon.messages import MessagesLike
    from crayon.router.record import CalibrationRecord
    from crayon.router.targets import Target
    from crayon.sdk.call.customizations import CustomizationLike, SamplesLike
    from crayon.sdk.call.options import Call, SideOptions
    from crayon.sdk.core import Core
    from crayon.sdk.explain import Explanation


class RouteCalls:
    """These calls for `Crayon`."""

    _core: Core

    def calibrate(
        self,
        customization: CustomizationLike | None = None,
        *,
        samples: SamplesLike | None = None,
        traffic: SamplesLike | None = None,
        others: SamplesLike | None = None,
        target: Target | None = None,
        ask_server: bool = False,
        private: bool | None = None,
        hold_tokens: int | None = None,
        timeout: float | None = None,
        confirm: Callable[[int, str], bool] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> CalibrationRecord:
        """Calibrate who answers, on labelled samples, and keep the record: later calls are decided by it.

        Args:
            customization: the one to calibrate, by name; by default the client's own, or the plain device model.
            samples: labelled ones, or their file; by default those that the customisation was made from.
            traffic: questions without labels in their place: the server's answers stand for the truth.
            others: labelled questions that do not belong to the customisation, or their file: they teach what is
                outside, and may move its scope's threshold. Beside `samples`, not beside `traffic`.
            target: `ServerShare`, `MinQuality` or `MaxDeviceError`; None sends wherever the server is the better one.
            ask_server: send the questions to the server, to learn how often it is right. Else that is believed, not
                measured.
            private: True refuses to send anything.
            hold_tokens: over how many tokens the device's sureness is read, and how many are held back from then on.
            timeout: seconds for each single answer; the client's own by default.
            confirm: is told how many texts are to be sent and where to, before any is; False calls it off.
            progress: is called with "device" or "server", answers done and answers in all.

        Raises:
            InvalidRequestError: too few labelled samples, or an impossible target: says what would be possible.
            PrivacyError: the server should be asked, and this is private. Nothing was sent.
            CancelledError: `confirm` called it off. Nothing was sent.
            BudgetError: the budget for the server is used up on the way.
            ServerError: the server cannot be asked, or answers with what are no scores.
            AdapterError: the customisation's pool or samples are not there.
        """
        return self._core.calibrate(
            customization,
            private=private,
            timeout=timeout,
            hold_tokens=hold_tokens,
            samples=samples,
            traffic=traffic,
            others=others,
            target=target,
            ask_server=ask_server,
            confirm=confirm,
            progress=progress,
        )

    def calibration(self, customization: CustomizationLike | None = None) -> CalibrationRecord | None:
        """Return the calibration that is kept of a customisation (or of the plain device model), if there is one.

        Raises:
            InvalidRequestError: there is no such customisation.
            ConfigError: the record was edited or is damaged.
        """
        return self._core.calibration(customization)

    def forget_calibration(self, customization: CustomizationLike | None = None) -> None:
        """Remove the calibration that is kept, and its server share.

        Raises:
            InvalidRequestError: there is no such customisation.
            ConfigError: there is no calibration of it.
        """
        delete_record(self._core.calibration_path(customization))

    def explain(
        self,
        messages: MessagesLike,
        *,
        choices: Iterable[str] | None = None,
        **options: Unpack[SideOptions],
    ) -> Explanation:
        """Return who would answer and why, with every signal and threshold. Nothing is sent, and no server contacted.

        The device embeds the query and decodes as many tokens as would be held back, as it would for `ask`; or with
        `choices` scores them where their margin would decide, as it would for `choose`. That the server serves the
        model that a calibration was made for is not looked at. Options as for `choose`.

        Raises:
            InvalidRequestError, PrivacyError, ConfigError, DeadlineExceededError, EngineError: as `ask`.
        """
        from crayon.sdk.explain import explain

        return explain(self._core, explained_call(self._core, messages, options, choices), choices)


class AsyncRouteCalls:
    """These calls for `AsyncCrayon`."""

    _core: Core

    async def calibrate(
        self,
        customization: CustomizationLike | None = None,
        *,
        samples: SamplesLike | None = None,
        traffic: SamplesLike | None = None,
        others: SamplesLike | None = None,
        target: Target | None = None,
        ask_server: bool = False,
        private: bool | None = None,
        hold_tokens: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 # one meaning on both clients: the patience of each step
        confirm: Callable[[int, str], bool] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> CalibrationRecord:
        """Calibrate who answers, and keep the record; as `Crayon.calibrate`, and without blocking the event loop.

        `confirm` and `progress` are called from another thread.
        """
        gone = threading.Event()
        try:
            return await asyncio.to_thread(
                self._core.calibrate,
                customization,
                private=private,
                timeout=timeout,
                hold_tokens=hold_tokens,
                samples=samples,
                traffic=traffic,
                others=others,
                target=target,
                ask_server=ask_server,
                confirm=confirm,
                progress=progress,
                cancelled=gone.is_set,
            )
        finally:
            gone.set()

    async def calibration(self, customization: CustomizationLike | None = None) -> CalibrationRecord | None:
        """Return the calibration that is kept; as `Crayon.calibration`."""
        return await asyncio.to_thread(self._core.calibration, customization)

    async def forget_calibration(self, customization: CustomizationLike | None = None) -> None:
        """Remove the calibration that is kept; as `Crayon.forget_calibration`."""
        path = await asyncio.to_thread(self._core.calibration_path, customization)
        await asyncio.to_thread(delete_record, path)

    async def explain(
        self,
        messages: MessagesLike,
        *,
        choices: Iterable[str] | None = None,
        **options: Unpack[SideOptions],
    ) -> Explanation:
        """Return who would answer and why; nothing is sent. As `Crayon.explain`."""
        from crayon.sdk.explain import explain

        call = explained_call(self._core, messages, options, choices)
        return await asyncio.to_thread(explain, self._core, call, choices)


def explained_call(core: Core, messages: MessagesLike, options: SideOptions, choices: Iterable[str] | None) -> Call:
    """Return the call that is to be explained: of `ask`, or with `choices` of `choose`."""
    if choices is None:
        return core.textless_call(messages, options)
    return core.textless_call(messages, options, max_tokens=ONE_TOKEN)
