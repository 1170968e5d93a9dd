"""Rows that are not what they should be, put right without a whole snapshot.

A row that is damaged on the disk is written again from memory, one that is damaged in
memory is read again from the disk.  Rows by which this node differs from the majority are
found by comparing sums over buckets of slots with one of the majority, at one position, and
only those rows are fetched.  Everything is checked before a byte is written: every row
against its own hash, the state that would come of it against the digest that the donor has.

Whatever does not fit is left to a snapshot: more than a part of the rows, another owner of a
slot, routes or settings that differ.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Final

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.digest import BUCKET_COUNT, row_hash
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, NotReady, ProtocolError
from synaptoroute.ports import AppliedState
from synaptoroute.replication.row_writes import mend
from synaptoroute.replication.scrub import find_damage
from synaptoroute.sequencer.peers import PeerClient

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

ROWS_MAX: Final = 4_096
"""More rows than that come as quickly with a snapshot."""
TRIES_MAX: Final = 10
TRY_SECONDS: Final = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sums:
    """What two nodes compare.

    Attributes:
        position: Where the sums are of.
        digest: Digest of the whole state there.
        buckets: Sum over the rows of each bucket of slots, hexadecimal.
    """

    position: Position
    digest: str
    buckets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mended:
    """What a mending did.

    Attributes:
        rows_from_memory: Rows of the database that were written again.
        rows_from_disk: Rows of the tensor that were read again.
        rows_from_peer: Rows that were fetched.
    """

    rows_from_memory: int = 0
    rows_from_disk: int = 0
    rows_from_peer: int = 0


class Mender:
    """One node's mending.

    Attributes:
        last: What the newest one did; None before the first.
    """

    def __init__(self, follower: Follower) -> None:
        self.last: Mended | None = None
        self._follower = follower
        self._engine = follower.engine

    async def mend(self, donors: Sequence[str]) -> Mended:
        """Put right what is wrong, as far as it is rows.

        Args:
            donors: Identities of nodes of the majority.

        Raises:
            ClusterError: It is not, or no donor can be compared with: take a snapshot.
            StorageUnavailable: The database cannot be written.
        """
        for _ in range(TRIES_MAX):
            try:
                return await self._try(donors)
            except NotReady:
                await asyncio.sleep(TRY_SECONDS)  # somebody wrote meanwhile
        raise ClusterError("others wrote all the time: rows could not be compared")

    async def _try(self, donors: Sequence[str]) -> Mended:
        damage = await find_damage(self._engine)
        in_both = set(damage.memory) & set(damage.disk)
        if in_both:
            raise ClusterError(f"{len(in_both)} rows are damaged in memory and on disk")
        if damage.memory or damage.disk:
            own = await self._own_sums()
            at, digest, rows = own.position, own.digest, list(damage.sound_rows)
        else:
            at, digest, rows = await self._differing(donors)
        if rows or damage.memory:
            await asyncio.wrap_future(mend(self._engine, rows, at, digest))
            self._follower.wake()
        fetched = 0 if damage.memory or damage.disk else len(rows)
        self.last = Mended(len(damage.disk), len(damage.memory), fetched)
        _log.warning("mended: %s", self.last)
        return self.last

    async def _own_sums(self) -> Sums:
        return await asyncio.wrap_future(self._engine.run_on_applier(sums_of))

    async def _differing(self, donors: Sequence[str]) -> tuple[Position, str, list[SlotWrite]]:
        """Fetch the rows by which this node differs, and the digest that they lead to."""
        peers = PeerClient(self._follower.membership)
        try:
            for url in await self._urls(donors):
                try:
                    return await self._compare(peers, url)
                except (ClusterError, ProtocolError) as error:
                    _log.info("cannot be mended from %s: %s", url, error)
        finally:
            await peers.close()
        raise ClusterError("no donor holds rows that mend this node")

    async def _compare(self, peers: PeerClient, url: str) -> tuple[Position, str, list[SlotWrite]]:
        for _ in range(TRIES_MAX):
            theirs, _ = parse_rows(await peers.read_rows(url, ()))
            own = await self._own_sums()
            if theirs.position == own.position:
                break
            await asyncio.sleep(TRY_SECONDS)
        else:
            raise ClusterError("the donor never stood at this node's position")
        differing = [n for n in range(BUCKET_COUNT) if theirs.buckets[n] != own.buckets[n]]
        if not differing and theirs.digest != own.digest:
            raise ClusterError("what differs is not a row")
        if not differing:
            return own.position, own.digest, []
        theirs, rows = parse_rows(await peers.read_rows(url, differing))
        return theirs.position, theirs.digest, rows

    async def _urls(self, donors: Sequence[str]) -> list[str]:
        seen = await self._follower.log.presence.nodes()
        known = {each.report.node_id: each.report.url for each in seen if each.is_live}
        return [known[donor] for donor in donors if known.get(donor)]


def sums_of(state: AppliedState) -> Sums:
    """Take this node's sums.  Runs on the applier's thread."""
    replica = state.replica
    buckets = tuple(f"{total:032x}" for total in replica.table.digest.buckets)
    return Sums(replica.position, replica.digest, buckets)


async def give_rows(follower: Follower, buckets: Iterable[int]) -> bytes:
    """Write this node's sums, and its rows of some buckets, for a peer.

    Raises:
        ClusterError: They are too many.
    """
    sums = await asyncio.wrap_future(follower.engine.run_on_applier(sums_of))
    wanted = frozenset(buckets)
    rows = await asyncio.to_thread(_read_rows, follower, wanted) if wanted else []
    position = sums.position
    document = {
        "position": [position.epoch, position.seq, position.chain],
        "digest": sums.digest,
        "buckets": sums.buckets,
        "rows": rows,
    }
    return await asyncio.to_thread(lambda: json.dumps(document).encode())


def _read_rows(follower: Follower, wanted: frozenset[int]) -> list[list[object]]:
    found: list[list[object]] = []
    for row in follower.engine.database.rows():
        if row.slot % BUCKET_COUNT in wanted:
            vector = base64.b64encode(row.vector).decode()
            found.append([row.slot, row.route_id, row.utterance, vector])
            if len(found) > ROWS_MAX:
                raise ClusterError("more rows differ than are mended one by one")
    return found


def parse_rows(document: bytes) -> tuple[Sums, list[SlotWrite]]:
    """Read what a donor sent; each row gets the hash of what it holds.

    Raises:
        ProtocolError: It is malformed.
    """
    try:
        said: Any = json.loads(document)
        epoch, seq, chain = said["position"]
        buckets = tuple(str(total) for total in said["buckets"])
        sums = Sums(Position(int(epoch), int(seq), str(chain)), str(said["digest"]), buckets)
        rows = []
        for slot, route_id, utterance, encoded in said["rows"][: ROWS_MAX + 1]:
            vector = base64.b64decode(encoded, validate=True)
            hashed = row_hash(slot, route_id, utterance, vector)
            rows.append(SlotWrite(slot, route_id, utterance, vector, hashed))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StructError) as error:
        raise ProtocolError("a peer's rows are malformed") from error
    if len(buckets) != BUCKET_COUNT or len(rows) > ROWS_MAX:
        raise ProtocolError("a peer's rows are malformed")
    return sums, rows
