"""Writes: from a checked request to the outcome of its own log entry.

The author of a write encodes its utterances once; from then on vectors travel.  A write
sends its proposal to the log and then waits, like every other node, until it reads the
entry back.  Its answer is the outcome decided at the entry's place in the order.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.author import AUTHOR, NOTE
from synaptoroute.core.change import Outcome
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.imports import StagedKind
from synaptoroute.core.levels import BASE_LEVEL, SETS_LEVEL, is_at_level, level_of, said_at
from synaptoroute.core.mutation import (
    KEEP,
    OP_ID_BYTES,
    AddUtterances,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    RemoveUtterances,
    Revision,
)
from synaptoroute.core.replica import State
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import (
    ClusterError,
    DeadlineExceeded,
    EncoderMismatch,
    InvalidRoute,
    NotFinalized,
    PreconditionFailed,
    RouteError,
    SequencerUnavailable,
)
from synaptoroute.log import Appended, Log
from synaptoroute.models import (
    Route,
    WriteResult,
)
from synaptoroute.ports import EnginePort
from synaptoroute.router.chunks import pieces_of
from synaptoroute.router.large_writes import (
    LargeWrites,
    is_too_large,
    new_run_id,
    patched_route,
    staged_form,
    too_large,
)
from synaptoroute.router.op_ids import scoped_op_id
from synaptoroute.router.route_checks import (
    checked_name,
    checked_route,
    distinct_utterances,
    put_mutation,
    texts_of,
)
from synaptoroute.router.set_rates import SetRates
from synaptoroute.router.text_warnings import warnings_now, warnings_of
from synaptoroute.router.vectors import checked_rows, row_bytes
from synaptoroute.router.write_results import outcome_of_failure, pending, result_of
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.tracing import SPAN

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

INLINE_TIMEOUT_SECONDS: Final = 60.0
JOIN_TRIES_MAX: Final = 3
JOIN_SECONDS: Final = 2.0
DROP_SECONDS: Final = 5.0
STAGED_LEVEL: Final = 2
"""Level of the log from which nodes commit a staged write as one write to its route."""
ACK_SECONDS_DEFAULT: Final = 5.0
ACK_SECONDS_BY_UTTERANCE: Final = 0.05
ACK_SECONDS_MAX: Final = 60.0

AUTHOR_LEVEL: Final = 2  # From this level of the log on, entries name their authors

Ack: TypeAlias = Literal["accepted", "applied", "quorum", "all"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Identity, preconditions and durability of one write.

    Attributes:
        op_id: 16 bytes that identify the write, so that it can be repeated; None lets
            the router choose them.
        request_hash: 16 bytes over the client's request; empty if unknown.
        if_match: The route must have this revision.
        if_none_match: The route must not exist.
        note: What the history says about the change; at most 512 bytes of UTF-8.
        ack: Level of durability to wait for.
        ack_timeout_seconds: Longest time for the whole write: encoding, the log, and ``ack``.
            None for 5 seconds, and 50 ms more for each utterance, at most 60 seconds, from the
            time at which the utterances are encoded.
    """

    op_id: bytes | None = None
    request_hash: bytes = b""
    if_match: Revision | None = None
    if_none_match: bool = False
    ack: Ack = "applied"
    ack_timeout_seconds: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.op_id is not None and len(self.op_id) != OP_ID_BYTES:
            raise ValueError(f"an op_id has {OP_ID_BYTES} bytes, got {len(self.op_id)}")
        if len(self.request_hash) not in (0, OP_ID_BYTES):
            raise ValueError(f"a request_hash has {OP_ID_BYTES} bytes or none")

    def propose(
        self, mutation: Mutation, author: str = "", route_set: str = "", note: str = ""
    ) -> Proposal:
        """Make the proposal of a mutation with these options."""
        return Proposal(
            op_id=self.op_id or os.urandom(OP_ID_BYTES),
            mutation=mutation,
            request_hash=self.request_hash,
            if_match=self.if_match,
            if_none_match=self.if_none_match,
            author=author,
            route_set=route_set,
            note=note,
        )


class Writer:
    """Encodes, proposes and waits for outcomes.

    Args:
        route_set: The set that it writes to; empty for ``default``.
        rates: How fast each set was written to at this node.
    """

    def __init__(
        self,
        engine: EnginePort,
        log: Log,
        follower: Follower | None = None,
        large: LargeWrites | None = None,
        route_set: str = "",
        rates: SetRates | None = None,
    ) -> None:
        self.route_set = route_set
        self._rates = rates or SetRates()
        self._engine = engine
        self._log = log
        self._follower = follower
        self._large = large or LargeWrites(set())

    @property
    def is_alone(self) -> bool:
        """Whether no other node writes to the same log."""
        return self._log.is_local

    def _author_of(self, mutation: Mutation) -> str:
        """The author of a write in the present context; empty if the log cannot name it yet."""
        author = AUTHOR.get()
        # The chunks of an import have the author of its first and last entry.
        if not author or isinstance(mutation, ImportChunk):
            return ""
        return author if self.level >= AUTHOR_LEVEL else ""

    def _proposal(self, mutation: Mutation, options: WriteOptions) -> Proposal:
        """Make the proposal of a write.

        Raises:
            NotFinalized: The log has not reached the level of the write.
        """
        mutation = self._checked(mutation)
        note = "" if isinstance(mutation, ImportChunk) else options.note or NOTE.get()
        if self.route_set or note:
            self.require_level(SETS_LEVEL)
        author = self._author_of(mutation) if AUTHOR.get() else ""
        name = self.route_set
        proposal = options.propose(mutation, author, name, note)
        if name:
            proposal = replace(proposal, op_id=scoped_op_id(proposal.op_id, name))
        return proposal

    @property
    def level(self) -> int:
        """Level of the log that the next write meets."""
        status = self._engine.replica_status
        # The first write founds a log of its own at the newest level.
        return LEVEL if not status.epochs and self._log.is_local else status.level

    def _checked(self, mutation: Mutation) -> Mutation:
        """Say a write as the log can hold it; refuse one that earlier releases would stop at.

        Raises:
            NotFinalized: The log has not reached the level of the write.
        """
        if is_at_level(mutation, BASE_LEVEL) or is_at_level(mutation, level := self.level):
            return mutation
        mutation = said_at(level, mutation)
        if not is_at_level(mutation, level):
            self.require_level(level_of(mutation))
        return mutation

    def require_level(self, needed: int) -> None:
        """Refuse a request for which the log has not reached a level.

        Raises:
            NotFinalized: It has not.
        """
        level = self.level
        if level < needed:
            raise NotFinalized(
                f"this write needs level {needed} of the log, which is at level"
                f" {level}: run `synaptoroute cluster finalize --apply` once every node and"
                " every voter is of this release",
                level=level,
            )

    def put(self, route: Route, options: WriteOptions, is_checked: bool) -> Awaitable[WriteResult]:
        route = route if is_checked else checked_route(route)
        make = partial(put_mutation, route)
        texts = texts_of(route)
        return self._write_rows(route.name, texts, route.vectors, make, options, route.utterances)

    def add(
        self,
        name: str,
        utterances: Sequence[str],
        vectors: Sequence[Sequence[float]] | None,
        options: WriteOptions,
    ) -> Awaitable[WriteResult]:
        name = checked_name(name)
        texts, given = distinct_utterances(utterances, vectors)
        make = partial(AddUtterances, name, tuple(texts))
        return self._write_rows(name, texts, given, make, options)

    async def patch(self, patch: PatchRoute, options: WriteOptions) -> WriteResult:
        """Change a route's fields; a description and negatives are encoded here."""
        described = isinstance(patch.description, str)
        negatives = () if patch.negatives is KEEP else patch.negatives
        texts = [*([patch.description] if isinstance(patch.description, str) else []), *negatives]
        if not texts:
            return await self.write(patch, options)

        def make(vectors: tuple[bytes, ...]) -> PatchRoute:
            return replace(
                patch,
                description_vector=vectors[0] if described else b"",
                negative_vectors=vectors[described:],
            )

        return await self._write_rows(None, texts, None, make, options)

    async def revise(
        self,
        texts: Sequence[str],
        make: Callable[[tuple[bytes, ...]], Mutation],
        options: WriteOptions,
    ) -> WriteResult:
        """Write a mutation that carries the vectors of texts; there may be none.

        Args:
            make: Makes the mutation of the vectors, one a text.
        """
        if not texts:
            return await self.write(make(()), options)
        return await self._write_rows(None, texts, None, make, options)

    async def _write_rows(
        self,
        name: str | None,  # None if several routes are written
        texts: Sequence[str],
        given: Sequence[Sequence[float]] | None,
        make: Callable[[tuple[bytes, ...]], Mutation],
        options: WriteOptions,
        utterances: Sequence[str] | None = None,  # Those among the texts; None for all
    ) -> WriteResult:
        """Encode and write; retry once if the cluster switched its encoder meanwhile."""
        if self.route_set:
            options = self._own(options)
        deadline = deadline_of(options, len(texts))
        if options.op_id is not None and (known := await self._repeated(options, deadline)):
            return known
        if (span := SPAN.get()) is not None:
            span.mark("validate")
        encoder = self._engine.encoder
        # A client that names no timeout waits for the encoding however long it takes.
        is_bounded = options.ack_timeout_seconds is not None
        rows = await self.encode(texts, given, encoder, deadline if is_bounded else None)
        deadline = deadline if is_bounded else deadline_of(options, len(texts))
        if span is not None:
            span.mark("encode", **{"synaptoroute.texts": len(texts)})
        mutation = make(row_bytes(rows))
        warnings = (
            []
            if name is None
            else await warnings_of(
                self._engine, name, texts if utterances is None else utterances, encoder
            )
        )
        try:
            result = await self._send(mutation, options, encoder.fingerprint, deadline)
            return result.model_copy(update={"warnings": warnings}) if warnings else result
        except EncoderMismatch as error:
            # Given vectors are of the old encoder; only texts can be encoded again.
            if given is not None or error.fields.get("outcome") == "unknown":
                raise
            if not await self._has_another(encoder.fingerprint, deadline):
                raise
        encoder = self._engine.encoder
        rows = await self.encode(texts, None, encoder, deadline)
        mutation = make(row_bytes(rows))
        return await self._send(mutation, options, encoder.fingerprint, deadline)

    async def _has_another(self, fingerprint: str, deadline: float) -> bool:
        """Whether this node has another encoder once it has reached the head of the log."""
        await self._follow(deadline)
        return self._engine.encoder.fingerprint != fingerprint

    async def _follow(self, deadline: float) -> None:
        """Follow the log to its head, if that is possible in time."""
        if self._follower is not None:
            # The caller raises the error that made it wait instead.
            with suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._follower.barriers.wait_head(JOIN_SECONDS)

    async def write(
        self, mutation: Mutation, options: WriteOptions, fingerprint: str | None = None
    ) -> WriteResult:
        """Append a mutation to the log and wait for its outcome.

        Args:
            fingerprint: Encoder of its vectors; None for a mutation without vectors.

        Raises:
            RouteError: It was rejected at its place.
            ClusterError: The log did not take it, or it is not known whether it did: the
                field ``outcome`` is ``not_taken`` or ``unknown``.
        """
        if self.route_set:
            options = self._own(options)
        removed = len(mutation.utterances) if isinstance(mutation, RemoveUtterances) else 0
        deadline = deadline_of(options, removed)
        if options.op_id is not None and (known := await self._repeated(options, deadline)):
            return known
        return await self._send(mutation, options, fingerprint, deadline)

    async def repeated(self, options: WriteOptions) -> WriteResult | None:
        """Answer a write with an identity that this node has applied already; else None.

        For callers that read the state before they write: what they read may be gone because
        the write was applied.
        """
        if options.op_id is None:
            return None
        return await self._repeated(self._own(options), deadline_of(options))

    def _own(self, options: WriteOptions) -> WriteOptions:
        """The options of a write in this set."""
        if options.op_id is None:
            return options
        return replace(options, op_id=scoped_op_id(options.op_id, self.route_set))

    async def _repeated(self, options: WriteOptions, deadline: float) -> WriteResult | None:
        """Answer a write that this node has applied already; None if it has not."""
        # Also while Redis is away: a client that was told ``unknown`` gets its answer here.
        assert options.op_id is not None, "only a write with an identity can be repeated"
        if self._engine.replica_status.state is State.DIVERGED:
            return None  # what was applied here is not part of the log
        found = self._engine.look_up(options.op_id, options.request_hash)
        outcome = await asyncio.wrap_future(found)
        if outcome is None:
            return None
        return await self._answer(outcome, options.op_id, options, deadline)

    async def _send(
        self, mutation: Mutation, options: WriteOptions, fingerprint: str | None, deadline: float
    ) -> WriteResult:
        proposal = self._proposal(mutation, options)
        record = self._engine.set_record(self.route_set)
        if record is not None and (
            record.limits.writes_per_second_max or record.limits.write_bytes_per_second_max
        ):
            self._rates.take(proposal, record)
        if not is_too_large(proposal, self._log.entry_bytes_max):
            return await self._send_entry(proposal, options, fingerprint, deadline)
        if isinstance(mutation, PatchRoute) and self._has_staged_writes:
            return await self._send_patch(proposal, mutation, options, fingerprint, deadline)
        return await self._send_large(proposal, options, fingerprint, deadline)

    async def _send_patch(
        self,
        proposal: Proposal,
        patch: PatchRoute,
        options: WriteOptions,
        fingerprint: str | None,
        deadline: float,
    ) -> WriteResult:
        """Put the whole route as the patch makes it, on the condition that it has not changed."""
        tries = 1 if options.if_match or options.op_id else JOIN_TRIES_MAX
        while True:
            read = partial(patched_route, patch=patch, fingerprint=fingerprint)
            put, revision = await asyncio.wrap_future(self._engine.read(read))
            whole = replace(proposal, mutation=put, if_match=options.if_match or revision)
            try:
                return await self._send_large(whole, options, fingerprint, deadline)
            except PreconditionFailed:
                tries -= 1
                if tries == 0:
                    raise
            # Somebody else changed the route meanwhile.  That decision keeps its identity.
            op_id = scoped_op_id(os.urandom(OP_ID_BYTES), self.route_set)
            proposal = replace(proposal, op_id=op_id)
            await self._follow(deadline)

    async def _send_large(
        self, proposal: Proposal, options: WriteOptions, fingerprint: str | None, deadline: float
    ) -> WriteResult:
        """Stage a write that is larger than an entry, and commit it; see ``large_writes``."""
        encoder = self._engine.encoder
        fingerprint = fingerprint or encoder.fingerprint
        kind, part = self._staged_form(proposal)
        is_plain = not self._has_staged_writes
        run_id = new_run_id(kind, is_plain=is_plain)
        options = replace(options, op_id=proposal.op_id)

        async def stage(mutation: Mutation) -> WriteResult:
            is_drop = isinstance(mutation, ImportAbort)
            until = time.monotonic() + DROP_SECONDS if is_drop else deadline
            staging = WriteOptions()
            sent = self._proposal(mutation, staging)
            result = await self._send_entry(sent, staging, fingerprint, until)
            if result.status == "pending":
                raise DeadlineExceeded("the write was not staged in time")
            return result

        async def commit(mutation: Mutation) -> WriteResult:
            sent = replace(proposal, mutation=mutation)
            return await self._send_entry(sent, options, fingerprint, deadline)

        try:
            return await self._large.run(
                self._engine, run_id, part, stage=stage, commit=commit, deadline=deadline
            )
        except (ClusterError, EncoderMismatch) as error:
            error.fields["op_id"] = proposal.op_id.hex()
            raise

    @property
    def _has_staged_writes(self) -> bool:
        """Whether every node that reads the log can commit a staged write."""
        return self._log.is_local or self._engine.replica_status.level >= STAGED_LEVEL

    def _staged_form(self, proposal: Proposal) -> tuple[StagedKind, PutRoute]:
        found = staged_form(proposal.mutation, self._engine.encoder.dim)
        is_conditional = proposal.if_match is not None or proposal.if_none_match
        limit = self._log.entry_bytes_max
        if found is None:
            raise too_large(proposal, limit, "")
        if not self._has_staged_writes and (is_conditional or found[0] is not StagedKind.PUT):
            raise too_large(proposal, limit, "until the cluster is finalized; put the whole route")
        return found

    async def _send_entry(
        self, proposal: Proposal, options: WriteOptions, fingerprint: str | None, deadline: float
    ) -> WriteResult:
        if (span := SPAN.get()) is not None:
            span.mark("validate")
        # Registered before the append: the entry may be applied before append() returns.
        future = self._engine.expect_outcome(proposal.op_id, proposal.request_hash)
        lost = "not_taken"  # what is known of the write if the next step fails
        at: Revision | None = None
        try:
            if self._follower is not None:
                self._follower.check_may_write()
            at = (await self._append(proposal, fingerprint, deadline)).at
            if span is not None:
                version = f"{at.epoch}.{at.seq}" if at is not None else ""
                span.mark("append", **{"synaptoroute.version": version})
            # Of a write with a key only its outcome tells the version: an earlier entry may
            # have decided it.
            if options.ack == "accepted" and at is not None and options.op_id is None:
                return pending(proposal.op_id, at)
            lost = "unknown"
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                outcome = await asyncio.wrap_future(future)
            if span is not None:
                span.mark("apply")
        except TimeoutError:
            # Not an error: the entry is in the log, or on its way, and may be applied later.
            return pending(proposal.op_id, None if options.op_id else at)
        except (ClusterError, EncoderMismatch) as error:
            # An equal write on another node may have decided it meanwhile.
            if not future.done() or future.exception() is not None:
                error.fields.setdefault("outcome", outcome_of_failure(error, lost))
                error.fields.setdefault("op_id", proposal.op_id.hex())
                raise
            outcome = future.result()
        finally:
            self._engine.forget_outcome(proposal.op_id, future)
        return await self._answer(outcome, proposal.op_id, options, deadline)

    async def _answer(
        self, outcome: Outcome, op_id: bytes, options: WriteOptions, deadline: float
    ) -> WriteResult:
        result = result_of(outcome, op_id)
        if options.ack == "accepted":
            return pending(op_id, outcome.at)
        if options.ack == "applied":
            return result
        held = await self._await_ack(result, outcome, options.ack, deadline)
        if (span := SPAN.get()) is not None:
            span.mark("await_acks", **{"synaptoroute.ack": options.ack})
        return held

    async def _append(
        self, proposal: Proposal, fingerprint: str | None, deadline: float
    ) -> Appended:
        """Append a proposal; if the log has a later epoch or encoder, follow it there first."""
        tries_left, outcome = JOIN_TRIES_MAX, "not_taken"
        while True:
            tries_left -= 1
            left_seconds = max(0.0, deadline - time.monotonic())
            try:
                return await self._log.append([proposal], fingerprint, left_seconds)
            except (SequencerUnavailable, EncoderMismatch) as error:
                # If the answer of one call was lost, a later refusal does not undo it.
                if outcome == "not_taken":
                    outcome = str(error.fields.get("outcome", outcome))
                error.fields["outcome"] = outcome
                is_stale = error.fields.get("reason") == Reason.STALE
                is_other = isinstance(error, EncoderMismatch) and fingerprint is None
                if self._follower is None or not tries_left or not (is_stale or is_other):
                    raise
                await self._follow(deadline)
                if time.monotonic() >= deadline:
                    raise

    async def _await_ack(
        self, result: WriteResult, outcome: Outcome, ack: Ack, deadline: float
    ) -> WriteResult:
        """Wait until a quorum or all nodes have applied the write."""
        held_by = "1/1"  # a standalone node is its only voter
        if self._follower is not None:
            held = await self._follower.barriers.wait_acked(
                outcome.at,
                is_all=ack == "all",
                timeout_seconds=max(0.0, deadline - time.monotonic()),
            )
            if held is None:
                return result.model_copy(update={"status": "pending", "ack": "applied"})
            held_by = f"{held[0]}/{held[1]}"
        return result.model_copy(update={"ack": ack, "held_by": held_by})

    async def encode(
        self,
        texts: Sequence[str],
        given: Sequence[Sequence[float]] | None,
        encoder: TextEncoder | None = None,
        deadline: float | None = None,
    ) -> NDArray[np.float32]:
        """Check given vectors, or encode the texts behind the queries.

        Args:
            given: The vectors of the first of them, if the client sent some.
            encoder: The encoder; None takes the one that serves now.
            deadline: When to give up, by the monotonic clock.

        Returns:
            float32[n, dim].

        Raises:
            DeadlineExceeded: They are not encoded in time.
        """
        if given is not None:
            if len(given) > len(texts):
                raise InvalidRoute(f"{len(given)} vectors for {len(texts)} utterances")
            rows = checked_rows(given, (encoder or self._engine.encoder).dim)
            if len(given) == len(texts):
                return rows
            rest = await self.encode(texts[len(given) :], None, encoder, deadline)
            return np.concatenate([rows, rest])
        futures = self._engine.encode_utterances(texts, encoder)
        parts: list[NDArray[np.float32]] = []
        left_seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left_seconds):
                for future in futures:
                    parts.append(await asyncio.wrap_future(future))  # noqa: PERF401
            return np.concatenate(parts)
        except TimeoutError:
            raise DeadlineExceeded(
                "the utterances were not encoded in time", outcome="not_taken"
            ) from None
        finally:
            # After an error, or if the caller has gone, the rest must not be encoded.
            for future in futures:
                future.cancel()

    # --- the same on the caller's thread, without an event loop ------------------------

    def put_now(self, route: Route, options: WriteOptions) -> WriteResult:
        """Create or replace a route and wait on this thread."""
        route, encoder = checked_route(route), self._engine.encoder
        texts = texts_of(route)
        if route.vectors is not None:
            rows = checked_rows(route.vectors, encoder.dim)
            if rest := texts[len(rows) :]:
                rows = np.concatenate([rows, encoder.encode_utterances(rest)])
        else:
            rows = encoder.encode_utterances(texts)
        mutation = put_mutation(route, row_bytes(rows))
        return self._warned_now(mutation, options)

    def add_now(self, name: str, utterances: Sequence[str], options: WriteOptions) -> WriteResult:
        """Add utterances and wait on this thread."""
        name = checked_name(name)
        texts, _ = distinct_utterances(utterances, None)
        rows = self._engine.encoder.encode_utterances(texts)
        return self._warned_now(AddUtterances(name, tuple(texts), row_bytes(rows)), options)

    def _warned_now(self, mutation: PutRoute | AddUtterances, options: WriteOptions) -> WriteResult:
        texts = mutation.utterances
        found = warnings_now(self._engine, mutation.name, texts, self._engine.encoder)
        return self.write_now(mutation, options).model_copy(update={"warnings": found})

    def write_now(self, mutation: Mutation, options: WriteOptions) -> WriteResult:
        """Propose to the engine and wait on this thread; only without a shared log."""
        proposal = self._proposal(mutation, self._own(options))
        record = self._engine.set_record(self.route_set)
        if record is not None and (
            record.limits.writes_per_second_max or record.limits.write_bytes_per_second_max
        ):
            self._rates.take(proposal, record)
        if not is_too_large(proposal, self._log.entry_bytes_max):
            return self._propose_now(proposal)
        kind, part = self._staged_form(proposal)
        run_id = new_run_id(kind, is_plain=False)
        chunks = pieces_of([part])
        staging = WriteOptions()
        self._propose_now(self._proposal(ImportBegin(run_id), staging))
        try:
            for number, piece in enumerate(chunks):
                chunk = ImportChunk(run_id, number, tuple(piece))
                self._propose_now(self._proposal(chunk, staging))
            commit = ImportCommit(run_id, len(chunks))
            return self._propose_now(replace(proposal, mutation=commit))
        except RouteError:
            self._propose_now(self._proposal(ImportAbort(run_id), staging))
            raise

    def _propose_now(self, proposal: Proposal) -> WriteResult:
        future = self._engine.expect_outcome(proposal.op_id, proposal.request_hash)
        try:
            self._engine.propose([proposal])
            outcome = future.result(INLINE_TIMEOUT_SECONDS)
        except FutureTimeoutError:
            return pending(proposal.op_id, None)
        finally:
            self._engine.forget_outcome(proposal.op_id, future)
        return result_of(outcome, proposal.op_id)


def deadline_of(options: WriteOptions, utterance_count: int = 0) -> float:
    """Compute when a write that begins now gives up, by the monotonic clock."""
    seconds = options.ack_timeout_seconds
    if seconds is None:
        more_seconds = ACK_SECONDS_BY_UTTERANCE * utterance_count
        seconds = min(ACK_SECONDS_MAX, ACK_SECONDS_DEFAULT + more_seconds)
    return time.monotonic() + seconds
