"""How a client shows itself to a server, and how it knows the server: TLS and a token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import grpc

from crayon.errors import ConfigError
from crayon.wire.address import UNIX, check_form, check_local, is_local
from crayon.wire.certificates import read_authorities, read_certified_key
from crayon.wire.tokens import Secret, bearer, check_token, read_private

if TYPE_CHECKING:
    import os

    Metadata = tuple[tuple[str, str], ...]


class AccessOptions(TypedDict, total=False):
    """The keywords of `ServerAccess`, which whatever connects to a server takes, too."""

    tls: bool
    ca_file: str | os.PathLike[str] | None
    client_cert: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    token: str | None
    token_file: str | os.PathLike[str] | None


class ServerAccess:
    """A server's address, and what a client needs to be let in there.

    Without TLS the address must be on this machine, so neither prompts nor tokens travel as plain text.

    Args:
        address: `host:port` or `unix:/path`.
        tls: speak TLS; the other TLS settings imply it.
        ca_file: PEM file of the authorities that vouch for the server; None takes those that gRPC brings along.
        client_cert: PEM file of this client's certificate chain, for servers that want one.
        client_key: PEM file of its key.
        token: what the server knows this client by.
        token_file: a file with the token; read again when it has changed.

    Raises:
        ConfigError: the address, a file, or how they go together is wrong; the key names it.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool = False,
        ca_file: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if (client_cert is None) != (client_key is None):
            raise ConfigError("client_cert", "and client_key go together; give both")
        if token is not None and token_file is not None:
            raise ConfigError("token", "and token_file exclude each other; give one of them")
        self.address = address
        self.tls = tls or ca_file is not None or client_cert is not None
        if not self.tls:
            check_local(address, "server")
        elif check_form(address, "server").startswith(UNIX):
            raise ConfigError("server", "a socket file is on this machine and has no name to certify; leave TLS off")
        self.local = is_local(check_form(address, "server"))
        self._authorities = None if ca_file is None else read_authorities(Path(ca_file), "ca_file")
        self._own = None
        if client_cert is not None and client_key is not None:
            self._own = read_certified_key(Path(client_cert), Path(client_key), "client_cert", "client_key")
        self._token = None if token is None else check_token(token, "token")
        self._token_file = None if token_file is None else Path(token_file)
        self._seen: tuple[int, ...] | None = None
        self.metadata()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a TLS channel needs; None for plain text."""
        if not self.tls:
            return None
        key, chain = (None, None) if self._own is None else (self._own.key, self._own.chain)
        return grpc.ssl_channel_credentials(self._authorities, key, chain)

    def metadata(self) -> Metadata:
        """Return the metadata of the next call, with the token if there is one.

        Raises:
            ConfigError: the token's file cannot be read any more, or holds no token.
        """
        if self._token_file is not None:
            self._token = self._read(self._token_file)
        return () if self._token is None else bearer(self._token)

    def _read(self, path: Path) -> Secret:
        try:
            found = path.stat()
        except OSError as error:
            raise ConfigError("token_file", f"cannot read {path}: {error.strerror or error}") from None
        seen = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        if self._token is None or seen != self._seen:
            text = read_private(path, "token_file").decode("utf-8", "replace").strip()
            self._token, self._seen = check_token(text, "token_file"), seen
        return self._token
