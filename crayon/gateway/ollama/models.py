"""Ollama's `/api/tags`, `/api/show`, `/api/ps` and `/api/version`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crayon.gateway.ollama.answers import named
from crayon.gateway.shared.watched import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.gateway.shared.fields import Fields
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.models import VirtualModel

# Whose routes these are: clients look whether what they need is there yet.
API_VERSION = "0.12.0"


async def tags(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - one signature for all routes
    """List the models."""
    return json_response({"models": [_entry(gateway, model) for model in await gateway.models()]})


async def running(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - one signature for all routes
    """List the models that are open: all of them."""
    models = [
        {**_entry(gateway, model), "size_vram": 0, "context_length": model.context_length}
        for model in await gateway.models()
    ]
    return json_response({"models": models})


async def show(gateway: Gateway, request: Request, fields: Fields) -> Response:  # noqa: ARG001 - one signature
    """Show one of them."""
    model = await gateway.find(named(fields))
    fields.skip("verbose")
    fields.end()
    body = {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": {"general.architecture": "crayon", "crayon.context_length": model.context_length},
        "capabilities": [word for word in model.capabilities if word in {"completion", "embedding", "tools"}],
        "modified_at": _when(gateway),
    }
    return json_response(body)


async def version(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - one signature for all routes
    """Tell which version of these routes is spoken, and which Crayon speaks them."""
    from importlib.metadata import version as installed

    return json_response({"version": API_VERSION, "crayon": installed("crayon-llm")})


def _entry(gateway: Gateway, model: VirtualModel) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _when(gateway),
        "size": 0,
        "digest": hashlib.sha256(model.id.encode()).hexdigest(),
        "details": _details(model),
    }


def _details(model: VirtualModel) -> dict[str, Any]:
    levels = sorted({info.quantization for info in model.infos if info.quantization})
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "crayon",
        "families": ["crayon"],
        "parameter_size": "",
        "quantization_level": ", ".join(levels),
    }


def _when(gateway: Gateway) -> str:
    return datetime.fromtimestamp(gateway.created, UTC).isoformat().replace("+00:00", "Z")
