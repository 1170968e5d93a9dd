"""``RedisLog``, the log of a cluster: appends, reads, and the parts that a follower uses.

It opens no connection until it is used.  Writes, catch-up and the bus have connections of their
own, so that a large read delays no write and a slow bus no heartbeat.

With replicas, the bus and the reads of a node that catches up use them; everything else uses
the primary, the server that orders writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.levels import BASE_LEVEL
from synaptoroute.core.mutation import Finalize, Position, Proposal, VoterAdd, VoterRemove
from synaptoroute.core.replica import SEALED_LEVEL
from synaptoroute.forks import guard
from synaptoroute.log import Appended
from synaptoroute.sequencer.append_errors import NotPlaced
from synaptoroute.sequencer.appender import AppendCounts, Appender, WriteLimits
from synaptoroute.sequencer.certificates import ContentBoard
from synaptoroute.sequencer.client import NO_SENTINEL_ACCESS, Connector, Link, SentinelAccess, Tls
from synaptoroute.sequencer.epochs import Epochs
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Lease
from synaptoroute.sequencer.log_reads import READ_BYTES_MAX, READ_ENTRIES_MAX, Reader, ReadResult
from synaptoroute.sequencer.node_rows import CLOCK_SKEW_SECONDS, STRICT_LEVEL, NodeRows
from synaptoroute.sequencer.presence import Audits, NodeCommands, Presence
from synaptoroute.sequencer.pubsub import Bus, BusKeepalive
from synaptoroute.sequencer.replica_reads import ReplicaReads
from synaptoroute.sequencer.retention import Retention, RetentionLimits
from synaptoroute.sequencer.saved_state import SavedState
from synaptoroute.sequencer.scripts import Encoders, Head, NoLog, Scripts
from synaptoroute.sequencer.server_checks import ServerFacts, check_server
from synaptoroute.sequencer.votes import Ballots, VoterPositions
from synaptoroute.sequencer.wire import SigningKeys
from synaptoroute.trust.documents import DocumentReader
from synaptoroute.trust.statements import Verifier

TRUST_MODES: Final = ("trusting-redis", "authenticated", "pinned")


_READ_TIMEOUT_SECONDS = 5.0
REPLICA_SECONDS_MAX: Final = 2.0  # Then the primary is read


class RedisLog:
    """The log of one namespace on one Redis or Valkey.  Used on one event loop.

    Args:
        url: See ``client``.
        namespace: Clusters that share a server have different ones.
        password_file: File with the password, read again for every connection.
        tls: Certificates for ``rediss://``.
        signing_keys_file: Keys of the signatures, see ``wire``; reading it blocks.
        allow_unsigned: Accept entries without a signature, while keys are introduced.
        clock_skew_seconds_max: Most that the time in a signed row may differ from Redis' clock.
        limits: Limits of appending; the retention decides how large the log may be.
        retention: How much of the log is kept.
        socket_timeout_seconds: Longest wait for a connection or an answer.
        replica_urls: Replicas that this node subscribes at and reads from, see ``replica_reads``;
            a Sentinel URL stands for the replicas of its service.
        sentinel: How the Sentinels of Sentinel URLs are reached.

    Raises:
        ConfigError: A URL, the namespace or the key file is malformed.
    """

    is_local = False

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        password_file: Path | None = None,
        tls: Tls | None = None,
        signing_keys_file: Path | None = None,
        allow_unsigned: bool = False,
        clock_skew_seconds_max: float = CLOCK_SKEW_SECONDS,
        limits: WriteLimits | None = None,
        retention: RetentionLimits | None = None,
        socket_timeout_seconds: float = 1.0,
        replica_urls: Sequence[str] = (),
        sentinel: SentinelAccess = NO_SENTINEL_ACCESS,
    ) -> None:
        self.connector = Connector(
            url, password_file, tls or Tls(), socket_timeout_seconds, sentinel=sentinel
        )
        # Nodes begin with different ones.
        shuffled = random.sample(replica_urls, len(replica_urls))
        self._replicas = [replace(self.connector, url=u, is_replica=True) for u in shuffled]
        self.keys = Keys(namespace)
        limits = limits or WriteLimits()
        self.entry_bytes_max = limits.entry_bytes_max
        self.signing_keys = SigningKeys.load(
            namespace, signing_keys_file, allow_unsigned=allow_unsigned
        )
        self.verifier = Verifier(self.signing_keys.secret)
        self.has_genesis = False  # Whether a genesis file pins the voters' keys
        self._level: Callable[[], int] = lambda: BASE_LEVEL
        self._commands = self.connector.link()
        read_seconds = max(_READ_TIMEOUT_SECONDS, socket_timeout_seconds)
        self._reads = self.connector.link(timeout_seconds=read_seconds)
        self.scripts = Scripts(self._commands, self.keys)
        rows = NodeRows(
            self.verifier,
            self.signing_keys.secret,
            is_strict=lambda: self.is_strict,
            clock_skew_seconds_max=clock_skew_seconds_max,
        )
        self.presence = Presence(self.scripts, self._commands, rows)
        self.voter_positions = VoterPositions(self._commands, self.keys, self.verifier)
        self.ballots = Ballots(self._commands, self.keys)
        self.content_board = ContentBoard(self._commands, self.keys)
        reader = DocumentReader(self.verifier, self.signing_keys.secret, lambda: self.is_strict)
        self.audits = Audits(self.scripts, self._commands, reader)
        self.node_commands = NodeCommands(self.scripts, self._commands, reader)
        self.saved_state = SavedState(self._reads, self.keys, self.signing_keys.secret)
        self.epochs = Epochs(self.scripts, self.signing_keys)
        self._reader = self._reader_at(self._reads)
        links = [each.link(timeout_seconds=REPLICA_SECONDS_MAX) for each in self._replicas]
        self._replica_links = links
        replicas = [self._reader_at(each) for each in links]
        self.replica_reads = ReplicaReads(replicas, self._reader, self.head)
        self._position: Callable[[], Position] = Position
        self._fingerprint: Callable[[], str] = str
        self._voters: Callable[[], tuple[str, ...]] = tuple
        self._epoch_id: Callable[[], str] = str
        retention = retention or RetentionLimits(log_bytes_max=limits.log_bytes_max)
        self.retention = self._new_retention(retention)
        self._appender = self._new_appender(replace(limits, log_bytes_max=retention.log_bytes_max))
        self._buses: list[Bus] = []
        guard(self)

    def _new_retention(self, limits: RetentionLimits) -> Retention:
        return Retention(
            self.epochs,
            self.presence,
            read_head=self.head,
            position=lambda: self._position(),
            limits=limits,
            voters=lambda: self._voters(),
        )

    def _reader_at(self, link: Link) -> Reader:
        return Reader(Scripts(link, self.keys), self.signing_keys)

    def _new_appender(self, limits: WriteLimits) -> Appender:
        return Appender(
            self.scripts,
            find=self._reader.find,
            seal=self.signing_keys.seal,
            position=lambda: self._position(),
            fingerprint=lambda: self._fingerprint(),
            epoch_id=lambda: self._epoch_id(),
            make_room=self.retention.make_room,
            limits=limits,
            level=lambda: self._level(),
        )

    def attach(
        self,
        *,
        position: Callable[[], Position],
        fingerprint: Callable[[], str],
        voters: Callable[[], tuple[str, ...]] = tuple,
        epoch_id: Callable[[], str] = str,
        level: Callable[[], int] = lambda: BASE_LEVEL,
    ) -> None:
        """Register the node that writes and reads.

        Args:
            position: Returns its position; to write, its epoch must be the log's.
            fingerprint: Returns the fingerprint of its encoder.
            voters: Returns the voters at its position.
            epoch_id: Returns the ballot that opened its epoch; empty to write to any.
            level: Returns the level of the log at its position.
        """
        self._level = level
        self._voters = voters
        self._epoch_id = epoch_id
        self._position = position
        self._fingerprint = fingerprint

    def is_full(self, kept_bytes: int) -> bool:
        """Whether the log has no room for writes, or had none for the last one of this node."""
        needed = self._appender.refused_bytes
        limits = self.retention.limits
        return limits.is_full(kept_bytes) or bool(
            needed and kept_bytes + needed > limits.log_bytes_max
        )

    @property
    def is_strict(self) -> bool:
        """Whether what is not signed is refused: with a secret, once the level is in force."""
        return bool(self.signing_keys.secret) and self._level() >= STRICT_LEVEL

    @property
    def trust_mode(self) -> str:
        """``trusting-redis``, ``authenticated``, or ``pinned`` where voters' keys are pinned."""
        if not self.signing_keys.secret:
            return "trusting-redis"
        return "pinned" if self.has_genesis else "authenticated"

    @property
    def append_counts(self) -> AppendCounts:
        """Totals of the appender."""
        return self._appender.counts

    async def append(
        self,
        proposals: Sequence[Proposal],
        fingerprint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Appended:
        """Append proposals at consecutive places; return the last place.

        Concurrent calls share one round trip.  Raises the errors of ``Appender.append``.
        """
        if len(proposals) == 1 and isinstance(proposals[0].mutation, VoterAdd | VoterRemove):
            return await self._appender.change_voters(proposals[0], self._voters(), timeout_seconds)
        if len(proposals) == 1 and isinstance(proposals[0].mutation, Finalize):
            return await self._appender.raise_level(proposals[0], timeout_seconds)
        return await self._appender.append(proposals, fingerprint, timeout_seconds)

    async def switch(self, at: Position, proposal: Proposal, encoders: Encoders) -> int | NotPlaced:
        """Append the entry that changes the encoder directly after ``at``; see ``switch.lua``.

        Returns:
            Its place, or why it has none: ``Reason.MOVED`` if another write came first.

        Raises:
            SequencerUnavailable: No answer; it may have happened.
        """
        frame = encode_proposal(proposal)
        level, body = self._sealed_at(at, frame)
        return await self.scripts.switch(at, frame, body, encoders, level=level)

    async def append_unless_named(
        self, at: Position, proposal: Proposal, name: str, fingerprint: str, dim: int
    ) -> int | NotPlaced:
        """Append a proposal if no entry after ``at`` contains a name.

        Args:
            at: Position at which the proposal was decided.
            proposal: A mutation without vectors.
            name: Text in the frames of the entries that would contradict the decision.
            fingerprint: Encoder of the log, with its dimension ``dim``.

        Returns:
            Its place, or why it has none: ``Reason.MOVED`` if such an entry came first, or
            too many others.

        Raises:
            SequencerUnavailable: No answer; it may have happened.
        """
        frame = encode_proposal(proposal)
        encoders = Encoders(fingerprint, fingerprint, dim)
        level, body = self._sealed_at(at, frame)
        return await self.scripts.switch(at, frame, body, encoders, name, level)

    def _sealed_at(self, at: Position, frame: bytes) -> tuple[int, bytes]:
        level = self._level()
        return level, self.signing_keys.seal(frame, at if level >= SEALED_LEVEL else None)

    async def read(
        self,
        after: Position,
        *,
        entries_max: int = READ_ENTRIES_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> ReadResult:
        """Read the entries after a position; see ``Reader.read``."""
        return await self._reader.read(after, entries_max=entries_max, bytes_max=bytes_max)

    async def head(self) -> Head | NoLog:
        """Read the head of the log.

        Raises:
            SequencerUnavailable: No answer.
        """
        return await self.scripts.head()

    async def check(self) -> ServerFacts:
        return await check_server(self._commands, (await self.scripts.head()).role)

    def bus(self) -> Bus:
        """Create a subscription; its consumer starts it, and it is closed with the log."""
        bus = Bus(self.connector, self.keys, self.signing_keys, self._replicas)
        self._buses.append(bus)
        return bus

    def keepalive(self, source: str) -> BusKeepalive:
        """Create this node's sender of keepalives."""
        return BusKeepalive(self.scripts, self._commands, source)

    def lease(self, name: str, owner: str, *, lease_ms: int = 5_000) -> Lease:
        return Lease(self.scripts, name, owner, lease_ms=lease_ms)

    async def reload_keys(self) -> None:
        """Read the key file again; the former keys stay if it is malformed.

        Raises:
            ConfigError: It is malformed.
        """
        await asyncio.to_thread(self.signing_keys.reload)

    async def close(self) -> None:
        """Fail the waiting writes and close every connection."""
        await self._appender.close()
        await asyncio.gather(*(bus.close() for bus in self._buses))
        links = (self._commands, self._reads, *self._replica_links)
        await asyncio.gather(*(link.close() for link in links))
