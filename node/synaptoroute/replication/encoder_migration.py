"""Encoder migration: one node computes the new vectors, and all nodes switch at one entry.

Every node has loaded the new encoder beside the one that serves.  One node encodes each text
that lacks a vector and logs the vectors, so no other node encodes anything.  To switch, it
adds the vectors of texts written meanwhile and appends the switching entry directly behind the
position at which it knows the vectors to be complete.  If another write comes first, the
entry is refused and the node looks again.  The former encoder's vectors are staged too, so the
way back needs no encoding.

Every step first reads the current state.  So a command that is executed twice, or by
another node after a crash, continues where the first one stopped.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from synaptoroute.core.change import Outcome, RouteRecord
from synaptoroute.core.imports import (
    are_routes_imported,
    encoder_of,
    generation_id,
    missing_texts,
    vectors_in,
)
from synaptoroute.core.mutation import (
    ImportAbort,
    ImportBegin,
    ImportChunk,
    Mutation,
    Position,
    Proposal,
    PutRoute,
    SwitchEncoder,
)
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import ClusterError, SynaptoRouteError
from synaptoroute.ports import AppliedState
from synaptoroute.replication.session import Barriers, Session
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.scripts import Encoders
from synaptoroute.storage import SlotRow

CHUNK_TEXTS_MAX: Final = 64
ENCODE_TEXTS_MAX: Final = 16
WRITE_SECONDS_MAX: Final = 30.0
QUORUM_SECONDS_MAX: Final = 30.0
SWITCH_SECONDS_MAX: Final = 120.0
RETRY_SECONDS: Final = 0.2
MigrationStep = Literal["idle", "generating", "keeping", "switching", "done", "failed"]

ItemT = TypeVar("ItemT")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    step: MigrationStep = "idle"
    encoder: str = ""
    done_texts: int = 0
    total_texts: int = 0
    detail: str = ""  # Why it failed


def split(items: Sequence[ItemT], count: int) -> list[Sequence[ItemT]]:
    return [items[start : start + count] for start in range(0, len(items), count)]


class EncoderMigration:
    def __init__(self, session: Session, barriers: Barriers) -> None:
        self.progress = MigrationProgress()
        self._session = session
        self._engine = session.engine
        self._barriers = barriers

    async def execute(self, kind: str, fingerprint: str) -> None:
        """Execute a command; an error is kept in ``progress``."""
        step: MigrationStep = "switching" if kind == "switch" else "generating"
        self.progress = MigrationProgress(step, fingerprint)
        try:
            if kind == "drop":
                await self.drop(fingerprint)
            elif kind == "switch":
                await self.switch(fingerprint)
            else:
                await self.generate(fingerprint)
        except (SynaptoRouteError, TimeoutError) as error:
            _log.error("the command %s failed: %s", kind, error)
            self.progress = replace(self.progress, step="failed", detail=str(error))
            return
        self.progress = replace(self.progress, step="done")

    async def generate(self, fingerprint: str) -> None:
        """Log the vector of every text that an encoder's staged vectors lack."""
        encoder = self._engine.encoders.find(fingerprint)
        name = generation_id(fingerprint, encoder.dim)
        await self._open(name)
        # Texts may be added while this runs, so it repeats until none is missing.
        while texts := await self._missing(name):
            total = await self._count_texts()
            done = max(0, total - len(texts))
            for part in split(list(texts.items()), CHUNK_TEXTS_MAX):
                self.progress = replace(self.progress, done_texts=done, total_texts=total)
                vectors = await self._encode(encoder, [text for text, _ in part])
                rows = [(route, text, v) for (text, route), v in zip(part, vectors, strict=True)]
                await self._stage(name, rows)
                done = min(total, done + len(part))
        total = await self._count_texts()
        self.progress = replace(self.progress, done_texts=total, total_texts=total)

    async def switch(self, fingerprint: str) -> None:
        """Change the cluster to an encoder, at one place of the log."""
        if self._engine.encoder.fingerprint == fingerprint:
            return
        dim = self._engine.encoders.find(fingerprint).dim
        await self._keep_current()
        give_up_at = time.monotonic() + SWITCH_SECONDS_MAX
        while time.monotonic() < give_up_at:
            await self.generate(fingerprint)
            self.progress = replace(self.progress, step="switching")
            await self._barriers.wait_head(WRITE_SECONDS_MAX)
            at = await self._complete_at(generation_id(fingerprint, dim))
            if at is not None and await self._append_switch(at, fingerprint, dim):
                return
            await asyncio.sleep(RETRY_SECONDS if at is None else 0)
        raise ClusterError(
            "the encoder could not be changed: others wrote all the time, or import routes"
        )

    async def drop(self, fingerprint: str) -> None:
        """Drop the staged vectors of an encoder, or of all encoders if none is named."""
        for staged in await asyncio.wrap_future(self._engine.staged_imports()):
            encoder = encoder_of(staged.begin.import_id)
            if encoder is not None and fingerprint in ("", encoder[0]):
                await self._write(ImportAbort(staged.begin.import_id))

    # --- steps ------------------------------------------------------------------------

    async def _append_switch(self, at: Position, fingerprint: str, dim: int) -> bool:
        encoders = Encoders(self._engine.encoder.fingerprint, fingerprint, dim)

        async def send(proposal: Proposal) -> bool:
            # Compare-and-append: the script refuses the entry unless it follows ``at``, where
            # the vectors were seen to be complete.
            placed = await self._session.log.switch(at, proposal, encoders)
            if isinstance(placed, int):
                self._session.catch_up_wanted.set()
            elif placed.reason is not Reason.MOVED:
                raise ClusterError(f"the log did not take the change: {placed.reason.value}")
            return isinstance(placed, int)

        mutation = SwitchEncoder(generation_id(fingerprint, dim))
        return await self._outcome_of(mutation, send) is not None

    async def _keep_current(self) -> None:
        """Stage the vectors that serve now, so that the way back needs no encoding."""
        former = self._engine.encoder
        name = generation_id(former.fingerprint, former.dim)
        self.progress = replace(self.progress, step="keeping")
        await self._open(name)
        missing = await self._missing(name)
        after = -1
        while rows := await asyncio.to_thread(self._rows_after, after):
            after = rows[-1].slot
            parts = [
                (missing.pop(row.utterance), row.utterance, row.vector)
                for row in rows
                if row.utterance in missing
            ]
            if parts:
                await self._stage(name, parts)

    def _rows_after(self, slot: int) -> list[SlotRow]:
        return list(self._engine.database.rows(slot, CHUNK_TEXTS_MAX))

    async def _encode(self, encoder: TextEncoder, texts: Sequence[str]) -> list[bytes]:
        vectors: list[bytes] = []
        for part in split(texts, ENCODE_TEXTS_MAX):
            rows = await asyncio.to_thread(encoder.encode_utterances, part)
            vectors += [row.tobytes() for row in rows.astype("<f4")]
        return vectors

    async def _open(self, name: str) -> None:
        staged = await asyncio.wrap_future(self._engine.staged_imports())
        if all(each.begin.import_id != name for each in staged):
            await self._write(ImportBegin(name))

    async def _stage(self, name: str, rows: Sequence[tuple[str, str, bytes]]) -> None:
        by_route: dict[str, dict[str, bytes]] = {}
        for route, text, vector in rows:
            by_route.setdefault(route, {})[text] = vector
        parts = tuple(
            PutRoute(route, tuple(texts), tuple(texts.values()))
            for route, texts in sorted(by_route.items())
        )
        staged = await asyncio.wrap_future(self._engine.staged_imports())
        chunks = next((s.chunks for s in staged if s.begin.import_id == name), ())
        number = chunks[-1].number + 1 if chunks else 0
        outcome = await self._write(ImportChunk(name, number, parts))
        # Backpressure: the slowest voter of a majority sets the pace, or the log would fill up.
        await self._barriers.wait_acked(
            outcome.at, is_all=False, timeout_seconds=QUORUM_SECONDS_MAX
        )

    async def _write(self, mutation: Mutation) -> Outcome:
        async def send(proposal: Proposal) -> bool:
            await self._session.log.append([proposal], self._engine.encoder.fingerprint)
            return True

        outcome = await self._outcome_of(mutation, send)
        assert outcome is not None, "the write was sent: this is a bug"
        return outcome

    async def _outcome_of(
        self, mutation: Mutation, send: Callable[[Proposal], Awaitable[bool]]
    ) -> Outcome | None:
        """Send a write and wait until it is applied here; None if ``send`` returns False."""
        engine = self._engine
        proposal = Proposal(os.urandom(16), mutation)
        future = engine.expect_outcome(proposal.op_id)
        try:
            if not await send(proposal):
                return None
            async with asyncio.timeout(WRITE_SECONDS_MAX):
                outcome = await asyncio.wrap_future(future)
        finally:
            engine.forget_outcome(proposal.op_id, future)
        if outcome.code is not None:
            raise ClusterError(f"the log rejected a write of the migration: {outcome.message}")
        return outcome

    # --- looks at the replica -----------------------------------------------------------

    async def _missing(self, name: str) -> dict[str, str]:
        """Texts of all route sets that staged vectors lack, each with a route that has it."""

        def look(state: AppliedState) -> dict[str, str]:
            known = vectors_in(state.replica.table.imports.get(name))
            return missing_texts(_routes_of(state), known)

        return await self._session.on_applier(look)

    async def _complete_at(self, name: str) -> Position | None:
        """The position at which staged vectors lack nothing; None if they lack something."""

        def look(state: AppliedState) -> Position | None:
            # Chunks of an open import of routes hold the former encoder's vectors, so the
            # switch has to wait for it.
            tables = state.replica.sets.tables.values()
            if any(are_routes_imported(table.imports) for table in tables):
                return None
            known = vectors_in(state.replica.table.imports.get(name))
            return None if missing_texts(_routes_of(state), known) else state.replica.position

        return await self._session.on_applier(look)

    async def _count_texts(self) -> int:
        def look(state: AppliedState) -> int:
            return len({text for route in _routes_of(state) for _, _, text in route.rows()})

        return await self._session.on_applier(look)


def _routes_of(state: AppliedState) -> Iterator[RouteRecord]:
    """Routes of all route sets: a generation has the texts of all."""
    for table in state.replica.sets.tables.values():
        yield from table.routes.values()
