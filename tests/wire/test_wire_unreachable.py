"""gRPC's account of a failed connection, in words; docs/how-to/troubleshooting.md has the real ones."""

from __future__ import annotations

import pytest

from crayon.wire.unreachable import unreachable


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (
            "last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused",
            "nothing listens",
        ),
        ("Tls handshake failed: SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: ...", "plain text, not TLS"),
        ("Tls handshake failed: CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "--ca-file"),
        ("Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.", "name"),
        ("errors resolving x: [field:hostname lookup error:address lookup failed: Domain name not found]", "DNS"),
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "--tls"),
        ("unix:/x.sock: connect failed: addr: unix:/x.sock error: No such file or directory", "socket file"),
    ],
)
def test_what_grpc_says_becomes_what_to_do(account: str, words: str) -> None:
    assert words in unreachable(account)
    assert unreachable(account) != account


@pytest.mark.parametrize("account", ["Socket closed", "the server is still loading its model", ""])
def test_everything_else_is_passed_on(account: str) -> None:
    assert unreachable(account) == account
