"""A whole search on a model file, from loading it to the record."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crayon.errors import CancelledError
from crayon.llama.model import Model
from crayon.machine import usable_cores
from crayon.server.cost.online import CLOSE
from crayon.server.steps.limits import StepLimits
from crayon.server.tuning.interference import can_bind
from crayon.server.tuning.journal import Journal
from crayon.server.tuning.profiler import profile
from crayon.server.tuning.record import SCHEMA, TunedProfile, keep, partial_path
from crayon.server.tuning.rig import LlamaRig
from crayon.server.tuning.saturation import ExpectedLoad
from crayon.server.tuning.search import SearchSpace, search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.adapters.pool import Pool
    from crayon.server.tuning.record import Key
    from crayon.server.tuning.rig import Rig

FULL_SECONDS, QUICK_SECONDS = 480.0, 30.0
_MAX_BATCH, _MAX_SEQS = 512, 32
# Shares of the budget: the calls of the profile, and one trial.
_PROFILE_SHARE, _TRIAL_SHARE = 0.3, 0.03
_WIDE = 64
"""A cost is worth believing if a call of so many tokens was timed (below, reading the weights hides what one costs),
and calls that a fit has not seen are predicted as closely as the engine wants it to refuse somebody for."""


def tune(
    path: Path,
    key: Key,
    folder: Path | None,
    *,
    workload: ExpectedLoad | None = None,
    quick: bool = False,
    seconds: float | None = None,
    resume: bool = True,
    pools: Sequence[Pool] = (),
    say: Callable[[str], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> TunedProfile:
    """Search, write the record, and return it.

    Args:
        path: the model file.
        key: what the record holds for.
        folder: where records are; None keeps nothing.
        workload: what is asked of the server; None is a typical turn.
        quick: a short search: batch, sequences, threads, and one overlap.
        seconds: the time for it, loading included; None: 480, or 30 if quick. A single call is not cut off.
        resume: whether to go on with an unfinished search of the same settings.
        pools: adapter pools whose blends requests change between.
        say: told what is done.
        stopped: asked between two measurements whether to give up; what was measured is gone on with the next time.

    Raises:
        CancelledError: it was given up.
        ModelFileError, EngineError: the model cannot be run.
        OSError: the record cannot be written.
    """
    begun = time.perf_counter()
    with Model(path) as model:
        return tune_on(
            LlamaRig(model, pools),
            key,
            folder,
            workload=workload or ExpectedLoad(),
            longest=model.n_ctx_train,
            quick=quick,
            seconds=seconds,
            resume=resume,
            say=say,
            stopped=stopped,
            begun=begun,
        )


def tune_on(
    rig: Rig,
    key: Key,
    folder: Path | None,
    *,
    workload: ExpectedLoad,
    longest: int,
    quick: bool = False,
    seconds: float | None = None,
    resume: bool = True,
    say: Callable[[str], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    begun: float | None = None,
    overlap: bool | None = None,
) -> TunedProfile:
    """Search with a given rig, else as `tune`.

    `longest` are the tokens that the model was trained for, `begun` is when the time began to count (None: now), and
    `overlap` says whether reading and writing can be bound to cores of their own (None asks the system).
    """
    begun = time.perf_counter() if begun is None else begun
    budget = seconds if seconds is not None else QUICK_SECONDS if quick else FULL_SECONDS
    cores = usable_cores()

    def left() -> float:
        if stopped():
            raise CancelledError("the search was given up")
        return begun + budget - time.perf_counter()

    settings = {
        "schema": SCHEMA,
        "key": asdict(key),
        "workload": workload.as_json(),
        "quick": quick,
        "seconds": budget,
        "cores": cores,
    }
    journal = Journal(partial_path(folder, key) if folder is not None else None, settings, resume=resume)
    if journal.resumed:
        say(f"going on with {journal.resumed} measurements of an unfinished search")
    deepest = min(1024 if quick else 4096, longest, workload.n_ctx)
    seqs = min(_MAX_SEQS, workload.n_ctx // workload.tokens)
    limits = StepLimits(
        max_tokens=min(_MAX_BATCH, longest, workload.n_ctx),
        max_seqs=seqs,
        # Room beside what the recipes fill, for what a call adds.
        kv_capacity=max(deepest, workload.n_ctx),
        max_outputs=max(seqs, min(64, longest)),
    )
    say(f"timing calls for up to {_PROFILE_SHARE * budget:.0f} s")
    with rig.timer(limits, cores) as timer:
        fitted = profile(timer, limits, _PROFILE_SHARE * budget, journal, lambda: left() - 0.6 * budget, deepest)
    say(f"the cost of a call fits with an error of {fitted.error:.0%}, repeats vary by {fitted.noise:.0%}")
    space = SearchSpace(
        max_batch=limits.max_tokens,
        max_seqs=limits.max_seqs,
        cores=cores,
        overlap=can_bind() if overlap is None else overlap,
        trial_s=max(0.02, _TRIAL_SHARE * budget),
        quick=quick,
    )
    shown = fitted.largest >= min(_WIDE, limits.max_tokens)
    shown = shown and fitted.error_out is not None and fitted.error_out < CLOSE
    if not shown:
        say("too few calls, or too uneven ones, to know what others cost: that is left to be learnt while serving")
    found = search(rig, fitted.cost, space, workload, journal, left, say)
    record = TunedProfile(
        key=key,
        choice=found.choice,
        workload=workload.as_json(),
        cost=fitted.cost.terms() if shown else {},
        fit={
            "error": fitted.error,
            "error_out": fitted.error_out,
            "worst": fitted.worst,
            "noise": fitted.noise,
            "samples": fitted.samples,
            "shapes": fitted.shapes,
            "largest": fitted.largest,
        },
        quick=quick,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - begun, 1),
        evidence={**found.evidence(), "tokens_per_s": found.rate, "resumed": journal.resumed},
    )
    if folder is not None:
        keep(record, folder)
        journal.forget()
    return record
