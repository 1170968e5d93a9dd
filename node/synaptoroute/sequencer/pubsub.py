"""The bus: the fast path of the log, over Redis Pub/Sub; and its keepalives.

Pub/Sub delivers at most once, and a dead connection is silent.  So some node publishes a
keepalive every second, and silence means that the connection is broken.  Each (re)subscription
is an event, because the log has to be read for the messages that were missed; so is each loss
because the consumer was slow.  Every message is verified.  The loop raises nothing and never
blocks the socket on its consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

import redis.exceptions

from synaptoroute.errors import ClusterError, ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.client import IO_ERRORS, Connector, Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.scripts import NoLog, Script, Scripts
from synaptoroute.sequencer.wire import Message, SigningKeys, keepalive_record, parse_message
from synaptoroute.threads import end_task

SILENCE_SECONDS_MAX: Final = 3.0
RECONNECT_MIN_SECONDS: Final = 0.2
RECONNECT_MAX_SECONDS: Final = 5.0
QUEUE_EVENTS_MAX: Final = 4_096
RETURN_SECONDS: Final = 30.0
QUEUE_BYTES_MAX: Final = 16_777_216
_CLOSE_SECONDS_MAX: Final = 1.0


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Messages arrive from now on.  Read the log for everything before."""

    is_replica: bool = False  # Whether they come from a replica


@dataclass(frozen=True, slots=True)
class Missed:
    """Events were dropped because the consumer was slow: read the log."""

    count: int


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The connection is lost, and a new one will be tried."""

    reason: str
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class MessageReceived:
    message: Message


BusEvent: TypeAlias = Subscribed | Missed | Reconnecting | MessageReceived


@dataclass(slots=True)
class BusCounts:
    messages: int = 0
    malformed: int = 0
    forged: int = 0  # Messages without a valid signature
    subscriptions: int = 0
    dropped: int = 0  # Events dropped because the consumer was slow


@dataclass
class Bus:
    """One subscription of one namespace.  Used on one event loop, by one consumer.

    With replicas it subscribes at the first that works, and at the primary only while none
    does.
    """

    connector: Connector
    keys: Keys
    signing_keys: SigningKeys
    replicas: Sequence[Connector] = ()  # In the order in which they are tried
    # Silence after which the connection is replaced
    silence_seconds_max: float = SILENCE_SECONDS_MAX
    queue_events_max: int = QUEUE_EVENTS_MAX  # Most events that wait for the consumer
    queue_bytes_max: int = QUEUE_BYTES_MAX
    # Time at the primary after which the first replica is tried again
    return_seconds: float = RETURN_SECONDS
    counts: BusCounts = field(default_factory=BusCounts)
    _events: deque[tuple[BusEvent, int]] = field(default_factory=deque, init=False)
    _waiting_bytes: int = field(default=0, init=False)
    _missed: int = field(default=0, init=False)
    _ready: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _is_closed: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start to listen; runs until ``close``."""
        if self._task is None and not self._is_closed:
            self._task = asyncio.create_task(self._run(), name="bus")

    async def close(self) -> None:
        self._is_closed = True
        task, self._task = self._task, None
        if task is not None:
            await end_task(task)
        self._ready.set()

    async def events(self) -> AsyncIterator[BusEvent]:
        """Yield events in order; ends when the bus is closed."""
        while True:
            while self._missed or self._events:
                if self._missed:
                    count, self._missed = self._missed, 0
                    yield Missed(count)
                    continue
                event, size_bytes = self._events.popleft()
                self._waiting_bytes -= size_bytes
                yield event
            if self._is_closed:
                return
            self._ready.clear()
            await self._ready.wait()

    async def _run(self) -> None:
        failures, place = 0, 0
        connectors = [*self.replicas, self.connector]
        while True:
            is_replica = place < len(self.replicas)
            next_place = (place + 1) % len(connectors)
            before = self.counts.subscriptions
            try:
                if is_replica or not self.replicas:
                    reason = await self._listen(connectors[place], is_replica=is_replica)
                else:
                    reason, next_place = await self._listen_until_replica_works()
            except ClusterError as error:
                reason = error.message
            except Exception as error:  # a bug must not end the bus of this node for good
                reason = f"{type(error).__name__}: {error}"
            place = next_place
            # A subscription that worked resets the backoff.
            failures = 1 if self.counts.subscriptions > before else failures + 1
            longest = min(RECONNECT_MIN_SECONDS * 2 ** min(failures, 8), RECONNECT_MAX_SECONDS)
            # Jitter: after an outage all nodes reconnect at once.
            pause_seconds = random.uniform(RECONNECT_MIN_SECONDS, longest)
            self._put(Reconnecting(reason, pause_seconds), 0)
            await asyncio.sleep(pause_seconds)

    async def _listen_until_replica_works(self) -> tuple[str, int]:
        """Listen at the primary until it fails, or until a replica delivers messages again.

        Returns:
            Why it ended, and the number of the replica to listen at.
        """
        listening = asyncio.create_task(self._listen(self.connector, is_replica=False))
        looking = asyncio.create_task(self._find_replica())
        try:
            await asyncio.wait({listening, looking}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                return await listening, 0
            return "a replica works again", await looking
        finally:
            await end_task(looking)
            await end_task(listening)

    async def _find_replica(self) -> int:
        """Return the number of the first replica that delivers a message again."""
        while True:
            # Jitter: the nodes of a replica that returns do not all move at once.
            await asyncio.sleep(random.uniform(0.5, 1.0) * self.return_seconds)
            for number, replica in enumerate(self.replicas):
                with contextlib.suppress(ClusterError, *IO_ERRORS, TimeoutError):
                    async with asyncio.timeout(2 * self.silence_seconds_max):
                        if await self._delivers(replica):
                            return number

    async def _delivers(self, connector: Connector) -> bool:
        link = connector.link(timeout_seconds=self.silence_seconds_max)
        try:
            connection = await link.connect()
            try:
                await connection.send_command("SUBSCRIBE", self.keys.bus)
                while True:
                    reply = await connection.read_response(timeout=self.silence_seconds_max)
                    if isinstance(reply, list) and reply[0] == b"message":
                        return True
            finally:
                await link.release(connection)
        except redis.exceptions.RedisError:
            return False
        finally:
            await link.close()

    async def _listen(self, connector: Connector, *, is_replica: bool) -> str:
        link = connector.link(timeout_seconds=self.silence_seconds_max)
        try:
            return await self._listen_on(link, is_replica=is_replica)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                    await link.close()

    async def _listen_on(self, link: Link, *, is_replica: bool) -> str:
        connection = await link.connect()
        try:
            await connection.send_command("SUBSCRIBE", self.keys.bus)
            while True:
                async with asyncio.timeout(self.silence_seconds_max):
                    reply = await connection.read_response(timeout=self.silence_seconds_max)
                self._take(reply, is_replica=is_replica)
        except (redis.exceptions.TimeoutError, TimeoutError):
            return f"nothing was received for {self.silence_seconds_max:g} s"
        except redis.exceptions.ResponseError as error:
            return f"Redis refused the subscription: {error}"
        except IO_ERRORS as error:
            return str(error) or type(error).__name__
        finally:
            await link.release(connection)

    def _take(self, reply: Any, *, is_replica: bool) -> None:
        kind = reply[0] if isinstance(reply, list) and len(reply) == 3 else None
        if kind == b"subscribe":
            self.counts.subscriptions += 1
            self._put(Subscribed(is_replica), 0)
        elif kind == b"message" and isinstance(reply[2], bytes):
            self._take_message(reply[2])
        else:
            self.counts.malformed += 1

    def _take_message(self, data: bytes) -> None:
        try:
            messages = parse_message(data, self.signing_keys)
        except ProtocolError as error:
            self.counts.malformed += 1
            self.counts.forged += bool(error.fields.get("forged"))
            return
        self.counts.messages += 1
        size_bytes = len(data) // len(messages)
        for message in messages:
            self._put(MessageReceived(message), size_bytes)

    def _put(self, event: BusEvent, size_bytes: int) -> None:
        """Queue an event; if too many wait, drop all of them and report ``Missed``."""
        if (
            len(self._events) >= self.queue_events_max
            or self._waiting_bytes + size_bytes > self.queue_bytes_max
        ):
            self._missed += len(self._events) + 1
            self.counts.dropped += len(self._events) + 1
            self._events.clear()
            self._waiting_bytes = 0
        else:
            self._events.append((event, size_bytes))
            self._waiting_bytes += size_bytes
        self._ready.set()


# --- keepalives ---------------------------------------------------------------------------

KEEPALIVE_SECONDS: Final = 1.0
TAKEOVER_MIN_SECONDS: Final = 1.6
TAKEOVER_MAX_SECONDS: Final = 2.6
LEASE_MS: Final = 3_000
LEASE_NAME: Final = "beat"
SILENT_MS: Final = int(TAKEOVER_MIN_SECONDS * 1_000)  # Then the holder of the lease is silent


class KeepaliveResult(Enum):
    OWN = "own"  # Sent as the holder of the lease
    FOREIGN = "foreign"  # Sent in place of a holder that is silent
    HELD = "held"  # Not sent: another node holds the lease
    LOST = "lost"  # Not sent: there is no log


_RESULTS: Final = {
    b"BEAT": KeepaliveResult.OWN,
    b"FOREIGN": KeepaliveResult.FOREIGN,
    b"HELD": KeepaliveResult.HELD,
    b"LOST": KeepaliveResult.LOST,
}


@dataclass
class BusKeepalive:
    """Sends keepalives on the bus, so that silence means a broken connection.

    One node holds the lease and sends every second.  If nothing was received for one interval
    and a random delay, any node that reaches Redis sends in its place, and its message silences
    the others.  This happens before the bus reaches its own deadline, so the end of one node
    makes no other node reconnect.  Used on one event loop.
    """

    scripts: Scripts
    link: Link  # For a server that refuses to run writing scripts
    source: str  # The sender; unique to the process
    sent: int = 0
    # Whether this node listens at a replica, whose silence says nothing about the holder
    is_at_replica: bool = False
    _received: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def note_received(self) -> None:
        self._received.set()

    async def run(self) -> None:
        """Send when it is this node's turn, until cancelled; raises nothing."""
        is_holder, is_takeover = False, False
        wait_seconds = random.uniform(0.0, KEEPALIVE_SECONDS)
        while True:
            self._received.clear()
            if is_holder:
                await asyncio.sleep(wait_seconds)
            elif await self._was_received(wait_seconds):
                wait_seconds = random.uniform(TAKEOVER_MIN_SECONDS, TAKEOVER_MAX_SECONDS)
                # After a wait of that length the holder is silent: the lease need not end first.
                is_takeover = True
                continue
            try:
                result = await self.send(is_takeover=is_takeover)
                is_holder = result is KeepaliveResult.OWN
            except (ClusterError, ProtocolError):
                is_holder = False
            is_takeover = not is_holder
            # The random delay spreads the nodes: the first one to send silences the others.
            wait_seconds = (
                KEEPALIVE_SECONDS
                if is_holder
                else random.uniform(TAKEOVER_MIN_SECONDS, TAKEOVER_MAX_SECONDS)
            )

    async def _was_received(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._received.wait()
        except TimeoutError:
            return False
        return True

    async def send(self, *, is_takeover: bool = False) -> KeepaliveResult:
        keys = self.scripts.keys
        names = [keys.meta, keys.lease(LEASE_NAME), keys.fence]
        mode = 2 if is_takeover and self.is_at_replica else int(is_takeover)
        args = [keys.bus, self.source, LEASE_MS, mode, SILENT_MS]
        try:
            answer = await self.scripts.run(Script.KEEPALIVE, names, args)
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED or not is_takeover:
                raise
            return await self._send_without_lease(error)
        result = _RESULTS.get(answer)
        if result is None:
            raise ProtocolError(f"an unknown outcome {answer!r}")
        self.sent += result in (KeepaliveResult.OWN, KeepaliveResult.FOREIGN)
        return result

    async def _send_without_lease(self, refused: SequencerUnavailable) -> KeepaliveResult:
        """Send on a master that refuses writes, because its replicas or its disk are away."""
        head = await self.scripts.head()
        if isinstance(head, NoLog):
            return KeepaliveResult.LOST
        # A demoted master must not send, or its subscribers would stay connected to it.
        if head.role == "slave":
            raise refused
        record = keepalive_record(
            head.epoch, head.seq, head.chain, head.time_us, head.state, self.source
        )
        await self.link.call("PUBLISH", self.scripts.keys.bus, record)
        self.sent += 1
        return KeepaliveResult.FOREIGN
