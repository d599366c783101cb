"""`crayon gateway`: OpenAI's, Anthropic's and Ollama's routes in front of the device and the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from crayon.cli.serve.setting_options import settings_of, with_options_of
from crayon.cli.shared import console, options
from crayon.cli.shared.client import fetch_device, quiet_grpc
from crayon.cli.shared.ready_file import announcing
from crayon.config import GatewaySettings
from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from crayon.config import Settings

app = typer.Typer(add_completion=False)


@app.command()
@with_options_of(GatewaySettings)
def gateway(
    *,
    mode: options.ModeOption = None,
    private: options.PrivateOption = None,
    privacy: options.PrivacyOption = None,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    context: options.ContextOption = None,
    scope: options.ScopeOption = None,
    customization: options.CustomizationOption = None,
    timeout: options.TimeoutOption = None,
    **given: object,
) -> None:
    """Answer HTTP clients made for OpenAI, Anthropic or Ollama.

    Try it: run `crayon gateway` in one terminal, and in another
    curl http://127.0.0.1:11435/api/generate -d '{"model": "crayon", "prompt": "Why do we sleep?"}'

    The model `crayon` lets the router decide, `crayon/device` and `crayon/server` name a side, `crayon/NAME` a
    customisation. Every reply says which side answered and why, in headers and in its object `crayon`.

    Each of the first options is also a key of the section [gateway] of the settings' file, and a variable:
    CRAYON_GATEWAY__PORT=11435. Without TLS it listens on this machine only. docs/how-to/gateway.md has the rest.
    """
    flags = {
        **settings_of("gateway", given),
        "mode": mode,
        "private": private,
        "privacy.action": privacy,
        **options.server_flags(server, tls, ca_file, token_file),
        "device.model": device,
        "device.context": context,
        "scopes": scope,
        "customization": customization,
        "timeout": timeout,
    }
    configuration = options.load_configuration(flags)
    settings = configuration.settings
    quiet_grpc()
    try:
        from crayon.gateway.serving import check_listening
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise MissingExtraError("gateway", "crayon gateway") from None
    with configuration.blaming("gateway"):
        for text in check_listening(settings.gateway):
            console.warning(text)
        _run(settings)


def _run(settings: Settings) -> None:
    from crayon.gateway.opening import gateway_of
    from crayon.gateway.serving import serve

    own = settings.gateway
    fetch_device(settings)
    with announcing(own.ready_file) as (announce, withdraw):

        def on_ready(address: str) -> None:
            announce(address)
            console.message(f"answering on {address} (Ctrl-C stops it)", "green")

        def on_drain(running: int) -> None:
            withdraw()
            if running:
                console.message(f"stopping; up to {own.drain_seconds:g} s for {running} running request(s)")

        asyncio.run(
            serve(
                gateway_of(settings),
                own,
                on_bound=lambda address: console.message(f"loading the models; {address} will answer", "dim"),
                on_ready=on_ready,
                on_drain=on_drain,
                on_reload=console.message,
            )
        )
    console.message("stopped")
