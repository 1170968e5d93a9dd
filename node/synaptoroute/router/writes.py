"""Writes: from a checked request to the outcome of its own entry.

The vectors are computed once, here; what travels from here on is a mutation.  A
write sends its proposal to the log and then waits, like every other node, to hear
it come round: the answer is the outcome decided at its place in the order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Outcome
from synaptoroute.core.codec import FRAME_BYTES_MAX, encode_proposal
from synaptoroute.core.mutation import AddUtterances, Keep, Mutation, Proposal, PutRoute, Revision
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import (
    EncoderMismatch,
    InvalidRoute,
    NotCaughtUp,
    SequencerUnavailable,
    TooLarge,
)
from synaptoroute.log import Appended, Log
from synaptoroute.models import (
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Route,
    WriteResult,
    canonical_json,
    check_name,
    check_text,
)
from synaptoroute.ports import EnginePort
from synaptoroute.replication.follower import Follower
from synaptoroute.router.results import result_of
from synaptoroute.router.vectors import checked_rows, row_bytes
from synaptoroute.router.write_options import Ack, Guard
from synaptoroute.sequencer.append_errors import Reason

INLINE_TIMEOUT_SECONDS: Final = 60.0
JOIN_TRIES_MAX: Final = 3
JOIN_SECONDS: Final = 2.0
CHARACTER_BYTES_MAX: Final = 6
"""Of a character in JSON, such as ``\\u0001``."""
SEPARATOR_BYTES_MAX: Final = 4
FIELDS_BYTES_MAX: Final = 1_024
"""All else that a frame holds: its header, names of fields, conditions."""


class Writer:
    """Encodes, proposes and waits."""

    def __init__(self, engine: EnginePort, log: Log, follower: Follower | None = None) -> None:
        self._engine = engine
        self._log = log
        self._follower = follower

    @property
    def is_alone(self) -> bool:
        """Whether no other node writes to the same log."""
        return self._log.is_local

    async def put(self, route: Route, guard: Guard) -> WriteResult:
        """Create a route or replace all of it."""
        route = checked_route(route)
        return await self._write_rows(
            route.utterances,
            route.vectors,
            lambda vectors: put_mutation(route, vectors),
            guard,
        )

    async def add(
        self,
        name: str,
        utterances: Sequence[str],
        vectors: Sequence[Sequence[float]] | None,
        guard: Guard,
    ) -> WriteResult:
        """Add utterances to a route."""
        name = checked_name(name)
        texts, given = distinct_utterances(utterances, vectors)
        return await self._write_rows(
            texts, given, lambda rows: AddUtterances(name, tuple(texts), rows), guard
        )

    async def _write_rows(
        self,
        texts: Sequence[str],
        given: Sequence[Sequence[float]] | None,
        make: Callable[[tuple[bytes, ...]], Mutation],
        guard: Guard,
    ) -> WriteResult:
        """Encode and write; once more where the cluster changed its encoder meanwhile."""
        encoder = self._engine.encoder
        rows = await self.encode(texts, given, encoder)
        try:
            return await self.write(make(row_bytes(rows)), guard, encoder.fingerprint)
        except EncoderMismatch:
            if given is not None or not await self._has_another(encoder.fingerprint):
                raise
        encoder = self._engine.encoder
        rows = await self.encode(texts, None, encoder)
        return await self.write(make(row_bytes(rows)), guard, encoder.fingerprint)

    async def _has_another(self, fingerprint: str) -> bool:
        """Whether this node serves with another encoder once it has reached the head."""
        if self._follower is not None:
            with suppress(NotCaughtUp):  # a node that can never follow keeps the first reason
                await self._follower.wait_head(JOIN_SECONDS)
        return self._engine.encoder.fingerprint != fingerprint

    async def write(
        self, mutation: Mutation, guard: Guard, fingerprint: str | None = None
    ) -> WriteResult:
        """Give a mutation its place in the order and wait for its outcome.

        Args:
            mutation: What to write.
            guard: On which conditions.
            fingerprint: Encoder of its vectors; None for a mutation without any.

        Raises:
            RouteError: It was rejected at its place.
            ClusterError: It was not taken.
        """
        proposal = guard.propose(mutation)
        check_size(proposal)
        if self._follower is not None:
            self._follower.check_may_write()
        future = self._engine.expect_outcome(proposal.op_id)
        deadline = time.monotonic() + guard.ack_timeout_seconds
        appended = Appended(at=None)
        try:
            appended = await self._append(proposal, fingerprint)
            if guard.ack == "accepted" and appended.at is not None:
                return pending(proposal.op_id, appended.at, "accepted")
            left_seconds = max(0.0, deadline - time.monotonic())
            async with asyncio.timeout(left_seconds):
                outcome = await asyncio.wrap_future(future)
        except TimeoutError:
            return pending(proposal.op_id, appended.at, "accepted")
        finally:
            self._engine.forget_outcome(proposal.op_id, future)
        result = result_of(outcome, proposal.op_id)
        return await self._await_ack(result, outcome, guard, deadline)

    async def _append(self, proposal: Proposal, fingerprint: str | None) -> Appended:
        """Give a proposal its place; join a later epoch or encoder first where there is one."""
        for _ in range(JOIN_TRIES_MAX - 1):
            try:
                return await self._log.append([proposal], fingerprint)
            except SequencerUnavailable as error:
                if self._follower is None or error.fields.get("reason") != Reason.STALE:
                    raise
                await self._follower.wait_head(JOIN_SECONDS)
            except EncoderMismatch:
                if self._follower is None or fingerprint is not None:
                    raise
                with suppress(NotCaughtUp):
                    await self._follower.wait_head(JOIN_SECONDS)
        return await self._log.append([proposal], fingerprint)

    async def _await_ack(
        self, result: WriteResult, outcome: Outcome, guard: Guard, deadline: float
    ) -> WriteResult:
        """Wait for the level of durability that was asked for."""
        if guard.ack in ("quorum", "all") and self._follower is not None:
            is_reached = await self._follower.wait_acked(
                outcome.at,
                is_all=guard.ack == "all",
                timeout_seconds=max(0.0, deadline - time.monotonic()),
            )
            if not is_reached:
                return result.model_copy(update={"status": "pending", "ack": "applied"})
        reached = "applied" if guard.ack == "accepted" else guard.ack
        return result.model_copy(update={"ack": reached})

    async def encode(
        self,
        texts: Sequence[str],
        given: Sequence[Sequence[float]] | None,
        encoder: TextEncoder | None = None,
    ) -> NDArray[np.float32]:
        """Check the vectors that were given, or encode the texts in the lanes.

        Args:
            texts: The utterances.
            given: Their vectors, where the client brought them.
            encoder: With which one; None takes the one that serves now.

        Returns:
            float32[n, dim].
        """
        if given is not None:
            if len(given) != len(texts):
                raise InvalidRoute(f"{len(given)} vectors for {len(texts)} utterances")
            return checked_rows(given, (encoder or self._engine.encoder).dim)
        futures = self._engine.encode_utterances(texts, encoder)
        try:
            return np.concatenate([await asyncio.wrap_future(future) for future in futures])
        finally:
            for future in futures:
                future.cancel()  # what an error or a caller that has gone left in the queue

    # --- the same on the caller's thread, without an event loop -----------------

    def put_now(self, route: Route, guard: Guard) -> WriteResult:
        """Create or replace a route and wait on this thread."""
        route = checked_route(route)
        return self.write_now(put_mutation(route, row_bytes(self._encode_now(route))), guard)

    def add_now(self, name: str, utterances: Sequence[str], guard: Guard) -> WriteResult:
        """Add utterances and wait on this thread."""
        name = checked_name(name)
        texts, _ = distinct_utterances(utterances, None)
        rows = self._engine.encoder.encode_utterances(texts)
        return self.write_now(AddUtterances(name, tuple(texts), row_bytes(rows)), guard)

    def write_now(self, mutation: Mutation, guard: Guard) -> WriteResult:
        """Propose to the engine and wait on this thread; only without a shared log."""
        proposal = guard.propose(mutation)
        check_size(proposal)
        future: Future[Outcome] = self._engine.expect_outcome(proposal.op_id)
        try:
            self._engine.propose([proposal])
            outcome = future.result(INLINE_TIMEOUT_SECONDS)
        except FutureTimeoutError:
            return pending(proposal.op_id, None, "accepted")
        finally:
            self._engine.forget_outcome(proposal.op_id, future)
        return result_of(outcome, proposal.op_id)

    def _encode_now(self, route: Route) -> NDArray[np.float32]:
        if route.vectors is not None:
            return checked_rows(route.vectors, self._engine.encoder.dim)
        return self._engine.encoder.encode_utterances(route.utterances)


def pending(op_id: bytes, at: Revision | None, ack: Ack) -> WriteResult:
    """Make the result of a write that is in the log, or on its way, but not decided."""
    return WriteResult(status="pending", op_id=op_id.hex(), version=str(at) if at else "", ack=ack)


def put_mutation(route: Route, vectors: tuple[bytes, ...]) -> PutRoute:
    """Make the mutation that puts a route with its vectors."""
    return PutRoute(
        name=route.name,
        utterances=tuple(route.utterances),
        vectors=vectors,
        threshold=route.threshold,
        metadata=canonical_json(route.metadata),
        payload=canonical_json(route.payload),
    )


def checked_route(route: Route) -> Route:
    """Check a route again, and copy it: its fields may have been changed since it was made.

    Raises:
        InvalidRoute: It is malformed now.
    """
    fields = route.model_dump(exclude={"vectors"}, warnings=False)
    try:
        again = Route.model_validate(fields)
    except ValueError as error:
        raise InvalidRoute(str(error)) from error
    if route.vectors is not None and len(route.vectors) != len(again.utterances):
        raise InvalidRoute(
            f"{len(route.vectors)} vectors for {len(again.utterances)} distinct utterances"
        )
    return again.model_copy(update={"vectors": route.vectors})


def checked_name(name: str) -> str:
    """Check a route's name.

    Raises:
        InvalidRoute: It is malformed.
    """
    try:
        return check_name(name)
    except (TypeError, ValueError) as error:
        raise InvalidRoute(f"the route's name {error}") from error


def is_threshold(value: object) -> bool:
    """Whether a patch may carry this threshold."""
    if value is None or isinstance(value, Keep):
        return True
    return isinstance(value, int | float) and -1.0 <= value <= 1.0


def distinct_utterances(
    utterances: Sequence[str], vectors: Sequence[Sequence[float]] | None
) -> tuple[list[str], list[Sequence[float]] | None]:
    """Check and trim utterances and drop repeats, with their vectors.

    Raises:
        InvalidRoute: None, too many, empty, too long or not Unicode.
    """
    if isinstance(utterances, str) or not all(isinstance(text, str) for text in utterances):
        raise InvalidRoute("utterances must be a list of strings")
    if not 1 <= len(utterances) <= UTTERANCES_PER_ROUTE_CALL_MAX:
        raise InvalidRoute(
            f"1 to {UTTERANCES_PER_ROUTE_CALL_MAX} utterances are expected, got {len(utterances)}"
        )
    if vectors is not None and len(vectors) != len(utterances):
        raise InvalidRoute(f"{len(vectors)} vectors for {len(utterances)} utterances")
    kept: dict[str, int] = {}
    for index, text in enumerate(utterances):
        try:
            kept.setdefault(check_text(text, UTTERANCE_BYTES_MAX), index)
        except ValueError as error:
            raise InvalidRoute(f"utterance {index} {error}", index=index) from error
    chosen = None if vectors is None else [vectors[index] for index in kept.values()]
    return list(kept), chosen


def check_size(proposal: Proposal) -> None:
    """Refuse a write whose entry would be too long for the log.

    Raises:
        TooLarge: Over ``FRAME_BYTES_MAX``.
    """
    if _is_surely_short(proposal.mutation):
        return
    size_bytes = len(encode_proposal(proposal))
    if size_bytes > FRAME_BYTES_MAX:
        raise TooLarge(
            f"the write takes {size_bytes} bytes, the limit is {FRAME_BYTES_MAX}; "
            "use an import, which is cut into chunks",
            bytes_max=FRAME_BYTES_MAX,
        )


def _is_surely_short(mutation: Mutation) -> bool:
    """Whether rows cannot be too long in any way of writing them: they are written later."""
    if not isinstance(mutation, PutRoute | AddUtterances):
        return False
    texts = [mutation.name, *mutation.utterances]
    if isinstance(mutation, PutRoute):
        texts += (mutation.metadata, mutation.payload)
    bytes_max = FIELDS_BYTES_MAX + sum(map(len, mutation.vectors))
    bytes_max += sum(CHARACTER_BYTES_MAX * len(text) + SEPARATOR_BYTES_MAX for text in texts)
    return bytes_max <= FRAME_BYTES_MAX
