"""`crayon eval device`: quantizations of a model side by side, and which to take."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from crayon.cli.eval import files as eval_files
from crayon.cli.eval import setup as eval_setup
from crayon.cli.shared import console, options


def device(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A model on this machine.")] = (
        "smollm2-135m-instruct"
    ),
    *,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only this type (may be repeated); 'source' is the published file."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer questions and runs: about 10 minutes for the default model.")
    ] = False,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="MIB", min=1, help="Recommend within this peak of memory.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option("--tokens-per-second", metavar="N", min=0, help="Recommend what writes this fast.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="DATASETS", help="Data sets for accuracy, with commas between.")
    ] = None,
    items: Annotated[int | None, typer.Option("--items", metavar="N", help="Most questions of a task.")] = None,
    runs: Annotated[int | None, typer.Option("--runs", metavar="N", help="How often times are taken.")] = None,
    pool: eval_setup.PoolOption = None,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure each quantization of a model: accuracy, perplexity, speed, memory, size, bias and truthfulness.

    Each type is made from the published file, measured in a process of its own (so that the peak of memory is its own)
    and removed again: accuracy on public tasks, plain and customised by the pool's members; perplexity on our text;
    prefill and decode rate, time to the first token, peak memory, load time, file size; the bias score of BBQ as its
    authors define it, and TruthfulQA. Of the types within --memory and --tokens-per-second, the fastest that is as
    good as the best is recommended. Measure on an idle machine.

    Writes device.json, device.md and, with the extra 'plots', the Pareto plot. A run that was stopped goes on with the
    type it was at. Example: crayon eval device --quick --memory 300
    """
    from crayon.lab.bench.made import Making
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.quantized import page
    from crayon.lab.eval.quantized.run import evaluate_device
    from crayon.lab.eval.quantized.settings import QuantizedSettings
    from crayon.models import resolve

    making = Making.of(sys.argv[1:])
    given: dict[str, Any] = {
        "types": tuple(types) if types else None, "tasks": eval_setup.words(tasks), "items": items, "runs": runs,
    }  # fmt: skip
    values = {name: value for name, value in given.items() if value is not None}
    settings = QuantizedSettings.quick(**values) if quick else QuantizedSettings(**values)
    local = resolve(reference, download=False, models_dir=options.load_settings({}).models_dir)
    opened, pool_folder = eval_setup.pool_for(local.sha256, local.name, pool)
    folder = out or eval_setup.default_folder()
    with AnswerCache(folder / eval_setup.ANSWERS) as cache:
        report = evaluate_device(
            local,
            settings,
            cache,
            folder,
            pool=opened,
            pool_folder=pool_folder,
            memory_mib=memory,
            tokens_per_s=tokens_per_second,
            tell=console.message,
        )
    report.made = making.done()
    record = report.as_json()
    eval_files.write(
        record,
        folder,
        "device",
        draw=lambda: [page.draw(record, folder / page.PLOT)],
        markdown=lambda drawn: page.markdown(record, drawn),
        as_json=as_json,
    )
