"""What `crayon serve` takes from a search, and the short search at a model's first start."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from crayon.cli import console
from crayon.errors import CrayonError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.models import LocalModel
    from crayon.server.scheduler.step_cost import StepCost
    from crayon.server.tuning import TunedProfile

DEFAULT_SLOTS = 8


def folder_of(local: LocalModel, models_dir: Path | None) -> Path:
    """Return where the records of a model are; it is removed together with the model."""
    from crayon.models import Store, default_models_dir

    return Store(models_dir or default_models_dir()).prepared(local.sha256)


def engine_sizes(
    local: LocalModel,
    quantization: str,
    *,
    models_dir: Path | None,
    ctx: int,
    slots: int | None,
    threads: int | None,
    search: bool,
    pools: Sequence[Pool] = (),
) -> dict[str, Any]:
    """Return the engine's keyword arguments for its sizes: given by hand, else tuned, else the defaults.

    Args:
        local: the model that is served.
        quantization: its type.
        models_dir: the store; None is the usual one.
        ctx: cells of the cache.
        slots: most requests together, given by hand; None is not.
        threads: compute threads, likewise.
        search: whether to search for up to 30 seconds where there is no record that holds.
        pools: adapters that are served.
    """
    by_hand = {name: value for name, value in (("n_seq_max", slots), ("threads", threads)) if value is not None}
    profile = _profile(local, quantization, models_dir, ctx, search=search and len(by_hand) < 2, pools=pools)
    tuned: dict[str, Any] = {}
    if profile is not None:
        from crayon.server.engines.llama_cpp import LlamaCppEngine
        from crayon.server.tuning import engine_arguments

        accepted = inspect.signature(LlamaCppEngine).parameters
        # What cannot be combined with a value given by hand goes with it.
        tuned = engine_arguments(profile.choice, set(accepted) - set(by_hand))
        if "threads" in by_hand:
            tuned.pop("overlap", None)
            tuned.pop("prefill_threads", None)
        _fit(tuned, by_hand)
        words = ", ".join(f"{name} {value}" for name, value in tuned.items()) or "nothing"
        console.message(f"tuned on {profile.made}: {words}" + ("; the rest is given by hand" if by_hand else ""), "dim")
        if "threads" not in by_hand:  # with other threads, another cost; the engine learns it
            tuned["cost"] = _cost(profile)
    return {"n_ctx": ctx, "n_seq_max": DEFAULT_SLOTS, "threads": None, **tuned, **by_hand}


def _cost(profile: TunedProfile) -> StepCost | None:
    """Return what steps cost as it was measured; None where the record does not hold it as this version wants it."""
    from crayon.server.scheduler.step_cost import StepCost

    try:
        return StepCost(**profile.cost)
    except (CrayonError, TypeError) as error:
        console.warning(f"the tuned record's cost is not used, steps are learnt from instead: {error}")
        return None


def _fit(tuned: dict[str, Any], by_hand: dict[str, int]) -> None:
    """Let a step hold a token of each request, as many as were asked for by hand, and drop what depends on fewer."""
    slots = by_hand.get("n_seq_max")
    if slots is None:
        return
    if "n_batch" in tuned:
        tuned["n_batch"] = max(tuned["n_batch"], slots)
    # How many cells each has was searched for another number of requests.
    tuned.pop("kv_unified", None)


def _profile(
    local: LocalModel,
    quantization: str,
    models_dir: Path | None,
    ctx: int,
    *,
    search: bool,
    pools: Sequence[Pool],
) -> TunedProfile | None:
    from crayon.server.tuning import QUICK_SECONDS, Key, Workload, load, tune

    folder, key = folder_of(local, models_dir), Key.here(local.sha256, quantization)
    found, reason = load(folder, key)
    if found is not None:
        if found.workload.get("n_ctx", ctx) <= ctx:
            return found
        reason = f"it was tuned for a context of {found.workload['n_ctx']}, more than {ctx}"
    if not search:
        console.message(f"not tuned: {reason}; crayon tune server {local.name} does it", "dim")
        return None
    if not _writable(folder):
        console.message(f"no search: {folder} cannot be written, and its result would be lost", "dim")
        return None
    workload = Workload(n_ctx=ctx) if ctx >= Workload().tokens else None
    if workload is None:
        console.message(f"a context of {ctx} is too small to search in", "dim")
        return None
    console.message(
        f"not tuned: {reason}; searching for up to {QUICK_SECONDS:.0f} s, once (--no-tune leaves it out, "
        f"crayon tune server {local.name} searches longer)"
    )
    try:
        return tune(
            local.path,
            key,
            folder,
            workload=workload,
            quick=True,
            pools=pools,
            say=lambda text: console.message(f"  {text}", "dim"),
        )
    except (CrayonError, OSError) as error:
        # A server that is slower than it could be is better than none.
        console.warning(f"the search failed, the defaults are used: {error}")
        return None


def _writable(folder: Path) -> bool:
    """Whether a record can be kept in a folder, which may have to be made."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return os.access(place, os.W_OK)
