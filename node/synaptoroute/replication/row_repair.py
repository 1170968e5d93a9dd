"""Row repair: repairs damaged or differing rows without a whole snapshot.

A row that is damaged on disk is written again from memory; one that is damaged in memory is
read again from disk.  Rows by which this node differs from the majority are found like in a
Merkle tree of depth one: sums over buckets of slots are compared with a donor's at one
position, and only the rows of the buckets that differ are fetched.

Everything is checked before a byte is written: each row against its own hash, and the state
that would result against the donor's digest.  A snapshot is needed for everything else: too
many rows, another owner of a slot, different routes or settings.  Slots and owners are as the
database stores them, so they name a route set as well.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from struct import error as StructError
from typing import Any, Final

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.content import root_of
from synaptoroute.core.digest import BUCKET_COUNT, stored_row_hash
from synaptoroute.core.mutation import Position
from synaptoroute.core.rows import local_of, set_number_of, stored_number
from synaptoroute.core.sets import RouteSets
from synaptoroute.errors import ClusterError, NotReady, ProtocolError
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.replication.certificates import Certificates
from synaptoroute.replication.scrub import find_damage
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.peers import PeerClient

ROWS_MAX: Final = 4_096  # More rows than that arrive as fast in a snapshot
TRIES_MAX: Final = 10
TRY_SECONDS: Final = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateSums:
    """The values that two nodes compare."""

    position: Position
    digest: str
    buckets: tuple[str, ...]  # Sum over the rows of each bucket of slots, hexadecimal


@dataclass(frozen=True, slots=True)
class RepairResult:
    rows_from_memory: int = 0  # Rows of the database that were written again
    rows_from_disk: int = 0  # Rows of the tensor that were read again
    rows_from_peer: int = 0


class RowRepair:
    def __init__(self, session: Session, peers: PeerClient, certificates: Certificates) -> None:
        self.last: RepairResult | None = None
        self._certificates = certificates
        self._session = session
        self._engine = session.engine
        self._peers = peers

    async def repair(self, donors: Sequence[str]) -> RepairResult:
        """Repair damaged or differing rows; ``ClusterError`` if a snapshot is needed."""
        for _ in range(TRIES_MAX):
            try:
                return await self._try(donors)
            except NotReady:
                await asyncio.sleep(TRY_SECONDS)  # a write came in between
        raise ClusterError("others wrote all the time: rows could not be compared")

    async def _try(self, donors: Sequence[str]) -> RepairResult:
        damage = await find_damage(self._engine)
        in_both = set(damage.memory) & set(damage.disk)
        if in_both:
            raise ClusterError(f"{len(in_both)} rows are damaged in memory and on disk")
        if damage.memory or damage.disk:
            own = await _own_sums(self._engine)
            at, digest, rows = own.position, own.digest, list(damage.sound_rows)
        else:
            at, digest, rows = await self._fetch_differing(donors)
        root = None
        if rows and not (damage.memory or damage.disk) and self._certificates.is_required:
            root = (await self._certificates.gather(at)).root
        if rows or damage.memory:
            await self._session.on_applier(
                lambda state: _rewrite(self._engine, state, rows, at, digest, root)
            )
            self._session.catch_up_wanted.set()
        fetched = 0 if damage.memory or damage.disk else len(rows)
        self.last = RepairResult(len(damage.disk), len(damage.memory), fetched)
        _log.warning("repaired rows: %s", self.last)
        return self.last

    async def _fetch_differing(
        self, donors: Sequence[str]
    ) -> tuple[Position, str, list[SlotWrite]]:
        seen = await self._session.log.presence.nodes()
        urls = {each.report.node_id: each.report.url for each in seen if each.is_live}
        for url in [urls[donor] for donor in donors if urls.get(donor)]:
            try:
                return await self._compare(url)
            except (ClusterError, ProtocolError) as error:
                _log.info("rows cannot be repaired from %s: %s", url, error)
        raise ClusterError("no donor holds rows that repair this node")

    async def _compare(self, url: str) -> tuple[Position, str, list[SlotWrite]]:
        for _ in range(TRIES_MAX):
            theirs, _ = parse_rows(await self._peers.read_rows(url, ()))
            own = await _own_sums(self._engine)
            if theirs.position == own.position:
                break
            await asyncio.sleep(TRY_SECONDS)
        else:
            raise ClusterError("the donor was never at this node's position")
        differing = [n for n in range(BUCKET_COUNT) if theirs.buckets[n] != own.buckets[n]]
        if not differing and theirs.digest != own.digest:
            raise ClusterError("what differs is not a row")
        if not differing:
            return own.position, own.digest, []
        theirs, rows = parse_rows(await self._peers.read_rows(url, differing))
        return theirs.position, theirs.digest, rows


# --- writing --------------------------------------------------------------------------------


def _rewrite(
    engine: EnginePort,
    state: AppliedState,
    rows: Sequence[SlotWrite],
    at: Position,  # Where the rows were read
    digest: str,  # That the state must have afterwards
    root: str | None,  # Content root that the voters certify there; None if that is not required
) -> None:
    """Write rows again and serve what the database then holds.  Runs on the applier's thread."""
    sets = state.replica.sets
    hashes = _hashes_by_set(rows)
    is_own = all(
        number in sets.tables and own.items() <= sets.tables[number].row_hashes.items()
        for number, own in hashes.items()
    )
    if not is_own:
        # Rows of a peer are only valid for the position at which they were compared.
        if state.replica.position != at:
            raise NotReady("the state changed while rows were compared")
        _check(sets, rows, digest)
        if root is not None:
            _check_root(state, hashes, root)
    # ``repair_rows`` reads the database back and verifies it as at a start, so the rows
    # that are served from now on are those on disk.
    engine.adopt(state.storage.repair_rows(rows, state.replica.digest if is_own else digest))


def _hashes_by_set(rows: Iterable[SlotWrite]) -> dict[int, dict[int, bytes]]:
    """Row hashes by slot inside the set, by number of the set."""
    hashes: dict[int, dict[int, bytes]] = {}
    for row in rows:
        hashes.setdefault(set_number_of(row.slot), {})[local_of(row.slot)] = row.row_hash
    return hashes


def _check(sets: RouteSets, rows: Sequence[SlotWrite], digest: str) -> None:
    hashes = _hashes_by_set(rows)
    if not hashes.keys() <= sets.tables.keys():
        raise ClusterError("a row is of a route set that does not exist")
    owners = {
        stored_number(number, slot): (stored_number(number, owner), text)
        for number in hashes
        for route in sets.tables[number].routes.values()
        for slot, owner, text in route.rows()
    }
    if any(owners.get(row.slot) != (row.owner, row.utterance) for row in rows):
        raise ClusterError("a row has another owner")
    if sets.digest_anew(hashes) != digest:
        raise ClusterError("the rows do not lead to the donor's digest")


def _check_root(state: AppliedState, hashes: Mapping[int, Mapping[int, bytes]], root: str) -> None:
    snapshot = state.replica.snapshot()
    others = tuple(
        replace(each, row_hashes={**each.row_hashes, **hashes.get(each.record.number, {})})
        for each in snapshot.sets
    )
    own = {**snapshot.row_hashes, **hashes.get(0, {})}
    repaired = replace(snapshot, row_hashes=own, sets=others)
    if root_of(repaired, *state.storage.encoder) != root:
        raise ClusterError("the rows do not lead to what the voters certify")


# --- serving --------------------------------------------------------------------------------


async def _own_sums(engine: EnginePort) -> StateSums:
    return await asyncio.wrap_future(engine.run_on_applier(_sums))


def _sums(state: AppliedState) -> StateSums:
    replica = state.replica
    buckets = tuple(f"{total:032x}" for total in replica.sets.bucket_sums())
    return StateSums(replica.position, replica.digest, buckets)


async def dump_rows(engine: EnginePort, buckets: Iterable[int]) -> bytes:
    """Write this node's sums, and its rows of some buckets, for a peer."""
    sums = await _own_sums(engine)
    wanted = frozenset(buckets)
    rows = await asyncio.to_thread(_read_rows, engine, wanted) if wanted else []
    document = {
        "position": [sums.position.epoch, sums.position.seq, sums.position.chain],
        "digest": sums.digest,
        "buckets": sums.buckets,
        "rows": rows,
    }
    return await asyncio.to_thread(lambda: json.dumps(document).encode())


def _read_rows(engine: EnginePort, wanted: frozenset[int]) -> list[list[object]]:
    # The rows may be newer than the sums.  The receiver finds out: they would not lead to the
    # digest, and it tries again.
    found: list[list[object]] = []
    for row in engine.database.rows():
        if row.slot % BUCKET_COUNT in wanted:
            vector = base64.b64encode(row.vector).decode()
            found.append([row.slot, row.owner, row.utterance, vector])
            if len(found) > ROWS_MAX:
                raise ClusterError("more rows differ than are repaired one by one")
    return found


def parse_rows(document: bytes) -> tuple[StateSums, list[SlotWrite]]:
    """Read what a donor sent; the hash of each row is computed here."""
    try:
        parsed: Any = json.loads(document)
        epoch, seq, chain = parsed["position"]
        buckets = tuple(str(total) for total in parsed["buckets"])
        position = Position(int(epoch), int(seq), str(chain))
        sums = StateSums(position, str(parsed["digest"]), buckets)
        rows = []
        for slot, owner, utterance, encoded in parsed["rows"][: ROWS_MAX + 1]:
            vector = base64.b64decode(encoded, validate=True)
            hashed = stored_row_hash(slot, owner, utterance, vector)
            rows.append(SlotWrite(slot, owner, utterance, vector, hashed))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StructError) as error:
        raise ProtocolError("a peer's rows are malformed") from error
    if len(buckets) != BUCKET_COUNT or len(rows) > ROWS_MAX:
        raise ProtocolError("a peer's rows are malformed")
    return sums, rows
