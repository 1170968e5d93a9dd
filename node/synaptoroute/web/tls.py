"""TLS of servers and clients, with certificates that are read again when their files change.

A process never restarts for a new certificate.  The files are compared once a second; a
changed set is loaded into a new context as a whole, and only connections made afterwards use
it.  A set that cannot be used leaves the former one in place.  Kubernetes changes a Secret by
swapping a symbolic link, so files are compared through links.

Sources: RFC 8446 (TLS 1.3), RFC 9325 (recommendations for TLS), and
https://docs.python.org/3/library/ssl.html.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from synaptoroute.errors import ConfigError

RELOAD_SECONDS: Final = 1.0
EXPIRES_SOON_SECONDS: Final = 14 * 86_400
"""A certificate with less time left is named in the log when it is read."""
REPORT_SECONDS: Final = 60.0
REPORTED_MAX: Final = 1_000
HANDSHAKE_FAILURES: Final = ("plain_http", "certificate", "timeout", "protocol", "closed")
"""Reasons for which handshakes are counted as failed."""
ALPN: Final = ["http/1.1"]
ClientAuth = Literal["optional", "required"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side of a connection."""

    cert: Path | None = None  # Own certificate and the intermediate ones after it
    key: Path | None = None  # Private key of that certificate, not encrypted
    ca: Path | None = None  # Authorities that the other side's certificate must come from

    def __bool__(self) -> bool:
        return any(self._paths)

    @property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.cert, self.key, self.ca) if path is not None)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Identify the present content of the files; an absent file counts as empty."""
        found = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)


class Certificates:
    """The TLS context of one set of files, replaced when they change.

    Attributes:
        name: ``server`` or ``client``, for logs and metrics.
        context: Context for new connections.
        not_before: Start of the certificate's validity, Unix seconds; 0 without one.
        expires_at: End of its validity, Unix seconds; 0 without a certificate.
        reloads: Sets of files that were taken over since the start.
        reload_failures: Changed sets that could not be used.
    """

    def __init__(
        self, name: str, files: TlsFiles, make: Callable[[TlsFiles], ssl.SSLContext]
    ) -> None:
        self.name = name
        self.reloads = self.reload_failures = 0
        self._files = files
        self._make = make
        self._stamp = files.stamp()
        self.context, self.not_before, self.expires_at = self._read()

    def reload(self) -> bool:
        """Read the files again if they changed; return whether they were read.

        Raises:
            ConfigError: The changed files cannot be used; the former ones stay in use.
        """
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return False
        # Set first: the same broken files are reported once, not every second.  Files that
        # change while they are read have another stamp afterwards and are read again.
        self._stamp = stamp
        try:
            context, not_before, expires_at = self._read()
            now = time.time()
            if expires_at and not not_before <= now < expires_at:
                raise ConfigError(f"the new {self.name} certificate is not valid at this time")
        except ConfigError:
            self.reload_failures += 1
            raise
        self.context, self.not_before, self.expires_at = context, not_before, expires_at
        self.reloads += 1
        return True

    def _read(self) -> tuple[ssl.SSLContext, float, float]:
        context = self._make(self._files)
        if self._files.cert is None:
            return context, 0.0, 0.0
        return context, *validity(self._files.cert)

    async def watch(self) -> None:
        """Follow the files until the task is cancelled."""
        self._log_expiry()
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                if await asyncio.to_thread(self.reload):
                    _log.info("the changed TLS files of the %s are in use", self.name)
                    self._log_expiry()
            except ConfigError as error:
                # A mistake in the files must not cut connections that work.
                _log.error(
                    "the changed TLS files of the %s are refused, the former ones stay in use: %s",
                    self.name,
                    error.message,
                )

    def _log_expiry(self) -> None:
        left_seconds = self.expires_at - time.time()
        if self.expires_at and left_seconds <= 0:
            _log.error("the %s certificate has expired", self.name)
        elif self.expires_at and left_seconds < EXPIRES_SOON_SECONDS:
            _log.warning(
                "the %s certificate expires in %.1f hours", self.name, left_seconds / 3_600
            )


class ServerTls(Certificates):
    """Certificate of an HTTP server, and what it asks of clients."""

    def __init__(self, files: TlsFiles, client_auth: ClientAuth = "optional") -> None:
        self.asks_clients = files.ca is not None
        self.handshake_failures: dict[str, int] = {}
        is_required = client_auth == "required"
        super().__init__(
            "server", files, lambda files: server_context(files, is_required=is_required)
        )

    def count_failure(self, reason: str) -> None:
        self.handshake_failures[reason] = self.handshake_failures.get(reason, 0) + 1


class ClientTls(Certificates):
    """Authorities that a client trusts, and the certificate that it presents."""

    def __init__(self, files: TlsFiles) -> None:
        super().__init__("client", files, client_context)
        self.http_context = _NewestContext(self)
        self._reported_at: dict[str, float] = {}

    def report(self, url: str, error: BaseException, *, is_closed: bool) -> None:
        """Log that a server was refused, or may have refused this client.

        One line a minute for each address: callers try again and again.

        Args:
            url: Address of the server.
            error: Why a request failed.
            is_closed: Whether the server closed the connection without an answer, which is
                how it refuses a client certificate.
        """
        reason = tls_reason(error)
        if not reason and is_closed and self._files.cert is not None:
            reason = "it closed the connection; its log says whether it refuses the certificate"
        now = time.monotonic()
        if reason and now - self._reported_at.get(url, -REPORT_SECONDS) >= REPORT_SECONDS:
            if len(self._reported_at) >= REPORTED_MAX:
                self._reported_at.clear()
            self._reported_at[url] = now
            _log.warning("no TLS connection with %s: %s", url, reason)


class _NewestContext(ssl.SSLContext):
    """Context that opens every connection with the newest certificates.

    An HTTP client keeps the context that it was made with for its whole life.
    """

    _certificates: Certificates

    def __new__(cls, certificates: Certificates) -> _NewestContext:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._certificates = certificates
        return context

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self._certificates.context.wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return self._certificates.context.wrap_socket(*args, **options)


def tls_reason(error: BaseException) -> str:
    """Say why TLS failed in the causes of an error; empty if it has another reason."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"the server's certificate is refused: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return (seen.reason or str(seen)).lower().replace("_", " ")
        seen = seen.__cause__ or seen.__context__
    return ""


# --- contexts ----------------------------------------------------------------------------


class TlsSettings(Protocol):
    """Settings of a program that serves HTTPS and sends requests to nodes."""

    @property
    def tls_cert(self) -> Path | None: ...
    @property
    def tls_key(self) -> Path | None: ...
    @property
    def tls_client_ca(self) -> Path | None: ...
    @property
    def tls_client_auth(self) -> ClientAuth: ...
    @property
    def peer_ca_file(self) -> Path | None: ...
    @property
    def peer_cert_file(self) -> Path | None: ...
    @property
    def peer_key_file(self) -> Path | None: ...


def peer_files(settings: TlsSettings) -> TlsFiles:
    """Choose the files for requests to nodes: by default those of the server."""
    cert, key = settings.peer_cert_file, settings.peer_key_file
    if cert is None and key is None:
        cert, key = settings.tls_cert, settings.tls_key
    return TlsFiles(cert, key, settings.peer_ca_file or settings.tls_client_ca)


def server_tls(settings: TlsSettings) -> ServerTls | None:
    """Make the TLS of a server from its settings; None for plain HTTP.  Reads files.

    Raises:
        ConfigError: The settings contradict each other, or a file cannot be used.
    """
    cert, key, ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise ConfigError("TLS needs a certificate and its key: set tls_cert and tls_key")
    return ServerTls(TlsFiles(cert, key, ca), settings.tls_client_auth)


def client_tls(files: TlsFiles) -> ClientTls | None:
    """Make the TLS of a client; None for the defaults of the HTTP library.  Reads files.

    Raises:
        ConfigError: The settings contradict each other, or a file cannot be used.
    """
    if (files.cert is None) != (files.key is None):
        raise ConfigError("a client certificate and its key are set together")
    return ClientTls(files) if files else None


def server_context(files: TlsFiles, *, is_required: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    _load(context, files)
    if files.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
        # A resumed session would not check the client's certificate again.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Make a context that verifies the server's certificate and its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    if files.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    at = files.ca
    try:
        if files.ca is not None:
            context.load_verify_locations(files.ca)
        if files.cert is not None:
            at = files.cert
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files.cert, files.key, password=_refuse_password)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ConfigError(f"the TLS files at {at} cannot be used: {reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the TLS files at {at} cannot be read: {reason}") from error


def _refuse_password() -> str:
    raise ConfigError("the private key is encrypted; give one without a passphrase")


# --- certificates ------------------------------------------------------------------------


def validity(path: Path) -> tuple[float, float]:
    """Return from when to when all certificates of a file are valid, in Unix seconds.

    Raises:
        ConfigError: The file holds something other than certificates.
    """
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificate {path} cannot be read: {error}") from error
    return (
        max(each.not_valid_before_utc.timestamp() for each in chain),
        min(each.not_valid_after_utc.timestamp() for each in chain),
    )


def names_of(path: Path) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that the first certificate of a file is for."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)
