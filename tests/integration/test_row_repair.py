"""Goal: damaged rows are repaired one by one, and nothing else changes.

Method: real routers on a real Valkey; bytes are altered in a tensor, in a database and in both
copies of one node, as a broken memory, a broken disk and a broken machine would.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from followers import Peers, peers, route, write
from servers import Server
from synaptoroute.core.change import SlotWrite
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.digest import stored_row_hash
from synaptoroute.core.mutation import ForkSet
from synaptoroute.core.rows import local_of, set_number_of, stored_number
from synaptoroute.errors import ClusterError
from synaptoroute.ports import AppliedState
from synaptoroute.replication.scrub import scrub

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


COPY = stored_number(1, 0)
"""The first slot of the route set that ``filled`` copies, as the database stores it."""
in_each_set = pytest.mark.parametrize("first", [0, COPY], ids=["default", "copy"])


async def filled(found: Peers) -> None:
    """A few routes on every node in two sets; slots 4 and 5 are a description and a negative."""
    more = {"description": "what it is for", "negatives": ["not this", "nor this"]}
    for number in range(8):
        made = route(f"r{number}", f"text {number}", f"other {number}")
        await found[0].router.aput_route(made.model_copy(update=more if number == 1 else {}))
    assert "applied" == (await write(found[0], ForkSet("default", "copy"))).status
    await found.settle()
    held = found[0].engine.replica_status.level, found[0].router.status().slots_used
    assert (LEVEL, 19) == held
    assert 38 == (await scrub(found[0].engine)).rows


async def flip_in_memory(found: Peers, index: int, slot: int) -> None:
    """Alter one float of a tensor."""
    local = local_of(slot)

    def flip(tensor: object) -> None:
        row = tensor._rows.read(np.array([local]))  # type: ignore[attr-defined]
        row[0, 0] = -row[0, 0] - 1.0
        tensor._rows.write(np.array([local]), row)  # type: ignore[attr-defined]

    name = "copy" if set_number_of(slot) else ""
    await asyncio.wrap_future(found[index].engine.read(flip, name))


def flip_on_disk(path: Path, slot: int) -> None:
    """Alter the last byte of a vector in a database."""
    connection = sqlite3.connect(path)
    try:
        (vector,) = connection.execute("SELECT vector FROM slot WHERE slot = ?", (slot,)).fetchone()
        altered = vector[:-1] + bytes([vector[-1] ^ 1])
        connection.execute("UPDATE slot SET vector = ? WHERE slot = ?", (altered, slot))
        connection.commit()
    finally:
        connection.close()


@in_each_set
async def test_damaged_row_in_memory_is_read_from_disk(
    tmp_path: Path, valkey_server: Server, first: int
) -> None:
    """A flipped float is found and repaired without a peer."""
    async with peers(tmp_path, valkey_server.url, door=True) as found:
        await filled(found)
        await flip_in_memory(found, 0, first + 3)
        damaged = await scrub(found[0].engine)
        mended = await found[0].follower.maintenance.row_repair.repair(())

        assert (1, 0) == (damaged.memory_rows, damaged.disk_rows)
        assert (first + 3,) == damaged.memory_slots
        assert (0, 1, 0) == (mended.rows_from_memory, mended.rows_from_disk, mended.rows_from_peer)
        assert (await scrub(found[0].engine)).is_sound
        await found.judge()


@in_each_set
async def test_damaged_row_on_disk_is_written_from_memory(
    tmp_path: Path, valkey_server: Server, first: int
) -> None:
    """The node takes writes afterwards."""
    async with peers(tmp_path, valkey_server.url, door=True) as found:
        await filled(found)
        flip_on_disk(found[0].engine.storage.path, first + 5)
        damaged = await scrub(found[0].engine)
        mended = await found[0].follower.maintenance.row_repair.repair(())

        assert (0, 1) == (damaged.memory_rows, damaged.disk_rows)
        assert (first + 5,) == damaged.disk_slots
        assert (1, 0, 0) == (mended.rows_from_memory, mended.rows_from_disk, mended.rows_from_peer)
        assert (await scrub(found[0].engine)).is_sound
        await found[0].router.aput_route(route("after"))
        await found.settle()
        await found.judge()


@in_each_set
async def test_row_that_differs_is_fetched_from_the_majority(
    tmp_path: Path, valkey_server: Server, first: int
) -> None:
    """Only rows of differing buckets are fetched, and the digests are equal again."""
    async with peers(tmp_path, valkey_server.url, door=True) as found:
        await filled(found)
        await diverge(found, first + 4)
        before = {peer.engine.published.digest for peer in found.all}
        donor = found[1].engine.storage.node_id
        mended = await found[0].follower.maintenance.row_repair.repair((donor,))

        assert 2 == len(before)
        assert 1 <= mended.rows_from_peer < 16
        assert 0 == found[0].follower.session.counts.snapshots
        await found.judge()


async def diverge(found: Peers, slot: int) -> None:
    """Give one node another vector, in memory, on disk and in its digest."""
    engine = found[0].engine

    def alter(state: AppliedState) -> None:
        sets, local = state.replica.sets, local_of(slot)
        table = sets.tables[set_number_of(slot)]
        (row,) = [each for each in state.storage.rows() if each.slot == slot]
        vector = row.vector[4:] + row.vector[:4]
        hashed = stored_row_hash(slot, row.owner, row.utterance, vector)
        table._disown(local, row.row_hash)
        table._own(local, hashed)
        write = SlotWrite(slot, row.owner, row.utterance, vector, hashed)
        engine.adopt(state.storage.repair_rows([write], sets.digest_anew()))

    await asyncio.wrap_future(engine.run_on_applier(alter))
    found[0].follower.session.catch_up_wanted.set()


async def test_row_damaged_on_two_nodes_needs_a_snapshot(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A row damaged in memory and on disk is not repaired from anything."""
    async with peers(tmp_path, valkey_server.url, door=True) as found:
        await filled(found)
        await flip_in_memory(found, 0, 3)
        flip_on_disk(found[0].engine.storage.path, 3)
        with pytest.raises(ClusterError, match="in memory and on disk"):
            await found[0].follower.maintenance.row_repair.repair(
                (found[1].engine.storage.node_id,)
            )
        found[0].follower.catch_up.require_resync("the test", (found[1].engine.storage.node_id,))
        await asyncio.wait_for(_snapshot(found), 20)

        assert (await scrub(found[0].engine)).is_sound


async def _snapshot(found: Peers) -> None:
    while not found[0].follower.session.counts.snapshots:
        await asyncio.sleep(0.05)
