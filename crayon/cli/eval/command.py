"""`crayon eval`: how good the answers are, on public data that nothing was trained on."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.eval import device as eval_device
from crayon.cli.eval import route as eval_route
from crayon.cli.eval import run as eval_run
from crayon.cli.eval import schema as eval_schema
from crayon.cli.eval import setup as eval_setup
from crayon.cli.eval import strangers as eval_strangers
from crayon.cli.shared import console, options
from crayon.errors import MissingExtraError
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.lab.bench.report import BenchRow
    from crayon.lab.eval.customize import EvalReport
    from crayon.lab.eval.settings import EvalSettings


class Users(StrEnum):
    """Whose customising is measured."""

    TASKS = "tasks"
    STRANGERS = "strangers"
    STRANGERS_FREE = "strangers_free"


app = typer.Typer(add_completion=False, no_args_is_help=True)

RESULTS = "customize.json"
CURVE = "customize-samples.png"
_STRANGERS = ("strangers", "strangers_free")


@app.callback()
def evaluation() -> None:
    """Measure how good the device's answers are.

    The questions are read from the folder of datasets that CRAYON_DATA names.
    """


@app.command()
def customize(
    reference: eval_setup.ModelArgument = "smollm2-135m-instruct",
    *,
    device: eval_setup.DeviceOption = None,
    users: Annotated[
        Users,
        typer.Option(
            "--users",
            help="tasks: made from datasets, as below. strangers: read from files. strangers_free: of free answers, "
            "made from datasets.",
        ),
    ] = Users.TASKS,
    strangers: Annotated[
        list[Path] | None,
        typer.Option(
            "--strangers",
            metavar="PATH",
            help="A user's file, with user, labels, samples and tests; may be repeated "
            "(default: strangers/*.json in the folder of datasets).",
        ),
    ] = None,
    server_model: Annotated[
        str | None,
        typer.Option("--server-model", metavar="MODEL", help="Ask it the strangers' questions too, in this process."),
    ] = None,
    pool: eval_setup.PoolOption = None,
    all_data: eval_setup.AllDataOption = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer tasks, items, draws and controls: about 15 minutes; strangers: under 10."),
    ] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="GROUPS", help="Of in_pool,unseen,mixed,far, with commas between.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option("--controls", metavar="LIST", help="What stands beside the blend, with commas between."),
    ] = None,
    items: Annotated[
        int | None, typer.Option("--items", metavar="N", help="Most test items of a task, or questions of a stranger.")
    ] = None,
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
    workers: eval_setup.WorkersOption = 0,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what customising is worth: in pool, on unseen tasks, for users of two tasks, and far from the pool.

    Samples come from train splits, questions from test splits. Answers are kept: a run that was stopped goes on.
    Controls: base, combined (the customisation as its user gets it), fewshot, all_data, top1, top1_mass, uniform,
    uniform_group, fixed, lorahub, fresh, random_b, own.
    --users strangers measures users whose tasks no pool was trained on, on any model: each customises, chooses and asks
    as a user does; each kind of evidence alone stands beside it. strangers_free are such users without a closed set.
    Example: crayon eval customize --quick
    Example: crayon eval customize --users strangers --device qwen2.5-coder-0.5b-instruct
    """
    from crayon.adapters import Pool, find_pool
    from crayon.lab.bench.made import Making
    from crayon.lab.eval import sample_curve
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import evaluate

    making = Making.of(sys.argv[1:])
    reference = device or reference
    if users is not Users.TASKS:
        _no_use_for(
            users.value,
            all_data=all_data,
            only=only,
            controls=controls,
            extra=extra,
            draws=draws,
            control_draws=control_draws,
            samples=samples,
            tasks=tasks,
        )
        folder = out or eval_setup.default_folder()
        if users is Users.STRANGERS:
            report = eval_strangers.measure(
                reference, strangers or [], folder, pool=pool, server_model=server_model, quick=quick, items=items,
                workers=workers,
            )  # fmt: skip
        else:
            _no_use_for(users.value, strangers=strangers, server_model=server_model)
            report = eval_strangers.measure_free(
                reference, folder, pool=pool, quick=quick, items=items, workers=workers
            )
        report.made = making.done()
        name = eval_strangers.RESULTS if users is Users.STRANGERS else eval_strangers.FREE_RESULTS
        _write(report, folder / name, as_json=as_json)
        return
    _no_use_for("tasks", strangers=strangers, server_model=server_model)
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
    _write(report, folder / RESULTS, as_json=as_json)


app.command("route")(eval_route.route)
app.command("run")(eval_run.run)
app.command("device")(eval_device.device)
app.command("schema")(eval_schema.schema)


def _no_use_for(users: str, **given: object) -> None:
    """Refuse options that these users have no use for."""
    from crayon.errors import InvalidRequestError

    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise InvalidRequestError(option, f"has no meaning with --users {users}; leave it out")


def _write(report: EvalReport, path: Path, *, as_json: bool) -> None:
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    console.message(f"written to {path}")
    if as_json:
        print(text)
    else:
        _print(report)


def _settings(*, quick: bool, **given: Any) -> EvalSettings:
    from crayon.lab.eval.settings import EvalSettings

    values = {name: value for name, value in given.items() if value is not None}
    values.setdefault("control_draws", values.get("draws", 1 if quick else EvalSettings().control_draws))
    return EvalSettings.quick(**values) if quick else EvalSettings(**values)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from crayon.errors import InvalidRequestError

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
    for row in report.rows:
        if row.metric == "accuracy" and row.group in _STRANGERS and row.variant == "combined" and row.note:
            print(f"{row.task} answers with: {row.note}")
    for name, why in report.left_out.items():
        print(f"\nleft out: {name} ({why})")


def _label(row: BenchRow) -> str:
    more = ", ".join(text for text in (row.task, row.variant if row.variant and "@" in row.variant else None) if text)
    return f"{row.metric} ({more})" if more else row.metric


def _print_accuracies(rows: Sequence[BenchRow]) -> None:
    variants = list(dict.fromkeys(row.variant for row in rows))
    print(f"\n  {'accuracy':40}" + "".join(f"{name:>14}" for name in variants))
    for group, task in dict.fromkeys((row.group, row.task) for row in rows):
        values = {row.variant: row.value for row in rows if (row.group, row.task) == (group, task)}
        cells = "".join(f"{values[name]:14.1f}" if name in values else f"{'-':>14}" for name in variants)
        print(f"  {f'{group} {task}':40}{cells}")
