"""Serves a node's op log and snapshots to its peers; and the peers' secret.

Serving delays neither queries nor the applier: the op log is read, and the snapshot is
written, on connections of their own, and only a few peers are served at a time.
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
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.core.replica import State
from synaptoroute.errors import ConfigError, NotReady, Overloaded, RouteError
from synaptoroute.ports import EnginePort
from synaptoroute.replication.session import CLUSTER_ID_KEY, Session
from synaptoroute.sequencer.peers import LOG_BYTES_MAX, dump_entry
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.statements import Verifier

SNAPSHOTS_AT_ONCE_MAX: Final = 2
LOGS_AT_ONCE_MAX: Final = 4
LOG_ENTRIES_MAX: Final = 4_096
SECRET_BYTES_MIN: Final = 16
PART_BYTES: Final = 1 << 20
_SERVING: Final = frozenset({State.LIVE, State.CATCHING_UP, State.SYNCING})


@dataclass(frozen=True, slots=True)
class SnapshotDownload:
    """A snapshot file that is ready to be sent."""

    path: Path  # deleted after the download
    position: Position
    sha256: str
    size_bytes: int


class SnapshotServer:
    """Serves op log and snapshots of this node to its peers.  Runs on the event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._engine = session.engine
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE_MAX)
        self._logs = asyncio.Semaphore(LOGS_AT_ONCE_MAX)
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def position(self) -> Position:
        return self._session.position

    def _check_may_serve(self) -> None:
        state = self._engine.replica_status.state
        if state not in _SERVING:
            raise NotReady(f"a replica that is {state.value} serves no peers")

    async def read_log(self, after: Position) -> bytes:
        """Return the entries after a position; nothing if the op log does not reach it."""
        self._check_may_serve()
        if self._logs.locked():
            raise Overloaded("enough peers are being served", retry_after_seconds=1.0)
        async with self._logs:
            return await asyncio.to_thread(self._read_log, after)

    def _read_log(self, after: Position) -> bytes:
        rows = list(
            self._engine.database.read_log(
                max(0, after.seq - 1), entries_max=LOG_ENTRIES_MAX, bytes_max=LOG_BYTES_MAX
            )
        )
        if rows and rows[0].seq == after.seq:
            if rows[0].chain != after.chain:
                raise RouteError(f"{after.revision} is not of this node's history")
            rows = rows[1:]
        if rows and (rows[0].seq != after.seq + 1 or rows[0].prev_chain != after.chain):
            return b""
        return b"".join(
            dump_entry(r.epoch, r.seq, r.prev_chain, r.chain, r.time_us, r.seal + r.frame)
            for r in rows
        )

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SnapshotDownload]:
        """Write a snapshot for one download; it is deleted afterwards."""
        self._check_may_serve()
        if self._snapshots.locked():
            raise Overloaded("enough peers are being served", retry_after_seconds=2.0)
        await self._snapshots.acquire()
        path = temporary_file(self._engine, "give")
        writing = asyncio.ensure_future(asyncio.to_thread(self._write_snapshot, path))
        try:
            yield await asyncio.shield(writing)
        finally:
            # In a task of its own and shielded: the peer may hang up while the snapshot is being
            # written, and a thread cannot be stopped.  Its file is deleted when it is complete,
            # and only then is the place free again.
            ending = asyncio.create_task(self._end(writing, path), name="snapshot-end")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)

    async def _end(self, writing: asyncio.Future[SnapshotDownload], path: Path) -> None:
        try:
            await asyncio.wait([writing])
            writing.exception()  # retrieved, so that asyncio does not log it
            await asyncio.to_thread(path.unlink, missing_ok=True)
        finally:
            self._snapshots.release()

    def _write_snapshot(self, path: Path) -> SnapshotDownload:
        position = self._engine.database.snapshot_to(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
        return SnapshotDownload(path, position, digest.hexdigest(), path.stat().st_size)


# --- files beside the database --------------------------------------------------------------


def temporary_file(engine: EnginePort, kind: str) -> Path:
    """Name a file of this node, in the folder of its database."""
    return _folder(engine) / f".{kind}-{engine.node_id}-{uuid.uuid4().hex}"


def delete_leftovers(engine: EnginePort) -> None:
    """Delete files that a killed process left incomplete; blocks."""
    for kind in ("give", "install"):
        for path in _folder(engine).glob(f"*.{kind}-{engine.node_id}-*"):
            path.unlink(missing_ok=True)


def _folder(engine: EnginePort) -> Path:
    path = str(engine.database.path)
    return Path(gettempdir()) if path == ":memory:" else Path(path).parent


# --- the peers' secret ----------------------------------------------------------------------


class PeerSecret:
    """The secret by which nodes know each other: from a file, else derived from the cluster."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._secret = b""

    def load(self) -> None:
        """Read the file, if one is configured; blocks."""
        path = self._session.config.peer_secret_file
        if path is None:
            return
        try:
            self._secret = path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"the peers' secret cannot be read: {error}") from error
        if len(self._secret) < SECRET_BYTES_MIN:
            raise ConfigError(f"the peers' secret needs {SECRET_BYTES_MIN} bytes or more: {path}")

    @property
    def ring(self) -> ClusterSecret:
        """The secret that admits senders of requests: the cluster secret, else this one."""
        secret = self._session.log.signing_keys.secret
        return secret or ClusterSecret(secret.namespace, {"peer": self()})

    @property
    def verifier(self) -> Verifier:
        """Verifies senders of requests."""
        log = self._session.log
        return log.verifier if log.signing_keys.secret else Verifier(self.ring)

    def __call__(self) -> bytes:
        if self._secret:
            return self._secret
        head = self._session.head
        stored = self._session.engine.database.meta_get(CLUSTER_ID_KEY)
        cluster_id = head.cluster_id if head else stored
        if not cluster_id:
            raise NotReady("the cluster's identity is not known yet")
        return hashlib.sha256(b"synaptoroute peer|" + cluster_id.encode()).digest()
