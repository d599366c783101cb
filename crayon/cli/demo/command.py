"""`crayon demo`: the whole of Crayon at work, on real models and one machine."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.exit_codes import exit_code
from crayon.cli.shared.report import route_line
from crayon.config import EngineKind, ServeSettings
from crayon.errors import CrayonError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.cli.demo.summary import QuestionOutcome
    from crayon.cli.shared.child_server import ChildServer
    from crayon.config import Settings
    from crayon.data.demo_script import DemoScript
    from crayon.device import DeviceEngine
    from crayon.models import LocalModel
    from crayon.sdk import Crayon

SCOPES = ("healthy-habits", "nature-basics")
STEPS = 4

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    *,
    device: options.DeviceOption = None,
    server_model: Annotated[
        str, typer.Option("--server-model", metavar="MODEL", help="The server's model: name, path or reference.")
    ] = ServeSettings().model,
    engine: Annotated[
        EngineKind,
        typer.Option("--engine", help="The server's engine; echo needs no model and says back what it hears."),
    ] = EngineKind.LLAMA_CPP,
    as_json: options.JsonOption = False,
) -> None:
    """Watch questions being answered on the device and by a server.

    Fetches the models where they are absent (1.7 GB), prepares the device's model for this CPU once (a few minutes),
    starts a server on this machine and asks questions of three kinds: what the device is made for, everyday, hard.
    Each answer says where it was written and why. Then a user's 16 samples customise the device, twice: for a task
    that nothing was trained for, and for one that a member of the shipped pool knows. Stops the server at the end, and
    whenever it is interrupted.

    Gates and sampling are the defaults, whatever the settings say; device and models_dir are taken from them.
    """
    tempfile.gettempdir()  # it tries folders out with a file, once: better not while a signal may raise anywhere
    with _ended_by_signals():
        try:
            failed = _run(options.load_settings({"device.model": device}), engine, server_model, as_json=as_json)
        except CrayonError as error:
            if as_json:
                record = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code(error)}
                print(json.dumps({"error": record}, ensure_ascii=False))
            raise
    if failed is not None:
        raise failed


def _run(settings: Settings, engine: EngineKind, server_model: str, *, as_json: bool) -> CrayonError | None:
    """Run all steps; return what went wrong while questions were asked, if anything did."""
    from crayon.cli.demo.summary import print_summary, summary_json
    from crayon.cli.models.prepare import prepare_model
    from crayon.cli.shared.child_server import ChildServer
    from crayon.cli.shared.client import quiet_grpc
    from crayon.cli.shared.device_model import device_model
    from crayon.config.client import device_options
    from crayon.data.demo_script import demo_script, demo_stranger, demo_task

    quiet_grpc()
    script, watch = demo_script(), _Watch()
    watch.step("models", "models")
    chosen = device_model(settings)
    local = _fetch(chosen, settings.models_dir, watch)
    arguments, served = ["--engine", engine.value, "--ctx", "2048", "--slots", "2", "--no-tune"], engine.value
    if engine is EngineKind.LLAMA_CPP:
        served = _fetch(server_model, settings.models_dir, watch).name
        arguments += ["--model", server_model]
    watch.step("prepare", "the device's model for this CPU")
    info = prepare_model(local, models_dir=settings.models_dir)
    watch.detail(f"{info.chosen} (in {watch.seconds:.1f} s): {info.reason}")
    watch.step("server", "the server, a process of its own")
    with ChildServer(arguments) as server:
        watch.detail(f"{served} on {server.address}, ready in {watch.seconds:.1f} s")
        watch.step("device", "the device, and what it is made for")
        # Not before the server runs: they take a moment.
        from crayon.cli.demo.task import task_section
        from crayon.device import DeviceEngine
        from crayon.sdk import Crayon

        with DeviceEngine.open(chosen, **device_options(settings)) as device:
            with Crayon(
                device=device,
                server=server.address,
                scopes=SCOPES,
                system=script.system,
                max_tokens=script.max_tokens,
            ) as client:
                client.load()
                watch.detail(f"{local.name}, made for {' and '.join(SCOPES)}, loaded in {watch.seconds:.1f} s")
                outcomes = _ask_all(client, script, show=not as_json)
            failed = _failure(server, outcomes)
            if not as_json:
                _heading("Summary", "bold", "cyan")
                print_summary(outcomes)
            tasks = {}
            for key, task in (("stranger", demo_stranger()), ("customised", demo_task())):
                if not as_json:
                    _heading(task.title, "bold", "cyan")
                with _with_pool(device, settings, watch) if task.pooled else nullcontext(device) as able:
                    tasks[key] = task_section(able, server.address, task, show=not as_json)
        if as_json:
            head = {"device": local.name, "prepared": info.chosen, "server": served, "scopes": SCOPES}
            sums = {**summary_json(outcomes), **tasks}
            print(json.dumps({**head, "seconds": watch.times(), **sums}, ensure_ascii=False))
    console.message(f"server stopped, {watch.times()['total']:.0f} s in all", "dim")
    return failed


@contextmanager
def _with_pool(device: DeviceEngine, settings: Settings, watch: _Watch) -> Iterator[DeviceEngine]:
    """Give a device that has an adapter pool: where `auto` took a model without one, the small model."""
    from crayon.config.client import device_options
    from crayon.device import DeviceEngine
    from crayon.device.choice import SMALL
    from crayon.models import is_auto

    if device.pools or not is_auto(settings.device.model):
        yield device
        return
    _fetch(SMALL, settings.models_dir, watch)
    with DeviceEngine.open(SMALL, **device_options(settings)) as other:
        yield other


def _fetch(reference: str, models_dir: Path | None, watch: _Watch) -> LocalModel:
    from crayon.cli.shared.pull_progress import pull_progress
    from crayon.models import resolve

    begun = time.monotonic()
    try:
        local = resolve(reference, download=False, models_dir=models_dir)
        how = "here already"
    except ModelError:  # absent or damaged
        with pull_progress(reference) as progress:
            local = resolve(reference, progress=progress, models_dir=models_dir)
        how = f"fetched and verified in {time.monotonic() - begun:.0f} s"
    watch.detail(f"{local.name}: {local.size / 1e6:,.0f} MB, {how}")
    return local


def _ask_all(client: Crayon, script: DemoScript, *, show: bool) -> list[QuestionOutcome]:
    outcomes: list[QuestionOutcome] = []
    if show:
        _heading(f"Both are told: {script.system} At most {script.max_tokens} tokens an answer.", "dim")
    for group in script.groups:
        if show:
            _heading(group.name, "bold", "cyan")
        outcomes += [_ask(client, group.name, question, show=show) for question in group.questions]
    return outcomes


def _ask(client: Crayon, group: str, question: str, *, show: bool) -> QuestionOutcome:
    """Ask one question, show its answer as it comes, and where it came from; an error is part of the outcome."""
    from crayon.cli.demo.paragraph import Paragraph
    from crayon.cli.demo.summary import QuestionOutcome

    if show:
        print(f"  {console.paint(question, 'bold', stream=sys.stdout)}", flush=True)
    paragraph = Paragraph("    ")
    try:
        with client.stream(question) as stream:
            try:
                for piece in stream:
                    if show:
                        paragraph.write(piece.text)
            finally:
                paragraph.end()
            completion = stream.completion
    except CrayonError as error:
        console.error(str(error))
        return QuestionOutcome(group, question, error=error)
    cut = " | cut at max_tokens" if completion.finish_reason == "length" else ""
    lines = [route_line(completion) + cut]
    if completion.route.fallback_error:
        lines.append(f"instead of the {completion.route.fallback_from}: {completion.route.fallback_error}")
    for line in lines:
        if show:
            safe = console.safe(line, sys.stdout)
            print(f"    {console.paint(safe, 'dim', stream=sys.stdout)}", flush=True)
        else:
            console.message(f"{question} {line}")
    return QuestionOutcome(group, question, completion)


def _failure(server: ChildServer, outcomes: list[QuestionOutcome]) -> CrayonError | None:
    if server.exit_code is not None:
        return server.failure(f"the server ended with code {server.exit_code} before the last question was answered")
    return next((outcome.error for outcome in outcomes if outcome.error is not None), None)


def _heading(text: str, *styles: str) -> None:
    print(f"\n{console.paint(text, *styles, stream=sys.stdout)}", flush=True)


class _Watch:
    """Tells the steps on standard error, and how long they took."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._took: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return time.monotonic() - list(self._begun.values())[-1]

    def times(self) -> dict[str, float]:
        """Return the seconds that each step took up to its last detail, and those since the first one began."""
        total = time.monotonic() - next(iter(self._begun.values()))
        return {**self._took, "total": round(total, 3)}

    def step(self, key: str, title: str) -> None:
        self._begun[key] = time.monotonic()
        console.message(f"[{len(self._begun)}/{STEPS}] {title}", "bold")

    def detail(self, text: str) -> None:
        self._took[list(self._begun)[-1]] = round(self.seconds, 3)
        console.message(f"      {text}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave by an exception on SIGTERM and SIGHUP as on Ctrl-C, so that everything is tidied up; a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def leave(number: int, _frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
