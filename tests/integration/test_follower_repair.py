"""Goal: a follower reaches the end of the log, no matter what the bus does.

Method: real routers on a real Valkey; messages are lost, doubled and forged one by one.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from followers import Peers, mute_log, peers, put, route, until
from servers import Server
from synaptoroute.core.codec import digest_of, encode_proposal
from synaptoroute.core.digest import next_chain
from synaptoroute.core.replica import State
from synaptoroute.errors import StorageUnavailable
from synaptoroute.replication import applier as applier_module
from synaptoroute.replication import follower as follower_module

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
BUS = "sr:{default}:bus"


def counted(found: Peers, name: str) -> list[int]:
    """One counter of every follower."""
    return [getattr(peer.follower.session.counts, name) for peer in found.all]


async def test_lost_last_message_is_found_by_the_head(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A lost last message leaves no gap; the next heartbeat finds it."""
    async with peers(tmp_path, valkey_server.url) as found:
        fingerprint = found[0].engine.encoder.fingerprint
        began = time.monotonic()
        async with mute_log(valkey_server.url, fingerprint) as log:
            placed = await log.append([put("unheard")])
        await until(lambda: all(peer.position.revision == placed.at for peer in found.all))

        assert all(counted(found, "tail_losses"))
        assert time.monotonic() - began < 10
        assert [0, 0] == counted(found, "forks")
        await found.judge()


async def test_gap_asks_the_log_for_what_is_missing(tmp_path: Path, valkey_server: Server) -> None:
    """A lost message is noticed at the next one, and nothing is applied early."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("before"))
        await found.settle()
        fingerprint = found[0].engine.encoder.fingerprint
        async with mute_log(valkey_server.url, fingerprint) as log:
            await log.append([put("unheard"), put("unheard-too")])
        await found[0].router.aput_route(route("after"))

        assert any(counted(found, "gaps"))
        await found.judge()
        assert [0, 0] == counted(found, "forks")


async def test_repeated_and_forged_messages_have_no_effect(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Entries replayed, out of order, with a wrong chain or of a made-up epoch are ignored."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("real"))
        at = await found.settle()
        head = await found[0].follower.session.log.read(type(at)(at.epoch, at.seq - 1))
        entry = head.entries[0]
        true = _message(entry.epoch, entry.seq, entry.prev_chain, entry.chain, entry.frame)
        frame = encode_proposal(put("forged"))
        zeros = "0" * 40
        lone = next_chain(zeros, at.epoch, at.seq + 1, digest_of(frame))
        epoch = next_chain(at.chain, at.epoch + 1, at.seq + 1, digest_of(frame))
        ahead = next_chain(zeros, at.epoch, at.seq + 7, digest_of(frame))
        for message in (
            true,
            true,
            _message(at.epoch, at.seq + 1, zeros, lone, frame),
            _message(at.epoch + 1, at.seq + 1, at.chain, epoch, frame),
            _message(at.epoch, at.seq + 7, zeros, ahead, frame),
        ):
            await found[0].follower.session.log.presence._link.call("PUBLISH", BUS, message)
        await found[1].router.aput_route(route("next"))
        await found.judge()

        assert at.seq + 1 == found[0].position.seq
        assert [0, 0] == counted(found, "forks")
        assert all(peer.follower.session.log_state == "open" for peer in found.all)


def _message(epoch: int, seq: int, prev: str, chain: str, frame: bytes) -> bytes:
    line = f"SR1 E {epoch} {seq} {prev} {chain} 1 {len(frame)}\n"
    return line.encode() + frame


async def test_lost_subscription_is_caught_up(tmp_path: Path, valkey_server: Server) -> None:
    """After every new subscription the log is read."""
    async with peers(tmp_path, valkey_server.url) as found:
        for number in range(5):
            await asyncio.to_thread(valkey_server.call, "CLIENT", "KILL", "TYPE", "pubsub")
            await found[number % 2].router.aput_route(route(f"r{number}"))
        await until(lambda: all(counted(found, "bus_reconnects")))
        await found.judge()


async def test_poison_entry_halts_and_is_never_skipped(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that a node cannot apply halts it, with the reason; it resumes when fixed."""
    async with peers(tmp_path, valkey_server.url, staleness_seconds_max=1) as found:
        sick = found[1].engine.applier.replica
        check = sick._check

        def fail(mutation: object) -> str | None:
            if getattr(mutation, "name", "") == "poison":
                raise RuntimeError("a mistake in this release")
            return check(mutation) if check else None  # type: ignore[arg-type]

        monkeypatch.setattr(sick, "_check", fail)
        before = found[1].position
        await found[0].router.aput_route(route("poison"))
        await found[0].router.aput_route(route("later"))
        await until(lambda: sick.state is State.HALTED)
        halted_at = found[1].position
        answer = await found[1].router.aquery("later")
        await until(lambda: not found[1].router.status().is_ready)
        reasons = found[1].router.status().reasons

        assert before == halted_at
        assert "later" != answer.route
        assert "a mistake in this release" in reasons[0]
        assert 1 == found[1].follower.session.counts.halts
        monkeypatch.setattr(sick, "_check", check)
        await until(lambda: found[1].router.status().is_ready)
        await found.judge()


async def test_storage_that_fails_pauses_one_node_and_resumes(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its disk is full a node answers from its state, and others continue."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("before"))
        await found.settle()
        at = found[1].position
        storage = found[1].engine.applier.storage

        def fail(commits: object) -> None:
            raise StorageUnavailable("no room", reason="disk_full")

        monkeypatch.setattr(storage, "commit", fail)
        for number in range(5):
            await found[0].router.aput_route(route(f"r{number}"))
        await until(lambda: found[1].router.status().storage_state == "disk_full")
        await until(lambda: found[1].engine.applier.replica.state is State.HALTED)
        match = await found[1].router.aquery("before")

        assert at == found[1].position
        assert "before" == match.route
        assert found[0].router.status().is_ready
        monkeypatch.undo()
        await found.judge()
        assert "ok" == found[1].router.status().storage_state


async def test_slow_applier_drops_the_bus_and_reads_the_log(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backlog has a limit; entries over it are read from the log later."""
    monkeypatch.setattr(follower_module, "BACKLOG_ENTRIES_MAX", 8)
    assert applier_module.INBOX_ENTRIES_MAX > 8
    async with peers(tmp_path, valkey_server.url) as found:
        slow = found[1].engine.applier
        held = asyncio.Event()
        loop = asyncio.get_running_loop()
        blocked = slow.run(lambda _: asyncio.run_coroutine_threadsafe(held.wait(), loop).result(30))
        for number in range(40):
            await found[0].router.aput_route(route(f"r{number}"))
        await until(lambda: found[1].follower.session.counts.bus_entries >= 40)
        backlog = slow.backlog_entries
        held.set()
        await asyncio.wrap_future(blocked)

        assert backlog <= 8 + 4
        await found.judge()


async def test_staleness_stays_small_while_writes_never_end(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Under constant writes the node rarely equals a head, yet it is not stale."""
    async with peers(tmp_path, valkey_server.url) as found:
        give_up_at = time.monotonic() + 5
        number, seen = 0, []
        while time.monotonic() < give_up_at:
            number += 1
            await found[0].router.aput_route(route(f"r{number % 9}", f"text {number}"))
            seen.append(found[1].follower.session.staleness_ms)

        assert max(seen[len(seen) // 2 :]) < 4_000


async def test_error_in_one_iteration_does_not_end_a_loop(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error in a loop is counted, and the loop is restarted."""
    async with peers(tmp_path, valkey_server.url) as found:
        follower = found[1].follower

        async def fail(*_: object) -> None:
            raise KeyError("a mistake")

        monkeypatch.setattr(follower.heartbeat, "_on_head", fail)
        follower.session.heartbeat_wanted.set()
        await until(lambda: follower.session.counts.faults >= 1)
        monkeypatch.undo()
        await found[0].router.aput_route(route("after"))
        await found.judge()
        await until(lambda: follower.session.log_state == "open")
