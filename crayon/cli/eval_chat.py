"""`crayon eval chat`: free answers of device, server and both, side by side."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from crayon.cli import console, eval_files, eval_setup, options

ELSEWHERE = 4  # chats at a time with a server on another machine


def chat(
    reference: eval_setup.ModelArgument = "smollm2-135m-instruct",
    *,
    server: eval_setup.ServerOption = None,
    server_model: eval_setup.ServerModelOption = "qwen2.5-coder-1.5b-instruct",
    questions: Annotated[
        int | None,
        typer.Option("--questions", metavar="N", help="Only so many, of all categories (default: 80)."),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Of an answer.")] = 256,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            max=16,
            help="Chats at a time (0: 4 with --server; else 1, for two models at once on one machine stop each other).",
        ),
    ] = 0,
    out: eval_setup.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write the answers of device, server and hybrid to 80 two-turn questions side by side, for reading.

    The questions are MT-Bench's, from the file routing/mtbench_questions.jsonl.gz in the folder that CRAYON_DATA names.
    No judge gives scores. What is checked is what can be: length, language, refusals, and on the few turns with exactly
    one right answer whether the text ends in it. The hybrid goes the product's own way with its default gates.

    Writes chat.json and chat.md. A run that was stopped goes on where it was. Example: crayon eval chat --questions 8
    """
    from crayon.bench.made import Making
    from crayon.eval.answer_cache import AnswerCache
    from crayon.eval.chat import page
    from crayon.eval.chat.questions import load_questions
    from crayon.eval.chat.run import evaluate_chat
    from crayon.models import prepared

    making = Making.of(sys.argv[1:])
    asked = load_questions(questions)
    found, model = eval_setup.model_of(reference, options.load_settings({}).models_dir)
    folder = out or eval_setup.default_folder()
    with ExitStack() as stack:
        cache = stack.enter_context(AnswerCache(folder / eval_setup.ANSWERS))
        remote = eval_setup.serve(stack, server, server_model, timeout=900.0)
        device = stack.enter_context(eval_setup.open_engine(found, [], threads=None))
        served = remote.models()[0]
        keys = {
            f"{model.name} {model.quantization}".strip(): f"{model.sha256} {prepared.library_version()}",
            f"{served.name} {served.quantization}".strip(): served.source_sha256,
        }
        workers = workers or (1 if server is None else ELSEWHERE)
        report = evaluate_chat(
            device, remote, keys, asked, cache, max_tokens=max_tokens, workers=workers, tell=console.message
        )
    report.made = making.done()
    record = report.as_json()
    eval_files.write(
        record,
        folder,
        "chat",
        markdown=lambda _: page.markdown(record),
        shown=page.sections(record),
        as_json=as_json,
    )
