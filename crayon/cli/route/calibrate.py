"""`crayon calibrate`: from labelled samples to thresholds of who answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from crayon.cli.route.calibration_lines import calibration_lines
from crayon.cli.shared import console, options
from crayon.cli.shared.device_model import suited
from crayon.completion import Mode
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from crayon.config import Settings
    from crayon.customising.customization import Customization
    from crayon.router.record import CalibrationRecord
    from crayon.router.targets import Target
    from crayon.sdk import Crayon

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="CUSTOMIZATION",
            help="What to calibrate; by default the one of the settings, else the plain device model ('').",
            show_default=False,
        ),
    ] = None,
    *,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples", metavar="FILE", help="Labelled samples; by default those that the customisation was made from."
        ),
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(
            "--traffic", metavar="FILE", help="Questions without labels: the server's answers stand for them."
        ),
    ] = None,
    others: Annotated[
        Path | None,
        typer.Option(
            "--others", metavar="FILE", help="Labelled queries that do not belong to it: they teach what is outside."
        ),
    ] = None,
    ask_server: Annotated[
        bool, typer.Option("--ask-server", help="Send the questions to the server, to measure how often it is right.")
    ] = False,
    server_share: Annotated[
        float | None, typer.Option("--server-share", metavar="SHARE", help="Send this share, such as 0.3.")
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option("--min-quality", metavar="PART", help="Reach this part of the server's accuracy, such as 0.95."),
    ] = None,
    max_device_error: Annotated[
        float | None,
        typer.Option(
            "--max-device-error", metavar="SHARE", help="Of the device's answers at most this share is wrong."
        ),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", metavar="C", help="With this confidence; 0.9 if not given.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the calibration that is kept, and make none.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the calibration that is kept.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything is sent.")] = False,
    private: options.PrivateOption = None,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    timeout: options.TimeoutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure who answers what better, and route by it.

    The device answers each labelled sample; later queries are sent where that gains something, as the target says. With
    --ask-server the samples' questions are sent to the server, and only then. Without it the server's accuracy is
    believed, not measured. With --others it is also measured who answers better what does not belong to the
    customisation, and where it ends. The record is used from then on by whatever uses the customisation. Example:
    crayon calibrate travel --server-share 0.3
    """
    settings = options.load_settings(
        {
            "device.model": device,
            **options.server_flags(server, tls, ca_file, token_file),
            "private": private,
            "timeout": timeout,
        }
    )
    name = settings.customization if name is None else name or None
    if show and delete:
        raise InvalidRequestError("--delete", "and --show do not go together; give one of them")
    if show or delete:
        _kept(settings, name, remove=delete, as_json=as_json)
        return
    target = _target(server_share, min_quality, max_device_error, confidence)
    with _client(suited(settings, name), ask_server=ask_server) as client:
        record = client.calibrate(
            name,
            samples=samples,
            traffic=traffic,
            others=others,
            target=target,
            ask_server=ask_server,
            confirm=lambda count, place: _agreed(count, place, yes=yes),
            progress=_progress,
        )
        custom = None if name is None else client.customization(name)
    _print(record, custom, as_json=as_json)
    if not as_json:
        used = "it decides from now on; crayon route explain TEXT shows how"
        unused = "it is kept, but decides nothing: the setting `calibration` is false"
        console.message(used if settings.calibration else unused, "dim")


def _target(
    server_share: float | None, min_quality: float | None, max_device_error: float | None, confidence: float | None
) -> Target | None:
    from crayon.router.targets import MaxDeviceError, MinQuality, ServerShare

    given = [value for value in (server_share, min_quality, max_device_error) if value is not None]
    if len(given) > 1:
        raise InvalidRequestError("target", "give one of --server-share, --min-quality and --max-device-error")
    if confidence is not None and max_device_error is None:
        raise InvalidRequestError("--confidence", "goes with --max-device-error only")
    if server_share is not None:
        return ServerShare(server_share)
    if min_quality is not None:
        return MinQuality(min_quality)
    if max_device_error is not None:
        return MaxDeviceError(max_device_error, 0.9 if confidence is None else confidence)
    return None


def _client(settings: Settings, *, ask_server: bool) -> Crayon:
    from crayon.cli.customize.command import device_client
    from crayon.cli.shared.client import open_client

    if not ask_server:
        return device_client(settings)
    changes = {"customization": None, "scopes": (), "mode": Mode.PREFER_ON_DEVICE}
    return open_client(settings.model_copy(update=changes))


def _kept(settings: Settings, name: str | None, *, remove: bool, as_json: bool) -> None:
    """Show or delete what is kept; of a customisation without opening the model."""
    from crayon.cli.customize.command import device_client
    from crayon.customising.store import CustomizationStore
    from crayon.sdk.calibration.files import delete_record, kept_record, record_path

    if name is None:
        with device_client(settings) as client:
            if remove:
                client.forget_calibration()
            record, custom = (None, None) if remove else (client.calibration(), None)
    else:
        store = CustomizationStore(settings.customizations_dir)
        custom = store.load(name)
        path = record_path(store.folder, name)
        if remove:
            delete_record(path)
        record = None if remove else kept_record(path, custom)
    if remove:
        console.message(f"deleted the calibration of {name or 'the device model'}")
        return
    if record is None:
        what = f"crayon calibrate {name}" if name else "crayon calibrate --samples FILE"
        raise InvalidRequestError("--show", f"there is no calibration yet; make one: {what}")
    _print(record, custom, as_json=as_json)


def _print(record: CalibrationRecord, custom: Customization | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(json.loads(record.to_json()), ensure_ascii=False))
        return
    for line in calibration_lines(record, custom):
        print(console.safe(line, sys.stdout))


def _agreed(count: int, place: str, *, yes: bool) -> bool:
    """Say what will be sent where, and ask whether it may."""
    console.message(f"{count} texts will be sent to {place}")
    if yes:
        return True
    if not _somebody_is_there():
        raise InvalidRequestError("--yes", "is needed where nobody can be asked; nothing was sent")
    typer.confirm("Send them?", abort=True, err=True)
    return True


def _somebody_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _progress(what: str, done: int, total: int) -> None:
    """Keep one line of a terminal up to date."""
    if sys.stderr.isatty():
        end = "\r\x1b[K" if done == total else ""
        print(f"\r\x1b[K{what} answers {done}/{total}{end}", end="", file=sys.stderr, flush=True)
