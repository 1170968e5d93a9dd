"""Goal: every form of URL reaches its server, and only that one.  Method: real TLS, Sentinel."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import require
from ports import free_port
from redis_logs import opened, put
from servers import Server, running_sentinels
from synaptoroute.core.mutation import Revision
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.client import Connector, SentinelAccess, Tls
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.sequencer.server_checks import Limits, examine
from tls_files import EXPIRED, TestTls

pytestmark = pytest.mark.integration


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the loopback that signs itself, and its key."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=t"
    subprocess.run(
        [
            require("openssl"),
            *words.split(),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_verifies_the_server(start_server, tmp_path: Path) -> None:
    """With the right authority it works; with another one nothing is sent."""
    cert, key = certificate(tmp_path)
    port = free_port()
    start_server(
        "redis",
        tls_port=str(port),
        tls_cert_file=str(cert),
        tls_key_file=str(key),
        tls_ca_cert_file=str(cert),
        tls_auth_clients="yes",
    )
    url = f"rediss://127.0.0.1:{port}/0"
    async with opened(url, tls=Tls(cert, cert, key)) as log:
        placed = await log.append([put("secret")])
    stranger = RedisLog(url)
    with pytest.raises(SequencerUnavailable) as caught:
        await stranger.head()
    await stranger.close()

    assert placed.at == Revision(1, 2)
    assert caught.value.fields["reason"] is Reason.UNREACHABLE


@pytest.mark.parametrize("kind", ["wrong name", "expired"])
async def test_tls_refuses_a_server_with_another_name_or_an_expired_certificate(
    start_server, tmp_path: Path, kind: str
) -> None:
    """The authority is right; the name in the URL, or the time, is not that of the certificate."""
    names = ("redis.example",) if kind == "wrong name" else ("127.0.0.1",)
    validity = EXPIRED if kind == "expired" else None
    files = await asyncio.to_thread(TestTls.make, tmp_path, *names, validity=validity)
    port = free_port()
    start_server(
        "redis",
        tls_port=str(port),
        tls_cert_file=str(files.cert),
        tls_key_file=str(files.key),
        tls_ca_cert_file=str(files.ca),
        tls_auth_clients="no",
    )
    log = RedisLog(f"rediss://127.0.0.1:{port}/0", tls=Tls(files.ca))
    with pytest.raises(SequencerUnavailable) as caught:
        await log.head()
    await log.close()

    assert caught.value.fields["reason"] is Reason.UNREACHABLE
    assert ("mismatch" if kind == "wrong name" else "expired") in caught.value.message


async def test_unix_socket_is_a_server_like_any_other(start_server, tmp_path: Path) -> None:
    """The path of a socket takes the place of host and port."""
    path = tmp_path / "s.sock"
    start_server("valkey", unixsocket=str(path))
    async with opened(f"unix://{path}") as log:
        placed = await log.append([put("local")])

    assert placed.at == Revision(1, 2)


async def test_wrong_password_is_refused_by_name(start_server) -> None:
    """Wrong credentials are no network failure."""
    server = start_server("redis", requirepass="right")
    log = RedisLog(server.url.replace("redis://", "redis://:wrong@"))
    with pytest.raises(SequencerUnavailable) as caught:
        await log.head()
    await log.close()

    assert caught.value.fields["reason"] is Reason.REFUSED
    assert "wrong" not in repr(log.connector)
    assert "wrong" not in str(caught.value)


async def test_frozen_server_is_detected_before_a_command_is_sent(valkey_server: Server) -> None:
    """A server that accepts connections but does not answer gets no write."""
    log = RedisLog(valkey_server.url, socket_timeout_seconds=0.3)
    valkey_server.pause()
    with pytest.raises(SequencerUnavailable) as caught:
        await log.append([put("frozen")])
    valkey_server.resume()
    await log.close()

    assert caught.value.fields["reason"] is Reason.UNREACHABLE
    assert caught.value.fields["outcome"] == "not_taken"


@pytest.fixture
def sentinel(start_server, tmp_path: Path):
    """A Sentinel that watches one master, and the master's replica."""
    master, replica = start_server("redis"), start_server("redis")
    replica.call("REPLICAOF", "127.0.0.1", str(master.port))
    with running_sentinels(tmp_path, master, count=1) as sentinels:
        yield sentinels.url, master, replica


async def test_sentinel_is_asked_for_the_master_at_each_connection(sentinel) -> None:
    """After a failover the same URL leads to the new master, which refuses writes at first."""
    url, master, replica = sentinel
    async with opened(url) as through:
        placed = await through.append([put("before")])
        while b"1-2" not in replica.call("XRANGE", "sr:{default}:log:1", "-", "+").encode():
            await asyncio.sleep(0.02)
        await asyncio.to_thread(master.kill)
        async with asyncio.timeout(30):
            head = None
            while head is None or head.role != "master":
                try:
                    head = await through.head()
                except SequencerUnavailable:
                    await asyncio.sleep(0.1)
        with pytest.raises(SequencerUnavailable) as caught:
            await through.append([put("after")])

    assert placed.at == Revision(1, 2)
    assert isinstance(head, Head)
    assert head.seq == 2
    assert caught.value.fields["reason"] is Reason.NEW_HISTORY


@pytest.fixture
def secured(start_server, tmp_path: Path) -> Iterator[tuple[str, TestTls]]:
    """Address and certificates of a Sentinel with TLS and a user of its own."""
    files = TestTls.make(tmp_path / "tls")
    master, replica = start_server("redis", appendonly="yes"), start_server("redis")
    replica.call("REPLICAOF", "127.0.0.1", str(master.port))
    port = free_port()
    lines = (
        f"tls-port {port}\ntls-cert-file {files.cert}\ntls-key-file {files.key}\n"
        f"tls-ca-cert-file {files.ca}\ntls-auth-clients no\n"
        "user node on >sentinels +@all\n"
    )
    with running_sentinels(tmp_path, master, count=1, lines=lines):
        yield f"redis+sentinel://127.0.0.1:{port}/routes/0", files


async def test_sentinels_are_asked_with_their_own_password_and_tls(
    secured: tuple[str, TestTls], tmp_path: Path
) -> None:
    """The right password leads to the master; a wrong one, or another authority, does not."""
    url, files = secured
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("sentinels\n")
    wrong.write_text("others\n")
    answers = []
    for password_file, tls in ((right, Tls(files.ca)), (wrong, Tls(files.ca)), (right, Tls())):
        access = SentinelAccess("node", password_file, is_tls=True)
        log = RedisLog(url, tls=tls, sentinel=access)
        try:
            answers.append(type(await log.head()))
        except SequencerUnavailable as error:
            answers.append(error.fields["reason"])
        await log.close()
    access = SentinelAccess("node", right, is_tls=True)
    connector = Connector(url, tls=Tls(files.ca), sentinel=access)
    found = await examine(connector, "default", Limits(1_000_000, 60.0))

    assert NoLog is answers[0]
    assert NoLog not in answers[1:]
    assert ["sentinels_few", "sentinels"] == [each.code for each in found][:2]
