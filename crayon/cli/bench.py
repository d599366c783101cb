"""`crayon bench`: figures that anybody can measure again."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.eval import setup as eval_setup
from crayon.cli.shared import console, options
from crayon.cli.shared.exit_codes import UNEXPECTED
from crayon.config import EngineKind
from crayon.lab.bench.made import Making

if TYPE_CHECKING:
    from crayon.lab.bench.report import BenchReport


class WireEngine(StrEnum):
    """What is behind the wire."""

    ECHO = "echo"
    LLAMA_CPP = "llama_cpp"


app = typer.Typer(add_completion=False, no_args_is_help=True)

_DECIMALS = {"ratio": 3, "nats": 4, "s": 3, "share": 3, "cores": 2}
_Runs = Annotated[int, typer.Option("--runs", min=3, max=99, help="Measured repetitions; medians are shown.")]


@app.callback()
def bench() -> None:
    """Measure device, blending, server, wire and start-up.

    Run it with nothing else running: a second busy process beside two compute threads costs far more than its share.
    """


@app.command()
def device(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")] = "smollm2-135m-instruct",
    *,
    runs: _Runs = 15,
    as_json: options.JsonOption = False,
) -> None:
    """Race the device runtime against the bare library, and the prepared file against its source.

    Ratios are ours over theirs, from pairs run in turn in one process; 1.00 is as fast. Example:
    crayon models prepare && crayon bench device --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.device import bench_device

    models_dir = options.load_settings({}).models_dir
    _print(bench_device(reference, models_dir=models_dir, runs=runs, progress=console.message), making, as_json=as_json)


@app.command()
def blend(
    reference: Annotated[str, typer.Argument(metavar="[MODEL]", help="A prepared model.")] = "smollm2-135m-instruct",
    *,
    device_model: Annotated[
        str | None, typer.Option("--device", metavar="MODEL", help="The same as MODEL: what is measured.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="POOL", help="Name or folder of a pool (default: the model's own).")
    ] = None,
    runs: _Runs = 15,
    peft: Annotated[bool, typer.Option("--peft", help="Time PEFT's blending too; needs the extra 'train'.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Measure how long customising and blending take, and what blend and examples cost per token.

    Ratios are no adapter, or live adapters, over the blend, from pairs run in turn. Customising is measured on any
    model, blending on one with a pool. Example: crayon bench blend --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.adapters import Pool, find_pool
    from crayon.lab.bench.blend import bench_blend

    models_dir = options.load_settings({}).models_dir
    opened = Pool.open(find_pool(pool)) if pool else None
    report = bench_blend(
        device_model or reference, opened, models_dir=models_dir, runs=runs, peft=peft, progress=console.message
    )
    _print(report, making, as_json=as_json)


@app.command()
def server(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer models, runs and requests: about 10 minutes.")] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="PARTS",
            help="Of offline,online,long_prompt,single,blends,prefix,concurrency, with commas between.",
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option("--models", metavar="MODELS", help="Of the models that are raced, with commas between."),
    ] = None,
    peers: Annotated[
        Path | None,
        typer.Option("--peers", metavar="FOLDER", help="Where `make peers` built them (default: .peers here)."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="POOL", help="The pool to blend, by name or folder (default: the model's)."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Compute threads of every system; if not given, all cores."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write server.json and pictures there (extra 'plots')."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Race the server against llama-server and OpenVINO GenAI, all on this machine, over the wire.

    Every system gets the same tokens to read and has to write the same number; the flags of both servers are searched
    first, and rows name them. The peers are built by `make peers`, and the lengths of real requests are read from the
    folder that CRAYON_DATA names. Takes up to 40 minutes. Example: crayon bench server --quick --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.serving.plots import check_plots, draw
    from crayon.lab.bench.serving.race import RaceOptions, bench_server

    if out is not None:
        check_plots()
        out.mkdir(parents=True, exist_ok=True)
    wanted = RaceOptions(
        quick=quick,
        only=_names(only),
        models=_names(models),
        peers=peers,
        pool=pool,
        threads=threads,
        models_dir=options.load_settings({}).models_dir,
    )

    def keep(report: BenchReport) -> None:
        if out is not None:
            report.made = making.done()
            (out / "server.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")

    race = bench_server(wanted, progress=console.message, keep=keep)
    if out is not None:
        for path in draw(race.curves, out):
            console.message(f"wrote {path}", "dim")
    _print(race.report, making, as_json=as_json)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


@app.command()
def contention(
    *,
    device_model: Annotated[
        str, typer.Option("--device", metavar="MODEL", help="What the device runs; prepared, where it is.")
    ] = "smollm2-135m-instruct",
    server_model: Annotated[
        str, typer.Option("--server-model", metavar="MODEL", help="What the server runs, in a process of its own.")
    ] = "qwen2.5-coder-1.5b-instruct",
    runs: _Runs = 5,
    as_json: options.JsonOption = False,
) -> None:
    """Measure how fast device and server write beside 0, 1 and 2 neighbours that burn a core, and beside each other.

    Ratios are against the same side idle, and against llama.cpp in a bare loop beside the same neighbours, in turn.
    Example: crayon bench contention --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.contention import bench_contention

    with ExitStack() as stack:
        report = bench_contention(
            device_model,
            server_model,
            eval_setup.serve(stack, None, server_model),
            models_dir=options.load_settings({}).models_dir,
            runs=runs,
            progress=console.message,
        )
    _print(report, making, as_json=as_json)


@app.command()
def startup(*, runs: _Runs = 9, as_json: options.JsonOption = False) -> None:
    """Measure how long `import crayon` and `crayon --help` take, in fresh processes.

    Example: crayon bench startup --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.startup import bench_startup

    _print(bench_startup(runs), making, as_json=as_json)


@app.command()
def wire(
    *,
    engine: Annotated[
        WireEngine,
        typer.Option("--engine", help="echo: how fast the wire is. llama_cpp: what the service costs a real engine."),
    ] = WireEngine.ECHO,
    streams: Annotated[
        int | None, typer.Option("--streams", min=1, max=256, help="Answers at once; 64, or 32 with llama_cpp.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=10, max=10_000, help="Tokens of each answer; 1000, or 128 with llama_cpp."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model of llama_cpp; prepared, where it is.")
    ] = "smollm2-135m-instruct",
    runs: _Runs = 3,
    as_json: options.JsonOption = False,
) -> None:
    """Measure tokens and messages a second through one server process, on loopback, with its client in another.

    With echo also how long tokens wait to be joined while 25,000 a second are brought; with llama_cpp the share of
    the throughput that the service takes, against the engine driven without it. Example: crayon bench wire --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.wire import WireOptions, bench_wire

    real = engine is WireEngine.LLAMA_CPP
    wanted = WireOptions(
        engine=engine.value,
        streams=streams or (32 if real else 64),
        tokens=tokens or (128 if real else 1000),
        runs=runs,
        model=model,
        models_dir=options.load_settings({}).models_dir,
    )
    _print(bench_wire(wanted, progress=console.message), making, as_json=as_json)


@app.command()
def gateway(
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="What both servers run; prepared, where it is.")
    ] = "smollm2-135m-instruct",
    streams: Annotated[
        list[int] | None, typer.Option("--streams", min=1, max=64, help="Answers at once; 1, 16.")
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", min=16, max=800, help="Tokens of each prompt.")] = 64,
    tokens: Annotated[int, typer.Option("--tokens", min=8, max=800, help="Tokens of each answer.")] = 64,
    peers: Annotated[Path | None, typer.Option("--peers", help="Folder of `make peers` (.peers here).")] = None,
    runs: _Runs = 5,
    as_json: options.JsonOption = False,
) -> None:
    """Measure first token and tokens a second over HTTP, against gRPC to the same process, and against llama-server.

    One server runs with --http; both ways are asked in turn, with prompts of their own. llama-server runs the same file
    where it is built. first_token_ratio is theirs over ours, decode_ratio ours over theirs. Example:
    crayon bench gateway --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.gateway import GatewayOptions, bench_gateway

    wanted = GatewayOptions(
        model=model,
        models_dir=options.load_settings({}).models_dir,
        streams=tuple(streams or (1, 16)),
        prompt=prompt,
        answer=tokens,
        runs=runs,
        peers=peers,
    )
    _print(bench_gateway(wanted, progress=console.message), making, as_json=as_json)


@app.command()
def plan(
    *,
    steps: Annotated[int, typer.Option("--steps", min=10, max=10_000, help="Measured steps; medians are shown.")] = 300,
    as_json: options.JsonOption = False,
) -> None:
    """Measure how long the server's scheduler needs to plan a step with 256 requests.

    Example: crayon bench plan --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.planning import bench_plan

    _print(bench_plan(steps), making, as_json=as_json)


@app.command()
def soak(
    *,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.05, max=1440, help="How long, with the warm-up: a fifth of it.")
    ] = 10.0,
    engine: Annotated[
        EngineKind, typer.Option("--engine", help="echo needs no model; llama_cpp runs the one that --model names.")
    ] = EngineKind.ECHO,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="With --engine llama_cpp: name, path or reference.")
    ] = "smollm2-135m-instruct",
    attackers: Annotated[
        bool, typer.Option("--attackers", help="Attack in the second half of the time, beside the other clients.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Keep a server of its own busy with mixed traffic, and see that it loses nothing and does not grow.

    The server runs in a process of its own on loopback. Clients generate, score, encode, cancel, set deadlines that
    cannot be met, leave and come back, more of them than it has room for. The command fails if a request was lost,
    that is, ended in none of an answer, a refusal, its deadline or its own cancellation, or if the server's memory
    grew by more than 32 MiB after the warm-up. With --attackers also if the slowest hundredth of requests takes more
    than 3 times as long as before: somebody asks for enormous scores, prompts and floods of answers, and somebody
    without a token holds connections and asks for its health without end.

    Example: crayon bench soak --minutes 10 --json
    """
    making = Making.of(sys.argv[1:])
    from crayon.lab.bench.soak import SoakOptions, bench_soak

    served = model if engine is EngineKind.LLAMA_CPP else None
    wanted = SoakOptions(minutes=minutes, model=served, attackers=attackers)
    done = bench_soak(wanted, progress=lambda text: console.message(text, "dim"))
    _print(done.report, making, as_json=as_json)
    for problem in done.problems:
        console.error(problem)
    if done.problems:
        raise typer.Exit(UNEXPECTED)


def _print(report: BenchReport, making: Making, *, as_json: bool) -> None:
    report.made = making.done()
    record = report.as_json()
    if as_json:
        print(json.dumps(record, indent=2))
        return
    env = record["env"]
    print(f"{env['cpu']}, {env['cores']} cores, llama-cpp-python {env['versions']['llama-cpp-python']}")
    for row in report.rows:
        value = f"{row.value:.{_DECIMALS.get(row.unit, 1 if row.value >= 1 else 3)}f}"
        where = ", ".join(text for text in (row.workload, row.model, row.against and f"against {row.against}") if text)
        low, high = min(row.runs), max(row.runs)
        spread = f" ({low:.3g} to {high:.3g} in {len(row.runs)} runs)" if len(row.runs) > 1 else ""
        print(f"{row.metric:32} {value:>9} {row.unit:6} {where}{spread}")
    for text in report.unmeasured:
        print(f"not measured: {text}")
