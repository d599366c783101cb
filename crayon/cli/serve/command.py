"""`crayon serve`: a model behind gRPC, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.serve.access_config import access_config
from crayon.cli.serve.http import http_beside
from crayon.cli.serve.observe_config import log_lines, observe_config
from crayon.cli.serve.service_manager import READY, STOPPING, tell_service_manager
from crayon.cli.serve.setting_options import settings_of, with_options_of
from crayon.cli.serve.tuned import DEFAULT_SLOTS, engine_sizes
from crayon.cli.shared import console, options
from crayon.cli.shared.client import quiet_grpc
from crayon.cli.shared.exit_codes import UNEXPECTED
from crayon.cli.shared.pull_progress import pull_progress
from crayon.cli.shared.ready_file import announcing
from crayon.config import EngineKind, KvCache, ServeSettings, toml_text
from crayon.errors import CancelledError, ConfigError, MissingExtraError, ModelFileError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from crayon.adapters import Pool
    from crayon.config import Configuration, Settings
    from crayon.engine import Engine
    from crayon.gateway.beside import HttpBeside
    from crayon.models import LocalModel, Progress
    from crayon.server.config import ServeConfig

app = typer.Typer(add_completion=False)

_STATS_EVERY_S = 0.3
# What the command reads beside its own section.
_SHARED = ("models_dir", "log_level")


@app.command()
@with_options_of(ServeSettings)
def serve(
    *,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print what it would run with, as TOML with each value's source, and end."),
    ] = False,
    **given: object,
) -> None:
    """Run a server that devices can turn to.

    Try it: run `crayon serve` in one terminal and `crayon ask --server localhost:50051 --mode only_on_server Why?`
    in another. The model is fetched first if it is not here. Health (grpc.health.v1) says NOT_SERVING while the
    model loads. SIGTERM or Ctrl-C lets running answers end; a second one ends the server at once.

    Each option is also a key of the section [serve] of the settings' file, and a variable: --port is port = 50051
    there, or CRAYON_SERVE__PORT=50051. What the command line says holds before the variable, and that before the file.

    Without TLS it listens on this machine only. For other machines give --tls-cert and --tls-key, and --tokens-file (or
    CRAYON_SERVE__TOKENS) or --tls-client-ca to say who may call. docs/how-to/security.md has the rest.
    """
    configuration = options.load_configuration(settings_of("serve", given))
    settings = configuration.settings
    with configuration.blaming("serve"):
        config = _listening(settings.serve)
    if print_config:
        _print(configuration)
        return
    if settings.serve.exit_on_stdin_eof:
        _stop_with_stdin()
    quiet_grpc()
    try:
        from crayon.server.serve import check_access, check_free
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("grpc_reflection"):
            raise
        raise MissingExtraError("server", "crayon serve") from None

    with configuration.blaming("serve"), log_lines(settings.serve.log_format):
        for text in config.warnings:
            console.warning(text)
        # Before a download of minutes, not after it.
        check_access(config)
        check_free(config)
        ending = threading.Event()
        beside = http_beside(settings, config)
        _run(config, _factory(settings, ending), settings.serve.ready_file, ending, beside)


def _print(configuration: Configuration) -> None:
    rows = [row for row in configuration.rows() if row.key in _SHARED or row.key.startswith("serve.")]
    print(f"# {configuration.path}\n\n{toml_text(rows)}", end="")


def _listening(serve: ServeSettings) -> ServeConfig:
    from crayon.server.config import ServeConfig

    return ServeConfig(
        host=serve.host,
        port=serve.port,
        drain_seconds=serve.drain_seconds,
        health_host=serve.health_host,
        health_port=serve.health_port,
        **access_config(serve),
        **observe_config(serve),
    )


def _factory(settings: Settings, ending: threading.Event) -> Callable[[], Engine]:
    """Return what makes the engine, unless the server is `ending`; a model that is here is opened at once."""
    serve = settings.serve
    if serve.engine is EngineKind.ECHO:
        factory = _echo(delay=serve.echo_delay, ctx=serve.ctx, slots=serve.slots or DEFAULT_SLOTS)
    elif serve.engine is EngineKind.VLLM:
        from crayon.cli.serve.vllm import vllm_factory

        factory = vllm_factory(settings, open_pools)
    else:
        if serve.adapters:
            raise ConfigError("adapters", "are for --engine vllm; llama.cpp blends pools (--pool)")
        factory = _llama_cpp(settings, _shape(serve), ending)
    return factory if serve.stats_file is None else _told(factory, serve.stats_file)


def _shape(serve: ServeSettings) -> dict[str, Any]:
    """Return the engine's keyword arguments for the shape of its work; what is not set is the engine's to choose."""
    shape = {
        "n_batch": serve.batch,
        "late_share": serve.late_share,
        "first_seconds": None if serve.first_ms is None else serve.first_ms / 1000,
        "predict": serve.predict,
        "spill": serve.spill,
        "idle_prefixes": serve.idle_prefixes,
        "quantum": serve.blend_quantum,
        "plan_ahead": serve.plan_ahead,
        "nano_batches": serve.nano_batches,
        "overlap": serve.overlap,
        "max_queue": serve.max_queue,
        "max_queue_tokens": serve.max_queue_tokens,
        "kv_unified": None if serve.kv is None else serve.kv is KvCache.UNIFIED,
    }
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    if serve.step_ms is not None:
        given["step_seconds"] = serve.step_ms / 1000 or None
    return given


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
            raise ConfigError("stats_file", "this engine counts nothing; leave it away")
        threading.Thread(target=tell, args=(engine,), name="crayon-stats", daemon=True).start()
        return engine

    return make


def _llama_cpp(settings: Settings, given: Mapping[str, Any], ending: threading.Event) -> Callable[[], Engine]:
    serve = settings.serve
    here = _here(settings)

    def make() -> Engine:
        from crayon.data.texts import background_texts
        from crayon.server.engines.llama.engine import LlamaCppEngine

        # Here, where health says NOT_SERVING already: to fetch it takes minutes, and a first start measures for half of
        # one.
        model = here or _opened(settings, _fetched(settings, ending))
        sizes = engine_sizes(
            model.local,
            model.quantization,
            serve,
            models_dir=settings.models_dir,
            pools=model.pools,
            stopped=ending.is_set,
        )
        if ending.is_set():
            raise CancelledError("the server ends")
        return LlamaCppEngine(
            model.local.path,
            name=model.local.name,
            background=background_texts(),
            source_sha256=model.source_sha256,
            quantization=model.quantization,
            pools=model.pools,
            **{**sizes, **given},
        )

    return make


@dataclass(frozen=True, slots=True)
class _Model:
    """What is served with llama.cpp: a file that was looked at, and adapters that fit."""

    local: LocalModel
    source_sha256: str
    quantization: str
    pools: list[Pool]


def _here(settings: Settings) -> _Model | None:
    """Return the model if it is on this machine, so that what is wrong with it is said before anything listens."""
    from crayon.models import load_catalogue, resolve
    from crayon.models.reference import PathReference, parse_reference

    reference = settings.serve.model
    parsed = parse_reference(reference, load_catalogue())
    try:
        local = resolve(reference, download=False, models_dir=settings.models_dir)
    except (UnknownModelError, ModelFileError):  # absent or damaged: it is fetched
        if isinstance(parsed, PathReference):
            raise
        return None
    return _opened(settings, local)


def _fetched(settings: Settings, ending: threading.Event) -> LocalModel:
    from crayon.models import resolve

    with pull_progress(settings.serve.model) as show:

        def progress(told: Progress) -> None:
            if ending.is_set():
                raise CancelledError("the server ends")
            show(told)

        return resolve(settings.serve.model, progress=progress, models_dir=settings.models_dir)


def _opened(settings: Settings, local: LocalModel) -> _Model:
    from crayon.llama.trial import ensure_opens
    from crayon.models import read_gguf
    from crayon.models.prepared import origin

    if local.entry is None:  # no catalogue vouches for it
        ensure_opens(local.path)
    info = read_gguf(local.path)
    source_sha256, quantization = origin({key: str(value) for key, value in info.metadata.items()}, local.sha256)
    pools = open_pools(settings.serve.pools, source_sha256, local.name)
    console.message(f"loading {local.name} from {local.path}", "dim")
    return _Model(local, source_sha256, quantization or info.file_type or "", pools)


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


def _run(
    config: ServeConfig,
    factory: Callable[[], Engine],
    ready_file: Path | None,
    ending: threading.Event,
    beside: HttpBeside | None,
) -> None:
    """Serve to the end; `ending` is set when that begins."""
    from crayon.server.serve import serve as run

    loaded = False
    with announcing(ready_file) as (announce, withdraw):

        def on_ready(address: str) -> None:
            nonlocal loaded
            loaded = True
            announce(address)
            tell_service_manager(READY)
            also = "" if beside is None else f", HTTP on {beside.address}"
            console.message(f"serving on {address}{also} (Ctrl-C stops it)", "green")

        def on_drain(running: int) -> None:
            ending.set()
            withdraw()
            tell_service_manager(STOPPING)
            if running:
                console.message(
                    f"stopping; up to {config.drain_seconds:g} s for {running} running request(s), "
                    "a second signal ends at once"
                )

        def on_left() -> None:
            # The interpreter would wait for the engine's threads, or take away what one that still loads runs in.
            if not loaded:
                console.message("stopped")
                os._exit(0)
            console.error("the engine does not close; the server ends without it")
            os._exit(UNEXPECTED)

        asyncio.run(
            run(
                config,
                factory,
                on_ready=on_ready,
                on_metrics=lambda address: console.message(f"metrics on http://{address}/metrics", "dim"),
                on_drain=on_drain,
                on_left=on_left,
                on_reload=console.message,
                beside=beside,
            )
        )
    console.message("stopped")
