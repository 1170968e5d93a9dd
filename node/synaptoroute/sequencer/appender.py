"""The appender: many concurrent writes in one call, with at-least-once delivery.

While one call runs, arriving writes queue up, and the next call takes as many as fit: one round
trip and one burst of bus messages for all of them.  A call is atomic, so each caller's proposals
get consecutive places.

A lost answer says nothing about the write.  So the log is read from the writer's own position
and searched for the write's op_id.  Only if it is not there, the same frames are sent again.  If
the first call still arrives after that, its entries repeat op_ids, and every replica ignores
them: at-least-once delivery with idempotent entries.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.levels import BASE_LEVEL
from synaptoroute.core.mutation import (
    Finalize,
    Position,
    Proposal,
    Revision,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.replica import SEALED_LEVEL, plan_voters
from synaptoroute.errors import (
    Overloaded,
    ProtocolError,
    SequencerUnavailable,
    SynaptoRouteError,
    TooLarge,
)
from synaptoroute.log import Appended
from synaptoroute.sequencer.append_errors import Reason, error_of, unavailable
from synaptoroute.sequencer.client import command_attributes
from synaptoroute.sequencer.scripts import Placed, Script, Scripts
from synaptoroute.threads import end_task
from synaptoroute.tracing import SPAN, Span

_RETRY_MIN_SECONDS: Final = 0.05
_RETRY_MAX_SECONDS: Final = 0.5
_OVERLOAD_RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class WriteLimits:
    entry_bytes_max: int = 262_144
    call_entries_max: int = 128
    call_bytes_max: int = 1_048_576
    queue_entries_max: int = 8_192
    queue_bytes_max: int = 33_554_432
    log_bytes_max: int = 268_435_456  # Beyond that, writes are refused
    window_ms: float = 0.0  # How long a call waits for further writes, 0 to 2
    resolve_seconds: float = 3.0  # How long an unknown outcome is searched for
    room_seconds: float = 3.0  # How long a write waits for room in a full log


@dataclass(slots=True)
class _PendingAppend:
    """Proposals of one caller."""

    frames: list[bytes]
    op_ids: list[bytes]
    size_bytes: int
    fingerprint: str
    placed: asyncio.Future[Placed]
    is_sent: bool = False  # whether a call with these frames may have begun
    span: Span | None = None  # of the caller's request, if it is traced


@dataclass(slots=True)
class AppendCounts:
    calls: int = 0  # Calls of the script
    entries: int = 0
    unknown: int = 0  # Calls whose answer was lost
    found: int = 0  # Of those, how many had happened
    unannounced: int = 0  # Calls whose entries could not be published
    full: int = 0  # Calls that were refused because the log is full


@dataclass
class Appender:
    """Appends proposals to the log.  Used on one event loop."""

    scripts: Scripts
    # Looks for consecutive op_ids in the log after a position; returns the place of the first
    find: Callable[[Position, Sequence[bytes]], Awaitable[Position | None]]
    # Seals a frame at a position; at none while the log is at level 1
    seal: Callable[[bytes, Position | None], bytes]
    position: Callable[[], Position]  # Returns this node's position
    fingerprint: Callable[[], str]  # Returns the fingerprint of its encoder
    # Returns the ballot that opened this node's epoch; empty to write to any
    epoch_id: Callable[[], str] = str
    # Trims a full log; returns whether anything was dropped
    make_room: Callable[[], Awaitable[bool]] | None = None
    level: Callable[[], int] = lambda: BASE_LEVEL  # Level of the log at this node's position
    limits: WriteLimits = field(default_factory=WriteLimits)
    counts: AppendCounts = field(default_factory=AppendCounts)
    refused_bytes: int = 0  # Size of the last call if the log had no room for it, else 0
    _queue: deque[_PendingAppend] = field(default_factory=deque, init=False)
    _queue_entries: int = field(default=0, init=False)
    _queue_bytes: int = field(default=0, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _is_closed: bool = field(default=False, init=False)

    async def append(
        self,
        proposals: Sequence[Proposal],
        fingerprint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Appended:
        """Append proposals at consecutive places; return the last place.

        Args:
            proposals: What to write.
            fingerprint: Encoder of their vectors; None means this node's current one.
            timeout_seconds: Longest time to wait; what has not been sent by then is not sent.

        Raises:
            TooLarge: A frame, or all of them together, exceed a limit.
            Overloaded: Too many writes wait already.
            EncoderMismatch: The log carries vectors of another encoder.
            SequencerUnavailable: ``reason`` says why; ``outcome`` is ``unknown`` if the
                write may have happened: then the same op_id may be sent again.
        """
        if self._is_closed:
            raise unavailable(Reason.STOPPED, "this log is closed", outcome="not_taken")
        if not proposals:
            return Appended(at=None)
        waiting = self._enqueue(proposals, fingerprint or self.fingerprint())
        try:
            async with asyncio.timeout(timeout_seconds):
                placed = await waiting.placed
        except TimeoutError:
            # ``_take`` leaves out a write whose future is cancelled, so it is never sent later.
            raise _too_late(waiting.is_sent, waiting.op_ids[0]) from None
        return Appended(at=Revision(placed.epoch, placed.last_seq))

    async def change_voters(
        self,
        proposal: Proposal,
        before: tuple[str, ...],
        timeout_seconds: float | None = None,
    ) -> Appended:
        """Append a change of the voters, in a call of its own."""
        assert isinstance(proposal.mutation, VoterAdd | VoterRemove), "this is a bug"
        after = plan_voters(before, proposal.mutation, Revision(0, 0)).voters or before
        frame = encode_proposal(proposal)
        return await self._append_alone(
            frame,
            proposal.op_id,
            timeout_seconds,
            voters=(",".join(before), ",".join(after)),
        )

    async def raise_level(
        self, proposal: Proposal, timeout_seconds: float | None = None
    ) -> Appended:
        """Append the entry that raises the level of the log, in a call of its own."""
        assert isinstance(proposal.mutation, Finalize), "this is a bug"
        return await self._append_alone(
            encode_proposal(proposal),
            proposal.op_id,
            timeout_seconds,
            level_after=proposal.mutation.level,
        )

    async def _append_alone(
        self,
        frame: bytes,
        op_id: bytes,
        timeout_seconds: float | None,
        *,
        voters: tuple[str, str] = ("", ""),
        level_after: int = 0,
    ) -> Appended:
        position, level, sealed = self._seal_all([frame])
        try:
            async with asyncio.timeout(timeout_seconds):
                outcome = await self.scripts.append(
                    position,
                    self.fingerprint(),
                    sealed,
                    log_bytes_max=self.limits.log_bytes_max,
                    voters=voters,
                    epoch_id=self.epoch_id(),
                    level=level,
                    level_after=level_after,
                )
        except TimeoutError:
            raise _too_late(is_sent=True, op_id=op_id) from None
        except SequencerUnavailable as error:
            is_lost = error.fields.get("reason") is Reason.INTERRUPTED
            error.fields["outcome"] = "unknown" if is_lost else "not_taken"
            raise
        if isinstance(outcome, Placed):
            return Appended(at=Revision(outcome.epoch, outcome.last_seq))
        raise error_of(outcome, "not_taken")

    def _seal_all(self, frames: list[bytes]) -> tuple[Position, int, list[tuple[bytes, bytes]]]:
        """Seal frames where this node stands now."""
        # The level is read first: read after the position, it could be that of a later place,
        # and a seal of level 2 is valid at a place of level 1, but not the other way round.
        level, position = self.level(), self.position()
        stood = position if level >= SEALED_LEVEL else None
        return position, level, [(frame, self.seal(frame, stood)) for frame in frames]

    async def close(self) -> None:
        """Refuse waiting writes and cancel the running call."""
        self._is_closed = True
        task, self._task = self._task, None
        if task is not None:
            await end_task(task)
        while self._queue:
            self._fail(self._take_one(), Reason.STOPPED, "this log was closed")

    def _enqueue(self, proposals: Sequence[Proposal], fingerprint: str) -> _PendingAppend:
        frames = [encode_proposal(each) for each in proposals]
        limits = self.limits
        size_bytes = sum(map(len, frames))
        if max(map(len, frames)) > limits.entry_bytes_max:
            raise TooLarge(f"an entry has at most {limits.entry_bytes_max} bytes")
        if len(frames) > limits.call_entries_max or size_bytes > limits.call_bytes_max:
            raise TooLarge(
                f"one write has at most {limits.call_entries_max} entries "
                f"and {limits.call_bytes_max} bytes"
            )
        if (
            self._queue_entries + len(frames) > limits.queue_entries_max
            or self._queue_bytes + size_bytes > limits.queue_bytes_max
        ):
            raise Overloaded(
                "too many writes wait for the sequencer",
                retry_after_seconds=_OVERLOAD_RETRY_SECONDS,
            )
        waiting = _PendingAppend(
            frames,
            [each.op_id for each in proposals],
            size_bytes,
            fingerprint,
            asyncio.get_running_loop().create_future(),
            span=SPAN.get(),
        )
        self._queue.append(waiting)
        self._queue_entries += len(frames)
        self._queue_bytes += size_bytes
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="log-writer")
        return waiting

    async def _drain(self) -> None:
        """Send call by call until nothing waits."""
        # The task began in the context of one request, and serves all of them.
        SPAN.set(None)
        try:
            while self._queue:
                if self.limits.window_ms:
                    await asyncio.sleep(self.limits.window_ms / 1_000)
                batch = self._take()
                if batch:
                    await self._send(batch)
        finally:
            # ``close`` may have taken the task already, and a new one may run.
            if self._task is asyncio.current_task():
                self._task = None

    def _take_one(self) -> _PendingAppend:
        waiting = self._queue.popleft()
        self._queue_entries -= len(waiting.frames)
        self._queue_bytes -= waiting.size_bytes
        return waiting

    def _take(self) -> list[_PendingAppend]:
        batch: list[_PendingAppend] = []
        entries, size_bytes = 0, 0
        while self._queue:
            first = self._queue[0]
            entries += len(first.frames)
            size_bytes += first.size_bytes
            over = entries > self.limits.call_entries_max or size_bytes > self.limits.call_bytes_max
            is_other = bool(batch) and first.fingerprint != batch[0].fingerprint
            if batch and (over or is_other):
                break
            waiting = self._take_one()
            if not waiting.placed.done():
                waiting.is_sent = True
                batch.append(waiting)
        return batch

    async def _send(self, batch: list[_PendingAppend]) -> None:
        begun_ns = time.time_ns()
        try:
            placed = await self._place(batch)
        except asyncio.CancelledError:
            for waiting in batch:
                self._fail(waiting, Reason.STOPPED, "this log was closed", outcome="unknown")
            raise
        except SynaptoRouteError as error:
            for waiting in batch:
                _set_error(waiting, _copy_for(error, waiting))
            return
        except Exception as error:  # a bug: the callers get it, the appender goes on
            for waiting in batch:
                _set_error(waiting, error)
            return
        self.counts.entries += placed.last_seq - placed.first_seq + 1
        seq = placed.first_seq
        for waiting in batch:
            last_seq = seq + len(waiting.frames) - 1
            if waiting.span is not None:
                attributes = command_attributes("EVALSHA", Script.APPEND.value)
                attributes["db.operation.batch.size"] = len(batch)
                now_ns = time.time_ns()
                waiting.span.record("EVALSHA append", begun_ns, now_ns, attributes, "CLIENT")
            if not waiting.placed.done():
                waiting.placed.set_result(Placed(placed.epoch, seq, last_seq, placed.is_announced))
            seq = last_seq + 1

    async def _place(self, batch: list[_PendingAppend]) -> Placed:
        """Append a batch; if the answer is lost, search for it, and send it again if absent."""
        frames = [frame for waiting in batch for frame in waiting.frames]
        op_ids = [op_id for waiting in batch for op_id in waiting.op_ids]
        # Taken before the first call: the entries can only be behind this position.
        since = self.position()
        room = _Room(self.limits.room_seconds)
        give_up_at = 0.0
        behind_until = time.monotonic() + self.limits.resolve_seconds
        while True:
            try:
                self.counts.calls += 1
                position, level, sealed = self._seal_all(frames)
                outcome = await self.scripts.append(
                    position,
                    batch[0].fingerprint,
                    sealed,
                    log_bytes_max=self.limits.log_bytes_max,
                    epoch_id=self.epoch_id(),
                    level=level,
                )
            except SequencerUnavailable as error:
                reason = error.fields.get("reason")
                if _is_out_of_memory(error) and await self._wait_room(room):
                    continue
                # Once one answer was lost, even a later refusal leaves the outcome unknown.
                if reason is not Reason.INTERRUPTED and not give_up_at:
                    error.fields["outcome"] = "not_taken"
                    raise
                if not give_up_at:
                    give_up_at = time.monotonic() + self.limits.resolve_seconds
                if reason is Reason.INTERRUPTED:
                    self.counts.unknown += 1
                found = await self._find(since, op_ids, give_up_at, error)
                if found is not None:
                    self.counts.found += 1
                    return found
                continue
            if isinstance(outcome, Placed):
                self.counts.unannounced += not outcome.is_announced
                self.refused_bytes = 0
                return outcome
            if outcome.reason is Reason.BEHIND and time.monotonic() < behind_until:
                # The entries that this node lacks are on their way; it seals anew then.
                await asyncio.sleep(_RETRY_MIN_SECONDS)
                continue
            if outcome.reason is Reason.FULL:
                self.counts.full += 1
                if await self._wait_room(room):
                    continue
                self.refused_bytes = sum(len(body) for _, body in sealed)
            raise error_of(outcome, "unknown" if give_up_at else "not_taken")

    async def _wait_room(self, room: _Room) -> bool:
        """Trim the log, or wait for nodes to hold more of it; False once the time is over."""
        if self.make_room is None or not room.is_time_left:
            return False
        try:
            if await self.make_room():
                return True
        except (SequencerUnavailable, ProtocolError):
            pass  # the next call of the log says what is wrong
        await room.pause()
        return True

    async def _find(
        self,
        since: Position,
        op_ids: list[bytes],
        give_up_at: float,
        error: SequencerUnavailable,
    ) -> Placed | None:
        pause_seconds = _RETRY_MIN_SECONDS
        while time.monotonic() < give_up_at:
            try:
                async with asyncio.timeout(give_up_at - time.monotonic()):
                    return await self._search(since, op_ids)
            except TimeoutError:
                break
            except (SequencerUnavailable, ProtocolError) as failed:
                if failed.fields.get("is_final"):
                    break
                error = failed if isinstance(failed, SequencerUnavailable) else error
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))
            pause_seconds = min(2 * pause_seconds, _RETRY_MAX_SECONDS)
        error.fields["outcome"] = "unknown"
        raise error

    async def _search(self, since: Position, op_ids: list[bytes]) -> Placed | None:
        first = await self.find(since, op_ids)
        if first is None:
            return None
        return Placed(first.epoch, first.seq, first.seq + len(op_ids) - 1)

    def _fail(
        self, waiting: _PendingAppend, reason: Reason, message: str, outcome: str = "not_taken"
    ) -> None:
        _set_error(
            waiting, unavailable(reason, message, outcome=outcome, op_id=waiting.op_ids[0].hex())
        )


class _Room:
    """The time that one batch of writes waits for room in a full log."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._give_up_at: float | None = None
        self._pause_seconds = _RETRY_MIN_SECONDS

    @property
    def is_time_left(self) -> bool:
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + self._seconds
        return now < self._give_up_at

    async def pause(self) -> None:
        await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.0))
        self._pause_seconds = min(2 * self._pause_seconds, _RETRY_MAX_SECONDS)


def _is_out_of_memory(error: SequencerUnavailable) -> bool:
    """Whether the server has no memory left for a write; a trim is allowed nevertheless."""
    text = str(error.fields.get("redis_error", ""))
    return error.fields.get("reason") is Reason.REFUSED and "maxmemory" in text


def _too_late(is_sent: bool, op_id: bytes) -> SequencerUnavailable:
    return unavailable(
        Reason.INTERRUPTED if is_sent else Reason.UNREACHABLE,
        "Redis did not answer within the time of this write",
        outcome="unknown" if is_sent else "not_taken",
        op_id=op_id.hex(),
    )


def _set_error(waiting: _PendingAppend, error: Exception) -> None:
    if not waiting.placed.done():
        waiting.placed.set_exception(error)


def _copy_for(error: SynaptoRouteError, waiting: _PendingAppend) -> SynaptoRouteError:
    fields = error.fields | {"op_id": waiting.op_ids[0].hex()}
    copy = type(error)(error.message, retry_after_seconds=error.retry_after_seconds, **fields)
    copy.__cause__ = error
    return copy
