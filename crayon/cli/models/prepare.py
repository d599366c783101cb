"""`crayon models prepare`: choose the quantization that is fastest on this CPU within an allowed loss."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.pull_progress import pull_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from crayon.models import LocalModel
    from crayon.models.prepared import PreparedInfo

_Reference = Annotated[str, typer.Argument(metavar="[MODEL]", help="Which model; it is fetched if absent.")]
_MaxLoss = Annotated[
    float | None,
    typer.Option(help="Allowed loss: relative perplexity, and divergence in nats. If not given: 0.01."),
]
_Type = Annotated[
    list[str] | None, typer.Option("--type", help="Only try this type (may be repeated). If not given: all seven.")
]
_Prompt = Annotated[int | None, typer.Option(help="Prompt tokens of your typical turn. If not given: 200.")]
_Answer = Annotated[int | None, typer.Option(help="Answer tokens of your typical turn. If not given: 50.")]


def prepare(
    reference: _Reference = "auto",
    *,
    max_loss: _MaxLoss = None,
    types: _Type = None,
    prompt_tokens: _Prompt = None,
    answer_tokens: _Answer = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="About how long it may take; fewer types are tried in less.")
    ] = 60.0,
    force: Annotated[bool, typer.Option("--force", help="Measure again even if such a choice is recorded.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Requantize a model to the type that is fastest on this CPU, within a bound on lost quality.

    Each type that llama.cpp has fast kernels for is measured beside the published file, in turn, and compared with it
    on a text of ours. The fastest typical turn within --max-loss is kept, and the device uses that file from then on.
    Takes about a minute; --seconds 300 tries all types of a larger model, too. On a busy machine a choice is measured
    twice, and where the two do not agree the published file stays until it is prepared again.
    Example: crayon models prepare --max-loss 0.05
    """
    from crayon.cli.shared.device_model import device_model
    from crayon.models import resolve

    settings = options.load_settings({})
    models_dir, reference = settings.models_dir, device_model(settings, reference=reference)
    with pull_progress(reference) as progress:
        local = resolve(reference, progress=progress, models_dir=models_dir)
    info = prepare_model(
        local,
        models_dir=models_dir,
        types=types,
        max_loss=max_loss,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        seconds=seconds,
        force=force,
    )
    if as_json:
        print(json.dumps(_record(local, info), indent=2))
        return
    _print_table(info)
    console.message(f"chosen: {info.chosen}, because {info.reason}", "green")


def prepare_model(
    local: LocalModel,
    *,
    models_dir: Path | None = None,
    types: Sequence[str] | None = None,
    max_loss: float | None = None,
    prompt_tokens: int | None = None,
    answer_tokens: int | None = None,
    seconds: float = 60.0,
    force: bool = False,
) -> PreparedInfo:
    """Prepare a model with progress on standard error; returns at once where such a choice is recorded and holds.

    Raises:
        CrayonError: as `crayon.device.preparation.prepare`.
    """
    from crayon.device.preparation import prepare as prepare_file

    with _progress(f"preparing {local.name}") as progress:
        return prepare_file(
            local,
            models_dir=models_dir,
            types=types or None,
            max_loss=max_loss,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            seconds=seconds,
            force=force,
            progress=progress,
        )


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str, float], None]]:
    import sys

    if not sys.stderr.isatty():

        def tell(what: str, share: float) -> None:
            console.message(f"{title}: {share:4.0%} {what}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=1.0)
        yield lambda what, share: bars.update(task, completed=share, description=f"{title}: {what}")


def _print_table(info: PreparedInfo) -> None:
    from crayon.device.prepare import pareto

    front = {candidate.type for candidate in pareto(info.candidates)}
    head = ("TYPE", "SIZE", "PREFILL", "DECODE", "TURN", "PERPLEXITY", "DIVERGENCE", "SAME TOP", "")
    table = [head]
    for row in sorted(info.candidates, key=lambda candidate: -candidate.turn_ratio):
        mark = "<- chosen" if row.type == info.chosen else "pareto" if row.type in front else ""
        if row.loss > info.max_loss:
            mark = f"{mark} over the allowed loss".strip()
        table.append(
            (
                row.type,
                f"{row.size_bytes / 1e6:,.0f} MB",
                f"{row.prefill_tps:,.0f}/s",
                f"{row.decode_tps:,.0f}/s",
                f"{row.turn_ratio:.2f}x",
                f"{row.perplexity_ratio - 1:+.2%}",
                f"{row.kl:.4f}",
                f"{row.same_top:.0%}",
                mark,
            )
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _record(local: LocalModel, info: PreparedInfo) -> dict[str, object]:
    import dataclasses

    return {"model": local.name, **dataclasses.asdict(info), "path": str(info.path) if info.path else None}
