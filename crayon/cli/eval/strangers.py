"""`crayon eval customize --users strangers` and `strangers_free`: their parts that open models."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from crayon.cli.eval import setup as eval_setup
from crayon.cli.shared import console, options
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon.device import DeviceEngine
    from crayon.lab.eval.customize import EvalReport

RESULTS = "strangers.json"
FREE_RESULTS = "strangers-free.json"


def measure(
    reference: str,
    paths: Sequence[Path],
    folder: Path,
    *,
    pool: str | None,
    server_model: str | None,
    quick: bool,
    items: int | None,
    workers: int,
) -> EvalReport:
    """Measure strangers on a model, with the pool that is named or shipped for it, if there is one.

    Args:
        reference: the device's model.
        paths: of the users' files.
        folder: where answers are kept.
        pool: name or folder of a pool.
        server_model: what is asked with the options listed; None: nothing.
        quick: fewer questions.
        items: most questions of a user.
        workers: threads of both models; 0: what users have.
    """
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.stranger_users import read_strangers
    from crayon.lab.eval.strangers import ITEMS, QUICK_ITEMS, StrangerSettings, evaluate_strangers

    settings = StrangerSettings(items=items if items is not None else QUICK_ITEMS if quick else ITEMS)
    users = read_strangers(paths)
    models_dir = options.load_settings({}).models_dir
    found, model = eval_setup.model_of(reference, models_dir)
    chosen, _ = eval_setup.pool_for(found.source_sha256, found.name, pool)
    threads = workers or None
    open_server: Callable[[], DeviceEngine] | None = None
    if server_model is not None:
        served, _ = eval_setup.model_of(server_model, models_dir)
        open_server = functools.partial(eval_setup.open_engine, served, [], threads)
    with AnswerCache(folder / eval_setup.ANSWERS) as cache:
        return evaluate_strangers(
            lambda pools: eval_setup.open_engine(found, pools, threads),
            model,
            chosen,
            users,
            settings,
            cache,
            open_server=open_server,
            tell=console.message,
        )


def measure_free(
    reference: str, folder: Path, *, pool: str | None, quick: bool, items: int | None, workers: int
) -> EvalReport:
    """Measure users of free answers on a model, with the pool that is named or shipped for it, if there is one.

    Args:
        reference: the device's model.
        folder: where answers are kept.
        pool: name or folder of a pool.
        quick: fewer questions.
        items: most questions of a user.
        workers: how many questions are answered side by side; 0: as many as cores.
    """
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.free_strangers import evaluate_free
    from crayon.lab.eval.strangers import ITEMS, QUICK_ITEMS, StrangerSettings

    settings = StrangerSettings(items=items if items is not None else QUICK_ITEMS if quick else ITEMS)
    found, model = eval_setup.model_of(reference, options.load_settings({}).models_dir)
    chosen, _ = eval_setup.pool_for(found.source_sha256, found.name, pool)
    with AnswerCache(folder / eval_setup.ANSWERS) as cache:
        return evaluate_free(
            lambda pools: eval_setup.open_engine(found, pools),
            model,
            chosen,
            settings.items,
            cache,
            workers=workers or min(usable_cores(), eval_setup.MOST_WORKERS),
            tell=console.message,
        )
