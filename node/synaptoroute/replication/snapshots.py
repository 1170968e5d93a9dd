"""What a node gives to its peers: its op log and its snapshot.

Giving never delays queries or the applier: the op log is read and the snapshot is
written by connections of their own, and only a few peers are served at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Final

from synaptoroute.core.mutation import Position
from synaptoroute.core.replica import State
from synaptoroute.errors import ConfigError, NotReady, Overloaded, RouteError
from synaptoroute.replication.recovery import CLUSTER_ID_KEY
from synaptoroute.sequencer.peers import LOG_BYTES_MAX, Membership, dump_entry

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

SNAPSHOTS_AT_ONCE_MAX: Final = 2
LOGS_AT_ONCE_MAX: Final = 4
LOG_ENTRIES_MAX: Final = 4_096
SECRET_BYTES_MIN: Final = 16
PART_BYTES: Final = 1 << 20
_DONORS: Final = frozenset({State.LIVE, State.CATCHING_UP, State.SYNCING})


@dataclass(frozen=True, slots=True)
class SnapshotGift:
    """A snapshot file that is ready to be sent.

    Attributes:
        path: The file; deleted when the gift is over.
        position: The position it holds.
        sha256: Its SHA-256, hexadecimal.
        size_bytes: Its size.
    """

    path: Path
    position: Position
    sha256: str
    size_bytes: int


class Donor:
    """Serves peers from this node's storage."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE_MAX)
        self._logs = asyncio.Semaphore(LOGS_AT_ONCE_MAX)
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def position(self) -> Position:
        """Where this node stands."""
        return self._follower.position

    def _check_may_give(self) -> None:
        state = self._follower.engine.replica_status.state
        if state not in _DONORS:
            raise NotReady(f"a replica that is {state.value} gives nothing")

    async def log(self, after: Position) -> bytes:
        """Give the entries after a position; empty where the op log does not reach it.

        Raises:
            RouteError: The position is not of this node's history.
            Overloaded: Enough peers are being served.
        """
        self._check_may_give()
        if self._logs.locked():
            raise Overloaded("enough peers are being served", retry_after_seconds=1.0)
        async with self._logs:
            return await asyncio.to_thread(self._read_log, after)

    def _read_log(self, after: Position) -> bytes:
        storage = self._follower.engine.database
        rows = storage.read_log(
            max(0, after.seq - 1), entries_max=LOG_ENTRIES_MAX, bytes_max=LOG_BYTES_MAX
        )
        if rows and rows[0].seq == after.seq:
            if rows[0].chain != after.chain:
                raise RouteError(f"{after.revision} is not of this node's history")
            rows = rows[1:]
        if rows and (rows[0].seq != after.seq + 1 or rows[0].prev_chain != after.chain):
            return b""
        return b"".join(
            dump_entry(r.epoch, r.seq, r.prev_chain, r.chain, r.time_us, r.frame) for r in rows
        )

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SnapshotGift]:
        """Write a snapshot and lend it; deleted afterwards.

        Raises:
            Overloaded: Enough peers are being served.
            StorageUnavailable: It could not be written.
        """
        self._check_may_give()
        if self._snapshots.locked():
            raise Overloaded("enough peers are being served", retry_after_seconds=2.0)
        await self._snapshots.acquire()
        path = file_beside(self._follower, "give")
        writing = asyncio.ensure_future(asyncio.to_thread(self._write_snapshot, path))
        try:
            yield await asyncio.shield(writing)
        finally:
            ending = asyncio.create_task(self._end(writing, path), name="snapshot-end")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)

    async def _end(self, writing: asyncio.Future[SnapshotGift], path: Path) -> None:
        """Delete a gift and give its place back, also where its receiver went away early.

        A thread cannot be stopped: what it writes is deleted when it has written it.
        """
        try:
            await asyncio.wait([writing])
            writing.exception()
            await asyncio.to_thread(path.unlink, missing_ok=True)
        finally:
            self._snapshots.release()

    def _write_snapshot(self, path: Path) -> SnapshotGift:
        position = self._follower.engine.database.snapshot_to(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
        return SnapshotGift(path, position, digest.hexdigest(), path.stat().st_size)


def file_beside(follower: Follower, kind: str) -> Path:
    """Name a file of this node's own, beside its database."""
    return folder_of(follower) / f".{kind}-{follower.node_id}-{uuid.uuid4().hex}"


def folder_of(follower: Follower) -> Path:
    """Where the database lies; the system's folder for one in memory."""
    path = str(follower.engine.database.path)
    return Path(gettempdir()) if path == ":memory:" else Path(path).parent


def prepare(follower: Follower, secret: PeerSecret) -> None:
    """Read the peers' secret and delete what a killed process left half written; blocks.

    Raises:
        ConfigError: The secret cannot be used.
    """
    secret.load()
    follower.duties.orphans_count = follower.engine.database.orphan_count()
    for kind in ("give", "install"):
        for path in folder_of(follower).glob(f"*.{kind}-{follower.node_id}-*"):
            path.unlink(missing_ok=True)


class PeerSecret:
    """The secret by which nodes know each other: from a file, else from the cluster itself."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._given = b""

    def load(self) -> None:
        """Read the file, where one is named; blocks.

        Raises:
            ConfigError: It cannot be read, or holds less than ``SECRET_BYTES_MIN``.
        """
        path = self._follower.config.peer_secret_file
        if path is None:
            return
        try:
            self._given = path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"the peers' secret cannot be read: {error}") from error
        if len(self._given) < SECRET_BYTES_MIN:
            raise ConfigError(f"the peers' secret needs {SECRET_BYTES_MIN} bytes or more: {path}")

    def __call__(self) -> bytes:
        """Give the secret.

        Raises:
            NotReady: It follows from the cluster's identity, which is not known yet.
        """
        if self._given:
            return self._given
        head = self._follower.head
        stored = self._follower.engine.database.meta_get(CLUSTER_ID_KEY)
        lineage = head.cluster_id if head else stored
        if not lineage:
            raise NotReady("the cluster's identity is not known yet")
        return hashlib.sha256(b"synaptoroute peer|" + lineage.encode()).digest()


def membership_of(follower: Follower, secret: PeerSecret) -> Membership:
    """Make the proofs by which this node and its peers know each other."""
    return Membership(secret, lambda: follower.pulse.now_ms())
