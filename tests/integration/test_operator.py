"""Goal: with an operator's key, nothing but its signature stands for absent voters.

Method: three real voters that know an operator's public key; two of them are stopped, and Redis
loses everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from followers import Peer, Peers, assert_held, leave_one, until, write_again, write_quorum
from secrets_of_clusters import signed
from servers import Server
from synaptoroute.cli.app import app
from synaptoroute.core.mutation import Revision
from synaptoroute.errors import OperatorSignatureNeeded
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.operator import sign_force

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
META = "sr:{default}:meta"


@dataclass
class Rest:
    """The nodes that are left of a cluster."""

    found: Peers
    lone: Peer
    operator: NodeIdentity
    key_file: Path
    at: Revision  # Up to where the lone node has the history

    async def waits(self) -> None:
        """Wait until the lone voter has seen that the others are missing."""
        await until(lambda: "waiting for voters" in self.lone.follower.status().detail, 30)

    def warrant(self, at: Revision | None = None, cluster_id: str = "") -> str:
        """Sign as the operator does."""
        session = self.lone.follower.session
        of = cluster_id or session.cluster_id
        return sign_force(self.operator, "default", of, at or self.at)


@asynccontextmanager
async def rest(folder: Path, server: Server, **settings: str) -> AsyncIterator[Rest]:
    """One voter of three, and an empty server."""
    operator, key_file = NodeIdentity.generate(), folder / "operator.key"
    await asyncio.to_thread(operator.save, key_file)
    async with signed(folder, server.url, operator=operator.public_key, **settings) as found:
        await write_quorum(found[0], ["kept"])
        at = (await found.settle()).revision
        lone = await leave_one(found, server)
        yield Rest(found, lone, operator, key_file, at)


async def test_forced_recovery_needs_the_operators_signature(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with rest(tmp_path, valkey_server) as left:
        await left.waits()
        forged = NodeIdentity.generate()
        wrong = [
            "",
            left.warrant(Revision(1, left.at.seq + 1)),
            left.warrant(Revision(0, 0)),
            left.warrant(cluster_id="f" * 32),
            sign_force(forged, "default", left.lone.follower.session.cluster_id, left.at),
        ]
        for warrant in wrong:
            with pytest.raises(OperatorSignatureNeeded):
                await left.lone.router.aforce_recovery(warrant)
        # Whoever can write to Redis can name the cause.
        await asyncio.to_thread(valkey_server.call, "HSET", META, "rec_cause", "forced")
        await asyncio.sleep(5)
        assert left.lone.follower.session.log_state == "recovering"
        assert left.lone.position.epoch == 1


async def test_signed_recovery_is_followed_by_the_voters_that_come_back(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with rest(tmp_path, valkey_server) as left:
        await left.waits()
        url, key = left.lone.url, str(left.key_file)
        command = ["cluster", "recover", "--force", "--operator-key", key, "--url", url]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert 0 == done.exit_code, done.output
        await write_again(left.lone)
        back = [
            await left.found.add(f"v{n}", door=True, identity_key_file=tmp_path / f"{n}.key")
            for n in (1, 2)
        ]
        for peer in back:
            await peer.router.wait_ready(30)
        await assert_held(left.found, ["kept", "again"], left.lone, *back)
        assert (left.lone.engine.node_id,) == back[0].engine.replica_status.voters


async def test_command_without_the_key_says_what_is_missing(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with rest(tmp_path, valkey_server) as left:
        await left.waits()
        command = ["cluster", "recover", "--force", "--url", left.lone.url]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert 0 != done.exit_code
        assert "operator's signature" in done.output


async def test_available_is_chosen_by_the_settings(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synaptoroute.replication.choice.AVAILABLE_SECONDS", 1.0)
    async with rest(tmp_path, valkey_server, recovery="available") as left:
        await until(lambda: left.lone.position.epoch == 2, 30)
        await write_again(left.lone)
        assert 3 == len(left.lone.engine.replica_status.voters)


async def test_frozen_log_is_opened_by_the_command(tmp_path: Path, valkey_server: Server) -> None:
    async with signed(tmp_path, valkey_server.url) as found:
        await asyncio.to_thread(valkey_server.call, "HSET", META, "state", "frozen")
        await until(lambda: found[0].follower.session.log_state == "frozen", 10)
        command = ["cluster", "unfreeze", "--url", found[0].url]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert (0, "the log is open\n") == (done.exit_code, done.output)
        await write_again(found[1])
        assert 1 == found[1].position.epoch
