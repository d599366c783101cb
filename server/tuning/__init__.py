"""The search for how a server works best on this machine: structure by a fitted cost, then shares by measurement."""

from crayon.server.tuning.choice import TunedSettings, engine_arguments
from crayon.server.tuning.record import Key, TunedProfile, load
from crayon.server.tuning.saturation import ExpectedLoad
from crayon.server.tuning.session import FULL_SECONDS, QUICK_SECONDS, tune

__all__ = [
    "FULL_SECONDS",
    "QUICK_SECONDS",
    "ExpectedLoad",
    "Key",
    "TunedProfile",
    "TunedSettings",
    "engine_arguments",
    "load",
    "tune",
]
