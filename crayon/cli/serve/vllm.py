"""`crayon serve --engine vllm`: its model's folder, its pools and adapters, and what vLLM is told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console
from crayon.cli.shared.pull_progress import pull_progress
from crayon.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crayon.adapters import Pool
    from crayon.config import ServeSettings, Settings
    from crayon.engine import Engine
    from crayon.models.exported import Exported

# What shapes the work of the other engine and has no counterpart here: said, not silently left aside.
_LLAMA_ONLY = (
    "threads",
    "step_ms",
    "late_share",
    "first_ms",
    "spill",
    "idle_prefixes",
    "blend_quantum",
    "plan_ahead",
    "nano_batches",
    "overlap",
    "kv",
)


def vllm_factory(
    settings: Settings, open_pools: Callable[[tuple[str, ...], str, str], list[Pool]]
) -> Callable[[], Engine]:
    """Return what makes the engine; the model is exported, and its pools are opened, here.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: an option is wrong, or has no meaning with vLLM.
    """
    serve = settings.serve
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "crayon serve --engine vllm")
    for key in _LLAMA_ONLY:
        if getattr(serve, key) is not None:
            raise ConfigError(key, "shapes the work of llama.cpp and means nothing with --engine vllm; leave it away")
    if serve.tune:
        raise ConfigError("tune", "searches for llama.cpp's settings; leave it away with --engine vllm")
    adapters = named_folders(serve.adapters)
    more = further_arguments(serve.vllm)
    folder, exported = _model(settings)
    pools: list[Pool] = []
    if serve.pools:
        if exported is None:
            raise ConfigError(
                "pools", f"{folder} does not say which model it is; make it with crayon models export, for pools to fit"
            )
        pools = open_pools(serve.pools, exported.source_sha256, exported.name)
    console.message(f"loading {folder.name if exported is None else exported.name} from {folder} into vLLM", "dim")

    def make() -> Engine:
        from crayon.server.engines.vllm.engine import VllmEngine

        return VllmEngine(
            folder,
            name=folder.name if exported is None else exported.name,
            source_sha256="" if exported is None else exported.source_sha256,
            quantization="" if exported is None else exported.quantization,
            pools=pools,
            adapters=adapters,
            more=more,
            **_shape(serve),
        )

    return make


def named_folders(given: Iterable[str]) -> dict[str, Path]:
    """Return the adapters of `NAME=FOLDER`s.

    Raises:
        ConfigError: not of this form, a name is there twice, or there is no such folder.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        path = Path(folder).expanduser()
        if not (name and sign and folder):
            raise ConfigError("adapters", f"{text!r} is no NAME=FOLDER")
        if name in found:
            raise ConfigError("adapters", f"{name!r} is there twice")
        if not path.is_dir():
            raise ConfigError("adapters", f"{name}: there is no folder {path}")
        found[name] = path.absolute()
    return found


def further_arguments(given: Iterable[str]) -> dict[str, Any]:
    """Return vLLM's arguments of `NAME=VALUE`s; what is no JSON is a text. Names are checked where vLLM is imported.

    Raises:
        ConfigError: not of this form, or a name is there twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not (name and sign):
            raise ConfigError("vllm", f"{text!r} is no NAME=VALUE")
        if name in found:
            raise ConfigError("vllm", f"{name} is there twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def _shape(serve: ServeSettings) -> dict[str, Any]:
    shape = {
        "context_tokens": serve.ctx,
        "slots": serve.slots,
        "batch": serve.batch,
        "predict": serve.predict,
        "max_queue": serve.max_queue,
        "max_queue_tokens": serve.max_queue_tokens,
        "scheduler": serve.vllm_scheduler.value,
        "tensor_parallel": serve.tensor_parallel,
        "pipeline_parallel": serve.pipeline_parallel,
        "data_parallel": serve.data_parallel,
        "enable_dbo": serve.enable_dbo,
    }
    return {name: value for name, value in shape.items() if value is not None}


def _model(settings: Settings) -> tuple[Path, Exported | None]:
    """Return the folder to serve, and what it says of itself; a GGUF model is exported once and kept."""
    from crayon.models.exported import read_exported

    reference = settings.serve.model
    folder = Path(reference).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError("model", f"{folder} is no model's folder: it has no config.json")
        return folder.absolute(), read_exported(folder)
    from crayon.models import read_gguf, resolve
    from crayon.models.exported import Exported
    from crayon.models.prepared import origin
    from crayon.models.store import Store, default_models_dir
    from crayon.training.export import export

    with pull_progress(reference) as progress:
        local = resolve(reference, progress=progress, models_dir=settings.models_dir)
    kept = Store(settings.models_dir or default_models_dir()).exported(local.sha256)
    exported = read_exported(kept) if kept.is_dir() else None
    if exported is None:
        info = read_gguf(local.path)
        source_sha256, quantization = origin({key: str(value) for key, value in info.metadata.items()}, local.sha256)
        exported = Exported(local.name, source_sha256, quantization or info.file_type or "")
        console.message(f"exporting {local.name} for vLLM, once, to {kept}", "dim")
        export(local.path, kept, exported)
    return kept, exported
