"""Goal: a node takes a state from elsewhere only if a majority of the voters certifies its content.

Method: three real voters, and a member whose snapshots are forged but pass every check that
needs no voter: position, hash chain, digest and SHA-256 are right.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from followers import Peer, Peers, filled, peers, route, trim_all, until
from forgeries import FORGED_PAYLOAD, forge_payload
from secrets_of_clusters import Pins, signed
from servers import Server
from synaptoroute.cli.backups import verify_origin
from synaptoroute.errors import (
    ClusterError,
    OperatorSignatureNeeded,
    Overloaded,
    SynaptoRouteError,
)
from synaptoroute.replication.snapshots import SnapshotDownload, SnapshotServer
from synaptoroute.trust.certificates import read_content
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer
from synaptoroute_coordinator.actions.backup_store import FolderStore
from synaptoroute_coordinator.actions.backups import Backups

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def forge_snapshots(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let a node give forged snapshots from now on; the files that it gave."""
    given: list[Path] = []
    server = peer.follower.snapshots
    write = server._write_snapshot

    def forged(path: Path) -> SnapshotDownload:
        download = write(path)
        forge_payload(path)
        given.append(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return SnapshotDownload(path, download.position, sha256, path.stat().st_size)

    monkeypatch.setattr(server, "_write_snapshot", forged)
    return given


def refuse_snapshots(found: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these nodes give no snapshots."""

    def refuse(_: SnapshotServer) -> None:
        raise Overloaded("enough peers are being served")

    for peer in found.all:
        server = peer.follower.snapshots
        monkeypatch.setattr(server, "_check_may_serve", refuse.__get__(server))


async def payloads(peer: Peer) -> set[str]:
    listed = await peer.router.alist_routes(limit=1_000)
    return {str(each.payload) for each in listed.routes}


@pytest.mark.parametrize("is_pinned", [True, False])
async def test_forged_snapshot_of_a_member_is_not_installed(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch, is_pinned: bool
) -> None:
    """The newcomer waits until an honest node gives the state that the voters certify."""
    async with signed(tmp_path, valkey_server.url, is_pinned=is_pinned) as found:
        await filled(found)
        rogue = await found.add("rogue", door=True)
        await rogue.router.wait_ready(30)
        voters = Peers(tmp_path, found.url, {}, found.stack, found.all[:3])
        await trim_all(found)
        with monkeypatch.context() as patch:
            given = forge_snapshots(rogue, patch)
            refuse_snapshots(voters, patch)
            fresh = await found.add("fresh")
            await until(lambda: len(given) >= 2, 30)
            assert not fresh.router.status().is_ready
            assert fresh.position.seq == 0
            assert fresh.follower.session.counts.snapshots == 0
        forge_snapshots(rogue, monkeypatch)
        await fresh.router.wait_ready(30)
        assert await payloads(fresh) == await payloads(voters[0])
        await found.judge(*voters.all, fresh)


async def test_forged_snapshot_is_installed_without_certificates(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pinned voters and at level 1 nothing else would show the forgery."""
    async with peers(tmp_path, valkey_server.url, 2, door=True) as found:
        await filled(found)
        await trim_all(found)
        forge_snapshots(found[0], monkeypatch)
        forge_snapshots(found[1], monkeypatch)
        fresh = await found.add("fresh")
        await fresh.router.wait_ready(30)
        assert FORGED_PAYLOAD.strip('"') in await payloads(fresh)


@pytest.mark.parametrize("is_pinned", [True, False])
async def test_newcomer_from_the_log_waits_for_a_majority(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch, is_pinned: bool
) -> None:
    """A state that was read from the log alone is certified, too, before the node is ready."""
    async with signed(tmp_path, valkey_server.url, is_pinned=is_pinned) as found:
        await found[0].router.aput_route(route("a"))
        await found.settle()
        with monkeypatch.context() as patch:
            for peer in found.all[1:]:
                patch.setattr(peer.follower.certificates, "certify", _refuse)
            fresh = await found.add("fresh")
            await until(lambda: fresh.position == found[0].position, 30)
            await asyncio.sleep(1)
            status = fresh.router.status()
            assert not status.is_ready
            assert "no majority of the voters has certified this state" in status.reasons[0]
        await fresh.router.wait_ready(30)


async def _refuse(*_: object) -> str:
    raise SynaptoRouteError("not today")


async def test_holder_of_the_secret_cannot_invent_voters(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pinned voters, statements in their names by other keys do not count."""
    async with signed(tmp_path, valkey_server.url) as found:
        assert len(found[0].engine.replica_status.voter_keys) == 3
        await found[0].router.aput_route(route("a"))
        await found.settle()
        secret = found[0].follower.session.log.signing_keys.secret
        with monkeypatch.context() as patch:
            for peer in found.all[1:]:
                invented = Signer(peer.engine.node_id, NodeIdentity.generate(), secret)
                patch.setattr(peer.follower.certificates, "_signer", invented)
            fresh = await found.add("fresh")
            await until(lambda: "not a voter" in fresh.follower.certificates.last_error, 30)
            assert not fresh.router.status().is_ready
        await fresh.router.wait_ready(30)


async def test_voters_without_an_address_certify_by_way_of_redis(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Routers inside other programs serve no peers; their statements prove themselves."""
    keys_file = tmp_path / "keys"
    await asyncio.to_thread(keys_file.write_text, "a " + "s" * 32 + "\n")
    async with peers(tmp_path, valkey_server.url, 3, signing_keys_file=keys_file) as found:
        assert found[0].follower.certificates.is_required
        await found[0].router.aput_route(route("a"))
        fresh = await found.add("fresh")
        await fresh.router.wait_ready(30)
        await found.judge()


async def test_certificate_is_asked_once(tmp_path: Path, valkey_server: Server) -> None:
    """A node whose state was certified needs no majority after a restart."""
    async with signed(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("a"))
        fresh = await found.add("fresh")
        await fresh.router.wait_ready(30)
        await fresh.router.stop()
        for peer in found.all[1:3]:
            await peer.router.stop()
        again = await found.add("fresh")
        await again.router.wait_ready(30)


def _backups(found: Peers, folder: Path) -> Backups:
    donor = found[0].follower
    # The coordinator has a log and a client of its own; a node's serve as well.
    return Backups(FolderStore(folder), donor.session.log, donor._peers, 7)


async def test_backup_is_certified(tmp_path: Path, valkey_server: Server) -> None:
    async with signed(tmp_path, valkey_server.url) as found:
        await filled(found)
        folder = tmp_path / "backups"
        backup = await _backups(found, folder).take(found[1].engine.node_id, found[1].url)
        manifest = json.loads(await asyncio.to_thread((folder / f"{backup.name}.json").read_bytes))
        modes = {path.stat().st_mode & 0o777 for path in folder.glob(f"{backup.name}.*")}
        assert {0o600} == modes
        root = await asyncio.to_thread(
            verify_origin,
            folder / f"{backup.name}.sqlite",
            manifest,
            "default",
            tmp_path / "keys",
            tmp_path / "genesis.json",
        )
        assert root == backup.root != ""


async def test_forged_backup_is_not_kept(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content of the file is compared with what the voters certify."""
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        await filled(found)
        rogue = await found.add("rogue", door=True)
        await rogue.router.wait_ready(30)
        forge_snapshots(rogue, monkeypatch)
        folder = tmp_path / "backups"
        with pytest.raises(ClusterError, match="not what the voters certify"):
            await _backups(found, folder).take("rogue", rogue.url)
        assert [] == await asyncio.to_thread(os.listdir, folder)


async def test_voters_certify_while_writes_go_on(tmp_path: Path, valkey_server: Server) -> None:
    """A position in the past has the root that it had then."""
    async with signed(tmp_path, valkey_server.url) as found:
        await filled(found)
        stopped = asyncio.Event()

        async def write() -> None:
            number = 0
            while not stopped.is_set():
                await found[0].router.aput_route(route(f"w{number % 7}", f"text {number}"))
                number += 1

        writing = asyncio.create_task(write())
        try:
            at = found[1].position
            for _ in range(3):
                fresh = await found.add(f"fresh{len(found.all)}")
                await fresh.router.wait_ready(30)
                at = found[1].position
                certificate = await fresh.follower.certificates.gather(at)
                claims = [
                    read_content(fresh.follower.session.log.verifier, each)
                    for each in certificate.statements
                ]
                assert {each.root for each in claims} == {certificate.root}
        finally:
            stopped.set()
            await writing
        await found.judge()


async def test_founders_take_the_keys_that_they_are_given(
    tmp_path: Path, valkey_server: Server
) -> None:
    """As in the chart: the voters are pinned, and a later node makes a key of its own."""
    pins = await asyncio.to_thread(Pins, tmp_path, 3)
    shared = {"signing_keys_file": pins.keys_file, "genesis_file": pins.genesis_file, "expect": 3}
    (folder := tmp_path / "data").mkdir()
    async with peers(folder, valkey_server.url, 0, **shared) as found:
        for number in (3, 2, 1, 0):  # the last node of the chart may be the first to start
            given = pins.key_file(number)  # which the fourth does not have
            await found.add(f"v{number}", door=True, initial_identity_key_file=given)
        for peer in found.all:
            await peer.router.wait_ready(30)
        later, *voters = found.all
        keys = found[1].engine.replica_status.voter_keys
        assert sorted(peer.engine.node_id for peer in voters) == sorted(keys)
        assert later.engine.node_id not in keys
        assert "pinned" == later.follower.session.log.trust_mode
        assert all((folder / f"v{number}.key").exists() for number in range(4))


async def test_voter_that_lost_its_volume_certifies_when_it_has_a_vote_again(
    tmp_path: Path, valkey_server: Server
) -> None:
    """It is another node with the key that is pinned, as a pod of the chart with a new volume."""
    async with signed(tmp_path, valkey_server.url) as found:
        await filled(found)
        lost = found[2]
        await lost.router.stop()
        again = await found.add("new", door=True, initial_identity_key_file=tmp_path / "2.key")
        await again.router.wait_ready(30)
        assert again.engine.node_id != lost.engine.node_id
        await found[0].router.achange_voter(again.engine.node_id, is_adding=True)
        async with asyncio.timeout(30):  # voters agree once its last heartbeat is old
            while True:
                try:
                    await found[0].router.achange_voter(lost.engine.node_id, is_adding=False)
                    break
                except OperatorSignatureNeeded:
                    await asyncio.sleep(0.2)
        await found[1].router.stop()
        fresh = await found.add("fresh")
        await fresh.router.wait_ready(30)
        assert await payloads(fresh) == await payloads(found[0])


async def test_pinned_key_founds_once(tmp_path: Path, valkey_server: Server) -> None:
    """Two nodes that were given one key do not found a log whose other key has no vote."""
    pins = await asyncio.to_thread(Pins, tmp_path, 2)
    shared = {"signing_keys_file": pins.keys_file, "genesis_file": pins.genesis_file, "expect": 2}
    (folder := tmp_path / "data").mkdir()
    async with peers(folder, valkey_server.url, 0, **shared) as found:
        for name in ("v0", "copy"):
            await found.add(name, door=True, initial_identity_key_file=pins.key_file(0))
        session = found[0].follower.session
        await until(lambda: len(session.detail) > 0, 30)
        async with asyncio.timeout(30):
            while len([each for each in await session.log.presence.nodes() if each.is_live]) < 2:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)  # some heartbeats, each of which could found
        assert "1 of 2 nodes are there to found the log" == session.detail
        await found.add("v1", door=True, initial_identity_key_file=pins.key_file(1))
        for peer in found.all:
            await peer.router.wait_ready(30)
        keys = found[0].engine.replica_status.voter_keys
        assert 2 == len(keys) == len(set(keys.values()))
