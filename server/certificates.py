"""A server's TLS: its certificate, whose client certificates it takes, and how both are replaced while it runs."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - part of the public type
from typing import TYPE_CHECKING

import grpc

from crayon.errors import ConfigError
from crayon.wire.certificates import read_authorities, read_certified_key

if TYPE_CHECKING:
    Seen = tuple[tuple[int, ...] | None, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of a server.

    Args:
        cert: its certificate chain.
        key: its private key, without a password.
        client_ca: authorities of client certificates; with it, who has none of theirs cannot connect.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that there are."""
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)


class Certificates:
    """Reads a server's files, and again when one has changed: at the next connection, or when told to.

    TLS is 1.2 or newer: gRPC speaks nothing older. Connections that stand are not touched.

    Raises:
        ConfigError: a file cannot be read, is no PEM, or certificate and key do not belong together.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._look()
        self._current = self._given = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port needs; it asks here before each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._changed,  # type: ignore[arg-type] # the stub does not know that None means no change
            require_client_authentication=self._files.client_ca is not None,
        )

    def reload(self) -> bool:
        """Read the files if they have changed; where they are unusable, log why, keep what there was, return False."""
        with self._lock:
            seen = self._look()
            if seen == self._seen:
                return True
            try:
                self._current = self._read()
            except ConfigError as error:
                log.error("the certificates stay as they were: %s", error)
                # Said once a change, and not at every connection.
                self._seen = seen
                return False
            self._seen = seen
            log.info("read %s again", self._files.cert)
            return True

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # On a thread of gRPC's own, where an exception would only be printed.
        try:
            self.reload()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on with what it has
            log.error("the certificates stay as they were: %s", type(error).__name__)
        with self._lock:
            if self._current is self._given:
                return None
            self._given = self._current
            return self._given

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        own = read_certified_key(files.cert, files.key, "tls_cert", "tls_key")
        authorities = None if files.client_ca is None else read_authorities(files.client_ca, "tls_client_ca")
        return grpc.ssl_server_certificate_configuration([(own.key, own.chain)], authorities)

    def _look(self) -> Seen:
        return tuple(_signature(path) for path in self._files.paths)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
