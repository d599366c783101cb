"""What `crayon serve` takes from a search, and the short search at a model's first start."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console
from crayon.errors import CancelledError, ConfigError, CrayonError
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.config import ServeSettings
    from crayon.models import LocalModel
    from crayon.server.cost.step_cost import StepCost
    from crayon.server.tuning import TunedProfile

DEFAULT_SLOTS = 8
DECIDED = ("slots", "threads", "batch", "nano_batches", "overlap", "kv", "blend_quantum")
"""The settings that a record decides, together."""


def folder_of(local: LocalModel, models_dir: Path | None) -> Path:
    """Return where the records of a model are; it is removed together with the model."""
    from crayon.models import Store, default_models_dir

    return Store(models_dir or default_models_dir()).prepared(local.sha256)


def engine_sizes(
    local: LocalModel,
    quantization: str,
    serve: ServeSettings,
    *,
    models_dir: Path | None,
    pools: Sequence[Pool] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return the engine's keyword arguments for its sizes: all tuned, or all as given by hand and by default.

    Args:
        local: the model that is served.
        quantization: its type.
        serve: what is asked for; without its `tune` there is no record and no search.
        models_dir: the store; None is the usual one.
        pools: adapters that are served.
        stopped: whether a search is to be given up.

    Raises:
        CancelledError: a search was given up.
        ConfigError: `tune` is asked for together with a size.
    """
    sizes: dict[str, Any] = {"n_ctx": serve.ctx, "n_seq_max": serve.slots or DEFAULT_SLOTS, "threads": serve.threads}
    if serve.tune is False:
        return sizes
    by_hand = [key for key in DECIDED if getattr(serve, key) is not None]
    if serve.tune and by_hand:
        raise ConfigError("tune", f"finds all sizes itself, but {_and(by_hand)} given by hand; leave one of them away")
    profile = _profile(local, quantization, models_dir, serve.ctx, by_hand=by_hand, pools=pools, stopped=stopped)
    if profile is None:
        return sizes
    if by_hand:
        # What was measured together is not to be mixed with what was not: a batch of 64 is no batch for 100 requests.
        console.message(f"tuned on {profile.made}, whose sizes are not used: {_and(by_hand)} given by hand", "dim")
    else:
        from crayon.server.engines.llama.engine import LlamaCppEngine
        from crayon.server.tuning import engine_arguments

        sizes |= engine_arguments(profile.choice, set(inspect.signature(LlamaCppEngine).parameters))
        console.message(f"tuned on {profile.made}: {profile.choice}", "dim")
    if sizes["threads"] in {None, usable_cores()} and sizes.get("overlap", serve.overlap) in {None, "none"}:
        # It was timed on all cores; with others, or two calls at a time, the engine learns what they cost.
        sizes["cost"] = _cost(profile)
    return sizes


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"


def _cost(profile: TunedProfile) -> StepCost | None:
    """Return what steps cost as it was measured; None where the record does not hold it as this version wants it."""
    from crayon.server.cost.step_cost import StepCost

    try:
        return StepCost(**profile.cost)
    except (CrayonError, TypeError) as error:
        console.warning(f"the tuned record's cost is not used, steps are learnt from instead: {error}")
        return None


def _profile(
    local: LocalModel,
    quantization: str,
    models_dir: Path | None,
    ctx: int,
    *,
    by_hand: Sequence[str],
    pools: Sequence[Pool],
    stopped: Callable[[], bool],
) -> TunedProfile | None:
    """Return the record that holds here, or what a short search finds where it may be made; None where not."""
    import filelock

    from crayon.server.tuning import QUICK_SECONDS, ExpectedLoad, Key, load, tune

    folder, key = folder_of(local, models_dir), Key.here(local.sha256, quantization, ctx)
    found, reason = load(folder, key)
    if found is not None:
        return found
    why_not = ""
    if by_hand:
        why_not = f"{_and(by_hand)} given by hand"
    elif not _writable(folder):
        why_not = f"{folder} cannot be written, and what a search finds would be lost"
    elif ctx < DEFAULT_SLOTS * ExpectedLoad().tokens:
        why_not = f"a context of {ctx} is too small to search in"
    if why_not:
        console.message(f"not tuned: {reason}, and not searched: {why_not}", "dim")
        return None
    console.message(
        f"not tuned: {reason}; measuring for about {QUICK_SECONDS:.0f} s how it is served best, once "
        f"(--no-tune leaves it out, crayon tune server {local.name} searches longer)"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two that measure at a time measure each other.
        with filelock.FileLock(folder / "tuning.lock", blocking=False):
            return tune(
                local.path,
                key,
                folder,
                workload=ExpectedLoad(n_ctx=ctx),
                quick=True,
                pools=pools,
                say=lambda text: console.message(f"  {text}", "dim"),
                stopped=stopped,
            )
    except filelock.Timeout:
        console.message("another server is searching for this model; the defaults are used", "dim")
    except CancelledError:
        console.message("the search is given up; the next one goes on with what was measured", "dim")
        raise
    except Exception as error:  # noqa: BLE001 - a server that is slower than it could be is better than none
        console.warning(f"the search failed, the defaults are used: {str(error) or type(error).__name__}")
    return None


def _writable(folder: Path) -> bool:
    """Whether a record can be kept in a folder, which may have to be made."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return os.access(place, os.W_OK)
