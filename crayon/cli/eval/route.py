"""`crayon eval route`: how good the router is."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from crayon.cli.eval import files as eval_files
from crayon.cli.eval import setup as eval_setup
from crayon.cli.shared import console, options
from crayon.machine import usable_cores

BELIEFS = "priors.toml"


def route(
    reference: eval_setup.ModelArgument = "smollm2-135m-instruct",
    *,
    server: eval_setup.ServerOption = None,
    server_model: eval_setup.ServerModelOption = "qwen2.5-coder-1.5b-instruct",
    pool: eval_setup.PoolOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer queries and draws: about 20 minutes.")] = False,
    users: Annotated[int | None, typer.Option("--users", metavar="N", help="Users of tasks in pool (0: all).")] = None,
    items: Annotated[int | None, typer.Option("--items", metavar="N", help="Queries of a user.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Take queries from train splits: to choose settings with, never a result.")
    ] = False,
    draws: Annotated[int | None, typer.Option("--draws", metavar="N", help="How often samples are drawn.")] = None,
    workers: eval_setup.WorkersOption = 0,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure the router: who should have answered, and who did.

    A user's queries are half of the own task, half strangers. Samples come from train splits, queries from test
    splits; the server is asked over gRPC, with the options listed. Writes route.json, route.md and, with the extra
    'plots', the curves. Example: crayon eval route --quick
    """
    from crayon.lab.bench.made import Making
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.routing import page
    from crayon.lab.eval.routing.run import evaluate_route
    from crayon.lab.eval.routing.settings import RouteSettings

    making = Making.of(sys.argv[1:])
    given = {"users": users, "items": items, "draws": draws, "split": "train" if tune else None}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = RouteSettings.quick(**values) if quick else RouteSettings(**values)
    found, model = eval_setup.model_of(reference, options.load_settings({}).models_dir)
    chosen = eval_setup.pool_of(found, pool)
    folder = out or eval_setup.default_folder()
    with ExitStack() as stack:
        cache = stack.enter_context(AnswerCache(folder / eval_setup.ANSWERS))
        engine = eval_setup.serve(stack, server, server_model)
        measured = evaluate_route(
            lambda wanted: eval_setup.open_engine(found, wanted),
            model,
            chosen,
            engine,
            settings,
            cache,
            workers=workers or min(usable_cores(), eval_setup.MOST_WORKERS),
            tell=console.message,
        )
    measured.report.made = making.done()
    if tune:
        from crayon.lab.eval.routing import beliefs

        text = beliefs.toml(measured.results, measured.device, measured.server)
        (folder / BELIEFS).write_text(text, encoding="utf-8")
        console.message(f"what these users would have one believe beforehand is in {folder / BELIEFS}")
    eval_files.write(
        measured.report.as_json(),
        folder,
        "route",
        draw=lambda: page.draw(measured, folder),
        markdown=lambda drawn: page.markdown(measured.report, drawn),
        as_json=as_json,
    )
