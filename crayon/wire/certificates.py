"""PEM files for TLS, checked when they are read: gRPC itself would only say later that no handshake succeeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.wire.tokens import MAX_FILE_BYTES, read_private

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate chain and its private key, as PEM."""

    chain: bytes
    key: bytes = field(repr=False)


def read_certified_key(cert: Path, key: Path, cert_key: str, key_key: str) -> CertifiedKey:
    """Read a certificate chain and its key.

    Args:
        cert: the certificate, and those between it and its authority.
        key: its private key, without a password.
        cert_key: the setting to blame for the certificate.
        key_key: the setting to blame for the key.

    Raises:
        ConfigError: a file cannot be read, is no PEM, every user may read the key, or the two do not belong together.
    """
    import ssl

    chain, private = _read(cert, cert_key), read_private(key, key_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password that is asked for is never given: without this, OpenSSL would ask at the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            cert_key, f"{cert} and {key} are no certificate and key in PEM that belong together: {_reason(error)}"
        ) from None
    except OSError as error:
        raise ConfigError(cert_key, f"cannot read {cert} or {key}: {error.strerror or error}") from None
    if (chain, private) != (_read(cert, cert_key), read_private(key, key_key)):
        raise ConfigError(cert_key, f"{cert} or {key} was being replaced while it was read")
    return CertifiedKey(chain, private)


def read_authorities(path: Path, key: str) -> bytes:
    """Read the certificates of authorities.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    import ssl

    data = _read(path, key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(key, f"{path} holds no certificates in PEM: {_reason(error)}") from None
    return data


def _read(path: Path, key: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(key, f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(key, f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or type(error).__name__)
