"""How a server listens and how it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of the public type

from crayon.errors import ConfigError
from crayon.server.certificates import TlsFiles  # noqa: TC001 - part of the public type
from crayon.server.limits import Limits
from crayon.wire.address import UNIX, is_local, join
from crayon.wire.limits import MAX_REQUEST_BYTES
from crayon.wire.tokens import Secret  # noqa: TC001 - part of the public type


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Where a server listens, whom it lets in, and its limits.

    Args:
        host: an address of this machine, "localhost" (127.0.0.1), or "unix:/path" for a socket file.
        port: 0 picks a free one; not used with a socket file.
        drain_seconds: how long running requests may go on after the first signal to stop.
        default_deadline: seconds for a caller that sets no deadline.
        max_deadline: most seconds that a call may take, whatever deadline it sets.
        max_message_bytes: the largest request that is read.
        tls: certificate and key; None: plain text.
        tokens_file: the tokens of those who may call, one `name:token` a line.
        tokens: more of them.
        limits: what each client may ask for.
        insecure_plain_text: plain text where other machines can reach the server, too.
        insecure_no_tokens: neither tokens nor client certificates there.
        health_host: where `health_port` is; any address of this machine, for only health is told there.
        health_port: a second port, in plain text, for probes that cannot do more; 0 picks a free one, None is none.
        metrics_host: where `metrics_port` listens; metrics are plain text, and anybody may read them.
        metrics_port: where metrics are read over HTTP; 0 picks a free one, None: nowhere.
        log_requests: whether each call leaves a line in the log.

    Raises:
        ConfigError: a value is out of range, or the host could be reached from another machine and there is no TLS, or
            nothing that tells who calls.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    drain_seconds: float = 30.0
    default_deadline: float = 300.0
    max_deadline: float = 3600.0
    max_message_bytes: int = MAX_REQUEST_BYTES
    tls: TlsFiles | None = None
    tokens_file: Path | None = None
    tokens: tuple[Secret, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits)
    insecure_plain_text: bool = False
    insecure_no_tokens: bool = False
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        self._check_access()
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", f"must be from 0 (any free one) to 65535, not {self.port}")
        if self.health_port is not None:
            if self.health_host.startswith(UNIX):
                raise ConfigError("health_host", f"must be an address, not {self.health_host!r}")
            if not 0 <= self.health_port <= 65535:
                raise ConfigError("health_port", f"must be from 0 (any free one) to 65535, not {self.health_port}")
            if self.health_port == self.port != 0 and not self.host.startswith(UNIX):
                raise ConfigError("health_port", f"must be another port than the requests' {self.port}")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise ConfigError("metrics_port", f"must be from 0 (any free one) to 65535, not {self.metrics_port}")
        if not self.drain_seconds >= 0:
            raise ConfigError("drain_seconds", f"must be 0 or more seconds, not {self.drain_seconds}")
        if not self.default_deadline > 0:
            raise ConfigError("default_deadline", f"must be more than 0 seconds, not {self.default_deadline}")
        if not self.max_deadline > 0:
            raise ConfigError("max_deadline", f"must be more than 0 seconds, not {self.max_deadline}")
        if self.max_message_bytes < 1024:
            raise ConfigError("max_message_bytes", f"must be at least 1024, not {self.max_message_bytes}")

    @property
    def wants_tokens(self) -> bool:
        """Whether a caller has to show a token."""
        return self.tokens_file is not None or bool(self.tokens)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should hear before anybody connects."""
        said = []
        if not is_local(self.host) and self.tls is None:
            said.append(
                f"INSECURE: plain text on {self.host}: who can listen on the network reads prompts, answers and tokens"
            )
        if not is_local(self.host) and not self._knows_callers():
            said.append(f"INSECURE: no tokens on {self.host}: whoever can reach the port may use this server")
        return tuple(said)

    def _knows_callers(self) -> bool:
        return self.wants_tokens or (self.tls is not None and self.tls.client_ca is not None)

    def _check_access(self) -> None:
        if not self.host or self.host == UNIX:
            raise ConfigError("host", "must be an address of this machine, such as 127.0.0.1, or unix:/path")
        if self.host.startswith(UNIX) and self.tls is not None:
            raise ConfigError("tls_cert", "a socket file has no name to certify; leave TLS away, or listen on a port")
        if is_local(self.host):
            return
        if self.tls is None and not self.insecure_plain_text:
            raise ConfigError(
                "host",
                f"{self.host!r} may be reached from other machines, and without TLS this server speaks plain text; "
                "give --tls-cert and --tls-key, or listen on 127.0.0.1 and let an SSH tunnel or a proxy carry it "
                "further (--insecure-plain-text does it all the same)",
            )
        if not self._knows_callers() and not self.insecure_no_tokens:
            raise ConfigError(
                "host",
                f"{self.host!r} may be reached from other machines, and whoever reaches it could use this server; "
                "give --tokens-file or --tls-client-ca (--insecure-no-tokens does without)",
            )

    def address(self, port: int | None = None) -> str:
        """Return the address to listen on, or with the port that was bound, the one to connect to."""
        # gRPC is content when it gets one of localhost's two addresses; the other may be somebody else's server.
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return join(host, self.port if port is None else port)
