"""Addresses: `host:port`, `[::1]:port` or `unix:/path`. Without TLS, all of them on this machine."""

from __future__ import annotations

import ipaddress

from crayon.errors import ConfigError

UNIX = "unix:"


def is_local(host: str) -> bool:
    """Whether only this machine can reach `host`: a loopback address, "localhost", or a socket file."""
    if host.startswith(UNIX):
        return len(host) > len(UNIX)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare(host)).is_loopback
    except ValueError:
        # Another name: what it resolves to may change after we looked.
        return False


def join(host: str, port: int) -> str:
    """Return the address of a host and a port; a socket file has no port."""
    if host.startswith(UNIX):
        return host
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bare(host: str) -> str:
    """Return a host without the brackets that an IPv6 address has before a port."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def split(addresses: str, key: str) -> tuple[str, ...]:
    """Return the addresses in a list with commas, each once, in their order; their form is not looked at.

    Raises:
        ConfigError: there is none; `key` is the setting that is blamed.
    """
    found = tuple(dict.fromkeys(part.strip() for part in addresses.split(",") if part.strip()))
    if not found:
        raise ConfigError(key, f"must be host:port (or several, with commas between them), not {addresses!r}")
    return found


def is_name(host: str) -> bool:
    """Whether `host` has to be looked up, and may turn out to be several machines."""
    if host.startswith(UNIX) or host == "localhost":
        return False
    try:
        ipaddress.ip_address(bare(host))
    except ValueError:
        return True
    return False


def check_local(address: str, key: str) -> str:
    """Return `address` if it is well formed and on this machine.

    Raises:
        ConfigError: it is not; `key` is the setting that is blamed.
    """
    if not is_local(check_form(address, key)):
        raise ConfigError(
            key,
            f"{address!r} is another machine, and prompts would travel there as plain text; "
            "use TLS (server.tls, --tls), or an SSH tunnel and its address on 127.0.0.1",
        )
    return address


def check_form(address: str, key: str) -> str:
    """Return the host of a well-formed address; `unix:/path` as it is.

    Raises:
        ConfigError: it is malformed; `key` is the setting that is blamed.
    """
    host, colon, port = address.rpartition(":")
    if address.startswith(UNIX):
        host = address
    elif "," in address or not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ConfigError(key, f"must be host:port (or unix:/path), such as 127.0.0.1:50051, not {address!r}")
    return host.removeprefix("[").removesuffix("]")
