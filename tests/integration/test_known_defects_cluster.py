"""Defects 1 to 11 of routers that followed one another; docs/known-defects.md lists them.

Method: real routers on a real Valkey, put where the old designs failed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from followers import joined, peers, route, until
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.core.mutation import Revision
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import (
    ConfigError,
    EncoderMismatch,
    NotReady,
    RouteNotFound,
    SequencerUnavailable,
)
from synaptoroute.router import AdaptiveRouter, WriteOptions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def names_of(router: AdaptiveRouter) -> list[str]:
    """Names of a router's routes."""
    return [each.name for each in (await router.alist_routes()).routes]


async def test_d1_writes_to_one_route_at_once_end_alike(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Two nodes write one route at the same moment, ten times: both end with one of the two."""
    async with peers(tmp_path, valkey_server.url) as found:
        for turn in range(10):
            await asyncio.gather(
                found[0].router.aput_route(route("same", f"first {turn}")),
                found[1].router.aput_route(route("same", f"second {turn}")),
            )
            await found.settle()
            texts = [(await peer.router.aget_route("same")).utterances for peer in found.all]

            assert texts[0] == texts[1]
        await found.judge()


async def test_d2_large_write_is_not_overtaken_by_a_small_one(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Of one sender's two versions the later one stays, whatever their sizes."""
    large = route("same", *(f"text {number}" for number in range(600)))
    async with peers(tmp_path, valkey_server.url) as found:
        for _ in range(5):
            await found[0].router.aput_route(large)
            last = await found[0].router.aput_route(route("same", "the last word"))
            await found[1].router.await_version(Revision(*map(int, last.version.split("."))), 10)

            assert ["the last word"] == (await found[1].router.aget_route("same")).utterances
        await found.judge()


async def test_d3_route_that_was_deleted_while_a_node_was_down_stays_deleted(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The node that comes back learns of it, and teaches the old route to nobody."""
    async with peers(tmp_path, valkey_server.url, 1) as found:
        async with joined(tmp_path / "down.sqlite", valkey_server.url) as down:
            await down.router.wait_ready()
            await down.router.aput_route(route("doomed"))
        await found.settle()
        await until(lambda: found[0].position.seq >= 2)
        await found[0].router.adelete_route("doomed")
        back = await found.add("down")
        await back.router.wait_ready()
        fresh = await found.add("fresh")
        await fresh.router.wait_ready()

        assert [[], [], []] == [await names_of(peer.router) for peer in found.all]
        await found.judge()


async def test_d4_messages_lost_in_a_reconnect_are_fetched(
    tmp_path: Path, valkey_server: Server
) -> None:
    """What was published while the subscription was away is not lost for good."""
    async with peers(tmp_path, valkey_server.url) as found:
        await asyncio.to_thread(valkey_server.call, "CLIENT", "KILL", "TYPE", "pubsub")
        written = [await found[0].router.aput_route(route(f"r{n}")) for n in range(5)]
        await found[1].router.await_version(Revision(*map(int, written[-1].version.split("."))), 10)

        assert 5 == len(await names_of(found[1].router))
        await found.judge()


async def test_d5_failed_publish_does_not_end_the_publisher(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A write that Redis' absence refused is told; the next one after its return is heard."""
    async with peers(tmp_path, valkey_server.url) as found:
        await asyncio.to_thread(valkey_server.pause)
        with pytest.raises(SequencerUnavailable):
            await found[0].router.aput_route(route("refused"))
        await asyncio.to_thread(valkey_server.resume)
        await until(lambda: all(peer.follower.session.log_state == "open" for peer in found.all))
        await found[0].router.aput_route(route("taken"))

        assert "taken" in await names_of(found[0].router)
        await found.judge()


async def test_d6_newcomer_encodes_nothing(tmp_path: Path, valkey_server: Server) -> None:
    """Vectors travel: joining two peers with many routes costs no encoding at all."""
    async with peers(tmp_path, valkey_server.url) as found:
        for number in range(30):
            await found[0].router.aput_route(route(f"r{number}", f"a {number}", f"b {number}"))
        fresh = await found.add("fresh")
        await fresh.router.wait_ready()
        status = fresh.router.status()

        assert 0 == status.counters.cache_misses
        assert 60 == status.slots_used
        await found.judge()


async def test_d7_write_before_start_is_refused_and_not_kept_back(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Nothing is applied here that the others will not hear."""
    log = RedisLog(valkey_server.url)
    router = AdaptiveRouter(HashEncoder(64), log=log)

    with pytest.raises(ConfigError):
        await asyncio.to_thread(router.add_route, route("silent"))
    with pytest.raises((SequencerUnavailable, NotReady)):
        await router.aput_route(route("silent"))

    assert 0 == router.status().routes
    router.close()
    await log.close()


async def test_d8_two_namespaces_do_not_mix(tmp_path: Path, valkey_server: Server) -> None:
    """Two clusters on one server, one channel each: neither hears the other."""
    logs = [RedisLog(valkey_server.url, namespace=name) for name in ("one", "two")]
    routers = [AdaptiveRouter(HashEncoder(64), log=log) for log in logs]
    for router in routers:
        await router.start()
    try:
        for router in routers:
            await router.wait_ready()
            await until(lambda r=router: r.status().follower.log_state == "open")
        await routers[0].aput_route(route("only-one"))
        await routers[1].aput_route(route("only-two"))

        assert [["only-one"], ["only-two"]] == [await names_of(router) for router in routers]
        assert logs[0].keys.bus != logs[1].keys.bus
    finally:
        for router in routers:
            await router.stop()


async def test_d9_route_of_another_encoder_is_refused(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Also the default encoders have a fingerprint, and it is compared before anything."""
    async with peers(tmp_path, valkey_server.url, 1) as found:
        alien = await found.add("alien", dim=128)
        await until(lambda: alien.follower.session.log_state == "mismatch")
        with pytest.raises(EncoderMismatch):
            await alien.router.aput_route(route("alien"))

        assert not alien.router.status().is_ready
        assert [] == await names_of(found[0].router)
        assert 0 == alien.position.seq


async def test_d10_lost_write_of_a_node_is_never_acknowledged(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A node applies what it hears and nothing it only said, also for a route it never had."""
    async with peers(tmp_path, valkey_server.url) as found:
        await found[0].router.aput_route(route("known"))
        await asyncio.to_thread(valkey_server.pause)
        with pytest.raises(SequencerUnavailable):
            await found[0].router.aput_route(
                route("known", "changed"), WriteOptions(op_id=b"k" * 16)
            )
        texts = (await found[0].router.aget_route("known")).utterances
        await asyncio.to_thread(valkey_server.resume)
        await until(lambda: found[1].follower.session.log_state == "open")
        with pytest.raises(RouteNotFound):
            await found[1].router.adelete_route("never there")

        assert ["known"] == texts
        await found.judge()


async def test_d11_full_queue_and_bad_messages_cost_no_write(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A flood of garbage on the channel is counted; it blocks no listener and loses nothing."""
    async with peers(tmp_path, valkey_server.url) as found:
        publish = found[0].follower.session.log.presence._link.call
        for number in range(300):
            await publish("PUBLISH", "sr:{default}:bus", b"\x00garbage" * (number + 1))
        await found[0].router.aput_route(route("heard"))
        await found.settle()
        late = await found.add("late")
        assert not late.router.status().is_ready
        await late.router.wait_ready()

        assert "heard" in await names_of(late.router)
        await found.judge()
