"""Goal: access to Redis alone cannot forge entries, and minimal rights are enough.

Method: signatures and their rotation, an ACL user with only the commands used, namespaces.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from redis_logs import DIM, FINGERPRINT, Author, opened, put, report, restart, until
from servers import Server
from synaptoroute.core.mutation import Ballot, Entry, Position, Revision
from synaptoroute.core.recovery import Cause, Decision, decide
from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.epochs import ClusterIdentity, LogCheck, RecoveryOutcome, RecoveryResult
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.pubsub import MessageReceived, Subscribed
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration

OLD_KEY = "old " + "o" * 32
NEW_KEY = "new " + "n" * 32

# The example of docs/operations.md: one user a namespace, and only the commands used.
ACL = (
    "resetkeys resetchannels -@all ~sr:{default}:* &sr:{default}:* "
    "+ping +info +time +evalsha +script|load +subscribe +publish "
    "+hget +hset +hmget +hgetall +hvals +hdel +exists +del "
    "+xadd +xrange +xrevrange +xlen +xtrim "
    "+zadd +zrem +zscore +zrange +zrangebyscore +rename "
    "+get +set +pexpire +pttl"
)


def keys_file(tmp_path: Path, *lines: str) -> Path:
    """A key file of these lines."""
    path = tmp_path / f"keys-{len(list(tmp_path.iterdir()))}"
    path.write_text("\n".join(lines))
    return path


def is_entry(event: object) -> bool:
    """Whether a bus event carries an entry."""
    return isinstance(event, MessageReceived) and isinstance(event.message, Entry)


async def test_signed_entries_travel_both_ways(server: Server, tmp_path: Path) -> None:
    """With one key on all nodes, bus and log return what was written."""
    path = keys_file(tmp_path, OLD_KEY)
    async with opened(server.url, signing_keys_file=path) as log:
        bus = log.bus()
        bus.start()
        await until(bus, lambda e: isinstance(e, Subscribed))
        large = put("large", text="x" * 20_000)
        await log.append([put("one"), large, put("two")])
        heard = await until(bus, lambda e: is_entry(e) and e.message.seq == 4)
        result = await log.read(Position())

    assert result.error is None
    assert [put("one"), large, put("two")] == [each.proposal for each in result.entries[1:]]
    assert 3 == len(heard)
    assert bus.counts.malformed == 0


async def test_entry_without_a_key_is_refused_everywhere(server: Server, tmp_path: Path) -> None:
    """Unsigned entries are refused, on the bus and in the log."""
    path = keys_file(tmp_path, OLD_KEY)
    async with opened(server.url, signing_keys_file=path) as log:
        bus = log.bus()
        bus.start()
        await until(bus, lambda e: isinstance(e, Subscribed))
        forger = RedisLog(server.url)
        await Author(forger).join()
        await forger.append([put("forged")])
        await forger.close()
        while not bus.counts.forged:
            await asyncio.sleep(0.01)
        result = await log.read(Position())

    assert [1] == [entry.seq for entry in result.entries]
    assert isinstance(result.error, ProtocolError)
    assert result.error.fields["forged"] is True
    assert bus.counts.messages == 0


async def test_keys_rotate_without_a_refused_entry(server: Server, tmp_path: Path) -> None:
    """Verify the new key, then sign with it, then remove the old one."""
    both, turned = keys_file(tmp_path, OLD_KEY, NEW_KEY), keys_file(tmp_path, NEW_KEY, OLD_KEY)
    async with (
        opened(server.url, signing_keys_file=both) as old_signer,
        opened(server.url, signing_keys_file=turned) as new_signer,
    ):
        await old_signer.append([put("by old")])
        await new_signer.append([put("by new")])
        seen = [(await log.read(Position())).error for log in (old_signer, new_signer)]
        both.write_text(NEW_KEY)
        await old_signer.reload_keys()
        after = await old_signer.read(Position(1, 2, "0" * 40))
        before = await old_signer.read(Position())

    assert [None, None] == seen
    assert ([3], None) == ([entry.seq for entry in after.entries], after.error)
    assert before.error is not None


async def test_keys_are_introduced_on_a_log_that_has_none(server: Server, tmp_path: Path) -> None:
    """While unsigned entries are allowed, old ones are read and new ones signed."""
    async with opened(server.url) as plain:
        await plain.append([put("unsigned")])
    path = keys_file(tmp_path, NEW_KEY)
    async with opened(server.url, signing_keys_file=path, allow_unsigned=True) as log:
        await log.append([put("signed")])
        result = await log.read(Position())
    async with opened(server.url, signing_keys_file=path) as strict:
        signed = await strict.read(Position(1, 2, "0" * 40))

    assert (3, None) == (len(result.entries), result.error)
    assert (1, None) == (len(signed.entries), signed.error)


async def test_signature_of_another_namespace_does_not_pass(server: Server, tmp_path: Path) -> None:
    """An entry that was signed for one cluster cannot be replayed into another."""
    path = keys_file(tmp_path, OLD_KEY)
    async with (
        opened(server.url, namespace="one", signing_keys_file=path) as one,
        opened(server.url, namespace="two", signing_keys_file=path) as two,
    ):
        sealed = one.signing_keys.seal(b"S" * 200)
        with pytest.raises(ProtocolError):
            two.signing_keys.open(sealed)

    assert one.signing_keys.open(sealed).frame == b"S" * 200


async def test_two_namespaces_on_one_server_are_separate(server: Server) -> None:
    """Neither keys nor the bus are shared, even with one database number."""
    other_url = server.url.removesuffix("/0") + "/1"
    async with (
        opened(server.url, namespace="one") as one,
        opened(other_url, namespace="two") as two,
    ):
        buses = [one.bus(), two.bus()]
        for bus in buses:
            bus.start()
            await until(bus, lambda e: isinstance(e, Subscribed))
        await one.append([put("of one")])
        await two.append([put("of two")])
        heard = [await until(bus, is_entry) for bus in buses]
        kept = [(await log.read(Position())).entries[1:] for log in (one, two)]

    assert [[put("of one")], [put("of two")]] == [
        [event.message.proposal for event in events] for events in heard
    ]
    assert [[put("of one")], [put("of two")]] == [
        [entry.proposal for entry in entries] for entries in kept
    ]


def acl_user(server: Server) -> str:
    """Create the user of the example; return its URL."""
    reply = server.call("ACL", "SETUSER", "node", "on", ">secret%", *ACL.split())
    assert reply == "+OK\r\n"
    return server.url.replace("redis://", "redis://node:secret%25@")


def commands_used(server: Server) -> set[str]:
    """Commands that ran since the start of the server, but for those of the test itself."""
    names = re.findall(r"cmdstat_(\S+):calls=[1-9]", server.call("INFO", "commandstats"))
    return {name for name in names if not name.startswith(("acl|", "auth", "config|"))}


async def open_next_epoch(log: RedisLog, at: Position) -> RecoveryResult:
    """Close the log after a restart, let two voters report, and refill and open it again."""
    voters = ("a", "b", "c")
    identity = ClusterIdentity("1" * 32, FINGERPRINT, DIM, 1, voters)
    ballot = await log.epochs.begin(
        Cause.RESTARTED, above=0, seen="", node_id="a", identity=identity
    )
    assert isinstance(ballot, Ballot)
    for voter in voters[:2]:
        await log.presence.heartbeat(report(voter, at), promise=ballot, voters=voters)
    found = await log.epochs.check_log(1, ballot)
    assert isinstance(found, LogCheck)
    decided = decide(ballot, found.reports, found.kept)
    assert isinstance(decided, Decision)
    head = await log.head()
    assert isinstance(head, Head)
    lease = log.lease("recovery", "a")
    held = await lease.acquire()
    assert isinstance(held, Held)
    await log.epochs.refill(lease, held, ballot, [])
    return await log.epochs.reopen(
        held,
        head,
        decided,
        encoder=(FINGERPRINT, DIM),
        floor=at.seq + 1,
        floor_chain=at.chain,
    )


async def test_sequencer_needs_only_the_commands_of_the_acl_example(start_server) -> None:
    """Every operation works for the user of the example."""
    for kind in ("redis", "valkey"):
        server = start_server(kind, appendonly="yes", appendfsync="always")
        url = acl_user(server)
        async with opened(url) as log:
            bus = log.bus()
            bus.start()
            await until(bus, lambda e: isinstance(e, Subscribed))
            await log.append([put(f"r{n}") for n in range(4)])
            await until(bus, is_entry)
            at = [entry.position for entry in (await log.read(Position())).entries]
            await log.keepalive("me").send()
            lease = log.lease("trim", "me")
            held = await lease.acquire()
            assert isinstance(held, Held)
            for voter in ("a", "b"):
                await log.presence.heartbeat(report(voter, at[4]))
                await log.presence.report_position(voter, at[4])
            nodes, acked = await log.presence.nodes(), await log.presence.acked(1)
            await log.lease("trim", "other").acquire()
            await lease.renew(held)
            server.call("ZADD", "sr:{default}:hb", "1", "forgotten")
            await log.presence.heartbeat(report("a", at[4]))
            trimmed = await log.epochs.trim(held, 1, 3)
            await lease.release(held)
            facts = await log.check()
            used = commands_used(server)
            await restart(server)
            acl_user(server)
            reopened = await open_next_epoch(log, at[4])
            used |= commands_used(server)

        assert 2 == len(nodes)
        assert acked.voters == (5, 5, 0)
        assert trimmed.entries == 2
        assert RecoveryOutcome.OK is reopened.outcome
        assert facts.findings == ()
        assert facts.version
        assert {name.removeprefix("+") for name in ACL.split() if name[0] == "+"} == used


async def test_acl_user_reaches_no_other_namespace(server: Server) -> None:
    """Neither keys nor channels of another cluster, also inside scripts."""
    url = acl_user(server)
    async with opened(server.url, namespace="other") as other, opened(url) as mine:
        foreign = RedisLog(url, namespace="other")
        with pytest.raises(SequencerUnavailable) as caught:
            await foreign.head()
        with pytest.raises(SequencerUnavailable) as wiped:
            await mine._commands.call("FLUSHALL")
        await foreign.close()
        head = await other.head()

    assert caught.value.fields["reason"] is Reason.REFUSED
    assert wiped.value.fields["reason"] is Reason.REFUSED
    assert isinstance(head, Head)


async def test_publish_that_is_forbidden_loses_no_write(server: Server) -> None:
    """The entry is in the log although it could not be published, and this is counted."""
    url = acl_user(server)
    async with opened(url) as log:
        server.call("ACL", "SETUSER", "node", "-publish")
        placed = await log.append([put("unheard")])
        counts = log.append_counts
        head = (await log.read(Position())).head

    assert placed.at == Revision(1, 2)
    assert counts.unannounced == 1
    assert head.seq == 2


async def test_forbidden_info_is_a_finding_not_a_failure(server: Server) -> None:
    """Without INFO everything works, and a finding explains the cost."""
    url = acl_user(server)
    server.call("ACL", "SETUSER", "node", "-info")
    async with opened(url) as log:
        await log.append([put("unfenced")])
        facts = await log.check()

    assert {"info_forbidden", "version_unknown", "settings_unknown"} == {
        finding.code for finding in facts.findings
    }


async def link_error(log: RedisLog) -> SequencerUnavailable:
    """Read the head, which must fail; a connection that was just closed fails first."""
    with pytest.raises(SequencerUnavailable) as caught:
        await log.head()
    return caught.value


async def test_password_file_is_read_again_when_it_changes(start_server, tmp_path: Path) -> None:
    """A rotated password counts at the next connection; the URL holds none."""
    for kind in ("redis", "valkey"):
        server = start_server(kind, requirepass="first")
        path = tmp_path / f"password-{kind}"
        path.write_text("first\n")
        log = RedisLog(server.url, password_file=path)
        await log.epochs.found(fingerprint=FINGERPRINT, dim=4, voters=["a"])
        before = await log.head()
        link = log.connector.link()
        await link.call("CONFIG", "SET", "requirepass", "second")
        await link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        while (await link_error(log)).fields["reason"] is not Reason.REFUSED:
            pass
        path.write_text("second\n")
        after = await log.head()
        await link.close()
        await log.close()

        assert isinstance(before, Head)
        assert isinstance(after, Head)
