"""A calibration as text: each profile's thresholds and accuracies, and what to expect of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.router.targets import Best, MaxDeviceError, MinQuality, ServerShare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crayon.customising.customization import Customization
    from crayon.router.record import CalibrationRecord
    from crayon.router.rules import ProfileRule
    from crayon.router.targets import Target

# How a signal reads in a sentence.
_SIGNALS = {"margin": "a lead of the best choice", "mean_logprob": "a mean log-probability"}


def calibration_lines(record: CalibrationRecord, customization: Customization | None = None) -> Iterator[str]:
    """Yield what a calibration says, in plain words; of a customisation its scope thresholds too."""
    calibration, report = record.calibration, record.calibration.report
    asked = f", {report.server_labelled} of them by the server too" if report.server_labelled else ""
    yield f"made {record.date[:10]} from {report.cases} queries{asked}, for {target_text(calibration.target)}"
    for rule in calibration.rules:
        yield "without a profile" if rule.profile is None else f"profile {rule.profile}"
        if customization is not None and rule.profile is not None:
            limit = customization.profile(rule.profile).threshold + rule.scope
            moved = f" (moved by {rule.scope:+.2f})" if rule.scope else ""
            yield f"  belongs to it: a scope score of {limit:.2f} or more{moved}"
        yield f"  {_inside(record, rule)}"
        yield f"  {_accuracies(rule)}"
    if calibration.outside is not None:
        sent = calibration.sends(calibration.outside.benefit)
        yield "outside all profiles"
        yield "  goes to the server" if sent else "  stays: the plain base answers, nothing is gained by sending it"
        yield f"  {_accuracies(calibration.outside)}"
    yield from _expected(record)
    yield from (f"note: {note}" for note in report.notes)


def target_text(target: Target) -> str:
    """Return a target in words."""
    match target:
        case ServerShare(share):
            return f"a server share of {share:.0%}"
        case MinQuality(quality):
            return f"{quality:.0%} of the server's accuracy"
        case MaxDeviceError(error, confidence):
            return f"at most {error:.0%} errors of the device, with {confidence:.0%} confidence"
        case Best():
            return "the best accuracy"


def _inside(record: CalibrationRecord, rule: ProfileRule) -> str:
    if rule.hardness is not None:
        signal = _SIGNALS.get(record.signal, f"{record.signal}")
        return f"the device answers from {signal} of {rule.hardness:.2f} on, below it the server"
    side = "the server answers" if record.calibration.sends(rule.benefit) else "the device answers"
    return f"{side}, however sure the device is"


def _accuracies(rule: ProfileRule) -> str:
    device = f"device {rule.device.mean:.0%} ({_counted(rule.device.n)})"
    return f"estimated right: {device}, server {rule.server:.0%} ({_counted(rule.server_n)})"


def _counted(n: int) -> str:
    return "believed, not measured" if n == 0 else f"{n} answer{'s' if n > 1 else ''}"


def _expected(record: CalibrationRecord) -> Iterator[str]:
    report = record.calibration.report
    if report.accuracy is None:
        yield f"expected: {report.share:.1%} of queries sent; the device alone is right on {report.device:.1%}"
    else:
        low, high = report.accuracy.low, report.accuracy.high
        yield (
            f"expected: {report.share:.1%} of queries sent, {report.accuracy.value:.1%} right "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )
        yield (
            f"  as many at random: {report.random or 0:.1%}; the device alone {report.device:.1%}, "
            f"the server alone {report.server or 0:.1%}"
        )
    if report.floor is not None:
        yield f"  any method has to send at least {report.floor:.1%} for this"
    if report.bound is not None:
        yield f"  of what the device answers, at most {report.bound:.1%} are wrong"
