"""Goal: junk under any key of a namespace closes writes for a moment, and is repaired or named.

Method: three routers on a real server; a client with full rights changes types, values and
fields.  After each change a quorum write must pass again, or every router must name the key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from followers import Peers, joined, peers, route
from servers import Server
from synaptoroute.errors import NotCaughtUp, SynaptoRouteError
from synaptoroute.router import WriteOptions
from synaptoroute.sequencer.keys import META_FIELDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PREFIX = "sr:{default}:"
QUORUM = WriteOptions(ack="quorum", ack_timeout_seconds=5)
REPAIR_SECONDS_MAX = 30.0
JUNK: tuple[bytes | str, ...] = (
    "",
    "abc",
    "-1",
    "1.5",
    "0x10",
    "1e300",
    "nan",
    "inf",
    " 7",
    "99999999999999999999",
    str(2**52),
    "0",
    "1",
    b"\xff\xfe\x00",
    "x" * 100_000,
    "a|b,c\n",
)
Change = Callable[[Any], object]


def change_field(field: str, value: bytes | str | None) -> Change:
    """Set a field of the header, or delete it."""

    def change(client: Any) -> object:
        if value is None:
            return client.hdel(PREFIX + "meta", field)
        return client.hset(PREFIX + "meta", field, value)

    return change


def shift_field(field: str, by: int) -> Change:
    def change(client: Any) -> object:
        return client.hincrby(PREFIX + "meta", field, by)

    return change


def retype(key: str, kind: str) -> Change:
    """Replace a key by one of another type."""

    def change(client: Any) -> object:
        name = key.replace("*", str(int(client.hget(PREFIX + "meta", "epoch") or 1)))
        client.delete(PREFIX + name)
        match kind:
            case "string":
                return client.set(PREFIX + name, b"\xffjunk")
            case "list":
                return client.rpush(PREFIX + name, "a", b"\xff")
            case "hash":
                return client.hset(PREFIX + name, mapping={b"\xff": b"\xfe", "seq": "abc"})
            case "zset":
                return client.zadd(PREFIX + name, {b"\xff": float("inf"), "b": float("-inf")})
            case "stream":
                return client.xadd(PREFIX + name, {"f": "x", "p": b"\xff", "t": "abc"}, id="1-1")
        return None  # deleted

    return change


def add_members(key: str, score: float) -> Change:
    def change(client: Any) -> object:
        name = key.replace("*", str(int(client.hget(PREFIX + "meta", "epoch") or 1)))
        members = {b"\xff\x00": score, "a|b,c": score, "x" * 10_000: score, "": score}
        known = dict.fromkeys(client.hkeys(PREFIX + "nodes"), score)
        return client.zadd(PREFIX + name, {**members, **known})

    return change


def add_rows(key: str) -> Change:
    def change(client: Any) -> object:
        known = client.hkeys(PREFIX + "nodes")
        rows = ("junk", b"\xff", '{"node_id": "\\ud800"}', "[" * 5_000, "9" * 4_000, "null")
        mapping = {node: rows[number % len(rows)] for number, node in enumerate(known)}
        return client.hset(PREFIX + key, mapping={**mapping, b"\xff": b"\xff", "": "{}"})

    return change


def append_entry(client: Any) -> object:
    """An entry behind the head that no script numbered."""
    epoch = int(client.hget(PREFIX + "meta", "epoch"))
    seq = int(client.hget(PREFIX + "meta", "seq"))
    return client.xadd(f"{PREFIX}log:{epoch}", {"f": "x", "b": "abc"}, id=f"{epoch}-{seq + 5}")


def rewrite_entries(client: Any) -> object:
    """The whole stream again, with junk in place of the fields."""
    name = f"{PREFIX}log:{int(client.hget(PREFIX + 'meta', 'epoch'))}"
    ids = [each[0] for each in client.xrange(name)]
    client.delete(name)
    return [client.xadd(name, {"f": b"\xff", "p": "x", "b": "y"}, id=each) for each in ids]


def last_ballot(*, is_here: bool) -> Change:
    """Close the log with the highest number that a ballot can have."""

    def change(client: Any) -> object:
        here = client.info("replication")["master_replid"]
        fields = {
            "state": "recovering",
            "rec_id": f"{2**53 - 1}.{'a' * 32}",
            "rec_replid": here if is_here else "b" * 40,
            "rec_cause": "restarted",
        }
        return client.hset(PREFIX + "meta", mapping=fields)

    return change


def last_epoch_of_another_server(client: Any) -> object:
    return client.hset(PREFIX + "meta", mapping={"epoch": 2**53 - 1, "replid": "b" * 40})


def hold_lease(client: Any) -> object:
    """Leases that nobody took and that never end."""
    for name in ("recovery", "beat", "leader"):
        client.set(f"{PREFIX}lease:{name}", b"\xffabc")
    return client.set(PREFIX + "fence", "9" * 300)


KINDS = ("string", "list", "hash", "zset", "stream", "none")
KEYS = (
    "meta",
    "log:*",
    "pos:*",
    "nodes",
    "hb",
    "rec",
    "refill",
    "orders",
    "lease:recovery",
    "fence",
)
CHANGES: dict[str, Change] = {
    **{
        f"meta.{field}={value[:12]!r}": change_field(field, value)
        for field in META_FIELDS
        for value in JUNK
    },
    **{f"meta.{field} deleted": change_field(field, None) for field in META_FIELDS},
    **{
        f"meta.{field}{by:+}": shift_field(field, by)
        for field in ("epoch", "seq", "floor", "bytes", "floor_bytes", "dim", "level")
        for by in (1, -1, 1_000_000)
    },
    **{f"{key} is a {kind}": retype(key, kind) for key in KEYS for kind in KINDS},
    **{
        f"{key} scores {score}": add_members(key, score)
        for key in ("hb", "pos:*")
        for score in (float("inf"), float("-inf"), 1e300, 1.5)
    },
    **{f"{key} has junk rows": add_rows(key) for key in ("nodes", "rec", "orders")},
    "an entry behind the head": append_entry,
    "every entry rewritten": rewrite_entries,
    "leases without an end": hold_lease,
    "the last ballot": last_ballot(is_here=True),
    "the last ballot, of another server": last_ballot(is_here=False),
    "the last epoch, of another server": last_epoch_of_another_server,
}
"""What is done to the keys, by name.  ``state=frozen`` is an operator's word and is obeyed."""


REFUSALS = ("sequencer_unavailable", "not_caught_up", "version_lost", "encoder_mismatch")
"""Codes of what a client may be told meanwhile; each is stable and none is a 500."""


async def refusal_of(call: Awaitable[Any]) -> str:
    """Code of the error of a call; empty if it passes."""
    try:
        result = await call
    except SynaptoRouteError as error:
        return error.code
    return "pending" if result is not None and result.status == "pending" else ""


async def write(found: Peers, name: str) -> bool:
    """Whether a quorum write passes on each router."""
    for number, peer in enumerate(found.all):
        code = await refusal_of(peer.router.aput_route(route(f"{name}-{number}"), QUORUM))
        assert code in ("", "pending", *REFUSALS), code
        if code:
            return False
    return True


async def read_head(found: Peers) -> None:
    """A read of the newest state passes, or is refused with a stable code."""
    for peer in found.all:
        assert await refusal_of(peer.follower.barriers.wait_head(0.5)) in ("", *REFUSALS)


async def endure(found: Peers, client: Any, name: str, number: int) -> None:
    """Make one change and wait until it is repaired."""
    await asyncio.to_thread(CHANGES[name], client)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + REPAIR_SECONDS_MAX
    await read_head(found)
    attempt = 0
    while not await write(found, f"after-{number}-{attempt}"):
        await read_head(found)
        states = [
            (peer.follower.status().log_state.value, peer.follower.status().detail)
            for peer in found.all
        ]
        assert loop.time() < give_up_at, (name, states)
        await asyncio.sleep(0.05)
        attempt += 1
    await found.judge()
    faults = [peer.follower.session.counts.faults for peer in found.all]
    assert faults == [0] * len(faults), name


@pytest.fixture
async def cluster(tmp_path: Path, valkey_server: Server) -> AsyncIterator[tuple[Peers, Any]]:
    client = redis.Redis(port=valkey_server.port)
    async with peers(tmp_path, valkey_server.url, 3, door=True) as found:
        give_up_at = asyncio.get_running_loop().time() + REPAIR_SECONDS_MAX
        while not await write(found, "before"):  # a busy machine may have made a node unsure
            assert asyncio.get_running_loop().time() < give_up_at
            await asyncio.sleep(0.05)
        yield found, client
    client.close()


NAMED = (
    "meta.seq='abc'",
    "meta.epoch=" + repr(str(2**52)[:12]),
    "meta.epoch_id='abc'",
    "meta.lineage='abc'",
    "meta.fingerprint='abc'",
    "meta.fingerprint=b'\\xff\\xfe\\x00'",
    "meta.voters='abc'",
    "meta.level='0'",
    "meta.floor deleted",
    "meta.bytes=" + repr(str(2**52)[:12]),
    "meta is a string",
    "log:* is a list",
    "log:* is a none",
    "every entry rewritten",
    "an entry behind the head",
    "pos:* is a hash",
    "pos:* scores inf",
    "hb scores -inf",
    "nodes is a stream",
    "nodes has junk rows",
    "rec is a string",
    "leases without an end",
    "the last ballot",
    "the last ballot, of another server",
    "the last epoch, of another server",
)


@pytest.mark.parametrize("name", NAMED)
async def test_junk_is_repaired(cluster: tuple[Peers, Any], name: str) -> None:
    """One change of each kind."""
    await endure(*cluster, name, 0)


@pytest.mark.parametrize("seed", range(2))
async def test_random_junk_is_repaired(cluster: tuple[Peers, Any], seed: int) -> None:
    """Change after change on one cluster."""
    draw = random.Random(seed)
    names = [name for name in CHANGES if name != "meta.state='frozen'"]
    for number in range(8):
        await endure(*cluster, draw.choice(names), number)


async def test_junk_without_a_node_that_holds_entries_is_named(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Nobody can repair it then: every router names the key."""
    await asyncio.to_thread(valkey_server.call, "SET", PREFIX + "meta", "junk")
    async with asyncio.timeout(20):
        async with joined(tmp_path / "a.sqlite", valkey_server.url) as peer:
            while PREFIX + "meta" not in peer.follower.status().detail:
                await asyncio.sleep(0.05)
            with pytest.raises(NotCaughtUp, match="is not a hash"):
                await peer.follower.barriers.wait_head(0.2)
