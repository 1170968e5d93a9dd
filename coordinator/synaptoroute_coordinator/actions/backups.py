"""Backups: snapshots of the whole route set in a backup store, each with its manifest.

A snapshot is fetched from a node as another node would fetch it, so it has one exact
position.  It is kept only if it arrived unaltered, if the log confirms that its history
is the cluster's, and, in a cluster with a secret, if a majority of the voters certifies the
content that was computed from the file here.  The manifest carries the certificate and is
authenticated with the secret, so ``synaptoroute restore`` can verify both without a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ConfigError
from synaptoroute.private_files import make_private_file, make_private_folder
from synaptoroute.sequencer.certificates import gather_certificate, learn_chain
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.peers import PeerClient, SnapshotFile
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.snapshot_file import FileContent, read_content
from synaptoroute.threads import end_task
from synaptoroute.trust.certificates import (
    CERTIFIED_LEVEL,
    Certificate,
    ContentCount,
    Electorate,
    manifest_mac,
)
from synaptoroute.trust.statements import Verifier
from synaptoroute_coordinator.actions.backup_store import BackupStore

SUFFIX: Final = ".sqlite"
MANIFEST_SUFFIX: Final = ".json"
MANIFEST_BYTES_MAX: Final = 65_536
NO_BACKUP_STORE: Final = "no place for backups is set (backup_folder, backup_bucket)"
_MANIFEST: Final = re.compile(r"synaptoroute-[0-9TZ]+-[0-9.]+\.json")


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup, with the fields of its manifest."""

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
    root: str = ""  # Content root of the file; empty in manifests of older releases
    certificate: dict[str, Any] | None = None  # See ``trust.certificates``
    mac: str = ""  # Over the other fields, with the cluster secret


class Backups:
    """The backups in one store.

    Args:
        store: The store; None if none is configured.
        log: The log of the cluster.
        peers: Sends requests to nodes.
        kept: Number of backups to keep.
        pinned: Public keys of the voters, from the genesis file; none without one.
    """

    def __init__(
        self,
        store: BackupStore | None,
        log: RedisLog,
        peers: PeerClient,
        kept: int,
        pinned: frozenset[str] = frozenset(),
    ) -> None:
        self._secret = log.signing_keys.secret
        self._pinned = pinned
        self._store = store
        self._log = log
        self._peers = peers
        self._kept = kept
        self._taking = asyncio.Lock()
        self._manifests: dict[str, Backup] = {}

    @property
    def is_on(self) -> bool:
        return self._store is not None

    async def close(self) -> None:
        await self._peers.close()
        if self._store is not None:
            await self._store.close()

    async def take(self, node: str, url: str) -> Backup:
        """Back up the snapshot of a node."""
        store = self._store
        if store is None:
            raise ConfigError(NO_BACKUP_STORE)
        # One backup at a time: two would share the part file.
        async with self._taking:
            folder = store.scratch
            await asyncio.to_thread(make_private_folder, folder)
            part = f".part-{os.getpid()}"
            file, certificate = await self._fetch(url, folder, part)
            draft = folder / f"{part}{MANIFEST_SUFFIX}"
            try:
                head = await self._confirm(file.position)
                content = await asyncio.to_thread(read_content, file.path)
                self._check(file.position, content, certificate, head)
                backup = await asyncio.to_thread(
                    _describe, file.path, file.position, head, node, content.root, certificate
                )
                backup = replace(backup, mac=manifest_mac(self._secret, asdict(backup)))
                await asyncio.to_thread(_write, backup, draft)
                # The manifest last: a backup that was cut off has none and is not listed.
                await store.put(backup.name + SUFFIX, file.path)
                await store.put(backup.name + MANIFEST_SUFFIX, draft)
            finally:
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
                await asyncio.to_thread(draft.unlink, missing_ok=True)
            await self._prune(store)
            return backup

    async def _fetch(
        self, url: str, folder: Path, name: str
    ) -> tuple[SnapshotFile, Certificate | None]:
        """Download a snapshot, and have its position certified meanwhile."""
        asked: list[asyncio.Task[Certificate | None]] = []

        def ask(position: Position) -> None:
            asked.append(asyncio.create_task(self._certify(position)))

        try:
            file = await self._peers.fetch_snapshot(url, folder, name, ask)
            try:
                return file, await asked[0]
            except BaseException:
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
                raise
        finally:
            await asyncio.gather(*map(end_task, asked))

    async def _certify(self, position: Position) -> Certificate | None:
        head = await self._log.head()
        if isinstance(head, NoLog) or not self._is_required(head):
            return None
        urls = [
            seen.report.url
            for seen in await self._log.presence.nodes()
            if seen.report.url and seen.report.node_id in head.voters
        ]
        verifier = Verifier(self._secret)
        electorate = Electorate.of_names(head.voters, {})
        if self._pinned:
            keys, _ = await learn_chain(self._peers, urls, verifier, self._pinned, head.cluster_id)
            electorate = Electorate(keys=keys)
        count = ContentCount(verifier, electorate, head.cluster_id, position)
        return await gather_certificate(self._peers, urls, position, count)

    def _is_required(self, head: Head) -> bool:
        return bool(self._pinned) or (bool(self._secret) and head.level >= CERTIFIED_LEVEL)

    def _check(
        self,
        announced: Position,
        content: FileContent,
        certificate: Certificate | None,
        head: Head,
    ) -> None:
        """Refuse a file that is not what was announced and certified."""
        if content.position != announced:
            raise ClusterError(f"a snapshot announced as {announced} holds {content.position}")
        if certificate is None:
            if self._is_required(head):
                raise ClusterError("a snapshot arrived before its certificate was asked for")
        elif content.root != certificate.root:
            raise ClusterError("the content of a snapshot is not what the voters certify")

    async def _confirm(self, position: Position) -> Head:
        """Check that the position is in the history of the log."""
        head = await self._log.head()
        if isinstance(head, NoLog) or position.seq > head.seq:
            raise ClusterError(f"the log does not reach {position.revision}")
        # The chain is known at the head and just before the floor; in between, the entry at
        # this position has it.
        if position.seq == head.seq:
            chain: str | None = head.chain
        elif position.seq == head.floor - 1:
            chain = head.floor_chain
        else:
            before = Position(position.epoch, position.seq - 1)
            found = await self._log.read(before, entries_max=1)
            chain = found.entries[0].chain if found.entries else None
        if chain != position.chain:
            raise ClusterError(f"the log does not confirm a snapshot at {position.revision}")
        return head

    async def list_backups(self) -> list[Backup]:
        """List the backups, newest first; unreadable manifests are skipped."""
        if self._store is None:
            return []
        names = [name for name in await self._store.names() if _MANIFEST.fullmatch(name)]
        known = {name: self._manifests[name] for name in names if name in self._manifests}
        for name in names:
            if name not in known:
                try:
                    known[name] = parse_manifest(await self._store.read(name, MANIFEST_BYTES_MAX))
                except (OSError, ClusterError):
                    continue
        self._manifests = known
        return sorted(known.values(), key=lambda backup: backup.at_ms, reverse=True)

    async def _prune(self, store: BackupStore) -> None:
        for backup in (await self.list_backups())[self._kept :]:
            # The manifest first: without it a half-deleted backup is not listed.
            await store.remove(backup.name + MANIFEST_SUFFIX)
            await store.remove(backup.name + SUFFIX)


def _describe(
    path: Path,
    position: Position,
    head: Head,
    node: str,
    root: str,
    certificate: Certificate | None,
) -> Backup:
    at_ms = int(time.time() * 1_000)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_ms / 1_000))
    return Backup(
        f"synaptoroute-{stamp}-{position.epoch}.{position.seq}",
        at_ms,
        node,
        str(position.revision),
        position.chain,
        _sha256_of(path),
        path.stat().st_size,
        head.fingerprint,
        head.dim,
        head.cluster_id,
        root,
        certificate.dump() if certificate else None,
    )


def _write(backup: Backup, draft: Path) -> None:
    make_private_file(draft)
    draft.write_text(json.dumps(asdict(backup), indent=2) + "\n", encoding="utf-8")


def parse_manifest(document: bytes) -> Backup:
    """Read a manifest; fields of a later release are ignored."""
    names = {each.name for each in fields(Backup)}
    try:
        parsed = json.loads(document)
        return Backup(**{name: value for name, value in parsed.items() if name in names})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ClusterError("a backup's manifest is malformed") from error


async def fetch_backup(store: BackupStore, name: str, folder: Path) -> Backup:
    """Download a backup, verified by the hash in its manifest, which is written last.

    Raises:
        ClusterError: It does not exist, or does not match its manifest.
        OSError: It could not be written.
    """
    manifest = await store.read(name + MANIFEST_SUFFIX, MANIFEST_BYTES_MAX)
    backup = parse_manifest(manifest)
    await asyncio.to_thread(make_private_folder, folder)
    draft = folder / f".{name}{SUFFIX}"
    try:
        await store.fetch(name + SUFFIX, draft)
        if await asyncio.to_thread(_sha256_of, draft) != backup.sha256:
            raise ClusterError(f"{name} does not match its manifest: it was altered")
        await asyncio.to_thread(draft.replace, folder / (name + SUFFIX))
    finally:
        await asyncio.to_thread(draft.unlink, missing_ok=True)
    await asyncio.to_thread(make_private_file, folder / (name + MANIFEST_SUFFIX))
    await asyncio.to_thread((folder / (name + MANIFEST_SUFFIX)).write_bytes, manifest)
    return backup


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
