"""The call `calibrate` of both clients: what is asked for is checked, made and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crayon.completion import Source
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.profile_gate import check_model
from crayon.errors import AdapterError, CancelledError, InvalidRequestError, PrivacyError
from crayon.router.features import MAX_HELD
from crayon.sdk.calibration.calibrate import make_calibration
from crayon.sdk.calibration.files import record_path, write_record
from crayon.sdk.calibration.labelling import Asking, asked
from crayon.sdk.call.customizations import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.customising.customization import Customization
    from crayon.customising.sample import Sample
    from crayon.messages import Message
    from crayon.router.record import CalibrationRecord
    from crayon.router.targets import Target
    from crayon.sampling import Sampling
    from crayon.sdk.budget.usage import UsageTracker
    from crayon.sdk.call.customizations import CustomizationLike, Customizations, SamplesLike
    from crayon.sdk.call.engines import Engines

    # Told how many texts would be sent, and where to; False calls it off.
    Confirm = Callable[[int, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateCall:
    """What a caller of `calibrate` wants; `Crayon.calibrate` documents the fields."""

    customization: CustomizationLike | None = None
    samples: SamplesLike | None = None
    traffic: SamplesLike | None = None
    others: SamplesLike | None = None
    target: Target | None = None
    ask_server: bool = False
    private: bool = False
    hold_tokens: int = 8
    patience: float | None = None
    confirm: Confirm | None = None
    progress: Callable[[str, int, int], None] | None = None
    cancelled: Callable[[], bool] = lambda: False
    may_send: Callable[[Sequence[str]], bool] = lambda _: True
    """Whether the texts of one question (system message, question, choices) may go to the server."""


def calibrate_call(
    call: CalibrateCall,
    engines: Engines,
    customizations: Customizations,
    tracker: UsageTracker,
    *,
    system: Message | None,
    sampling: Sampling,
) -> CalibrationRecord:
    """Make a calibration and keep it.

    Raises:
        InvalidRequestError, PrivacyError, CancelledError, ServerError, EngineError: see `Crayon.calibrate`.
        ConfigError: the record cannot be written.
    """
    _check(call, engines)
    custom = None if call.customization is None else _kept(call.customization, customizations)
    kept: tuple[Sample, ...] = ()
    engines.suit(custom)
    if custom is not None:
        try:
            kept = customizations.store.samples(custom.name)
        except AdapterError:
            if call.samples is None and call.traffic is None:
                raise
    given = call.traffic if call.traffic is not None else call.samples
    samples = kept if given is None else samples_of(given)
    others = () if call.others is None else _others(call.others, [*kept, *samples])
    labelled = sum(sample.answer is not None for sample in (*samples, *others))
    sent = len(samples) if call.traffic is not None else labelled
    if call.ask_server and call.confirm is not None and not call.confirm(sent, engines.server_address or "the server"):
        raise CancelledError("calibrating was called off; nothing was sent")
    calls = DeviceCalls(
        engines.open(Source.DEVICE), patience=call.patience, cancelled=call.cancelled, what="calibrating"
    )
    if custom is not None:
        check_model(custom, calls.engine)
    server = engines.open(Source.SERVER) if call.ask_server else None
    record = make_calibration(
        calls,
        server,
        samples,
        Asking(
            system=system,
            sampling=replace(sampling, temperature=0.0, seed=None),
            hold_tokens=call.hold_tokens,
            patience=call.patience,
            cancelled=call.cancelled,
        ),
        tracker,
        customization=custom,
        kept=kept,
        material=customizations.material(custom)[0] if custom is not None else None,
        others=others,
        traffic=call.traffic is not None,
        may_send=call.may_send,
        target=call.target,
        progress=call.progress or (lambda *_: None),
    )
    write_record(path_of(custom, engines, customizations), record)
    return record


def path_of(custom: Customization | None, engines: Engines, customizations: Customizations) -> Path:
    """Return where the calibration of a customisation, or of the plain device model, is kept; opens the device."""
    folder = customizations.store.folder
    if custom is not None:
        return record_path(folder, custom)
    model = engines.open(Source.DEVICE).models()[0]
    return record_path(folder, None, model.source_sha256 or model.name)


def _kept(value: CustomizationLike, customizations: Customizations) -> Customization:
    found = customizations.find("customization", value)
    if found.name not in customizations.store or customizations.find("customization", found.name) != found:
        raise InvalidRequestError("customization", "is not kept on this device; pass the name of one that is")
    return found


def _others(given: SamplesLike, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    try:
        others = samples_of(given)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.field.replace("samples", "others", 1), error.problem) from None
    known = {asked(sample.question) for sample in samples}
    both = sum(asked(sample.question) in known for sample in others)
    if both:
        raise InvalidRequestError("others", f"{both} of them are samples too; leave each out of one of the two")
    return others


def _check(call: CalibrateCall, engines: Engines) -> None:
    if not engines.configured(Source.DEVICE):
        raise InvalidRequestError("device", "calibrating needs a device model; pass one")
    if not isinstance(call.ask_server, bool):
        raise InvalidRequestError("ask_server", f"must be True or False, not {call.ask_server!r}; nothing was sent")
    if call.samples is not None and call.traffic is not None:
        raise InvalidRequestError("traffic", "takes the place of samples; pass one of them")
    if call.others is not None and call.traffic is not None:
        raise InvalidRequestError("others", "are labelled, and traffic is not; pass labelled samples in its place")
    if call.others is not None and call.customization is None:
        raise InvalidRequestError("others", "teach what is outside of a customisation; name one")
    if call.samples is None and call.traffic is None and call.customization is None:
        raise InvalidRequestError("samples", "are needed where no customisation is named: there are none kept")
    if call.traffic is not None and not call.ask_server:
        raise InvalidRequestError("traffic", "has no labels but the server's answers, so ask_server is needed too")
    if call.ask_server and call.private:
        raise PrivacyError("the server can only judge what it is sent, and this is private; nothing was sent")
    if call.ask_server and not engines.configured(Source.SERVER):
        raise InvalidRequestError("ask_server", "needs a server; pass server='host:port'")
    if isinstance(call.hold_tokens, bool) or not isinstance(call.hold_tokens, int):
        raise InvalidRequestError("hold_tokens", f"must be a whole number, not {call.hold_tokens!r}")
    if not 1 <= call.hold_tokens <= MAX_HELD:
        raise InvalidRequestError("hold_tokens", f"must be 1 to {MAX_HELD}, not {call.hold_tokens}")
