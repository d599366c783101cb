"""Why a server could not be reached: gRPC's account of it, in words that say what to do."""

from __future__ import annotations

import re

# What gRPC's account holds, and what that means; the first that fits. Anything else is passed on as it is.
_MEANINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile("WRONG_VERSION_NUMBER"),
        "it answers in plain text, not TLS: leave --tls away, or start the server with --tls-cert and --tls-key",
    ),
    (
        re.compile("CERTIFICATE_VERIFY_FAILED"),
        "its certificate is not trusted: name who signed it with --ca-file",
    ),
    (
        re.compile("Hostname Verification Check failed"),
        "its certificate is for another name: use the name that the certificate holds",
    ),
    (
        re.compile("failed to connect.*Socket closed"),
        "it closed the connection at once: does it want TLS (--tls)?",
    ),
    (
        re.compile("DNS resolution failed|Domain name not found"),
        "this name is not known (DNS): check the spelling and the network",
    ),
    (
        re.compile("Connection refused"),
        "nothing listens there (connection refused): is the server running? `crayon serve` starts one",
    ),
    (re.compile("No such file or directory"), "there is no such socket file: is the server running?"),
)


def unreachable(account: str) -> str:
    """Return what gRPC's account of a failed connection means, or the account itself where that is not known."""
    for pattern, meaning in _MEANINGS:
        if pattern.search(account):
            return meaning
    return account
