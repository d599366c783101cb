"""Why a side answered, in words for people: the command line and the page say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.completion import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

REASONS: Mapping[Reason, str] = {
    Reason.MODE: "as the mode says",
    Reason.PRIVATE: "private, stays on the device",
    Reason.SENSITIVE: "stays on the device",
    Reason.LOCAL_ONLY: "CRAYON_LOCAL_ONLY is on, stays on the device",
    Reason.NO_SERVER: "no server is set",
    Reason.NO_DEVICE: "no device model is set",
    Reason.SERVER_AWAY: "the server is away",
    Reason.SERVER_FAILED: "the server failed",
    Reason.DEVICE_FAILED: "the device could not take it",
    Reason.IN_SCOPE: "in scope",
    Reason.CONFIDENT: "confident",
    Reason.OUT_OF_SCOPE: "out of scope",
    Reason.UNSURE: "the device was unsure",
    Reason.SERVER_BETTER: "calibrated: the server is better at this",
    Reason.NO_GAIN: "calibrated: nothing is gained by sending it",
    Reason.BUDGET: "the budget for the server is used up",
    Reason.LONG: "too long for the device",
    Reason.LANGUAGE: "a language that is not the device's",
    Reason.DEVICE_SLOW: "the device is slow",
    Reason.LOW_BATTERY: "the battery is low",
    Reason.NETWORK_SLOW: "the network is slow",
}
