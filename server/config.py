"""How a server listens and how it stops."""

from __future__ import annotations

from dataclasses import dataclass

from crayon.errors import ConfigError
from crayon.wire.address import UNIX, is_local, join
from crayon.wire.limits import MAX_REQUEST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Where a server listens, and its limits.

    Args:
        host: a loopback address, "localhost" (127.0.0.1), or "unix:/path" for a socket file.
        port: 0 picks a free one; not used with a socket file.
        drain_seconds: how long running requests may go on after the first signal to stop.
        default_deadline: seconds for a caller that sets no deadline.
        max_message_bytes: the largest request that is read.
        health_host: where `health_port` is; any address of this machine, for only health is told there.
        health_port: a second port, in plain text, for probes that cannot do more; 0 picks a free one, None is none.

    Raises:
        ConfigError: a value is out of range, or the host could be reached from another machine.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    drain_seconds: float = 30.0
    default_deadline: float = 300.0
    max_message_bytes: int = MAX_REQUEST_BYTES
    health_host: str = "127.0.0.1"
    health_port: int | None = None

    def __post_init__(self) -> None:
        if not is_local(self.host):
            raise ConfigError(
                "host",
                f"{self.host!r} may be reached from other machines, and this server speaks plain text; "
                "listen on 127.0.0.1 and let a TLS proxy or an SSH tunnel carry it further",
            )
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", f"must be from 0 (any free one) to 65535, not {self.port}")
        if self.health_port is not None:
            if self.health_host.startswith(UNIX):
                raise ConfigError("health_host", f"must be an address, not {self.health_host!r}")
            if not 0 <= self.health_port <= 65535:
                raise ConfigError("health_port", f"must be from 0 (any free one) to 65535, not {self.health_port}")
            if self.health_port == self.port != 0 and not self.host.startswith(UNIX):
                raise ConfigError("health_port", f"must be another port than the requests' {self.port}")
        if not self.drain_seconds >= 0:
            raise ConfigError("drain_seconds", f"must be 0 or more seconds, not {self.drain_seconds}")
        if not self.default_deadline > 0:
            raise ConfigError("default_deadline", f"must be more than 0 seconds, not {self.default_deadline}")
        if self.max_message_bytes < 1024:
            raise ConfigError("max_message_bytes", f"must be at least 1024, not {self.max_message_bytes}")

    def address(self, port: int | None = None) -> str:
        """Return the address to listen on, or with the port that was bound, the one to connect to."""
        # gRPC is content when it gets one of localhost's two addresses; the other may be somebody else's server.
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return join(host, self.port if port is None else port)
