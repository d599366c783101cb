"""Who may call `crayon serve`, as its settings say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from crayon.config import ServeSettings


def access_config(settings: ServeSettings) -> dict[str, Any]:
    """Return the keywords of `ServeConfig` that say who may call.

    Raises:
        ConfigError: TLS files do not go together, or a limit is wrong.
    """
    from crayon.server.certificates import TlsFiles
    from crayon.server.limits import Limits
    from crayon.wire.tokens import Secret

    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = TlsFiles(cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca)
    elif settings.tls_cert is not None or settings.tls_key is not None or settings.tls_client_ca is not None:
        raise ConfigError("tls_cert", "TLS needs both --tls-cert and --tls-key")
    return {
        "tls": tls,
        "tokens_file": settings.tokens_file,
        "tokens": tuple(Secret(token.get_secret_value()) for token in settings.tokens),
        "limits": Limits(
            concurrent=settings.client_concurrent,
            requests_per_minute=settings.client_requests_per_minute,
            tokens_per_minute=settings.client_tokens_per_minute,
        ),
        "insecure_plain_text": settings.insecure_plain_text,
        "insecure_no_tokens": settings.insecure_no_tokens,
    }
