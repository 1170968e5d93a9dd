"""Certificates for tests: an authority in a folder, and sets of files from it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from synaptoroute.cli.authority import Authority

LOOPBACK_NAMES = ("localhost", "127.0.0.1")
EXPIRED = timedelta(days=-1)


@dataclass(frozen=True)
class TestTls:
    """One authority and the certificate of a node.

    Attributes:
        folder: Where all files lie.
        ca: The authority's certificate.
        cert: A certificate for the loopback.
        key: Its key.
    """

    __test__ = False

    folder: Path
    ca: Path
    cert: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, *names: str, validity: timedelta | None = None) -> TestTls:
        """An authority in ``folder``, made the first time, and a new certificate there."""
        authority = Authority.open(folder)
        more = {} if validity is None else {"validity": validity}
        cert, key = authority.issue(folder, names or LOOPBACK_NAMES, **more)
        return cls(folder, folder / "ca.crt", cert, key)

    def client(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """What a client verifies servers with, and its certificate if it has one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if with_certificate:
            context.load_cert_chain(self.cert, self.key)
        return context

    def settings(self, *, client_ca: bool = True) -> dict[str, str]:
        """Settings of a node or coordinator that serves with these files."""
        found = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        if client_ca:
            found["tls_client_ca"] = str(self.ca)
        else:
            found["peer_ca_file"] = str(self.ca)
        return found
