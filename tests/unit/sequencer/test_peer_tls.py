"""Clients of nodes verify certificates and names, and never go without TLS by themselves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError
from synaptoroute.sequencer.peers import Membership, PeerClient
from synaptoroute.sequencer.proven_http import ProvenHttp, Target
from synaptoroute.sequencer.wire import SigningKeys
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier
from synaptoroute.web.http_server import HttpServer
from synaptoroute.web.tls import ClientTls, ServerTls, TlsFiles
from synaptoroute_coordinator.actions.fleet_client import FleetClient
from tls_files import EXPIRED, TestTls

# The tests make files between requests.
pytestmark = [pytest.mark.unit, pytest.mark.may_block]

SECRET = ClusterSecret("default", {"a": b"s" * 32})
SIGNER = Signer("n1", NodeIdentity.generate(), SECRET)
VERIFIER = Verifier(SECRET)


@pytest.fixture
def mine(tmp_path: Path) -> TestTls:
    """What the client trusts and presents."""
    return TestTls.make(tmp_path / "mine")


class Peer:
    """A server that notes what it is asked, and redirects."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        headers = [(b"location", b"https://127.0.0.1:1/elsewhere")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(peer: Peer, files: TestTls | None, **options: Any) -> AsyncIterator[str]:
    tls = files and ServerTls(TlsFiles(files.cert, files.key, files.ca), **options)
    server = HttpServer(peer, tls=tls)
    (url,) = await server.listen("127.0.0.1", 0)
    try:
        yield url
    finally:
        await server.close(seconds=2)


def client_files(files: TestTls) -> ClientTls:
    return ClientTls(TlsFiles(files.cert, files.key, files.ca))


async def redirected(ask: Ask, url: str) -> bool:
    """Whether a request was answered with the redirect itself."""
    try:
        answer: Any = await ask(url)
    except ClusterError as error:
        return "status 307" in str(error)
    return bool(answer.status == 307)


Ask = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def asking(kind: str, tls: ClientTls, *, allow_plain: bool = False) -> AsyncIterator[Ask]:
    """Either client of nodes: that of a node, or that of the coordinator."""
    if kind == "node":
        membership = Membership(lambda: b"secret" * 8, lambda: 0)
        keys = SigningKeys("default")
        peers = PeerClient(membership, lambda: SIGNER, VERIFIER, keys, tls, allow_plain=allow_plain)
        yield lambda url: peers.read_log(url, Position(1, 1, "0" * 40))
        await peers.close()
    else:
        http = ProvenHttp(
            lambda: SIGNER, lambda: VERIFIER, key_hash=b"h" * 32, tls=tls, allow_plain=allow_plain
        )
        fleet = FleetClient(http, has_key=True)
        yield lambda url: fleet.ask(Target(url), "GET", "/v1/cluster")
        await fleet.close()


both_clients = pytest.mark.parametrize("client", ["node", "coordinator"])


def bad_server(kind: str, mine: TestTls, folder: Path) -> TestTls:
    if kind == "foreign authority":
        return TestTls.make(folder / "foreign")
    shutil.copytree(mine.folder, folder / "bad")
    if kind == "expired":
        return TestTls.make(folder / "bad", validity=EXPIRED)
    return TestTls.make(folder / "bad", "node-7.example", validity=timedelta(days=1))


@both_clients
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            "foreign authority",
            "self-signed certificate in certificate chain|unable to get|signature",
        ),
        ("expired", "certificate has expired"),
        ("wrong name", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
async def test_a_server_with_a_bad_certificate_is_refused_and_logged(
    mine: TestTls,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    client: str,
    kind: str,
    reason: str,
) -> None:
    peer, tls = Peer(), client_files(mine)
    async with (
        served(peer, bad_server(kind, mine, tmp_path)) as url,
        asking(client, tls) as ask,
    ):
        with caplog.at_level(logging.WARNING, "synaptoroute.web.tls"):
            for _ in range(3):
                with pytest.raises(ClusterError):
                    await ask(url)
    assert [] == peer.paths, "nothing was sent"
    (line,) = [each.getMessage() for each in caplog.records if "no TLS" in each.getMessage()]
    assert url in line
    assert any(each in line for each in reason.split("|")), line


@both_clients
async def test_the_host_of_the_address_is_the_name_that_is_verified(
    mine: TestTls, tmp_path: Path, client: str
) -> None:
    """The certificate names localhost alone, so the same server is refused by its address."""
    shutil.copytree(mine.folder, tmp_path / "named")
    named = TestTls.make(tmp_path / "named", "localhost")
    peer, tls = Peer(), client_files(mine)
    async with served(peer, named) as url, asking(client, tls) as ask:
        with pytest.raises(ClusterError):
            await ask(url)
        assert [] == peer.paths
        assert await redirected(ask, url.replace("127.0.0.1", "localhost"))
        assert 1 == len(peer.paths)


@both_clients
async def test_redirects_are_not_followed(mine: TestTls, client: str) -> None:
    peer = Peer()
    async with served(peer, mine) as url, asking(client, client_files(mine)) as ask:
        assert await redirected(ask, url)
    assert 1 == len(peer.paths)


@both_clients
async def test_plain_addresses_are_refused_unless_allowed(mine: TestTls, client: str) -> None:
    peer = Peer()
    async with served(peer, None) as url:
        async with asking(client, client_files(mine)) as ask:
            with pytest.raises(ClusterError, match="has no TLS"):
                await ask(url)
        assert [] == peer.paths
        async with asking(client, client_files(mine), allow_plain=True) as ask:
            assert await redirected(ask, url)
        assert 1 == len(peer.paths)


@both_clients
async def test_a_refused_client_certificate_is_logged(
    mine: TestTls, tmp_path: Path, caplog: pytest.LogCaptureFixture, client: str
) -> None:
    foreign = TestTls.make(tmp_path / "foreign")
    tls = ClientTls(TlsFiles(foreign.cert, foreign.key, mine.ca))
    peer = Peer()
    async with served(peer, mine) as url, asking(client, tls) as ask:
        with pytest.raises(ClusterError):
            await ask(url)
    assert [] == peer.paths
    assert "no TLS connection with" in caplog.text
