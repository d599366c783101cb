"""The best settings of a server: one flag after the other, each value with the best of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.lab.bench.serving.systems import SystemSettings

SLOTS = (8, 16, 32)
UBATCHES = (128, 512)
BATCHES = (512, 2048)
OWN_BATCHES = (512, 1024, 2048)
OWN_PARTS = (1, 2)
# What is searched again on another model, whose other flags are known: what its cost per token and per call decides.
AGAIN = {"crayon": "parts", "llama-server": "ubatch"}
# Flags that bound how long a step takes, for the search under bounds: a step is a batch.
ONLINE_BATCHES = (64, 256)
CELLS = 32_768  # of the cache: more would not fit small machines

Axis = tuple[str, "Sequence[int]"]


def offline_axes(context: int, slots: Sequence[int] = SLOTS) -> tuple[Axis, ...]:
    """Return the flags of llama-server that its throughput depends on; `context` bounds the slots by memory."""
    return (
        ("slots", [count for count in slots if count in slots_for(context)] or slots_for(context)),
        ("ubatch", UBATCHES),
        ("batch", BATCHES),
    )


def own_axes(context: int, slots: Sequence[int] = SLOTS) -> tuple[Axis, ...]:
    """Return the flags of our server likewise."""
    return (offline_axes(context, slots)[0], ("batch", OWN_BATCHES), ("parts", OWN_PARTS))


def slots_for(context: int) -> tuple[int, ...]:
    """Return the numbers of slots whose caches fit."""
    return tuple(slots for slots in SLOTS if slots * context <= CELLS) or SLOTS[:1]


def tune(
    start: SystemSettings, axes: Sequence[Axis], score: Callable[[SystemSettings], float]
) -> tuple[SystemSettings, float]:
    """Return the settings of the highest score, and that score; nothing is measured twice."""
    known: dict[SystemSettings, float] = {}

    def scored(settings: SystemSettings) -> float:
        if settings not in known:
            known[settings] = score(settings)
        return known[settings]

    best = start
    for name, values in axes:
        best = max((with_flag(best, name, value) for value in values), key=scored)
    return best, scored(best)


def with_flag(settings: SystemSettings, name: str, value: int) -> SystemSettings:
    """Return the settings with one changed; a batch is never smaller than its parts."""
    if name == "slots":
        return replace(settings, slots=value)
    if name == "parts":
        return replace(settings, parts=value)
    if name == "ubatch":
        return replace(settings, ubatch=value, batch=max(value, settings.batch or value))
    return replace(settings, batch=value, ubatch=settings.ubatch and min(value, settings.ubatch))
