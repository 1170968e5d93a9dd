"""TLS of the HTTP server: handshakes, client certificates, reloads, failures."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from http_node import logged
from synaptoroute.errors import ConfigError
from synaptoroute.web import tls_handshake
from synaptoroute.web.connections import HttpLimits
from synaptoroute.web.http_server import HttpServer
from synaptoroute.web.tls import ClientTls, ServerTls, TlsFiles, names_of, validity
from tls_files import EXPIRED, LOOPBACK_NAMES, TestTls

# The tests change and read files between requests.
pytestmark = [pytest.mark.unit, pytest.mark.may_block]


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the loop of the coordinator and on that of the node: TLS is their code."""

    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("loop", kind), *signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__name__ = test.__name__
    return pytest.mark.parametrize("loop", LOOPS)(run)


@pytest.fixture
def files(tmp_path: Path) -> TestTls:
    return TestTls.make(tmp_path / "tls")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the name in the client's certificate; wait at /slow."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    name = scope["extensions"]["tls"]["client_cert_name"]
    headers = [(b"x-scheme", scope["scheme"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(name).encode()})


@asynccontextmanager
async def serving(tls: ServerTls) -> AsyncIterator[tuple[str, HttpServer]]:
    server = HttpServer(app, tls=tls)
    (url,) = await server.listen("127.0.0.1", 0)
    try:
        yield url, server
    finally:
        await server.close(seconds=5)


def server_side(files: TestTls, *, client_auth: Any = "optional", ca: bool = True) -> ServerTls:
    return ServerTls(TlsFiles(files.cert, files.key, files.ca if ca else None), client_auth)


def address(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    return parsed.host, parsed.port or 0


async def ask(url: str, context: ssl.SSLContext, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        return await client.get(url + path)


@on_both_loops
async def test_a_request_is_answered_over_tls_1_3(files: TestTls) -> None:
    async with serving(server_side(files, ca=False)) as (url, _):
        assert url.startswith("https://")
        found = await ask(url, files.client())
        assert (200, "https", "None") == (found.status_code, found.headers["x-scheme"], found.text)
        reader, writer = await asyncio.open_connection(*address(url), ssl=files.client())
        session = writer.get_extra_info("ssl_object")
        assert "TLSv1.3" == session.version()
        writer.close()
        del reader


@on_both_loops
async def test_tls_1_1_is_refused_and_alpn_is_http_1_1(files: TestTls) -> None:
    async with serving(server_side(files, ca=False)) as (url, _):
        context = files.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection(*address(url), ssl=context)
        assert "http/1.1" == writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        old = files.client()
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection(*address(url), ssl=old)
        assert "TLSv1.2" == writer.get_extra_info("ssl_object").version()
        writer.close()


@on_both_loops
async def test_pipelined_requests_and_large_bodies_pass(files: TestTls) -> None:
    async with serving(server_side(files, ca=False)) as (url, _):
        reader, writer = await asyncio.open_connection(*address(url), ssl=files.client())
        body = b"x" * 3_000_000
        head = b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body + b"GET / HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
        found = await reader.read()
        assert 2 == found.count(b"HTTP/1.1 200 OK")
        writer.close()


@on_both_loops
async def test_the_name_in_a_verified_client_certificate_is_passed_on(files: TestTls) -> None:
    async with serving(server_side(files)) as (url, _):
        assert "localhost" == (await ask(url, files.client(with_certificate=True))).text
        assert "None" == (await ask(url, files.client())).text


@on_both_loops
async def test_required_client_certificates_are_required(files: TestTls) -> None:
    tls = server_side(files, client_auth="required")
    async with serving(tls) as (url, _):
        assert "localhost" == (await ask(url, files.client(with_certificate=True))).text
        with logged() as log, pytest.raises(httpx.TransportError):
            await ask(url, files.client())
        assert "peer did not return a certificate" in log.getvalue()
        assert 1 == tls.handshake_failures["certificate"]


@pytest.mark.parametrize("kind", ["foreign", "expired"])
@on_both_loops
async def test_a_bad_client_certificate_is_refused(
    files: TestTls, tmp_path: Path, kind: str
) -> None:
    if kind == "foreign":
        other = TestTls.make(tmp_path / "other")
    else:
        shutil.copytree(files.folder, tmp_path / "expired")
        other = TestTls.make(tmp_path / "expired", "localhost", validity=EXPIRED)
    context = files.client()
    context.load_cert_chain(other.cert, other.key)
    async with serving(server_side(files)) as (url, _):
        with logged() as log, pytest.raises(httpx.TransportError):
            await ask(url, context)
        words = "has expired" if kind == "expired" else "signature failure|unable to get local"
        assert any(word in log.getvalue() for word in words.split("|")), log.getvalue()


@on_both_loops
async def test_plain_http_to_a_tls_port_gets_a_clean_close(files: TestTls) -> None:
    tls = server_side(files)
    async with serving(tls) as (url, server):
        with logged() as log:
            reader, writer = await asyncio.open_connection(*address(url))
            writer.write(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
            rest = await asyncio.wait_for(reader.read(), 2)
            writer.close()
        assert not rest.startswith(b"HTTP/")
        assert "the client sent plain HTTP" in log.getvalue()
        assert {"plain_http": 1} == tls.handshake_failures
        await asyncio.sleep(0.05)
        assert not server.state.connections


@on_both_loops
async def test_a_handshake_counts_as_a_connection_and_times_out(
    files: TestTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_handshake, "HANDSHAKE_SECONDS", 0.3)
    tls = server_side(files)
    async with serving(tls) as (url, server):
        reader, writer = await asyncio.open_connection(*address(url))
        await asyncio.sleep(0.1)
        assert 1 == len(server.state.connections)
        assert b"" == await asyncio.wait_for(reader.read(), 2)
        assert {"timeout": 1} == tls.handshake_failures
        await asyncio.sleep(0.05)
        assert not server.state.connections
        writer.close()
        assert 200 == (await ask(url, files.client())).status_code


@on_both_loops
async def test_handshakes_count_against_the_limits_of_connections(files: TestTls) -> None:
    """Unfinished handshakes make room for others, and a refused one leaves nothing behind."""
    limits = HttpLimits(connections_max=4, connections_per_address_max=3)
    server = HttpServer(app, tls=server_side(files), limits=limits)
    (url,) = await server.listen("127.0.0.1", 0)
    idle = [socket.create_connection(address(url)) for _ in range(20)]
    await asyncio.sleep(0.2)
    assert len(server.state.connections) <= 3
    assert 200 == (await ask(url, files.client())).status_code
    for each in idle:
        each.close()
    busy = [asyncio.create_task(ask(url, files.client(), "/slow")) for _ in range(3)]
    await asyncio.sleep(0.25)
    with pytest.raises(httpx.TransportError):
        await ask(url, files.client())
    assert [200] * 3 == [each.status_code for each in await asyncio.gather(*busy)]
    await asyncio.sleep(0.1)
    assert not server.state.connections
    assert not server.state._by_address
    await server.close(seconds=5)


@on_both_loops
async def test_a_client_that_hangs_up_in_the_handshake_leaves_nothing(files: TestTls) -> None:
    tls = server_side(files)
    async with serving(tls) as (url, server):
        for data in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            connection = socket.create_connection(address(url))
            connection.sendall(data)
            connection.close()
        await asyncio.sleep(0.3)
        assert not server.state.connections
        assert {"closed"} == set(tls.handshake_failures)


@on_both_loops
async def test_an_idle_client_does_not_delay_the_stop(files: TestTls) -> None:
    server = HttpServer(app, tls=server_side(files, ca=False))
    (url,) = await server.listen("127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*address(url), ssl=files.client())
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    began_at = time.monotonic()
    await server.close(seconds=20)
    assert time.monotonic() - began_at < 5
    writer.transport.abort()


@on_both_loops
async def test_changed_files_are_used_by_new_connections_only(files: TestTls) -> None:
    tls = server_side(files, ca=False)
    async with serving(tls) as (url, _):
        async with httpx.AsyncClient(verify=files.client(), trust_env=False) as client:
            running = asyncio.create_task(client.get(url + "/slow"))
            await asyncio.sleep(0.1)
            before = tls.expires_at
            TestTls.make(files.folder, "localhost", validity=EXPIRED * -3)
            assert tls.reload()
            assert not tls.reload()
            assert tls.expires_at < before
            assert 200 == (await running).status_code
            assert 200 == (await client.get(url)).status_code  # the old connection
        renamed = url.replace("127.0.0.1", "localhost")
        assert 200 == (await ask(renamed, files.client())).status_code
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            await ask(url, files.client())


def broken_sets(files: TestTls) -> Iterator[str]:
    """Break the files of a server in several ways, one after another."""
    good = files.cert.read_bytes(), files.key.read_bytes()
    files.cert.write_bytes(b"")
    yield "an empty certificate"
    files.cert.unlink()
    yield "no certificate"
    files.cert.write_bytes(good[0][:200])
    yield "half a certificate"
    files.cert.write_bytes(good[0])
    files.key.write_bytes(b"junk")
    yield "a key that is none"
    TestTls.make(files.folder.parent / "other")
    shutil.copy(files.folder.parent / "other" / "tls.key", files.key)
    yield "the key of another certificate"
    files.key.write_bytes(good[1])
    files.ca.write_bytes(b"")
    yield "an empty client CA"


@on_both_loops
async def test_a_broken_set_keeps_the_former_one(files: TestTls) -> None:
    client = files.client()
    tls = server_side(files)
    async with serving(tls) as (url, _):
        for number, what in enumerate(broken_sets(files), start=1):
            with pytest.raises(ConfigError):
                tls.reload()
            assert not tls.reload(), "reported once"
            assert number == tls.reload_failures, what
            assert 200 == (await ask(url, client)).status_code, what
    assert 0 == tls.reloads


def test_an_expired_set_does_not_replace_a_valid_one(files: TestTls) -> None:
    tls = server_side(files)
    TestTls.make(files.folder, validity=EXPIRED)
    with pytest.raises(ConfigError, match="not valid at this time"):
        tls.reload()


def test_a_swapped_symbolic_link_is_a_change(tmp_path: Path) -> None:
    """Kubernetes keeps a Secret in a folder that a link points to, and swaps the link."""
    old, new = tmp_path / "..1", tmp_path / "..2"
    TestTls.make(old)
    shutil.copytree(old, new)
    TestTls.make(new, "other.example")
    (tmp_path / "..data").symlink_to(old.name)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    cert, key, ca = (tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt"))
    tls = ServerTls(TlsFiles(cert, key, ca))
    assert not tls.reload()
    (tmp_path / "..tmp").symlink_to(new.name)
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert tls.reload()
    assert ("other.example",) == names_of(cert)


@on_both_loops
async def test_a_removed_authority_is_not_trusted_any_more(files: TestTls, tmp_path: Path) -> None:
    other = TestTls.make(tmp_path / "other")
    context = files.client(with_certificate=True)
    tls = server_side(files)
    async with serving(tls) as (url, _):
        assert "localhost" == (await ask(url, context)).text
        shutil.copy(other.ca, files.ca)
        assert tls.reload()
        with pytest.raises(httpx.TransportError):
            await ask(url, context)


@on_both_loops
async def test_a_client_follows_its_files(files: TestTls, tmp_path: Path) -> None:
    """An HTTP client that lives on uses a new authority and a new certificate."""
    other = TestTls.make(tmp_path / "other")
    mine = TlsFiles(tmp_path / "c" / "tls.crt", tmp_path / "c" / "tls.key", tmp_path / "c" / "ca")
    shutil.copytree(files.folder, tmp_path / "c")
    shutil.copy(files.ca, tmp_path / "c" / "ca")
    client = ClientTls(mine)
    options: Any = {"verify": client.http_context, "trust_env": False}
    limits = httpx.Limits(max_keepalive_connections=0)
    async with (
        serving(server_side(files)) as (url, _),
        serving(server_side(other)) as (next_, _),
        httpx.AsyncClient(**options, limits=limits) as http,
    ):
        assert "localhost" == (await http.get(url)).text
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(next_)
        for source, target in zip((other.cert, other.key, other.ca), _paths(mine), strict=True):
            shutil.copy(source, target)
        assert client.reload()
        assert "localhost" == (await http.get(next_)).text
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(url)


def _paths(files: TlsFiles) -> tuple[Path, Path, Path]:
    assert files.cert is not None
    assert files.key is not None
    assert files.ca is not None
    return files.cert, files.key, files.ca


def test_an_encrypted_key_is_refused_without_a_question(files: TestTls) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    pem = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, secret))
    with pytest.raises(ConfigError, match="encrypted"):
        server_side(files)


def test_validity_and_names_are_read(files: TestTls) -> None:
    not_before, expires_at = validity(files.cert)
    assert not_before < time.time() < expires_at
    assert LOOPBACK_NAMES == names_of(files.cert)
