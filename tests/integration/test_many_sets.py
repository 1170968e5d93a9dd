"""Goal: what replicates and repairs one route set does so for all of them.

Method: real routers on a real Valkey; sets are made, copied and written to through the log.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from followers import DIM, Peer, Peers, peers, put, route, trim_all, until, write
from servers import Server
from synaptoroute.core.mutation import (
    ForkSet,
    ImportAbort,
    ImportBegin,
    Mutation,
    PutAlias,
    PutSet,
    PutTests,
    SetTest,
)
from synaptoroute.encoder import HashEncoder
from synaptoroute.replication.scrub import scrub
from synaptoroute.tensor import Tensor

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

SPARE_DIM = 32


async def with_sets(found: Peers) -> None:
    """Three sets with routes of their own, a copy, tests and an alias."""
    await found[0].router.aput_route(route("billing", "pay the invoice", "where is my bill"))
    steps: list[tuple[str, Mutation]] = [
        ("", PutSet("support")),
        ("support", put("refund", "give me my money", "refund my order").mutation),
        ("", PutSet("sales")),
        ("sales", put("offer", "send me an offer").mutation),
        ("", ForkSet("support", "support@2")),
        ("support@2", put("refund", "refund everything").mutation),
        ("support@2", PutTests((SetTest("money", "refund"),))),
        ("", PutAlias("live", "support", "support@2", 0.5)),
    ]
    for index, (name, mutation) in enumerate(steps):
        outcome = await write(found[index % len(found.all)], mutation, name)
        assert "applied" == outcome.status, outcome
        await found.settle()


async def texts_of(peer: Peer, route_set: str) -> dict[str, bytes]:
    """The vector of each text of a set, as it is served."""

    def read(tensor: Tensor) -> dict[str, bytes]:
        return {text: vector for _, _, text, vector in tensor.rows_between(0, 1_000)}

    return await asyncio.wrap_future(peer.engine.read(read, route_set))


async def test_new_node_gets_every_set_from_a_snapshot(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The log is gone, so records, rows, tests and aliases come from the file of a peer."""
    async with peers(tmp_path, valkey_server.url, door=True) as found:
        await with_sets(found)
        await trim_all(found)
        late = await found.add(door=True)
        await late.router.wait_ready(20)
        await found.judge()

        assert 1 == late.follower.session.counts.snapshots
        assert {"refund everything"} == (await texts_of(late, "support@2")).keys()
        assert {"send me an offer"} == (await texts_of(late, "sales")).keys()
        scrubbed = await scrub(late.engine)
        assert (True, 6) == (scrubbed.is_sound, scrubbed.rows)

        assert "applied" == (await write(late, PutSet("later"))).status
        await found.judge()


async def test_change_of_the_encoder_rewrites_every_set(
    tmp_path: Path, valkey_server: Server
) -> None:
    """All sets switch at one place, once no set has an open import."""
    async with peers(tmp_path, valkey_server.url, spare_dim=SPARE_DIM) as found:
        await with_sets(found)
        await write(found[0], ImportBegin("i"), "sales")
        await found.settle()
        migration = found[0].follower.maintenance.migration
        spare = HashEncoder(SPARE_DIM)
        switching = asyncio.create_task(migration.switch(spare.fingerprint))
        await until(lambda: migration.progress.step == "switching")
        await asyncio.sleep(0.3)

        assert DIM == found[0].engine.encoder.dim

        await write(found[1], ImportAbort("i"), "sales")
        await asyncio.wait_for(switching, 20)
        await until(lambda: all(each.engine.encoder.dim == SPARE_DIM for each in found.all))
        await found.judge()
        for peer in found.all:
            assert (await scrub(peer.engine)).is_sound
            for name in ("", "support", "support@2", "sales"):
                held = await texts_of(peer, name)
                rows = spare.encode_utterances(list(held))
                assert [row.tobytes() for row in rows] == list(held.values())
