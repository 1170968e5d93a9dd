"""The health check of the images: what it asks, how long it waits, and what it costs to start."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ports import free_port
from repository import ROOT
from tls_files import TestTls

pytestmark = pytest.mark.deploy

PROBE = ROOT / "deploy/probe.py"


class Server(HTTPServer):
    """Answers 503 to the first requests, then 200."""

    refusals = 0
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        is_ready = len(self.server.asked) > self.server.refusals
        self.send_response(200 if is_ready else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    if tls is not None:
        made.socket = tls.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def probe(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run it as the images do, without site-packages."""
    environment = {name: value for name, value in os.environ.items() if "SYNAPTOROUTE" not in name}
    return subprocess.run(
        [sys.executable, "-I", "-S", str(PROBE), *words],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_server_that_answers_is_healthy(server: Server) -> None:
    done = probe(f"http://127.0.0.1:{server.server_port}/readyz")

    assert (0, "") == (done.returncode, done.stderr)
    assert ["/readyz"] == server.asked


def test_server_that_refuses_is_not_healthy(server: Server) -> None:
    server.refusals = 9
    done = probe(f"http://127.0.0.1:{server.server_port}/readyz")

    assert 1 == done.returncode
    assert "503" in done.stderr


def test_check_with_wait_asks_until_the_server_is_ready(server: Server) -> None:
    """One process waits, instead of a new one every second."""
    server.refusals = 3
    done = probe("--wait", "50", f"http://127.0.0.1:{server.server_port}/readyz")

    assert 0 == done.returncode, done.stderr
    assert 4 == len(server.asked)


def test_check_with_wait_gives_up() -> None:
    began = time.monotonic()
    done = probe("--wait", "0.5", f"http://127.0.0.1:{free_port()}/readyz")

    assert 1 == done.returncode
    assert "refused" in done.stderr
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("prefix", ["SYNAPTOROUTE_", "SYNAPTOROUTE_COORDINATOR_"])
def test_check_without_a_url_asks_the_process_of_the_environment(
    server: Server, prefix: str
) -> None:
    """On its port, and over TLS where it has a certificate."""
    port = {f"{prefix}PORT": str(server.server_port)}
    plain = probe(**port)
    tls = probe(**port, **{f"{prefix}TLS_CERT": "/none.crt"})

    assert 0 == plain.returncode, plain.stderr
    assert ["/livez"] == server.asked
    assert 1 == tls.returncode
    assert tls.stderr.startswith(f"https://127.0.0.1:{server.server_port}/livez: ")


@pytest.mark.parametrize("name", ["127.0.0.1", "node-1.example"])
def test_check_asks_a_server_with_a_certificate_of_its_own(tmp_path: Path, name: str) -> None:
    """Healthy under TLS, also where clients need a certificate, and under the node's own name."""
    files, others = TestTls.make(tmp_path / "own", name), TestTls.make(tmp_path / "others", name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as made:
        port = {"SYNAPTOROUTE_PORT": str(made.server_port)}
        address = {"SYNAPTOROUTE_ADVERTISE_URL": f"https://{name}:8443"}
        done, foreign = (
            probe(
                **port,
                **address,
                SYNAPTOROUTE_TLS_CERT=str(each.cert),
                SYNAPTOROUTE_TLS_KEY=str(each.key),
            )
            for each in (files, others)
        )

    assert 0 == done.returncode, done.stderr
    assert ["/livez"] == made.asked
    assert 1 == foreign.returncode
    assert "CERTIFICATE_VERIFY_FAILED" in foreign.stderr


def test_check_starts_without_the_modules_of_web_clients() -> None:
    """Docker starts it as long as the container runs."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", str(PROBE), "http://127.0.0.1:1/"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert "socket" in loaded
    assert not loaded & {"ssl", "http.client", "urllib.request", "email.parser", "site"}
