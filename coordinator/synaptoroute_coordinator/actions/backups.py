"""Backups: whole snapshots of the route set in a folder, each with its manifest.

A snapshot is taken from a node as another node would take it, so it is of one exact
position; it is kept only if it arrived unaltered and if the log confirms that its
history is the cluster's.  ``synaptoroute restore`` verifies it row by row.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from synaptoroute.cluster.peers import Membership, PeerClient
from synaptoroute.cluster.redis_log import RedisLog
from synaptoroute.cluster.scripts import Head, NoLog
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ConfigError

SUFFIX: Final = ".sqlite"
MANIFEST_SUFFIX: Final = ".json"
MANIFEST_BYTES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup; the fields are those of its manifest.

    Attributes:
        name: File name without suffix.
        at_ms: Wall clock, milliseconds since 1970.
        node: Whose snapshot it is.
        version: ``epoch.seq`` of its position.
        chain: Hash chain there.
        sha256: SHA-256 of the file.
        size_bytes: Its size.
        encoder: Fingerprint of the encoder of its vectors.
        dim: Their dimension.
        lineage: Identity of the cluster.
    """

    name: str
    at_ms: int
    node: str
    version: str
    chain: str
    sha256: str
    size_bytes: int
    encoder: str
    dim: int
    lineage: str


class Backups:
    """Backups in one folder.

    Args:
        folder: Where they are kept; None keeps none.
        log: The cluster's log.
        membership: Proof that nodes accept.
        kept: How many are kept.
    """

    def __init__(
        self, folder: Path | None, log: RedisLog, membership: Membership, kept: int
    ) -> None:
        self.folder = folder
        self._log = log
        self._peers = PeerClient(membership)
        self._kept = kept
        self._taking = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._peers.close()

    async def take(self, node: str, url: str) -> Backup:
        """Keep a snapshot of a node.

        Raises:
            ConfigError: There is no folder for backups.
            ClusterError: No snapshot arrived, or the log does not confirm it.
            ProtocolError: It does not match what was announced.
            OSError: It could not be kept.
        """
        if self.folder is None:
            raise ConfigError("no folder for backups is set (backup_folder)")
        async with self._taking:
            folder = self.folder
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            part = f".part-{os.getpid()}"
            file = await self._peers.fetch_snapshot(url, folder, part)
            try:
                head = await self._confirm(file.position)
                backup = await asyncio.to_thread(
                    self._keep, folder, file.path, file.position, head, node
                )
            finally:
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
            await asyncio.to_thread(self._prune)
            return backup

    async def _confirm(self, position: Position) -> Head:
        """Make sure that the log has this position in its history."""
        head = await self._log.head()
        if isinstance(head, NoLog) or position.seq > head.seq:
            raise ClusterError(f"the log does not reach {position.revision}")
        if position.seq == head.seq:
            known: str | None = head.chain
        elif position.seq == head.floor - 1:
            known = head.floor_chain
        else:
            before = Position(position.epoch, position.seq - 1)
            found = await self._log.read(before, entries_max=1)
            known = found.entries[0].chain if found.entries else None
        if known != position.chain:
            raise ClusterError(f"the log does not confirm a snapshot at {position.revision}")
        return head

    @staticmethod
    def _keep(folder: Path, part: Path, position: Position, head: Head, node: str) -> Backup:
        """Give the snapshot its name; the manifest last, so that half a backup is none."""
        at_ms = int(time.time() * 1_000)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_ms / 1_000))
        name = f"synaptoroute-{stamp}-{position.epoch}.{position.seq}"
        with part.open("rb") as file:
            sha256 = _sha256_of(file.read)
            os.fsync(file.fileno())
        backup = Backup(
            name,
            at_ms,
            node,
            str(position.revision),
            position.chain,
            sha256,
            part.stat().st_size,
            head.fingerprint,
            head.dim,
            head.lineage,
        )
        part.replace(folder / (name + SUFFIX))
        draft = folder / f".{name}{MANIFEST_SUFFIX}"
        draft.write_text(json.dumps(asdict(backup), indent=2) + "\n", encoding="utf-8")
        draft.replace(folder / (name + MANIFEST_SUFFIX))
        return backup

    def list_backups(self) -> list[Backup]:
        """List the backups, newest first; blocks."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.glob(f"synaptoroute-*{MANIFEST_SUFFIX}"):
            try:
                if path.stat().st_size <= MANIFEST_BYTES_MAX:
                    found.append(Backup(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):
                continue
        return sorted(found, key=lambda backup: backup.at_ms, reverse=True)

    def _prune(self) -> None:
        """Delete the oldest backups beyond the limit."""
        assert self.folder is not None
        for backup in self.list_backups()[self._kept :]:
            (self.folder / (backup.name + MANIFEST_SUFFIX)).unlink(missing_ok=True)
            (self.folder / (backup.name + SUFFIX)).unlink(missing_ok=True)


def _sha256_of(read: Callable[[int], bytes]) -> str:
    import hashlib

    digest = hashlib.sha256()
    while part := read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
