"""What the sync and the async client share: settings, engines opened when needed, and no waiting style."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from crayon.completion import Blend, Reason, Source
from crayon.customising.profile_gate import ProfileGate, check_model
from crayon.customising.profiles import BASE
from crayon.engine import EncodeRequest, Engine, ScoreRequest
from crayon.errors import EngineError, InvalidRequestError
from crayon.ledger import Ledger, answered
from crayon.local_only import local_only
from crayon.messages import Message, normalise_messages
from crayon.router.hardness import Hardness, HardnessGate
from crayon.router.policy import Allowed, allowed_sources, parse_mode
from crayon.sampling import Sampling
from crayon.sdk.budget.usage import UsageTracker
from crayon.sdk.calibration.loaded import AUTO, Calibrations
from crayon.sdk.call.customizations import Customizations, samples_of
from crayon.sdk.call.engine_options import check_path
from crayon.sdk.call.engines import Engines
from crayon.sdk.call.options import (
    SIDE_FIELDS,
    Call,
    Defaults,
    Past,
    check_hardness,
    check_list,
    check_names,
    check_timeout,
    resolve_options,
    resolve_private,
    resolve_sampling,
    system_message,
)
from crayon.sdk.call.privacy import Screen
from crayon.sdk.query_gate import ChosenProfile, QueryGate, choice_of
from crayon.sdk.scopes import ClientScopes
from crayon.sdk.turn import Turn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Literal, Unpack

    from crayon.completion import Completion, Mode
    from crayon.customising.customization import Customization
    from crayon.engine import GenerateRequest
    from crayon.messages import MessagesLike
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.decide import CalibratedRouter
    from crayon.router.record import CalibrationRecord
    from crayon.router.scope import Scope
    from crayon.sdk.calibration.loaded import CalibrationLike
    from crayon.sdk.call.customizations import CustomizationLike, SamplesLike
    from crayon.sdk.call.options import CallOptions, SamplingOptions, SideOptions
    from crayon.sdk.call.privacy import Privacy
    from crayon.sdk.tool_loop import ToolLoop


logger = logging.getLogger("crayon.sdk")


class Core:
    """Settings, engines and scopes of one client, for any thread; `Crayon` documents the arguments."""

    def __init__(
        self,
        device: str | os.PathLike[str] | Engine | None,
        server: str | Sequence[str] | Engine | None,
        *,
        mode: Mode | str,
        scopes: Sequence[Scope | str],
        hardness: Hardness | Literal[False] | None,
        system: str | None,
        timeout: float | None,
        private: bool,
        device_options: Mapping[str, Any] | None,
        server_options: Mapping[str, Any] | None,
        sampling: Mapping[str, Any],
        customization: CustomizationLike | None = None,
        customizations_dir: str | os.PathLike[str] | None = None,
        calibration: CalibrationLike = AUTO,
        budget: Budget | None = None,
        conditions: Conditions | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self._defaults = Defaults(
            mode=parse_mode(mode),
            timeout=check_timeout(timeout),
            private=resolve_private(private),
            sampling=resolve_sampling(Sampling(), sampling),
        )
        self._system = system_message(system)
        self._hardness = check_hardness(hardness)
        self.screen = Screen(privacy)
        self.engines = Engines(device, server, device_options, server_options)
        self._ledger = Ledger() if self.screen.ledger else None
        if self._ledger is not None:
            self.engines.note_in(self._ledger)
        self._scopes = ClientScopes(scopes, self.engines)
        self.tracker = UsageTracker(budget, conditions, self.engines)
        given = None if customizations_dir in (None, "") else check_path("customizations_dir", customizations_dir)
        self.customizations = Customizations(given)
        self.calibrations = Calibrations(calibration, self.customizations)
        self._customization = customization
        self._gate: tuple[Customization, dict[str | None, float], Engine, ProfileGate] | None = None
        self._gating = threading.Lock()
        if customization is not None:
            self.engines.suit(self.customizations.find("customization", customization))
            if not self.engines.configured(Source.DEVICE):
                raise InvalidRequestError("customization", "is applied on the device; pass a device model")

    def load(self) -> None:
        """Open everything now: engines and scopes."""
        for source in Source:
            held_back = source is Source.SERVER and local_only() and self.engines.configured(Source.DEVICE)
            if self.engines.configured(source) and not held_back:
                self.engines.open(source)
        if self._scopes and self.engines.configured(Source.DEVICE):
            self._scopes.gate(None if self._defaults.timeout is None else time.monotonic() + self._defaults.timeout)
        if self._customization is not None:
            custom = self.customizations.find("customization", self._customization)
            self._profiles(custom, {})

    # -- calls

    def call(self, messages: MessagesLike, options: CallOptions, *, past: Past | None = None) -> Call:
        """Resolve every default and ask the policy.

        Raises:
            InvalidRequestError, PrivacyError, ServerUnavailableError: see `allowed_sources`, `Sampling`, `form_of`.
            BudgetError: the budget is used up, and only the server may answer.
        """
        self.engines.check_open()
        told = resolve_options(options, self._defaults)
        customised = self._customised(options.get("blend"))
        self.engines.suit(customised.get("customization"))
        call = Call(
            messages=self._with_system(_thoughtless(normalise_messages(messages), keep=told["keep_reasoning"])),
            allowed=self._allowed(told["mode"], private=told["private"]),
            past=past or Past(),
            **told,
            **customised,
        )
        if call.always and call.customization and len(call.customization.profiles) > 1 and _server_only(call):
            raise InvalidRequestError(
                "blend", f"{call.customization.name!r} has several profiles, and only the device can choose among them"
            )
        if call.logit_bias and len(call.allowed.sources) > 1:
            problem = "numbers tokens of one model, and two may answer; say mode='only_on_device' or 'only_on_server'"
            raise InvalidRequestError("logit_bias", problem)
        if call.always and _server_only(call) and call.customization and _uses_samples(call.customization):
            logger.warning(
                "customisation %s answers with its samples, which stay on the device: the server gets the weights "
                "of its blend alone",
                call.customization.name,
            )
        return call

    def textless_call(self, messages: MessagesLike, options: SideOptions, **sampling: Unpack[SamplingOptions]) -> Call:
        """Resolve a call that writes no text, and so takes fewer options; `sampling` is what is accounted for it."""
        check_names(options, SIDE_FIELDS, "this call")
        return self.call(messages, cast("CallOptions", {**options, **sampling}))

    def tool_loop(
        self,
        messages: MessagesLike,
        functions: Iterable[Callable[..., Any]],
        options: CallOptions,
        *,
        max_rounds: int,
        private_results: Iterable[str],
    ) -> ToolLoop:
        """Return what says how a conversation with functions goes on; its time starts now."""
        from crayon.sdk.tool_loop import ToolLoop

        return ToolLoop(
            messages,
            functions,
            options,
            patience=self._defaults.timeout,
            max_rounds=max_rounds,
            private_results=private_results,
        )

    def _allowed(self, mode: Mode, *, private: bool) -> Allowed:
        allowed = allowed_sources(
            mode,
            private=private,
            device=self.engines.configured(Source.DEVICE),
            server=self.engines.configured(Source.SERVER),
            server_away=self.engines.server_away,
            local_only=local_only(),
        )
        return self.tracker.affordable(allowed)

    def turn(
        self,
        call: Call,
        *,
        gate: Callable[[Hardness], HardnessGate | None] = HardnessGate,
        request_bytes: Callable[[GenerateRequest], int] | None = None,
        of_choices: bool = False,
        watch: Callable[[float], None] | None = None,
    ) -> Turn:
        """Return a turn whose time starts now; `gate` and `request_bytes` as in `Turn`.

        A calibration judges a choice (`of_choices`) by other signals than a text. `watch` is told the estimated gain
        by a turn that is only looked at.
        """
        if Source.SERVER in call.allowed.sources and call.screened is None:
            raise EngineError("a call that may reach the server was not looked at; nothing was sent")
        choice = _only_choice(call)
        choosing = call.customization is not None and choice is None
        return Turn(
            replace(call, allowed=self.tracker.fitting(call)),
            scoped=bool(self._scopes) or (choosing and not call.always),
            choosing=choosing,
            choice=choice,
            hardness=self._hardness,
            calibrated=self._calibrated(call, watch, of_choices=of_choices) if call.allowed.gated else None,
            gate=gate,
            server=self.engines.server_address,
            request_bytes=request_bytes or self.engines.request_bytes,
        )

    def _calibrated(
        self, call: Call, watch: Callable[[float], None] | None, *, of_choices: bool
    ) -> CalibratedRouter | None:
        hold = self._hardness is not None
        return self.calibrations.router(call, hold=hold, of_choices=of_choices, watch=watch)

    def needed_first(self, allowed: Allowed) -> tuple[Source, ...]:
        """Return the engines to open before the clock starts: a server is quick to open, a fallback device waits."""
        return tuple(source for source in allowed.sources if source is Source.SERVER or source is allowed.sources[0])

    def prepare(self, call: Call) -> None:
        """Check what a call is answered by; its engines are open. May block: the gates' calibration is read.

        Raises:
            AdapterMismatchError: the customisation was made for another model than the device's.
            ConfigError: the calibration is damaged, or was made for something else than what runs.
        """
        if call.customization is not None and call.allowed.sources[0] is Source.DEVICE:
            check_model(call.customization, self.engines.open(Source.DEVICE))
        if call.allowed.gated:
            self.calibrations.prepare(call, self.engines)

    def note(self, completion: Completion, request_id: str) -> None:
        """Note an answer in the ledger, where one is kept; does not raise."""
        if self._ledger is not None:
            self._ledger.note(answered(completion, request_id, time.time()))

    def close(self) -> None:
        """Write down what is kept of the server share, and close the engines that were opened here."""
        self.calibrations.close()
        self.engines.close()

    def screen_scored(self, call: Call, continuations: Iterable[str]) -> tuple[Call, Source, tuple[str, ...]]:
        """Return a `score` call, the side that scores and the continuations, as they may go there."""
        if isinstance(continuations, str):
            raise InvalidRequestError("continuations", "must be a list of texts, not one text")
        check_list("continuations", continuations)
        call, texts = self.screen.look_scored(call, tuple(continuations))
        return call, call.allowed.sources[0], texts

    def score_request(self, call: Call, continuations: tuple[str, ...], blend: Blend | None) -> ScoreRequest:
        """Return the request of a `score` call under the blend that was chosen; its time starts now."""
        return ScoreRequest(
            messages=call.messages,
            continuations=continuations,
            blend=blend,
            deadline=None if call.timeout is None else time.monotonic() + call.timeout,
        )

    def encode_call(
        self, texts: str | Iterable[str], *, private: bool | None, timeout: float | None
    ) -> tuple[Source, tuple[str, ...], float | None]:
        """Return which side embeds, the device if there is one, the texts as they may go there, and the patience."""
        self.engines.check_open()
        allowed = Allowed((Source.DEVICE,), Reason.MODE)
        private = resolve_private(self._defaults.private, private)
        if not self.engines.configured(Source.DEVICE):
            mode = self._defaults.mode
            allowed = allowed_sources(mode, private=private, device=False, server=True, local_only=local_only())
            allowed = self.tracker.affordable(allowed)
        patience = self._defaults.timeout if timeout is None else check_timeout(timeout)
        check_list("texts", texts)  # a text is one too
        given = (texts,) if isinstance(texts, str) else tuple(texts)
        return allowed.sources[0], self.screen.look_texts(self._defaults.mode, allowed, given), patience

    def encode_request(self, texts: tuple[str, ...], timeout: float | None) -> EncodeRequest:
        """Return the request of an `encode` call; its time starts now."""
        return EncodeRequest(texts=texts, deadline=None if timeout is None else time.monotonic() + timeout)

    # -- what a query is like

    def settled(self, call: Call, source: Source) -> tuple[bool, Blend | None]:
        """Return whether a call's blend at one side is known without looking at the query, and the blend."""
        choice = _only_choice(call)
        if call.customization is None or (source is Source.SERVER and not call.always):
            return True, call.blend
        return choice is not None, None if choice is None else choice.blend

    def gate_ready(self, call: Call) -> bool:
        """Whether `query_gate` returns without delay: nothing is to be opened, fitted or read from disk."""
        read = call.customization is None or (self._gate is not None and self._gate[0] is call.customization)
        return read and self.engines.opened(Source.DEVICE) and self._scopes.fitted

    def query_gate(self, call: Call, until: float | None, *, gated: bool = False) -> QueryGate:
        """Return what judges a call's query; the first time the scopes are fitted.

        Where the gates decide the call, a calibration's thresholds hold for the profiles.

        Raises:
            InvalidRequestError: the device sees too little difference between a scope's examples.
            AdapterError: the customisation's pool is not there.
            DeadlineExceededError: `until` passed.
        """
        profiles = None
        if call.customization is not None and _only_choice(call) is None:
            record = self.calibrations.record(call) if gated else None
            moved = {rule.profile: rule.scope for rule in record.calibration.rules} if record else {}
            profiles = self._profiles(call.customization, moved)
        return QueryGate(self._scopes.gate(until), profiles, call)

    def _profiles(self, custom: Customization, moved: dict[str | None, float]) -> ProfileGate:
        """Return the gate of a customisation; that of the last one is kept, with its classifier solved."""
        device = self.engines.open(Source.DEVICE)
        with self._gating:
            known = self._gate
            if known is None or known[0] is not custom or known[1] != moved or known[2] is not device:
                material, folder = self.customizations.material(custom)
                gate = ProfileGate(custom, device, moved, material=material, folder=folder)
                known = self._gate = (custom, moved, device, gate)
            return known[3]

    # -- customising

    def customise(
        self,
        name: str,
        samples: SamplesLike,
        *,
        refine: bool,
        check: bool,
        replace: bool,
        timeout: float | None,
        ready: Callable[[Customization], None] | None,
        progress: Callable[[str, int, int], None] | None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Customization:
        """Make a customisation; `Crayon.customize` documents the arguments."""
        self.engines.check_open()
        if not self.engines.configured(Source.DEVICE):
            raise InvalidRequestError("device", "customising needs a device model: samples never leave the device")
        given = samples_of(samples)
        return self.customizations.make(
            self.engines.open(Source.DEVICE),
            name,
            given,
            refine=refine,
            checked=check,
            replace=replace,
            system=self._system,
            patience=self._defaults.timeout if timeout is None else check_timeout(timeout),
            ready=ready,
            progress=progress,
            cancelled=cancelled,
        )

    def calibrate(
        self,
        customization: CustomizationLike | None,
        *,
        private: bool | None,
        timeout: float | None,
        hold_tokens: int | None,
        **wishes: Any,
    ) -> CalibrationRecord:
        """Make a calibration and keep it; `Crayon.calibrate` documents the arguments."""
        from crayon.sdk.calibration.call import CalibrateCall, calibrate_call

        self.engines.check_open()
        call = CalibrateCall(
            customization=self._customization if customization is None else customization,
            private=resolve_private(self._defaults.private, private),
            patience=self._defaults.timeout if timeout is None else check_timeout(timeout),
            hold_tokens=(self._hardness or Hardness()).hold_tokens if hold_tokens is None else hold_tokens,
            may_send=self.screen.lets_pass,
            **wishes,
        )
        return calibrate_call(
            call,
            self.engines,
            self.customizations,
            self.tracker,
            system=self._system,
            sampling=self._defaults.sampling,
        )

    def calibration_path(self, customization: CustomizationLike | None) -> Path:
        """Return where the calibration of a customisation is kept, or of the device's model; it need not be there."""
        return self._calibration_place(customization)[0]

    def calibration(self, customization: CustomizationLike | None) -> CalibrationRecord | None:
        """Return what is kept there; None: nothing."""
        from crayon.sdk.calibration.files import kept_record

        return kept_record(*self._calibration_place(customization))

    # -- inside

    def _calibration_place(self, customization: CustomizationLike | None) -> tuple[Path, Customization | None]:
        from crayon.sdk.calibration.call import path_of

        value = self._customization if customization is None else customization
        custom = None if value is None else self.customizations.find("customization", value)
        return path_of(custom, self.engines, self.customizations), custom

    def _customised(self, blend: object) -> dict[str, Any]:
        """Return what a caller's `blend` says of blend and customisation, as fields of a call."""
        if isinstance(blend, Blend):
            return {"blend": blend}
        if isinstance(blend, str) and blend.lower() == BASE:
            return {}
        if blend is not None:
            return {"customization": self.customizations.find("blend", blend), "always": True}
        if self._customization is None:
            return {}
        return {"customization": self.customizations.find("customization", self._customization)}

    def _with_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if self._system is None or any(message.role == "system" for message in messages):
            return messages
        return (self._system, *messages)


def _only_choice(call: Call) -> ChosenProfile | None:
    """Return the profile of a call that needs no look at its query: there is one, and it answers everything.

    Evidence is looked up where a query is: it may depend on it.
    """
    custom = call.customization
    if custom is None or len(custom.profiles) > 1 or (custom.scoped and not call.always):
        return None
    if custom.profiles[0].evidence:
        return None
    return choice_of(custom, custom.profiles[0].name)


def _uses_samples(custom: Customization) -> bool:
    return any(profile.evidence for profile in custom.profiles)


def _thoughtless(messages: tuple[Message, ...], *, keep: bool) -> tuple[Message, ...]:
    """Return messages without what the assistant thought: models are not told it again, unless a call asks for it."""
    if keep or not any(message.reasoning for message in messages):
        return messages
    return tuple(replace(message, reasoning="") for message in messages)


def _server_only(call: Call) -> bool:
    return call.allowed.sources == (Source.SERVER,)
