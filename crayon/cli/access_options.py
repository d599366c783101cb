"""Options of `crayon serve` that say who may call, and how they become a server's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.errors import ConfigError

if TYPE_CHECKING:
    from crayon.config import ServeSettings

TokensFileOption = Annotated[
    Path | None,
    typer.Option(
        "--tokens-file",
        metavar="PATH",
        help="Who may call: one name:token a line, # for comments; chmod 600. SIGHUP reads it again.",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="PATH", help="Speak TLS with this certificate chain (PEM)."),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="PATH", help="Its private key (PEM, no password; chmod 600)."),
]
TlsClientCaOption = Annotated[
    Path | None,
    typer.Option("--tls-client-ca", metavar="PATH", help="Take only clients with a certificate of these authorities."),
]
PlainTextOption = Annotated[
    bool | None,
    typer.Option("--insecure-plain-text", help="Speak plain text where other machines can listen, too."),
]
NoTokensOption = Annotated[
    bool | None,
    typer.Option("--insecure-no-tokens", help="Let everybody in who can reach the port from another machine."),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--client-concurrent", metavar="N", min=1, help="Most requests at a time of one client."),
]
RequestsOption = Annotated[
    int | None,
    typer.Option("--client-requests-per-minute", metavar="N", min=1, help="Most requests a minute of one client."),
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        "--client-tokens-per-minute",
        metavar="N",
        min=1,
        help="Most tokens a minute of one client, prompts and answers together.",
    ),
]


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
