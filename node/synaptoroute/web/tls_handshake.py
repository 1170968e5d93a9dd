"""The TLS handshake of an accepted connection, in front of ``HttpProtocol``.

The HTTP protocol knows of a connection from the moment it is accepted, so that a slow
handshake counts against the limits and timers of a connection without a request.  Until the
handshake is done, whatever the protocol writes is dropped: plain bytes must never reach a
client that expects TLS.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from typing import Any, Final, cast

from synaptoroute.web.http_protocol import HttpProtocol
from synaptoroute.web.logs import server_log
from synaptoroute.web.tls import ServerTls

HANDSHAKE_SECONDS: Final = 5.0
LOG_SECONDS: Final = 1.0
_PLAIN_HTTP: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
_CERTIFICATE_WORDS: Final = ("CERTIFICATE", "UNKNOWN_CA", "BAD_CERT")


class HandshakeLog:
    """Counts failed handshakes, and logs the first at once, then one line a second for all."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._count = 0
        self._logged_at = -LOG_SECONDS

    def failed(self, error: BaseException, client: object) -> None:
        reason, detail = explain(error)
        self._tls.count_failure(reason)
        self._count += 1
        now = time.monotonic()
        # A client that only opens and closes a connection is a probe of a load balancer.
        if reason != "closed" and now - self._logged_at >= LOG_SECONDS:
            server_log().warning(
                "tls_handshake_failed",
                reason=reason,
                detail=detail,
                client=client[0] if isinstance(client, tuple) else None,
                count=self._count,
            )
            self._count, self._logged_at = 0, now


def explain(error: BaseException) -> tuple[str, str]:
    """Return the reason of a failed handshake, as counted, and a sentence for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", f"the client's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "closed", "the client closed the connection"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if reason in _PLAIN_HTTP:
            return "plain_http", "the client sent plain HTTP; this port speaks HTTPS"
        is_certificate = any(word in reason for word in _CERTIFICATE_WORDS)
        return "certificate" if is_certificate else "protocol", reason.lower().replace("_", " ")
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "timeout", f"the handshake took longer than {HANDSHAKE_SECONDS:g} seconds"
    return "closed", str(error) or type(error).__name__


class TlsConnection(asyncio.Protocol):
    """One accepted connection until its handshake is done; then ``http`` takes it over."""

    def __init__(self, http: HttpProtocol, tls: ServerTls, log: HandshakeLog) -> None:
        self._http = http
        self._tls = tls
        self._log = log

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket from its plain transport, and begin the handshake on it."""
        # The loop starts to read after this callback and would take the first bytes of a
        # handshake for plain ones.  Closing the transport leaves the duplicate open.
        raw = cast(asyncio.Transport, transport)
        try:
            connection = socket.socket(fileno=os.dup(raw.get_extra_info("socket").fileno()))
        except OSError:  # no file descriptor is left
            raw.abort()
            return
        client, local = raw.get_extra_info("peername"), raw.get_extra_info("sockname")
        raw.abort()
        silent = _SilentTransport(connection, client, local)
        self._http.connection_made(silent)
        if silent.is_closing():  # there was no room for it
            self._http.connection_lost(None)
            return
        loop = asyncio.get_running_loop()
        silent.task = loop.create_task(self._shake_hands(connection, silent, client))
        silent.task.add_done_callback(self._on_done)

    async def _shake_hands(
        self, connection: socket.socket, silent: _SilentTransport, client: object
    ) -> None:
        silent.has_begun = True
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _SecuredConnection(self._http),
                connection,
                ssl=self._tls.context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:  # SSLError and TimeoutError are OSErrors
            silent.mark_closed()
            self._log.failed(error, client)
            self._http.connection_lost(None)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            server_log().error("tls_handshake_broke", exc_info=error)
        if task.cancelled() or error is not None:
            self._http.connection_lost(None)


class _SecuredConnection(asyncio.Protocol):
    """Hands the encrypted transport over to HTTP."""

    def __init__(self, http: HttpProtocol) -> None:
        self._http = http

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secured = cast(asyncio.Transport, transport)
        secured.set_protocol(self._http)
        self._http.secure(secured, client_name(secured))


class _SilentTransport(asyncio.Transport):
    """A connection during its TLS handshake, as the HTTP server sees it: it can only be closed."""

    def __init__(self, connection: socket.socket, client: object, local: object) -> None:
        super().__init__({"peername": client, "sockname": local})
        self._connection = connection
        self._is_closing = False
        self.has_begun = False
        self.task: asyncio.Task[None] | None = None

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Break off the handshake."""
        if self._is_closing:
            return
        self._is_closing = True
        if not self.has_begun:
            self._connection.close()
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        self.close()

    def mark_closed(self) -> None:
        self._is_closing = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def client_name(transport: asyncio.BaseTransport) -> str | None:
    """Name a client by its verified certificate; None for a client without one.

    Without a client CA no certificate is asked for, so there is none.
    """
    certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
    if not certificate:
        return None
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "URI"):
            return str(name)
    for part in certificate.get("subject", ()):
        for kind, name in part:
            if kind == "commonName":
                return str(name)
    return "unnamed"
