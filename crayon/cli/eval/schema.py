"""`crayon eval schema`: which JSON schemas of others can be kept, and whether answers under them are valid."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.eval import setup as eval_setup  # noqa: TC001 - typer reads it at run time
from crayon.cli.shared import console, options

if TYPE_CHECKING:
    from crayon.engine import Engine
    from crayon.lab.eval.schema import SchemaReport


def schema(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Files of schemas, such as JSONSchemaBench's.")],
    *,
    device: Annotated[
        str | None, typer.Option("--device", metavar="MODEL", help="Have it write a document of each on the device.")
    ] = None,
    server_model: Annotated[
        str | None,
        typer.Option("--server-model", metavar="MODEL", help="And this one as a server does, in this process."),
    ] = None,
    items: Annotated[
        int, typer.Option("--items", metavar="N", min=1, help="Most schemas; always the same ones.")
    ] = 500,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="Longest document.")] = 256,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check which JSON schemas can be kept, and have documents written of them.

    FOLDER holds JSON files: schemas, or objects with one under "schema". Of JSONSchemaBench, take maskbench/data of
    github.com/guidance-ai/jsonschemabench. Every document that ends by itself is checked by the library jsonschema (the
    extra 'eval'); both sides must refuse the same schemas, in the same words. The models are those on this machine.
    Example: crayon eval schema jsonschemabench/maskbench/data --device smollm2-135m-instruct --items 50
    """
    from crayon.device import DeviceEngine
    from crayon.lab.eval.schema import evaluate_schemas, read_cases
    from crayon.models import resolve
    from crayon.server.engines.llama.engine import LlamaCppEngine

    models_dir = options.load_settings({}).models_dir
    cases = read_cases(folder, items)
    with ExitStack() as stack:
        sides: dict[str, Engine] = {}
        if device is not None:
            sides["device"] = stack.enter_context(DeviceEngine.open(device, models_dir=models_dir, download=False))
        if server_model is not None:
            local = resolve(server_model, download=False, models_dir=models_dir)
            engine = LlamaCppEngine(
                local.path, name=local.name, source_sha256=local.sha256, n_ctx=8 * 1024, n_seq_max=8
            )
            sides["server"] = stack.enter_context(closing(engine))
        report = evaluate_schemas(cases, sides, max_tokens=max_tokens, tell=_progress)
    record = {**report.as_json(), "folder": folder.name, "max_tokens": max_tokens}
    text = json.dumps(record, ensure_ascii=False, indent=None if as_json else 1)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "schema.json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
    else:
        _print(report)


def _progress(side: str, done: int, count: int) -> None:
    if done % 25 == 0 or done == count:
        console.message(f"{side}: {done} of {count}", "dim")


def _print(report: SchemaReport) -> None:
    record = report.as_json()
    print(f"{report.schemas - len(report.refused)} of {report.schemas} schemas can be kept ({report.accepted:.1%})")
    for why, count in list(record["why"].items())[:10]:
        print(f"  {count:>5}  {why}")
    for name, side in record["sides"].items():
        print(
            f"{name}: {side['valid']} documents valid, {len(side['invalid'])} invalid, {side['cut']} cut, "
            f"{side['refused']} refused, {len(side['failed'])} failed"
        )
    if report.sides:
        print(f"refused otherwise by one side: {len(report.disagreements)}")
