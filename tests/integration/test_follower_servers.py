"""Goal: a server that is full or demoted, or a wrong clock, costs writes at most.

Method: real routers on a real Valkey whose settings are changed under them.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from followers import peers, route, until
from ports import free_port
from servers import Server
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.replication import session as session_module
from synaptoroute.router import WriteOptions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
DAY_SECONDS = 86_400


async def test_redis_out_of_memory_refuses_writes_and_loses_none(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Over its memory limit the server refuses before anything is written or published."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("before"))
        at = await found.settle()
        await asyncio.to_thread(valkey_server.call, "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(SequencerUnavailable) as refused:
            await found[0].router.aput_route(route("too-much"))
        await asyncio.to_thread(valkey_server.call, "CONFIG", "SET", "maxmemory", "0")
        written = await found[0].router.aput_route(route("after"))

        assert "not_taken" == refused.value.fields["outcome"]
        assert f"{at.epoch}.{at.seq + 1}" == written.version
        await found.judge()


async def test_subscription_to_a_demoted_server_is_left(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A replica sends no keepalives, so its subscribers leave; promoted, it is verified again."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("before"))
        await found.settle()
        nowhere = str(free_port())
        await asyncio.to_thread(valkey_server.call, "REPLICAOF", "127.0.0.1", nowhere)
        with pytest.raises(SequencerUnavailable):
            await found[0].router.aput_route(route("refused"))
        await until(lambda: all(peer.follower.session.counts.bus_reconnects for peer in found.all))
        await until(lambda: all(peer.follower.session.log_state == "away" for peer in found.all))
        match = await found[1].router.aquery("before")
        await asyncio.to_thread(valkey_server.call, "REPLICAOF", "NO", "ONE")
        await until(lambda: all(peer.follower.session.log_state == "open" for peer in found.all))
        await found[0].router.aput_route(route("after"))

        assert "before" == match.route
        assert 1 <= sum(peer.follower.session.counts.reopenings for peer in found.all)
        await found.judge()


async def test_clock_of_a_node_has_no_effect(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With wall clocks a day ahead, ages, proofs and acknowledgements do not change."""
    ahead = SimpleNamespace(time=lambda: time.time() + DAY_SECONDS, monotonic=time.monotonic)
    monkeypatch.setattr(session_module, "time", ahead)
    async with peers(tmp_path, valkey_server.url) as found:
        written = await found[0].router.aput_route(route("now"), WriteOptions(ack="all"))
        seen = await found[0].follower.session.log.presence.nodes()
        one, other = (peer.follower for peer in found.all)
        proof = one.membership.proof("/peer/v1/log")

        assert "all" == written.ack
        assert all(each.is_live for each in seen)
        assert abs(one.clock.now_ms() - time.time() * 1_000) < 5_000
        assert abs(one.clock.lead_ms - DAY_SECONDS * 1_000) < 5_000
        assert other.membership.is_proof("/peer/v1/log", proof)
        await found.judge()
