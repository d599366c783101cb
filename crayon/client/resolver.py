"""Where servers are: the addresses a client was given, and all the endpoints behind those that are names."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.wire.address import check_form, is_name, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.client.access import ServerAccess

# gRPC connects through these where they are set, and a proxy wants the name.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: where to connect to, and the address (with TLS and token) that it was found by."""

    target: str
    access: ServerAccess


def plain(accesses: Sequence[ServerAccess]) -> tuple[Endpoint, ...]:
    """Return the endpoints as they were given; gRPC looks a name up itself, and takes one of what it finds."""
    return tuple(Endpoint(access.address, access) for access in accesses)


def named(accesses: Sequence[ServerAccess]) -> bool:
    """Whether one of the addresses is a name, which may be several machines."""
    proxy = any(os.environ.get(name) for name in _PROXIES)
    return not proxy and any(is_name(check_form(access.address, "server")) for access in accesses)


def look_up(accesses: Sequence[ServerAccess]) -> tuple[Endpoint, ...]:
    """Return the endpoints with names looked up; blocks as long as the system's resolver does.

    A name with one address of its kind stays a name, and so does one that is not found: gRPC says what is wrong.
    """
    found: list[Endpoint] = []
    for access in accesses:
        host = check_form(access.address, "server")
        targets = _targets(host, int(access.address.rpartition(":")[2])) if is_name(host) else ()
        found += (
            [Endpoint(target, access) for target in targets] if len(targets) > 1 else [Endpoint(access.address, access)]
        )
    # Two names may be one machine.
    return tuple({endpoint.target: endpoint for endpoint in found}.values())


def _targets(host: str, port: int) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    if not answers:
        return ()
    # Of a machine with IPv4 and IPv6 it is the same server at both; the resolver puts first what is rather reached.
    first = answers[0][0]
    return tuple(sorted({join(str(where[0]), port) for family, _, _, _, where in answers if family == first}))
