"""Goal: ``examine`` names what would break on a server, and leaves nothing there.

Method: real servers with one thing wrong each, and a proxy that is slow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from ports import free_port
from redis_servers import IN_URL, USER, restricted_server, watched_servers
from repository import ROOT
from servers import Server
from synaptoroute.sequencer.client import Connector, Tls
from synaptoroute.sequencer.server_checks import (
    COMMANDS,
    Finding,
    Limits,
    _check_version,
    check_server,
    examine,
    examine_replica,
    judge_latency,
)
from tls_files import TestTls

pytestmark = pytest.mark.integration
LIMITS = Limits(log_bytes_max=1_000_000, clock_skew_seconds_max=60.0)
StartServer = Callable[..., Server]


async def codes(url: str, limits: Limits = LIMITS, tls: Tls | None = None) -> dict[str, Finding]:
    """Examine a server; return the warnings and errors by code."""
    found = await examine(Connector(url, tls=tls or Tls()), "default", limits)
    return {each.code: each for each in found if each.severity != "ok"}


@pytest.fixture
async def restricted(tmp_path: Path) -> AsyncIterator[Server]:
    """A server whose user has the rights of the example."""
    server = restricted_server("valkey-8.1", tmp_path / "server").start()
    yield server
    server.stop()


def user_url(server: Server) -> str:
    return server.url.replace("://", f"://{USER}:{IN_URL}@")


async def test_sound_server_has_no_findings_and_no_keys_afterwards(restricted: Server) -> None:
    found = await examine(Connector(user_url(restricted)), "default", LIMITS)

    assert {"ok"} == {each.severity for each in found}
    assert {"server", "commands", "log", "pubsub", "clock", "latency"} <= {e.code for e in found}
    assert ":0\r\n" == restricted.call("DBSIZE")


async def test_each_command_that_is_missing_is_named(restricted: Server) -> None:
    """The list is that of the example ACL."""
    example = (ROOT / "deploy" / "redis" / "users.acl.example").read_text(encoding="utf-8")
    assert set(COMMANDS) == set(re.findall(r"\+(\S+)", example))
    for command in COMMANDS:
        restricted.call("ACL", "SETUSER", USER, f"-{command}")
        found = await codes(user_url(restricted))
        restricted.call("ACL", "SETUSER", USER, f"+{command}")
        code = "pubsub_refused" if command == "subscribe" else "commands_refused"

        assert "error" == found[code].severity, command
        assert command.partition("|")[0] in found[code].message


async def test_missing_keys_and_channels_are_found(restricted: Server) -> None:
    restricted.call("ACL", "SETUSER", USER, "resetchannels")
    channels = await codes(user_url(restricted))
    restricted.call("ACL", "SETUSER", USER, "resetkeys", "~sr:{other}:*", "allchannels")
    keys = await codes(user_url(restricted))

    assert "channel" in channels["commands_refused"].message
    assert "key" in keys["commands_refused"].message


async def test_addresses_credentials_and_certificates(
    start_server: StartServer, tmp_path: Path
) -> None:
    files = await asyncio.to_thread(TestTls.make, tmp_path / "tls")
    port = free_port()
    server = start_server(
        "redis",
        appendonly="yes",
        requirepass="right",
        tls_port=str(port),
        tls_cert_file=str(files.cert),
        tls_key_file=str(files.key),
        tls_ca_cert_file=str(files.ca),
        tls_auth_clients="no",
    )
    trusted = Tls(files.ca)

    assert {"credentials_refused"} == set(await codes(server.url))
    assert {"credentials_refused"} == set(await codes(f"redis://:no@127.0.0.1:{server.port}/0"))
    assert {"unreachable"} == set(await codes(f"redis://127.0.0.1:{free_port()}/0"))
    assert {"certificate_refused"} == set(await codes(f"rediss://:right@127.0.0.1:{port}/0"))
    assert {} == await codes(f"rediss://:right@127.0.0.1:{port}/0", tls=trusted)


@pytest.mark.parametrize(
    ("options", "code", "severity"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "warning"),
        ({"appendonly": "no"}, "no_persistence", "warning"),
        ({"appendonly": "no", "save": "3600 1"}, "snapshots_only", "warning"),
        ({"appendfsync": "no"}, "fsync_never", "warning"),
        ({"timeout": "1"}, "idle_timeout", "warning"),
        ({"client_output_buffer_limit": "pubsub 64kb 0 0"}, "subscriber_buffer", "warning"),
        ({"maxmemory": "1mb"}, "memory_small", "warning"),
        ({"maxmemory": "100kb"}, "writes_refused", "error"),
        ({"min_replicas_to_write": "1"}, "writes_refused", "error"),
        ({"replicaof": "127.0.0.1 1"}, "replica", "error"),
        ({"cluster_enabled": "yes"}, "cluster_mode", "warning"),
    ],
)
async def test_settings_that_break_a_cluster_have_their_code(
    start_server: StartServer, options: dict[str, str], code: str, severity: str
) -> None:
    server = start_server("redis", **{"appendonly": "yes", **options})

    found = await codes(server.url)

    assert severity == found[code].severity
    assert found[code].message


async def test_slow_server_and_wrong_clock_are_found(restricted: Server) -> None:
    async with FaultProxy(restricted.port, delay_seconds=0.03) as slow:
        warned = await codes(user_url(restricted).replace(str(restricted.port), str(slow.port)))
    strict = Limits(log_bytes_max=1_000_000, clock_skew_seconds_max=-1.0)
    skewed = await codes(user_url(restricted), strict)

    assert "warning" == warned["latency"].severity
    assert "error" == judge_latency(0.01, 0.6, timeout_seconds=1.0).severity
    assert "error" == skewed["clock_skew"].severity


def test_sentinels_are_examined(tmp_path: Path) -> None:
    with watched_servers("redis-7.0", tmp_path) as watched:
        sound = asyncio.run(codes(watched.url))
        unknown = asyncio.run(codes(watched.url.replace("/routes/", "/others/")))
        watched.sentinels.kill_one()
        one_gone = asyncio.run(codes(watched.url))

    assert {"min_replicas"} >= set(sound)
    assert "sentinel_no_master" in unknown
    assert {"sentinel_unreachable"} == set(one_gone) - {"min_replicas"}


async def test_versions_that_are_too_old_are_refused(start_server: StartServer) -> None:
    link = Connector(start_server("redis", appendonly="yes").url).link()
    facts = await check_server(link, "master")
    await link.close()

    assert ("redis", ()) == (facts.kind, facts.findings)
    assert ["version_too_old"] == [each.code for each in _check_version("redis", "6.2.14")]
    assert ["version_too_old"] == [each.code for each in _check_version("valkey", "7.2.5")]
    assert ["version_unknown"] == [each.code for each in _check_version("unknown", "")]


async def test_replicas_that_nodes_listen_at_are_examined(start_server: StartServer) -> None:
    """One that follows, one of another primary, one that is cut off, one that is away."""
    primary, other = start_server("redis"), start_server("redis")
    primary.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    follower = start_server("redis")
    follower.call("REPLICAOF", "127.0.0.1", str(primary.port))
    async with asyncio.timeout(15):
        while "master_link_status:up" not in follower.call("INFO", "replication"):
            await asyncio.sleep(0.05)
    connector = Connector(primary.url)

    async def code_of(url: str) -> str:
        (found,) = await examine_replica(Connector(url, is_replica=True), connector, "default")
        return found.code

    assert "replica_followed" == await code_of(follower.url)
    assert "replica_foreign" == await code_of(other.url)
    assert "replica_unreachable" == await code_of(f"redis://127.0.0.1:{free_port()}/0")
    follower.call("ACL", "SETUSER", "narrow", "on", ">p", "~*", "+@all", "resetchannels")
    narrow = follower.url.replace("://", "://narrow:p@")
    assert "replica_silent" == await code_of(narrow)
    follower.call("ACL", "SETUSER", "narrow", "-evalsha", "-script")
    assert "replica_refused" == await code_of(narrow)
    follower.call("REPLICAOF", "127.0.0.1", str(free_port()))
    assert "replica_cut_off" == await code_of(follower.url)
