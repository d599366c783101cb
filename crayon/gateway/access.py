"""In front of every route: which names lead here, which pages may ask, and whose token is taken."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from crayon.gateway.shared.problems import Dialect, Problem
from crayon.gateway.shared.watched import problem_response
from crayon.wire.address import is_local
from crayon.wire.tokens import SCHEME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from crayon.server.tokens import TokenStore

logger = logging.getLogger("crayon.gateway")

# What watches over a process holds no token, and learns no more than whether it answers; the page is the same for all,
# and asks for a token itself.
OPEN = frozenset({"/health"})
PAGE = "/page/"


class Access:
    """ASGI middleware: refuses who may not ask, names each request, and logs a line of it, never what was said.

    Args:
        app: the routes.
        hosts: names that requests may call this machine by, beside localhost and numeric addresses.
        origins: pages that may ask, beside those of this address itself.
        tokens: whose tokens are taken; None: nobody needs one, on this machine.
        open_to_all: whether other machines need none, either.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        tokens: TokenStore | None = None,
        open_to_all: bool = False,
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._tokens = tokens
        self._open = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, begin, told = uuid.uuid4().hex, time.perf_counter(), {"status": 0, "source": "-"}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["x-request-id"] = request_id
                told["status"], told["source"] = message["status"], headers.get("x-crayon-source", "-")
            await send(message)

        problem = self._refused(scope)
        try:
            if problem is None:
                await self._app(scope, receive, named)
            else:
                await problem_response(problem, dialect_of(scope["path"]))(scope, receive, named)
        finally:
            took = 1000 * (time.perf_counter() - begin)
            where = scope["path"][:100]
            logger.info("%s %r %s %s %.0f ms", scope["method"], where, told["status"], told["source"], took)

    def _refused(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if not self._known_host(headers.get("host", "")):
            message = "this machine is not called so; add the name to gateway.allowed_hosts (--allowed-host) if it is"
            return Problem(status=403, message=message, kind="permission_error", code="unknown_host", param="host")
        page = scope["path"] == "/" or scope["path"].startswith(PAGE)
        if not page and not self._known_origin(headers):
            message = "this page may not ask; add its origin to gateway.cors_origins (--cors-origin) if it may"
            return Problem(status=403, message=message, kind="permission_error", code="unknown_origin", param="origin")
        if page or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return None
        return self._unknown_caller(scope, headers)

    def _known_host(self, host: str) -> bool:
        """Whether a host is an address, or one of our names: another name may be a page's own that leads here."""
        name = _without_port(host.lower())
        return name in self._hosts or _is_address(name) or name == "localhost" or name.endswith(".localhost")

    def _known_origin(self, headers: Headers) -> bool:
        origin = headers.get("origin", "").lower().rstrip("/")
        if not origin:
            return headers.get("sec-fetch-site", "") not in {"cross-site", "same-site"}
        return origin in self._origins or origin.partition("://")[2] == headers.get("host", "").lower()

    def _unknown_caller(self, scope: Scope, headers: Headers) -> Problem | None:
        if self._tokens is None:
            client = scope.get("client")
            if self._open or client is None or not client[0] or is_local(client[0]):
                return None
            message = "other machines need a token, and none is set up: give gateway.tokens_file (--tokens-file)"
            return Problem(status=403, message=message, kind="permission_error", code="no_tokens")
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        token = shown.strip() if scheme.lower() == SCHEME else headers.get("x-api-key", "")
        if not token:
            message = "a token is wanted: set the client's API key to one of the gateway's tokens file"
        else:
            name = self._tokens.current.find(token)
            if name is not None:
                scope["crayon.caller"] = name
                return None
            message = "this token is none that is taken here (any more)"
        return Problem(status=401, message=message, kind="authentication_error", code="invalid_api_key")


def dialect_of(path: str) -> Dialect:
    """Return whose client asks, by the path."""
    if path.startswith("/api/"):
        return Dialect.OLLAMA
    return Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
