"""OpenAI's `/v1/models`, and whether the gateway answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.gateway.shared.watched import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from crayon.gateway.shared.gateway import Gateway


async def list_models(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - one signature for all routes
    """List the models."""
    models = [model.as_openai(gateway.created) for model in await gateway.models()]
    return json_response({"object": "list", "data": models})


async def show_model(gateway: Gateway, request: Request) -> Response:
    """Show one of them."""
    model = await gateway.find(request.path_params["name"])
    return json_response(model.as_openai(gateway.created))
