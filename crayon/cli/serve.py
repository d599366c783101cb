"""`crayon serve`: a model behind gRPC, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli import console, options
from crayon.cli.access_options import (
    ConcurrentOption,
    NoTokensOption,
    PlainTextOption,
    RequestsOption,
    TlsCertOption,
    TlsClientCaOption,
    TlsKeyOption,
    TokensFileOption,
    TokensOption,
    access_config,
)
from crayon.cli.engine_options import (
    AheadOption,
    BatchOption,
    FirstOption,
    KvCache,
    KvOption,
    LateOption,
    NanoOption,
    OverlapOption,
    PredictOption,
    PrefixOption,
    QuantumOption,
    QueueOption,
    QueueTokensOption,
    SpillOption,
    StepOption,
)
from crayon.cli.exit_codes import UNEXPECTED
from crayon.cli.pull_progress import pull_progress
from crayon.cli.tuned import DEFAULT_SLOTS, engine_sizes
from crayon.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from crayon.adapters import Pool
    from crayon.config import Settings
    from crayon.engine import Engine
    from crayon.server.config import ServeConfig

app = typer.Typer(add_completion=False)

_STATS_EVERY_S = 0.3


class EngineKind(StrEnum):
    """What answers: a model in llama.cpp, or an echo for tests."""

    LLAMA_CPP = "llama_cpp"
    ECHO = "echo"


@app.command()
def serve(
    *,
    engine: Annotated[
        EngineKind,
        typer.Option("--engine", help="llama_cpp runs a model; echo says back what it hears, for tests."),
    ] = EngineKind.LLAMA_CPP,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model: name, path or reference (crayon models ls).")
    ] = "qwen2.5-coder-1.5b-instruct",
    host: Annotated[
        str, typer.Option("--host", help="An address of this machine, or unix:/path for a socket file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 picks a free one.")] = 50051,
    pool: Annotated[
        list[str] | None,
        typer.Option("--pool", metavar="POOL", help="Adapters to blend: name or folder; may be given again."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option("--slots", min=1, max=256, help="Most requests computed together; if not given, as tuned, or 8."),
    ] = None,
    ctx: Annotated[
        int,
        typer.Option("--ctx", min=16, help="Tokens of context of all slots together; memory grows with it."),
    ] = 32768,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Compute threads; if not given, as tuned, or all cores it may use."),
    ] = None,
    batch: BatchOption = None,
    step_ms: StepOption = None,
    late_share: LateOption = None,
    first_ms: FirstOption = None,
    predict: PredictOption = None,
    spill: SpillOption = None,
    idle_prefixes: PrefixOption = None,
    blend_quantum: QuantumOption = None,
    plan_ahead: AheadOption = None,
    nano_batches: NanoOption = None,
    overlap: OverlapOption = None,
    kv: KvOption = None,
    max_queue: QueueOption = None,
    max_queue_tokens: QueueTokensOption = None,
    tokens_file: TokensFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    insecure_plain_text: PlainTextOption = None,
    insecure_no_tokens: NoTokensOption = None,
    client_concurrent: ConcurrentOption = None,
    client_requests_per_minute: RequestsOption = None,
    client_tokens_per_minute: TokensOption = None,
    stats_file: Annotated[
        Path | None,
        typer.Option("--stats-file", metavar="PATH", help="Keep the engine's counters there, as JSON, for benches."),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune/--no-tune", help="Search for up to 30 s at a model's first start (crayon tune server)."),
    ] = False,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long running answers may go on after the first signal.")
    ] = 30.0,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="PATH", help="Write the address here while serving, for scripts."),
    ] = None,
    exit_on_stdin_eof: Annotated[
        bool,
        typer.Option("--exit-on-stdin-eof", help="Stop when standard input ends: with the program that holds it."),
    ] = False,
    echo_delay: Annotated[
        float, typer.Option("--echo-delay", min=0, help="With --engine echo: seconds for each word.")
    ] = 0.0,
) -> None:
    """Run a server that devices can turn to.

    Try it: run `crayon serve` in one terminal and `crayon ask --server localhost:50051 --mode only_on_server Why?`
    in another. The model is fetched first if it is not here. Health (grpc.health.v1) says NOT_SERVING while the
    model loads. SIGTERM or Ctrl-C lets running answers end; a second one ends the server at once.

    Without TLS it listens on this machine only. For other machines give --tls-cert and --tls-key, and --tokens-file (or
    CRAYON_SERVE__TOKENS) or --tls-client-ca to say who may call. docs/security.md has the rest.
    """
    if exit_on_stdin_eof:
        _stop_with_stdin()
    settings = options.load_settings(
        {
            "serve.pools": pool,
            "serve.tokens_file": tokens_file,
            "serve.tls_cert": tls_cert,
            "serve.tls_key": tls_key,
            "serve.tls_client_ca": tls_client_ca,
            "serve.insecure_plain_text": insecure_plain_text,
            "serve.insecure_no_tokens": insecure_no_tokens,
            "serve.client_concurrent": client_concurrent,
            "serve.client_requests_per_minute": client_requests_per_minute,
            "serve.client_tokens_per_minute": client_tokens_per_minute,
        }
    )
    # gRPC's core writes its own log lines to standard error; what matters in them is in our errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from crayon.server.config import ServeConfig
        from crayon.server.serve import check_access, check_free
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("grpc_reflection"):
            raise
        raise MissingExtraError("server", "crayon serve") from None

    config = ServeConfig(host=host, port=port, drain_seconds=drain_seconds, **access_config(settings.serve))
    for text in config.warnings:
        console.warning(text)
    # Before a download of minutes, not after it.
    check_access(config)
    check_free(config)
    if engine is EngineKind.ECHO:
        factory = _echo(delay=echo_delay, ctx=ctx, slots=slots or DEFAULT_SLOTS)
    else:
        shape = {
            "n_batch": batch,
            "late_share": late_share,
            "first_seconds": None if first_ms is None else first_ms / 1000,
            "predict": predict,
            "spill": spill,
            "idle_prefixes": idle_prefixes,
            "quantum": blend_quantum,
            "plan_ahead": plan_ahead,
            "nano_batches": nano_batches,
            "overlap": overlap,
            "max_queue": max_queue,
            "max_queue_tokens": max_queue_tokens,
            "kv_unified": None if kv is None else kv is KvCache.UNIFIED,
        }
        given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
        if step_ms is not None:
            given["step_seconds"] = step_ms / 1000 or None
        factory = _llama_cpp(model, settings, given, ctx=ctx, slots=slots, threads=threads, tune=tune)
    if stats_file is not None:
        factory = _told(factory, stats_file)
    _run(config, factory, ready_file)


def _stop_with_stdin() -> None:
    """Watch standard input; where it ends, go on as after a SIGTERM. Its other end closes however its holder ends."""

    def watch() -> None:
        # Not sys.stdin: a thread that waits in its lock would break the interpreter's shutdown.
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="crayon-stdin", daemon=True).start()


def _echo(*, delay: float, ctx: int, slots: int) -> Callable[[], Engine]:
    from crayon.server.engines.echo import EchoEngine

    return lambda: EchoEngine(delay=delay, context_tokens=ctx, slots=slots)


def _told(factory: Callable[[], Engine], path: Path) -> Callable[[], Engine]:
    """Return a factory whose engine's counters are written into a file, a few times a second."""

    def tell(engine: Engine) -> None:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        while True:
            with suppress(OSError):  # a full disk is no reason to stop serving
                draft.write_text(json.dumps(engine.counters.as_json()), encoding="utf-8")  # type: ignore[attr-defined] # llama.cpp's
                draft.replace(path)
            time.sleep(_STATS_EVERY_S)

    def make() -> Engine:
        engine = factory()
        if not hasattr(engine, "counters"):
            raise ConfigError("--stats-file", "this engine counts nothing; leave it away")
        threading.Thread(target=tell, args=(engine,), name="crayon-stats", daemon=True).start()
        return engine

    return make


def _llama_cpp(
    reference: str,
    settings: Settings,
    given: Mapping[str, Any],
    *,
    ctx: int,
    slots: int | None,
    threads: int | None,
    tune: bool,
) -> Callable[[], Engine]:
    from crayon.models import read_gguf, resolve
    from crayon.models.prepared import origin

    with pull_progress(reference) as progress:
        local = resolve(reference, progress=progress, models_dir=settings.models_dir)
    info = read_gguf(local.path)
    source_sha256, quantization = origin({key: str(value) for key, value in info.metadata.items()}, local.sha256)
    pools = open_pools(settings.serve.pools, source_sha256, local.name)
    sizes = engine_sizes(
        local,
        quantization or info.file_type or "",
        models_dir=settings.models_dir,
        ctx=ctx,
        slots=slots,
        threads=threads,
        search=tune,
        pools=pools,
    )
    console.message(f"loading {local.name} from {local.path}", "dim")

    def make() -> Engine:
        from crayon.data.texts import background_texts
        from crayon.server.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine(
            local.path,
            name=local.name,
            background=background_texts(),
            source_sha256=source_sha256,
            quantization=quantization or info.file_type or "",
            pools=pools,
            **{**sizes, **given},
        )

    return make


def open_pools(references: tuple[str, ...], source_sha256: str, model: str) -> list[Pool]:
    """Open the pools, before the model takes its time to load."""
    if not references:
        return []
    from crayon.adapters import Pool
    from crayon.adapters.find import find_pool

    pools = [Pool.open(find_pool(reference)) for reference in references]
    for pool in pools:
        pool.check_base(source_sha256, model)
        console.message(f"blends {pool.id}, {len(pool)} members", "dim")
    return pools


def _run(config: ServeConfig, factory: Callable[[], Engine], ready_file: Path | None) -> None:
    from crayon.server.serve import serve as run

    with _announcing(ready_file) as (announce, withdraw):

        def on_ready(address: str) -> None:
            announce(address)
            console.message(f"serving on {address} (Ctrl-C stops it)", "green")

        def on_drain(running: int) -> None:
            withdraw()
            if running:
                console.message(
                    f"stopping; up to {config.drain_seconds:g} s for {running} running request(s), "
                    "a second signal ends at once"
                )

        def on_stuck() -> None:
            # The interpreter would wait for the engine's threads for ever.
            console.error("the engine does not close; the server ends without it")
            os._exit(UNEXPECTED)

        asyncio.run(
            run(
                config,
                factory,
                on_ready=on_ready,
                on_drain=on_drain,
                on_stuck=on_stuck,
                on_reload=console.message,
            )
        )
    console.message("stopped")


@contextmanager
def _announcing(path: Path | None) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Give two functions, to write the address into a file and to remove it; it is removed at the end in any case."""
    if path is None:
        yield (lambda _address: None), (lambda: None)
        return
    if not path.parent.is_dir():
        raise ConfigError("--ready-file", f"there is no folder {path.parent}; make it first")

    def announce(address: str) -> None:
        # Renamed into place: who finds the file finds the whole address in it.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(f"{address}\n", encoding="utf-8")
        draft.replace(path)

    def withdraw() -> None:
        path.unlink(missing_ok=True)

    try:
        yield announce, withdraw
    finally:
        withdraw()
