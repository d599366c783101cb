"""Certificates for tests, made when they run."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.server.certificates import TlsFiles


class Authority:
    """A certificate authority that writes what it issues into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> tuple[Path, Path]:
        """Write a certificate for `hosts`, or of a client called `name`, and its key; replaces older ones."""
        ends = dt.datetime.now(dt.UTC) - dt.timedelta(days=1) if expired else None
        leaf = self._ca.issue_cert(*hosts, common_name=name, not_after=ends)
        cert, key = self._folder / f"{name}.cert", self._folder / f"{name}.key"
        for path, data in ((cert, leaf.cert_chain_pems[0].bytes()), (key, leaf.private_key_pem.bytes())):
            draft = path.with_suffix(".draft")
            draft.touch(mode=0o600)
            draft.write_bytes(data)
            os.replace(draft, path)  # noqa: PTH105 - as an operator's tool does it
        return cert, key


def server_files(authority: Authority, *, client_ca: Path | None = None, expired: bool = False) -> TlsFiles:
    """Return the files of a server on loopback."""
    from crayon.server.certificates import TlsFiles

    cert, key = authority.issue("server", "localhost", "127.0.0.1", expired=expired)
    return TlsFiles(cert=cert, key=key, client_ca=client_ca)
