"""`crayon pool`: adapter pools, what is in them, whether they work, and adapters of other makers."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.device_model import device_model
from crayon.cli.shared.exit_codes import MODEL
from crayon.cli.shared.lazy import CommandEntry, LazyGroup
from crayon.cli.shared.pull_progress import pull_progress
from crayon.errors import AdapterError, InvalidRequestError

if TYPE_CHECKING:
    from crayon.adapters import LoraTensors, Manifest, Member, Pool
    from crayon.device.pool_check import PoolFinding
    from crayon.models import LocalModel


class _PoolGroup(LazyGroup):
    """Training is imported when it is asked for."""

    entries: ClassVar = {
        "train": CommandEntry(
            "crayon.cli.pool.train", "Train a pool of adapters for a catalogue model; needs the extra 'train'.", "train"
        ),
        "rekey": CommandEntry(
            "crayon.cli.pool.rekey", "Make a pool's keys anew from its members' questions; trains nothing.", "rekey"
        ),
    }


app = typer.Typer(cls=_PoolGroup, add_completion=False, no_args_is_help=True)

_Pool = Annotated[str, typer.Argument(metavar="POOL", help="A name of `crayon pool ls`, or a folder.")]
_Base = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="The base model. If not given: the one the pool names.")
]


class Format(StrEnum):
    """Where an exported adapter can be used."""

    PEFT = "peft"
    GGUF = "gguf"


@app.callback()
def pool() -> None:
    """List, show, check, train, import and export adapter pools.

    A pool holds adapters for one base model, trained so that they can be blended. One comes with Crayon; others lie in
    the user's pools folder (CRAYON_POOLS_DIR names another) or in any folder.
    """


@app.command("ls")
def list_pools(*, as_json: options.JsonOption = False) -> None:
    """List the pools that are shipped and those in the user's folder.

    Example: crayon pool ls --json
    """
    from crayon.adapters.find import pool_names, shipped_pools_dir, user_pools_dir

    rows = [_row(name, shipped_pools_dir()) for name in pool_names()]
    if as_json:
        print(json.dumps({"folder": str(user_pools_dir()), "pools": rows}, ensure_ascii=False, indent=2))
        return
    if not rows:
        console.message(f"no pools; those you import or train belong in {user_pools_dir()}")
        return
    keys = ("name", "base", "members", "rank", "from", "state")
    table = [[key.upper() for key in keys]]
    table += [["-" if row[key] is None else _safe(row[key]) for key in keys] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@app.command()
def show(reference: _Pool, *, as_json: options.JsonOption = False) -> None:
    """Show a pool: its base, its members with their data and scores, and what was rejected.

    Points are of 100, on items that the member was not trained on. Example: crayon pool show default --json
    """
    from crayon.adapters import read_manifest
    from crayon.adapters.find import find_pool

    folder = find_pool(reference)
    manifest = read_manifest(folder)
    if as_json:
        record = {"id": manifest.id, "folder": str(folder), **json.loads(manifest.dump())}
        print(json.dumps(record, ensure_ascii=False, indent=2))
        return
    for key, value in _facts(manifest, folder).items():
        print(f"{key}: {_safe(value)}")
    print("members:")
    for member in manifest.members:
        print(f"  {_safe(_member_line(member))}")
    if manifest.rejected:
        print("rejected:")
        for rejected in manifest.rejected:
            print(f"  {_safe(f'{rejected.name}: {rejected.reason}')}")


@app.command()
def check(reference: _Pool, *, model: _Base = None, as_json: options.JsonOption = False) -> None:
    """Check on the model itself that a pool does what it says.

    A blend of zeros is the base, every member does something, and a blend made before is what llama.cpp makes of live
    adapters with the same weights. The model's prepared file is taken where there is one, since that is what the device
    runs. Ends with code 3 where something does not hold. Example: crayon pool check ./my-pool
    """
    from crayon.adapters import Pool
    from crayon.adapters.find import find_pool
    from crayon.device import opening
    from crayon.device.pool_check import check_pool

    settings = options.load_settings({})
    opened = Pool.open(find_pool(reference))
    name = model or opened.manifest.base.name
    with pull_progress(name) as progress:
        found = opening.find(name, models_dir=settings.models_dir, progress=progress)
    findings = check_pool(
        opened,
        found.path,
        source_sha256=found.source_sha256,
        name=found.name,
        threads=settings.device.threads,
        progress=None if as_json else _print_finding,
    )
    failed = sum(not finding.ok for finding in findings)
    if as_json:
        rows = [{"check": finding.check, "ok": finding.ok, "said": finding.said} for finding in findings]
        print(json.dumps({"pool": opened.id, "ok": not failed, "findings": rows}, ensure_ascii=False, indent=2))
    if failed:
        console.error(f"{opened.id}: {failed} of {len(findings)} checks failed")
        raise typer.Exit(MODEL)


@app.command("import")
def import_adapters(
    adapters: Annotated[list[Path], typer.Argument(metavar="ADAPTER...", help="PEFT folders and GGUF adapter files.")],
    *,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the pool is to be called.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The base model. If not given: the device's model."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to. If not given: NAME in the user's pools folder."),
    ] = None,
) -> None:
    """Make a pool of adapters that were trained elsewhere, exactly as they are.

    Each becomes a member named after its file, and the base it says it was made for is shown beside the chosen model.
    Nothing but numbers is read: files that hold Python objects are refused.
    Example: crayon pool import ./sql-lora ./chess.gguf --name mine && crayon pool check mine
    """
    from crayon.adapters.find import user_pools_dir
    from crayon.adapters.formats import (
        BaseShapes,
        claimed_base,
        member_name,
        pool_from_adapters,
        read_adapter,
        read_base,
    )
    from crayon.adapters.manifest import check_name
    from crayon.adapters.pool import MANIFEST

    check_name(name, "--name")
    folder = to or user_pools_dir() / name
    if (folder / MANIFEST).exists():
        raise AdapterError(f"{folder} holds a pool already; choose another --name or --to, or remove it")
    names = [member_name(path.name if path.is_dir() else path.stem) for path in adapters]
    if len(set(names)) < len(names):
        raise InvalidRequestError("ADAPTER", f"two of them would be called the same ({', '.join(names)}); rename one")
    settings = options.load_settings({})
    local = _local(device_model(settings, reference=model), settings.models_dir)
    shapes = BaseShapes.read(local.path)
    loras: dict[str, LoraTensors] = {}
    for member, path in zip(names, adapters, strict=True):
        loras[member] = read_adapter(path, shapes)
        # Shapes cannot tell a model from its finetuned sibling; whoever imports it can.
        claimed = _safe(claimed_base(path)) or "a base it does not name"
        console.message(f"{member}: made for {claimed}, imported for {_safe(local.name)}")
    made = pool_from_adapters(loras, read_base(local.path, local.name, _source(local)), shapes, name=name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made.save(folder)
    console.message(f"{made.id} is ready: {folder}", "green")


@app.command()
def export(
    reference: _Pool,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder (peft) or file (gguf).")],
    *,
    blend: Annotated[
        str, typer.Option("--blend", metavar="NAME=W,...", help="Members and weights; a name alone is weight 1.")
    ],
    to: Annotated[Format, typer.Option("--to", help="peft for Python, gguf for llama.cpp.")],
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, help="Cut to this rank, and say what is lost. If not given: exact."),
    ] = None,
    model: _Base = None,
) -> None:
    """Write a blend of a pool's members as one adapter that other programs can use.

    Example: crayon pool export default travel-lora --blend booking=0.7,flights=0.3 --to peft
    """
    from crayon.adapters import Pool
    from crayon.adapters.blend import blend as blended
    from crayon.adapters.blend import truncate
    from crayon.adapters.find import find_pool
    from crayon.adapters.formats import BaseShapes, write_gguf_adapter, write_peft

    opened = Pool.open(find_pool(reference))
    lora = blended(opened, _weights(opened, blend))
    if rank is not None:
        lora, lost = truncate(lora, rank)
        console.message(f"cut to rank {lora.rank}; {lost:.2%} of the change's energy is lost")
    base = opened.manifest.base
    if to is Format.GGUF:
        write_gguf_adapter(lora, destination, base.architecture)
    else:
        local = _local(model or base.name, options.load_settings({}).models_dir)
        opened.check_base(_source(local), local.name)
        write_peft(lora, destination, BaseShapes.read(local.path), base_name=base.name)
    console.message(f"wrote {destination}, rank {lora.rank}", "green")


def _row(name: str, shipped: Path) -> dict[str, Any]:
    from crayon.adapters import read_manifest
    from crayon.adapters.find import find_pool

    row: dict[str, Any] = {"name": name, "id": None, "base": None, "members": None, "rank": None, "from": None}
    try:
        folder = find_pool(name)
        manifest = read_manifest(folder)
    except AdapterError as error:  # one broken pool is no reason to list none
        return row | {"state": f"damaged: {error}"}
    place = "Crayon" if folder.parent == shipped else "user"
    row |= {"id": manifest.id, "base": manifest.base.name, "members": len(manifest.members), "rank": manifest.rank}
    return row | {"from": place, "state": "ready", "path": str(folder), "kind": manifest.kind}


def _facts(manifest: Manifest, folder: Path) -> dict[str, str]:
    from crayon.adapters.pool import TENSORS
    from crayon.engine import POOLING

    size = sum((folder / name).stat().st_size for name in (TENSORS,) if (folder / name).is_file())
    encoder = "none: its weights can only be given"
    if manifest.encoder:
        encoder = f"{manifest.encoder.kind} of layer {manifest.encoder.layer}"
        if manifest.encoder.kind != POOLING:
            encoder += "; made by an older Crayon, `crayon pool rekey` makes them anew"
    base = manifest.base
    return {
        "id": manifest.id,
        "title": manifest.title,
        "folder": str(folder),
        "size": f"{size / 1e6:,.1f} MB",
        "base": f"{base.name} ({base.architecture}, source file {base.source_sha256[:12]})",
        "kind": "members share A" if manifest.kind == "shared" else "each member has its own A",
        "rank": f"{manifest.rank}, alpha {manifest.alpha:g}, on {len(manifest.targets)} weight matrices",
        "keys": encoder,
    }


def _member_line(member: Member) -> str:
    score = member.score
    points = f"{score.base:.1f} -> {score.member:.1f} {score.metric} (n={score.n})" if score else "no score"
    data = ", ".join(member.datasets) or "data not named"
    licences = f" [{', '.join(member.licences)}]" if member.licences else ""
    return f"{member.name}: {member.title}; {points}; {data}{licences}"


def _print_finding(finding: PoolFinding) -> None:
    print(f"{'ok  ' if finding.ok else 'FAIL'} {_safe(finding.check)}: {_safe(finding.said)}", flush=True)


def _weights(opened: Pool, text: str) -> list[float]:
    weights = [0.0] * len(opened)
    seen: set[int] = set()
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        k = opened.index(name.strip())
        try:
            weights[k] = float(number) if equals else 1.0
        except ValueError:
            raise InvalidRequestError("--blend", f"the weight of {name} is {number!r}, not a number") from None
        if k in seen:
            raise InvalidRequestError("--blend", f"names {name} twice")
        seen.add(k)
    if not any(weights):
        raise InvalidRequestError("--blend", "all weights are 0: that is the base, and no adapter")
    return weights


def _local(reference: str, models_dir: Path | None) -> LocalModel:
    from crayon.models import resolve

    with pull_progress(reference) as progress:
        return resolve(reference, progress=progress, models_dir=models_dir)


def _source(local: LocalModel) -> str:
    """Return the hash of the published file: a prepared one says it of itself."""
    from crayon.models import read_gguf
    from crayon.models.prepared import SOURCE_KEY

    return str(read_gguf(local.path).metadata.get(SOURCE_KEY, local.sha256))


def _safe(value: object) -> str:
    """Return a value of somebody's file as text that cannot steer the terminal."""
    return console.safe(str(value), sys.stdout)
