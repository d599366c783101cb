"""`crayon eval`: how good the answers are, on public data that nothing was trained on."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli import console, options
from crayon.cli.child_server import ChildServer
from crayon.errors import MissingExtraError
from crayon.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters import Pool
    from crayon.bench.report import Row
    from crayon.device import DeviceEngine
    from crayon.device.opening import Opening
    from crayon.eval.customize import EvalReport, ModelUnderTest
    from crayon.eval.routing.run import Measured
    from crayon.eval.settings import EvalSettings

app = typer.Typer(add_completion=False, no_args_is_help=True)

# Each has its own context and adapters in memory.
MOST_WORKERS = 4
RESULTS, ROUTE_RESULTS, ANSWERS = "customize.json", "route.json", "answers.sqlite"
CURVE = "customize-samples.png"


@app.callback()
def evaluation() -> None:
    """Measure how good the device's answers are.

    The questions are read from the folder of datasets that CRAYON_DATA names.
    """


@app.command()
def customize(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")] = "smollm2-135m-instruct",
    *,
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="POOL", help="The pool to blend, by name or folder (default: the model's)."),
    ] = None,
    all_data: Annotated[
        Path | None, typer.Option("--all-data", metavar="FOLDER", help="A pool of one member trained on all data.")
    ] = None,
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
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=16, help="Questions answered side by side, one core each (0: all).")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="For answers, which a later run takes up, and for the result."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what customising is worth: in pool, on unseen tasks, for users of two tasks, and far from the pool.

    Samples come from train splits, questions from test splits. Answers are kept: a run that was stopped goes on.
    Controls: base, fewshot, all_data, top1, top1_mass, uniform, uniform_group, fixed, lorahub, fresh, random_b, own.
    Example: crayon eval customize --quick
    """
    from crayon.adapters import Pool, find_pool
    from crayon.eval import sample_curve
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.customize import evaluate

    settings = _settings(
        quick=quick,
        groups=_names(only),
        controls=_names(controls),
        items=items,
        extra=extra,
        draws=draws,
        control_draws=control_draws,
        samples=_numbers(samples),
        tasks=tasks,
    )
    models_dir = options.load_settings({}).models_dir
    found, model = _model(reference, models_dir)
    chosen = _pool(found, pool)
    folder = out or _default_folder()
    with AnswerCache(folder / ANSWERS) as cache:
        report = evaluate(
            lambda wanted: _engine(found, wanted),
            model,
            chosen,
            settings,
            cache,
            all_data=Pool.open(find_pool(all_data)) if all_data else None,
            workers=workers or min(usable_cores(), MOST_WORKERS),
            tell=console.message,
        )
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
    console.message(f"written to {folder / RESULTS}")
    try:
        if sample_curve.draw(report.rows, settings.samples[0], folder / CURVE):
            console.message(f"drawn in {folder / CURVE}")
    except MissingExtraError as error:
        console.warning(f"no curve is drawn: {error}")
    if as_json:
        print(text)
    else:
        _print(report)


@app.command()
def route(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")] = "smollm2-135m-instruct",
    *,
    server: Annotated[
        str | None, typer.Option("--server", metavar="ADDRESS", help="A running server (default: one is started).")
    ] = None,
    server_model: Annotated[
        str, typer.Option("--server-model", metavar="MODEL", help="What the started server runs.")
    ] = "qwen2.5-coder-1.5b-instruct",
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="POOL", help="The pool to blend, by name or folder (default: the model's)."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer queries and draws: about 20 minutes.")] = False,
    users: Annotated[int | None, typer.Option("--users", metavar="N", help="Users of tasks in pool (0: all).")] = None,
    items: Annotated[int | None, typer.Option("--items", metavar="N", help="Queries of a user.")] = None,
    draws: Annotated[int | None, typer.Option("--draws", metavar="N", help="How often samples are drawn.")] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=16, help="Questions answered side by side, one core each (0: all).")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="For answers, which a later run takes up, and for the result."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure the router: who should have answered, and who did.

    A user's queries are half of the own task, half strangers. Samples come from train splits, queries from test
    splits; the server is asked over gRPC, with the options listed. Writes route.json, route.md and, with the extra
    'plots', the curves. Example: crayon eval route --quick
    """
    from crayon.client.remote import RemoteEngine
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.routing.run import evaluate_route
    from crayon.eval.routing.settings import RouteSettings

    given = {"users": users, "items": items, "draws": draws}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = RouteSettings.quick(**values) if quick else RouteSettings(**values)
    found, model = _model(reference, options.load_settings({}).models_dir)
    chosen = _pool(found, pool)
    folder = out or _default_folder()
    with ExitStack() as stack:
        cache = stack.enter_context(AnswerCache(folder / ANSWERS))
        if server is None:
            console.message(f"starting a server of {server_model}")
            server = stack.enter_context(ChildServer(["--model", server_model, "--host", "127.0.0.1"])).address
        engine = stack.enter_context(closing(RemoteEngine(server, timeout=600.0)))
        measured = evaluate_route(
            lambda wanted: _engine(found, wanted),
            model,
            chosen,
            engine,
            settings,
            cache,
            workers=workers or min(usable_cores(), MOST_WORKERS),
            tell=console.message,
        )
    _write_route(measured, folder, as_json=as_json)


def _write_route(measured: Measured, folder: Path, *, as_json: bool) -> None:
    from crayon.eval.routing import page

    text = json.dumps(measured.report.as_json(), indent=2, ensure_ascii=False)
    (folder / ROUTE_RESULTS).write_text(text + "\n", encoding="utf-8")
    try:
        plots = page.draw(measured, folder)
    except MissingExtraError as error:
        console.warning(f"no curves are drawn: {error}")
        plots = []
    told = page.markdown(measured.report, plots)
    (folder / "route.md").write_text(told, encoding="utf-8")
    console.message(f"written to {folder}: {', '.join([ROUTE_RESULTS, 'route.md', *plots])}")
    print(text if as_json else told)


def _pool(found: Opening, pool: str | None) -> Pool:
    """Return the pool that was asked for, or the model's own.

    Raises:
        AdapterError: there is none, or it was made for another model.
    """
    from crayon.device import opening
    from crayon.errors import AdapterError

    pools = opening.pools([pool] if pool else opening.AUTO, found.source_sha256)
    if not pools:
        raise AdapterError(f"no pool is shipped for {found.name}; name one with --pool")
    pools[0].check_base(found.source_sha256, found.name)
    return pools[0]


@app.command("route-metrics")
def route_metrics(*, as_json: options.JsonOption = False) -> None:
    """Try the router's metrics on known answers: who of two real models was right on public questions.

    The labels are RouteLLM's, from the file routing/small_vs_large.jsonl.gz in the folder of datasets. They say what
    the best and a random order of sending reach; no model of ours is in them.
    Example: crayon eval route-metrics --json
    """
    from crayon.eval.route_labels import GROUPS, load_labels, measure

    labels = load_labels()
    found = [measure(labels, group).as_json() for group in GROUPS]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for metrics in found:
        print(f"{metrics.pop('group')}, {metrics.pop('n')} questions")
        for name, value in metrics.items():
            shown = "-" if value is None else f"{value:.3f}" if "apgr" in name else f"{value:.2f} %"
            print(f"  {name.replace('_', ' '):20} {shown:>9}")


def _settings(*, quick: bool, **given: Any) -> EvalSettings:
    from crayon.eval.settings import EvalSettings

    values = {name: value for name, value in given.items() if value is not None}
    values.setdefault("control_draws", values.get("draws", 1 if quick else EvalSettings().control_draws))
    return EvalSettings.quick(**values) if quick else EvalSettings(**values)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from crayon.errors import InvalidRequestError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequestError("--samples", f"must be numbers with commas between, not {text!r}") from None


def _model(reference: str, models_dir: Path | None) -> tuple[Opening, ModelUnderTest]:
    from crayon.device import opening
    from crayon.eval.customize import ModelUnderTest
    from crayon.models import resolve

    found = opening.find(reference, models_dir=models_dir, download=False)
    if found.path == resolve(reference, download=False, models_dir=models_dir).path:
        console.warning(f"{found.name} was never prepared for this machine: the published file is measured")
    return found, ModelUnderTest.of(found.path, found.name, found.path.stem)


def _engine(found: Opening, pools: Sequence[Pool]) -> DeviceEngine:
    from crayon.data.texts import background_texts
    from crayon.device import DeviceEngine

    return DeviceEngine(
        found.path,
        name=found.name,
        background=background_texts(),
        cache_dir=found.cache_dir,
        source_sha256=found.source_sha256,
        # Short prompts gain little from threads, and threads that wait for each other lose much beside other work.
        threads=1,
        pools=pools,
    )


def _default_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("crayon", appauthor=False) / "eval"


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
    for name, why in report.missing.items():
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
