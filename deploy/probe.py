"""HEALTHCHECK of the images: request one URL and exit with 0 if the answer is 2xx.

A check that finds the server not ready asks again until ``--wait SECONDS`` are over.  Docker runs
each check in a new process, which costs a tenth of a second of a core: one that waits tells sooner
and costs less than one every second.

Only modules that start in milliseconds, because checks run for as long as the container does.

Usage: probe.py [--wait SECONDS] [URL]
"""

from __future__ import annotations

import os
import socket
import sys
import time
from urllib.parse import urlsplit

ANSWER_SECONDS_MAX = 2.0
PAUSE_SECONDS = 0.1
STATUS_BYTES_MAX = 4_096


def own(name: str) -> str | None:
    """A setting of the node, or of the coordinator, whose image this is."""
    values = (os.environ.get(f"SYNAPTOROUTE_{part}{name}") for part in ("", "COORDINATOR_"))
    return next((value for value in values if value), None)


def own_url() -> str:
    """The URL of PROBE_URL, or of the process that the environment configures."""
    scheme = "https" if own("TLS_CERT") else "http"
    return os.environ.get("PROBE_URL") or f"{scheme}://127.0.0.1:{own('PORT')}/livez"


def failure(url: str) -> str | None:
    """Request the URL; give what is wrong, or None if the answer is 2xx."""
    to = urlsplit(url)
    host, is_tls = to.hostname or "", to.scheme == "https"
    asked = f"GET {to.path or '/'} HTTP/1.1\r\nHost: {to.netloc}\r\nConnection: close\r\n\r\n"
    try:
        address = (host, to.port or (443 if is_tls else 80))
        with socket.create_connection(address, timeout=ANSWER_SECONDS_MAX) as plain:
            connection = encrypted(plain, host) if is_tls else plain
            with connection:
                connection.sendall(asked.encode("ascii"))
                answer = connection.recv(STATUS_BYTES_MAX)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    status = answer.partition(b"\r\n")[0].decode("latin-1")
    return None if status.startswith(("HTTP/1.1 2", "HTTP/1.0 2")) else status or "no answer"


def encrypted(plain: socket.socket, host: str) -> socket.socket:
    """Speak TLS with the certificate of the process, which may serve nobody without one.

    The server shows this very certificate.  It is for the name that other members use, or for
    the host of the URL.
    """
    import ssl

    context = ssl.create_default_context()
    certificate, key = own("TLS_CERT"), own("TLS_KEY")
    if certificate and key:
        context.load_verify_locations(certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(certificate, key)
    name = urlsplit(own("ADVERTISE_URL") or "").hostname
    return context.wrap_socket(plain, server_hostname=name or host)


def main(arguments: list[str]) -> int:
    """Run one check; what is wrong is on standard error."""
    wait_seconds = 0.0
    if arguments[:1] == ["--wait"]:
        wait_seconds, arguments = float(arguments[1]), arguments[2:]
    url = arguments[0] if arguments else own_url()
    give_up_at = time.monotonic() + wait_seconds
    while (wrong := failure(url)) is not None:
        if time.monotonic() >= give_up_at:
            sys.stderr.write(f"{url}: {wrong}\n")
            return 1
        time.sleep(PAUSE_SECONDS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
