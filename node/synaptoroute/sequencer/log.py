"""The log of a cluster: where a node's writes get their places, and where it reads.

This is the room's face.  It opens nothing until it is used, keeps writes, catch-up
and the bus on connections of their own, and gives the follower what it follows with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import Position, Proposal, VoterAdd, VoterRemove
from synaptoroute.log import Appended
from synaptoroute.sequencer.audits import Audits
from synaptoroute.sequencer.bus_keepalive import Beats
from synaptoroute.sequencer.checks import ServerFacts, check_server
from synaptoroute.sequencer.client import Connector, Tls
from synaptoroute.sequencer.epochs import Epochs
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Lease
from synaptoroute.sequencer.node_commands import Orders
from synaptoroute.sequencer.presence import Presence
from synaptoroute.sequencer.pubsub import Bus
from synaptoroute.sequencer.reader import (
    READ_BYTES_MAX,
    READ_ENTRIES_MAX,
    Reader,
    ReadResult,
)
from synaptoroute.sequencer.recovery import Recoveries
from synaptoroute.sequencer.scripts import Encoders, Head, NoLog, NotPlaced, Scripts
from synaptoroute.sequencer.signing import Keyring
from synaptoroute.sequencer.writer import WriteCounts, WriteLimits, Writer

_READ_TIMEOUT_SECONDS = 5.0


class RedisLog:
    """The log of one namespace on one Redis or Valkey.  Used on one event loop.

    Args:
        url: See ``connection``.
        namespace: Clusters that share a server have different ones.
        password_file: Password, read anew at every connection.
        tls: Certificates for ``rediss://``.
        signing_keys_file: Keys of the entries' signatures, see ``signing``; blocks.
        allow_unsigned: Accept entries without a signature, while keys are introduced.
        limits: Limits of writing.
        socket_timeout_seconds: Longest wait for a connection or an answer.

    Raises:
        ConfigError: The URL, the namespace or the key file is malformed.
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
        limits: WriteLimits | None = None,
        socket_timeout_seconds: float = 1.0,
    ) -> None:
        self.connector = Connector(url, password_file, tls or Tls(), socket_timeout_seconds)
        self.keys = Keys(namespace)
        self._keys_file = signing_keys_file
        self._allow_unsigned = allow_unsigned
        self.keyring = (
            Keyring.load(namespace, signing_keys_file, allow_unsigned=allow_unsigned)
            if signing_keys_file
            else Keyring(namespace)
        )
        self._commands = self.connector.link()
        self._reads = self.connector.link(
            timeout_seconds=max(_READ_TIMEOUT_SECONDS, socket_timeout_seconds)
        )
        self.scripts = Scripts(self._commands, self.keys)
        self.presence = Presence(self.scripts, self._commands)
        self.audits = Audits(self.scripts, self._commands)
        self.orders = Orders(self.scripts, self._commands)
        self.epochs = Epochs(self.scripts, self.keyring)
        self.recoveries = Recoveries(self.scripts, self.keyring)
        self._reader = Reader(Scripts(self._reads, self.keys), self.keyring)
        self._position: Callable[[], Position] = Position
        self._fingerprint: Callable[[], str] = str
        self._voters: Callable[[], tuple[str, ...]] = tuple
        self._epoch_id: Callable[[], str] = str
        self._writer = Writer(
            self.scripts,
            self._reader,
            position=lambda: self._position(),
            fingerprint=lambda: self._fingerprint(),
            epoch_id=lambda: self._epoch_id(),
            limits=limits or WriteLimits(),
        )
        self._buses: list[Bus] = []

    def attach(
        self,
        *,
        position: Callable[[], Position],
        fingerprint: Callable[[], str],
        voters: Callable[[], tuple[str, ...]] = tuple,
        epoch_id: Callable[[], str] = str,
    ) -> None:
        """Connect the node that writes.

        Args:
            position: What it has applied now; its epoch must be the log's to write.
            fingerprint: Its encoder now.
            voters: Who votes, as far as it has applied the log.
            epoch_id: Ballot that opened the epoch it is in; empty to write to any.
        """
        self._voters = voters
        self._epoch_id = epoch_id
        self._position = position
        self._fingerprint = fingerprint

    @property
    def write_counts(self) -> WriteCounts:
        """What the writer did so far."""
        return self._writer.counts

    async def append(
        self, proposals: Sequence[Proposal], fingerprint: str | None = None
    ) -> Appended:
        """Give the proposals consecutive places; return that of the last one.

        Calls that come at the same time share one round trip.  Raises as
        ``Writer.append`` does.
        """
        if len(proposals) == 1 and isinstance(proposals[0].mutation, VoterAdd | VoterRemove):
            return await self._writer.change_voters(proposals[0], self._voters())
        return await self._writer.append(proposals, fingerprint)

    async def switch(self, at: Position, proposal: Proposal, encoders: Encoders) -> int | NotPlaced:
        """Place the entry that changes the encoder, right behind ``at``; see ``switch.lua``.

        Returns:
            Its place, or why it has none: ``Reason.MOVED`` where somebody wrote since.

        Raises:
            SequencerUnavailable: No answer; it may have happened.
        """
        frame = encode_proposal(proposal)
        return await self.scripts.switch(at, frame, self.keyring.seal(frame), encoders)

    async def read(
        self,
        after: Position,
        *,
        entries_max: int = READ_ENTRIES_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> ReadResult:
        """Read what follows a position, as ``Reader.read`` does."""
        return await self._reader.read(after, entries_max=entries_max, bytes_max=bytes_max)

    async def head(self) -> Head | NoLog:
        """Read the head of the log.

        Raises:
            SequencerUnavailable: No answer.
        """
        return await self.scripts.head()

    async def check(self) -> ServerFacts:
        """Look at the server and its settings."""
        return await check_server(self._commands, self.scripts)

    def bus(self) -> Bus:
        """Make a subscription; it is started by its consumer and closed with the log."""
        bus = Bus(self.connector, self.keys, self.keyring)
        self._buses.append(bus)
        return bus

    def beats(self, source: str) -> Beats:
        """Make this node's part in the beating."""
        return Beats(self.scripts, self._commands, source)

    def lease(self, name: str, owner: str, *, lease_ms: int = 5_000) -> Lease:
        """Make a lease for an owner that is unique to this process."""
        return Lease(self.scripts, name, owner, lease_ms=lease_ms)

    async def reload_keys(self) -> None:
        """Read the key file again; the keys that were valid stay so if it is malformed.

        Raises:
            ConfigError: It is malformed.
        """
        if self._keys_file is None:
            return
        keyring = await asyncio.to_thread(
            Keyring.load,
            self.keys.namespace,
            self._keys_file,
            allow_unsigned=self._allow_unsigned,
        )
        self.keyring = keyring
        self._reader.keyring = keyring
        self.epochs.keyring = keyring
        self.recoveries.keyring = keyring
        for bus in self._buses:
            bus.keyring = keyring

    async def close(self) -> None:
        """End the writes that wait and close every connection."""
        await self._writer.close()
        await asyncio.gather(*(bus.close() for bus in self._buses))
        await asyncio.gather(self._commands.close(), self._reads.close())
