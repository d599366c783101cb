"""`crayon serve --http`: HTTP beside gRPC, as the settings of both sections say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.errors import MissingExtraError

if TYPE_CHECKING:
    from crayon.config import Settings
    from crayon.gateway.beside import HttpBeside
    from crayon.server.config import ServeConfig


def http_beside(settings: Settings, config: ServeConfig) -> HttpBeside | None:
    """Return what answers over HTTP with the server's engine; None where no port is set. It listens already.

    Raises:
        ConfigError: the address cannot be listened on, or tokens or certificates cannot be used.
        MissingExtraError: what it needs is not installed.
    """
    serve = settings.serve
    if serve.http_port is None:
        return None
    try:
        from crayon.gateway.beside import HttpBeside
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise MissingExtraError("gateway", "crayon serve --http") from None

    shared = ("host", "tokens", "tokens_file", "tls_cert", "tls_key", "tls_client_ca", "drain_seconds")
    open_to = ("insecure_plain_text", "insecure_no_tokens")
    given = {name: getattr(serve, name) for name in (*shared, *open_to)}
    own = settings.gateway.model_copy(update={**given, "port": serve.http_port})
    return HttpBeside(own, default_deadline=config.default_deadline, max_deadline=config.max_deadline)
