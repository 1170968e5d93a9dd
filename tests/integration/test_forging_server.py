"""Goal: who can write to Redis, and nothing else, cannot change what the nodes hold.

Method: real routers on a real server, which forges, repeats, omits and trims.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from followers import Peers, filled, peers, route, trim_all, until
from forger import Forger
from servers import Server
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import (
    Audit,
    DeleteRoute,
    ImportBegin,
    Position,
    PutSettings,
    Settings,
)
from synaptoroute.sequencer.peers import parse_entries
from synaptoroute.sequencer.wire import SigningKeys
from synaptoroute.storage import snapshots

pytestmark = pytest.mark.integration

SECRET = "k1 " + "s" * 32
FORGED = [
    DeleteRoute("kept"),
    PutSettings(Settings(threshold=0.0)),
    ImportBegin("forged", replace=True),
    Audit("forged"),
]


@asynccontextmanager
async def attacked(
    folder: Path, url: str, count: int = 3, **settings: Any
) -> AsyncIterator[tuple[Peers, Forger]]:
    """Routers with a secret that hold one route, and a forger."""
    path = folder / "cluster.keys"
    await asyncio.to_thread(path.write_text, SECRET)
    forger = Forger(url)
    try:
        async with peers(folder, url, count, door=True, signing_keys_file=path, **settings) as all:
            await all[0].router.aput_route(route("kept", "one text", "another text"))
            await all.settle()
            yield all, forger
    finally:
        forger.close()


async def assert_unharmed(found: Peers) -> None:
    """Assert that the route is there on every node, and that writes go on."""
    for attempt in range(60):
        try:
            await found[0].router.aput_route(route(f"after-{attempt}", "later text"))
            break
        except Exception:
            await asyncio.sleep(0.25)
    else:
        pytest.fail("writes are not accepted again")
    await found.judge()
    for peer in found.all:
        assert "kept" in {each.name for each in (await peer.router.alist_routes()).routes}
        assert peer.router.status().is_ready


@pytest.mark.parametrize("mutation", FORGED, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("secret", [None, b"x" * 32], ids=["unsealed", "other secret"])
async def test_forged_entry_is_dropped_and_writes_return(
    tmp_path: Path, valkey_server: Server, mutation: Any, secret: bytes | None
) -> None:
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        before = found[0].position
        await asyncio.to_thread(forger.forge, mutation, secret)
        await assert_unharmed(found)
        assert found[0].position.epoch > before.epoch


async def test_genuine_entry_is_not_applied_once_more(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Within the window it is a repetition; far from its place it is refused."""
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        await found[0].router.aput_route(route("gone", "a text"))
        put = (await asyncio.to_thread(forger.bodies))[-1]
        await found[0].router.adelete_route("gone")
        await found.settle()
        await asyncio.to_thread(forger.replay, put)
        await assert_unharmed(found)
        assert "gone" not in {each.name for each in (await found[1].router.alist_routes()).routes}


async def test_claimed_trim_does_not_bring_a_peers_word_in(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The log claims an entry that it no longer has: no voter holds it, so it never was."""
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        await asyncio.to_thread(forger.claim_trimmed)
        await assert_unharmed(found)


async def test_entry_of_the_bus_alone_changes_nothing(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        before = found[0].position
        for mutation in FORGED:
            await asyncio.to_thread(forger.announce, mutation)
        await assert_unharmed(found)
        assert found[0].position.epoch == before.epoch


async def test_contradicted_nodes_stay_ready_and_keep_their_history(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The log shows another history: no node leaves its own for that, or stops its queries."""
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        await asyncio.to_thread(forger.rewrite)
        ready = True
        for _ in range(40):
            await asyncio.sleep(0.1)
            ready = ready and all(peer.router.status().is_ready for peer in found.all)
        await assert_unharmed(found)
        assert ready
        assert 0 == sum(peer.follower.session.orphans_count for peer in found.all)


async def test_node_that_lacks_a_key_does_not_close_the_log(
    tmp_path: Path, valkey_server: Server
) -> None:
    """What others verified and applied is not forged: the node halts, and says why."""
    async with attacked(tmp_path, valkey_server.url) as (found, _):
        odd = found[2]
        odd.follower.session.log.signing_keys.secret.keys = {"k2": b"z" * 32}
        epoch = found[0].position.epoch
        for number in range(3):
            await found[0].router.aput_route(route(f"more-{number}", "more text"))
        await until(lambda: odd.follower.catch_up.trouble != "")
        await asyncio.sleep(3)
        assert found[0].position.epoch == epoch
        odd.follower.session.log.signing_keys.secret.keys = {"k1": b"s" * 32}
        await found.judge()


async def test_peer_cannot_send_entries_without_a_seal(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The op log of a peer carries the seals that the authors made, and they are verified."""
    async with attacked(tmp_path, valkey_server.url) as (found, _):
        donor = found[0].follower.snapshots
        body = await donor.read_log(Position())
        keys = SigningKeys("default", {"k1": b"s" * 32})
        entries = parse_entries(body, keys)

    assert LEVEL == found[0].engine.replica_status.level
    assert all(entry.stood is not None and entry.seal for entry in entries)
    with pytest.raises(Exception, match="not valid"):
        parse_entries(body, SigningKeys("default", {"other": b"t" * 32}))


async def test_newcomer_by_a_snapshot_refuses_an_old_genuine_entry(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the seals of entries that are not in the op log of the snapshot."""
    monkeypatch.setattr(snapshots, "TAIL_ENTRIES_MAX", 1)
    async with attacked(tmp_path, valkey_server.url) as (found, forger):
        old = forger.bodies()[-1]
        await filled(found)
        await trim_all(found)
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        assert fresh.follower.session.counts.snapshots == 1
        at = fresh.position.seq
        forger.replay(old)
        await until(lambda: fresh.follower.session.counts.forgeries > 0)
        assert fresh.position.seq == at
        await assert_unharmed(found)
