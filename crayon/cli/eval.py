"""`crayon eval`: how good the answers are, on public data that nothing was trained on."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli import console, eval_chat, eval_device, eval_route, eval_run, eval_setup, options
from crayon.errors import InvalidRequestError, MissingExtraError
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.bench.report import Row
    from crayon.eval.customize import EvalReport
    from crayon.eval.settings import EvalSettings

app = typer.Typer(add_completion=False, no_args_is_help=True)

RESULTS = "customize.json"
STRANGERS = "customize-strangers.json"
CURVE = "customize-samples.png"


@app.callback()
def evaluation() -> None:
    """Measure how good the device's answers are.

    The questions are read from the folder of datasets that CRAYON_DATA names.
    """


@app.command()
def customize(
    reference: eval_setup.ModelArgument = "smollm2-135m-instruct",
    *,
    pool: eval_setup.PoolOption = None,
    all_data: eval_setup.AllDataOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer tasks, items, draws and controls: about 15 minutes.")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="GROUPS", help="Of in_pool,unseen,mixed,far, with commas between.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option("--controls", metavar="LIST", help="What stands beside the blend, with commas between."),
    ] = None,
    items: Annotated[int | None, typer.Option("--items", metavar="N", help="Most test items of a task.")] = None,
    extra: Annotated[
        int | None, typer.Option("--extra", metavar="N", help="Further items of an unseen task, from its train split.")
    ] = None,
    draws: Annotated[int | None, typer.Option("--draws", metavar="N", help="How often samples are drawn.")] = None,
    control_draws: Annotated[
        int | None,
        typer.Option("--control-draws", metavar="N", help="Draws for fewshot, lorahub, fresh and random_b."),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples", metavar="LIST", help="Samples of a user; further numbers make a curve, such as 16,1,4,64."
        ),
    ] = None,
    tasks: Annotated[int | None, typer.Option("--tasks", metavar="N", help="Most tasks in pool.")] = None,
    users: Annotated[
        str, typer.Option("--users", metavar="WHOM", help="tasks of the datasets, or strangers: users from JSON files.")
    ] = "tasks",
    strangers: Annotated[
        list[Path] | None,
        typer.Option("--strangers", metavar="FILE", help="A stranger's file; may be given again (default: all there)."),
    ] = None,
    server_model: Annotated[
        str | None,
        typer.Option("--server-model", metavar="MODEL", help="Beside strangers: a larger model, options listed."),
    ] = None,
    workers: eval_setup.WorkersOption = 0,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what customising is worth: in pool, on unseen tasks, for users of two tasks, and far from the pool.

    Samples come from train splits, questions from test splits. Answers are kept: a run that was stopped goes on.
    `--users strangers` measures users from JSON files (user, labels, samples, tests) as they would meet the product.
    Controls: base, fewshot, all_data, top1, top1_mass, uniform, uniform_group, fixed, lorahub, fresh, random_b, own.
    Example: crayon eval customize --quick
    """
    from crayon.adapters import Pool, find_pool
    from crayon.bench.made import Making
    from crayon.eval import sample_curve
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.customize import evaluate

    making = Making.of(sys.argv[1:])
    if users != "tasks" or strangers:
        if users not in ("tasks", "strangers"):
            raise InvalidRequestError("--users", f"must be tasks or strangers, not {users!r}")
        report = _strangers(reference, pool, strangers or [], server_model, items, out, quick=quick)
        report.made = making.done()
        _write(report, out or eval_setup.default_folder(), STRANGERS, as_json=as_json)
        return
    settings = _settings(
        quick=quick,
        groups=eval_setup.words(only),
        controls=eval_setup.words(controls),
        items=items,
        extra=extra,
        draws=draws,
        control_draws=control_draws,
        samples=_numbers(samples),
        tasks=tasks,
    )
    models_dir = options.load_settings({}).models_dir
    found, model = eval_setup.model_of(reference, models_dir)
    chosen = eval_setup.pool_of(found, pool)
    folder = out or eval_setup.default_folder()
    with AnswerCache(folder / eval_setup.ANSWERS) as cache:
        report = evaluate(
            lambda wanted: eval_setup.open_engine(found, wanted),
            model,
            chosen,
            settings,
            cache,
            all_data=Pool.open(find_pool(all_data)) if all_data else None,
            workers=workers or min(usable_cores(), eval_setup.MOST_WORKERS),
            tell=console.message,
        )
    report.made = making.done()
    try:
        if sample_curve.draw(report.rows, settings.samples[0], folder / CURVE):
            console.message(f"drawn in {folder / CURVE}")
    except MissingExtraError as error:
        console.warning(f"no curve is drawn: {error}")
    _write(report, folder, RESULTS, as_json=as_json)


app.command("route")(eval_route.route)
app.command("run")(eval_run.run)
app.command("device")(eval_device.device)
app.command("chat")(eval_chat.chat)
app.command("route-metrics")(eval_route.route_metrics)


def _strangers(
    reference: str,
    pool: str | None,
    files: list[Path],
    server_model: str | None,
    items: int | None,
    out: Path | None,
    *,
    quick: bool,
) -> EvalReport:
    """Measure users from files, on one device as users have it."""
    from contextlib import ExitStack

    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.strangers import ITEMS, QUICK_ITEMS, evaluate_strangers, read_stranger, stranger_files

    users = [read_stranger(path) for path in stranger_files(files)]
    models_dir = options.load_settings({}).models_dir
    found, model = eval_setup.model_of(reference, models_dir)
    chosen, _ = eval_setup.pool_for(found.source_sha256, found.name, pool)
    folder = out or eval_setup.default_folder()
    with ExitStack() as stack:
        cache = stack.enter_context(AnswerCache(folder / eval_setup.ANSWERS))
        engine = stack.enter_context(eval_setup.open_engine(found, [chosen] if chosen else [], threads=None))
        server = None
        if server_model is not None:
            other, _ = eval_setup.model_of(server_model, models_dir)
            server = stack.enter_context(eval_setup.open_engine(other, [], threads=None))
        most = items or (QUICK_ITEMS if quick else ITEMS)
        return evaluate_strangers(engine, model, users, cache, server=server, items=most, tell=console.message)


def _write(report: EvalReport, folder: Path, name: str, *, as_json: bool) -> None:
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    console.message(f"written to {folder / name}")
    if as_json:
        print(text)
    else:
        _print(report)


def _settings(*, quick: bool, **given: Any) -> EvalSettings:
    from crayon.eval.settings import EvalSettings

    values = {name: value for name, value in given.items() if value is not None}
    values.setdefault("control_draws", values.get("draws", 1 if quick else EvalSettings().control_draws))
    return EvalSettings.quick(**values) if quick else EvalSettings(**values)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequestError("--samples", f"must be numbers with commas between, not {text!r}") from None


def _print(report: EvalReport) -> None:
    figures = [row for row in report.rows if row.metric != "accuracy"]
    for workload in dict.fromkeys(row.workload for row in report.rows):
        print(f"\n{workload}")
        for row in figures:
            if row.workload == workload:
                print(
                    f"  {_label(row):44} {row.value:8.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}] {row.unit}, n={row.n}"
                )
        _print_accuracies([row for row in report.rows if row.metric == "accuracy" and row.workload == workload])
    for name, why in report.left_out.items():
        print(f"\nleft out: {name} ({why})")


def _label(row: Row) -> str:
    more = ", ".join(text for text in (row.task, row.variant if row.variant and "@" in row.variant else None) if text)
    return f"{row.metric} ({more})" if more else row.metric


def _print_accuracies(rows: Sequence[Row]) -> None:
    variants = list(dict.fromkeys(row.variant for row in rows))
    print(f"\n  {'accuracy':40}" + "".join(f"{name:>14}" for name in variants))
    for group, task in dict.fromkeys((row.group, row.task) for row in rows):
        values = {row.variant: row.value for row in rows if (row.group, row.task) == (group, task)}
        cells = "".join(f"{values[name]:14.1f}" if name in values else f"{'-':>14}" for name in variants)
        print(f"  {f'{group} {task}':40}{cells}")
