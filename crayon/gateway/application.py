"""The ASGI application: every route, what stands in front of them, and the life of the client behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from crayon.errors import CrayonError
from crayon.gateway.access import Access, dialect_of
from crayon.gateway.anthropic import messages as anthropic
from crayon.gateway.ollama import answers as ollama
from crayon.gateway.ollama import models as ollama_models
from crayon.gateway.openai.chat import chat_completions
from crayon.gateway.openai.completions import TextWriter, completions
from crayon.gateway.openai.embeddings import EMBEDDING_NAMES, embeddings
from crayon.gateway.openai.models import list_models, show_model
from crayon.gateway.openai.responses import RESPONSE_NAMES, delete_response, responses, show_response
from crayon.gateway.page.files import page_file
from crayon.gateway.shared.body import read_json
from crayon.gateway.shared.fields import Fields
from crayon.gateway.shared.problems import Problem, problem_of
from crayon.gateway.shared.watched import json_response, problem_response
from crayon.gateway.shared.wishes import NAMES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from crayon.config import GatewaySettings
    from crayon.gateway.shared.gateway import Gateway
    from crayon.gateway.shared.panel import Panel
    from crayon.server.tokens import TokenStore

    Asked: TypeAlias = Callable[[Gateway, Request, Fields], Awaitable[Response]]
    Looked: TypeAlias = Callable[[Gateway, Request], Awaitable[Response]]

logger = logging.getLogger("crayon.gateway")

# Each with what it calls the fields that the SDK has other names for.
POSTED: dict[str, tuple[Asked, Mapping[str, str]]] = {
    "/v1/chat/completions": (chat_completions, NAMES),
    "/v1/completions": (completions, TextWriter.names),
    "/v1/responses": (responses, RESPONSE_NAMES),
    "/v1/embeddings": (embeddings, EMBEDDING_NAMES),
    "/v1/messages": (anthropic.messages, anthropic.ANTHROPIC_NAMES),
    "/v1/messages/count_tokens": (anthropic.count_tokens, anthropic.ANTHROPIC_NAMES),
    "/api/chat": (ollama.chat, ollama.LineWriter.names),
    "/api/generate": (ollama.generate, {**ollama.LineWriter.names, "messages": "prompt"}),
    "/api/embed": (ollama.embed, EMBEDDING_NAMES),
    "/api/show": (ollama_models.show, NAMES),
}
READ: dict[str, Looked] = {
    "/v1/models": list_models,
    "/v1/models/{name:path}": show_model,
    "/api/tags": ollama_models.tags,
    "/api/ps": ollama_models.running,
    "/api/version": ollama_models.version,
}


def build(
    gateway: Gateway, settings: GatewaySettings, tokens: TokenStore | None = None, *, loads: bool = True
) -> ASGIApp:
    """Return the application in front of a gateway.

    Args:
        gateway: who answers; opened and closed with the application where it `loads`.
        settings: who may ask, and how much.
        tokens: whose tokens are taken; None: nobody on this machine needs one.
        loads: whether the application opens and closes the gateway; else who made it does.
    """
    routes = [
        Route(path, partial(_ask, gateway, settings, ask, names), methods=["POST"])
        for path, (ask, names) in POSTED.items()
    ]
    routes += [Route(path, partial(_look, gateway, look), methods=["GET"]) for path, look in READ.items()]
    # Its name is none of a response: who asks for it hears that there is no such route, and not which method to take.
    routes.append(Route("/v1/responses/compact", _missing, methods=["GET", "POST"]))
    one = "/v1/responses/{name}"
    routes.append(Route(one, partial(_look, gateway, show_response), methods=["GET"]))
    routes.append(Route(one, partial(_look, gateway, delete_response), methods=["DELETE"]))
    routes.append(Route("/health", partial(_health, gateway), methods=["GET"]))
    if gateway.panel is not None:
        routes += _page_routes(gateway, gateway.panel, settings)
    middleware = [
        Middleware(
            Access,
            hosts=(*settings.allowed_hosts, settings.host),
            origins=settings.cors_origins,
            tokens=tokens,
            open_to_all=settings.insecure_no_tokens,
        )
    ]
    if settings.cors_origins:
        cors: dict[str, Any] = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"], "expose_headers": ["*"]}
        middleware.append(Middleware(CORSMiddleware, allow_origins=list(settings.cors_origins), **cors))
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _no_route},
        lifespan=partial(_life, gateway) if loads else None,
    )


def _page_routes(gateway: Gateway, panel: Panel, settings: GatewaySettings) -> list[Route]:
    read: dict[str, Looked] = {
        "/crayon/state": panel.state,
        "/crayon/process": panel.process,
        "/crayon/ledger": panel.ledger,
        "/crayon/models": panel.catalogue,
    }
    posted: dict[str, Asked] = {
        "/crayon/lock": panel.lock,
        "/crayon/customizations": panel.customize,
        "/crayon/pull": panel.pull,
    }
    return [
        Route("/", page_file, methods=["GET"]),
        Route("/page/{name}", page_file, methods=["GET"]),
        *(
            Route(path, partial(_look, gateway, look, wakes=path == "/crayon/state"), methods=["GET"])
            for path, look in read.items()
        ),
        *(Route(path, partial(_ask, gateway, settings, ask, NAMES), methods=["POST"]) for path, ask in posted.items()),
    ]


def application() -> ASGIApp:
    """Return the application that the settings describe, with models and connection of its own.

    Raises:
        CrayonError: a setting is wrong, or a scope, a token or an address cannot be used.
    """
    from crayon.config import load
    from crayon.gateway.opening import gateway_of, tokens_of

    settings = load().settings
    return build(gateway_of(settings), settings.gateway, tokens_of(settings.gateway))


@contextlib.asynccontextmanager
async def _life(gateway: Gateway, _app: Starlette) -> AsyncIterator[None]:
    # Beside the port, not before it: who asks meanwhile hears that the models are being loaded.
    loading = asyncio.create_task(_load(gateway))
    try:
        yield
    finally:
        gateway.draining = True
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await gateway.close()


async def _load(gateway: Gateway) -> None:
    try:
        await gateway.load()
    except CrayonError as error:
        logger.critical("the gateway cannot answer: %s", error)


async def _ask(
    gateway: Gateway, settings: GatewaySettings, ask: Asked, names: Mapping[str, str], request: Request
) -> Response:
    try:
        gateway.check_ready()
        fields = Fields(await read_json(request, settings.max_body_bytes))
        await gateway.awake()
        return await ask(gateway, request, fields)
    except Exception as error:  # noqa: BLE001 - the last line of defence: clients get an answer in any case
        return _told(error, request, names)


async def _look(gateway: Gateway, look: Looked, request: Request, *, wakes: bool = True) -> Response:
    try:
        gateway.check_ready()
        if wakes:
            await gateway.awake()
        return await look(gateway, request)
    except Exception as error:  # noqa: BLE001 - as in _ask
        return _told(error, request, NAMES)


def _told(error: Exception, request: Request, names: Mapping[str, str]) -> Response:
    return problem_response(problem_of(error, names), dialect_of(request.url.path))


async def _health(gateway: Gateway, request: Request) -> Response:  # noqa: ARG001 - one signature for all routes
    try:
        gateway.check_ready()
    except CrayonError as error:
        problem = problem_of(error)
        return json_response({"status": problem.code, "message": problem.message}, problem.status, problem.headers)
    return json_response({"status": "ok", "running": gateway.running})


async def _missing(request: Request) -> Response:
    return await _no_route(request, HTTPException(404))


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path[:100]} is not offered here; docs/how-to/gateway.md lists what is"
    problem = Problem(status=status, message=message, code="no_such_route")
    response = problem_response(problem, dialect_of(request.url.path))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
