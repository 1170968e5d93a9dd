"""Erasure of texts: from every route set, and from what nodes and Redis keep of the past.

One entry removes the texts from the state of every node; it names them by hashes alone.  Each
node then drops what is older than the entry: the log in Redis, its own op log, orphaned writes,
and what it remembers of queries.  Backups keep a text until they are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from synaptoroute.change_models import (
    ErasedTexts,
    Erasure,
    ErasureStatus,
)
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.codec import describe_frame
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import EraseTexts
from synaptoroute.core.rows import RowKind, kind_of
from synaptoroute.core.same_text import same_text_form
from synaptoroute.core.set_validation import ERASED_TEXTS_MAX
from synaptoroute.errors import InvalidQuery, ProtocolError, SetNotFound, SynaptoRouteError
from synaptoroute.log import Log
from synaptoroute.models import WriteResult
from synaptoroute.ports import AppliedState
from synaptoroute.router.op_ids import derived_op_id
from synaptoroute.router.shared_log import shared_log
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine

ERASED_AT_ONCE: Final = 100
ROUNDS_MAX: Final = 3
CHECK_SECONDS: Final = 5.0
ERASURES_READ: Final = 64
"""Entries before an erasure that may be erasures as well: one request writes several."""
CLEAN_SECONDS: Final = 3.0
"""How long the answer waits for the logs to be clean."""
PURGED_FACT: Final = "erased_through_seq"
_KIND_NAMES: Final = {
    RowKind.UTTERANCE: "utterances",
    RowKind.DESCRIPTION: "descriptions",
    RowKind.NEGATIVE: "negatives",
}
_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _Found:
    """Texts of the state that are to be erased, and where they are."""

    texts: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)


class Eraser:
    """Erases texts from a cluster through one node."""

    def __init__(self, engine: QueryEngine, writer: Writer, log: Log) -> None:
        self._engine = engine
        self._writer = writer
        self._log = log

    async def erase(self, texts: Sequence[str], options: WriteOptions) -> Erasure:
        """Remove texts, and what counts as the same text, from every route set.

        Raises:
            ImportRejected: An open import holds one of the texts.
            NotFinalized: The log is below level 5.
        """
        if not 1 <= len(texts) <= ERASED_AT_ONCE:
            raise InvalidQuery(f"1 to {ERASED_AT_ONCE} texts are erased at once")
        self._writer.require_level(SETS_LEVEL)
        forms = frozenset(map(same_text_form, texts))
        total: Counter[str] = Counter()
        result: WriteResult | None = None
        for number in range(ROUNDS_MAX):
            found = await self._find(forms)
            if number and not found.texts:
                break
            # The forms as well: nodes compare what they remember of queries with them.
            wanted = {*texts, *forms, *found.texts}
            result = await self._write(wanted, options, number)
            total += found.counts
            hashes = frozenset(map(text_hash, wanted))
            total["unmatched"] += self._forget_queries(hashes)
            if result.status == "pending":
                break
        assert result is not None
        status = await self._await_clean(seq_of(result.version))
        return Erasure(
            status=result.status,
            op_id=result.op_id,
            version=result.version,
            found=ErasedTexts(**total),
            logs=status,
        )

    async def _write(self, texts: set[str], options: WriteOptions, number: int) -> WriteResult:
        hashes = sorted(map(text_hash, texts))
        parts = [
            hashes[start : start + ERASED_TEXTS_MAX]
            for start in range(0, len(hashes), ERASED_TEXTS_MAX)
        ]
        result: WriteResult | None = None
        for place, part in enumerate(parts):
            own = options
            if options.op_id is not None and (number, place) != (0, 0):
                unique = derived_op_id(options.op_id.hex(), str(number), str(place))
                own = replace(options, op_id=unique)
            result = await self._writer.write(EraseTexts(tuple(part)), own)
        assert result is not None
        return result

    async def _find(self, forms: frozenset[str]) -> _Found:
        """Find the texts in the state that count as one of those to erase."""

        def read(state: AppliedState) -> list[tuple[list[RouteRecord], list[str], list[str]]]:
            return [
                (
                    list(table.routes.values()),
                    list(table.tests),
                    [item.text for item in table.feedback.values()],
                )
                for table in state.replica.sets.tables.values()
            ]

        content = await asyncio.wrap_future(self._engine.run_on_applier(read))
        return await asyncio.to_thread(_find_in, content, forms)

    async def _await_clean(self, seq: int) -> ErasureStatus:
        """Drop what is older than an erasure here, if that is possible soon."""
        deadline = asyncio.get_running_loop().time() + CLEAN_SECONDS
        while True:
            with suppress(SynaptoRouteError):  # the duty of this node tries again
                await self.purge(seq)
            status = await self.status(seq - 1)
            if status.is_clean or asyncio.get_running_loop().time() >= deadline:
                return status
            await asyncio.sleep(0.1)

    # --- the logs ---

    async def newest(self, after_seq: int = 0) -> int | None:
        """Seq of the newest erasure after a place that this node keeps; None for none."""
        return await asyncio.to_thread(self._engine.database.last_erasure, after_seq)

    @property
    def applied_seq(self) -> int:
        """Seq of the newest entry that is durable here."""
        return self._engine.database.position.seq

    @property
    def purged_seq(self) -> int:
        """Seq of the newest erasure below which this node holds nothing."""
        return int(self._engine.database.meta_get(PURGED_FACT) or 0)

    async def status(self, after_seq: int = 0) -> ErasureStatus:
        """Describe what this node and Redis still keep of the time before the newest erasure.

        Args:
            after_seq: Only erasures after this place; a whole op log takes long to search.
        """
        database, node = self._engine.database, self._engine.node_id
        seq = await self.newest(after_seq)
        if seq is None:
            return ErasureStatus(node=node, version=None, is_clean=True)
        waiting = []
        log = shared_log(self._log)
        if log is not None and not await log.retention.is_dropped(seq - 1):
            waiting.append("redis")
        if self.purged_seq < seq:
            waiting.append("database")
        rows = await asyncio.to_thread(database.read_log_back, seq + 1, entries_max=1, bytes_max=1)
        version = f"{rows[0].epoch}.{seq}" if rows else None
        return ErasureStatus(node=node, version=version, is_clean=not waiting, waiting_for=waiting)

    async def forget(self, seq: int) -> None:
        """Forget queries with erased texts that this node remembers in memory."""
        self._forget_queries(await asyncio.to_thread(self._hashes, seq))

    async def purge(self, seq: int) -> bool:
        """Drop what is older than an erasure; whether nothing of it is left.

        A log has no gaps, so all entries before it go.
        """
        log = shared_log(self._log)
        if log is not None and not await log.retention.drop_through(seq - 1):
            return False  # a node is behind; the next round looks again
        if self.purged_seq >= seq:
            return True
        hashes = await asyncio.to_thread(self._hashes, seq)
        orphans = await asyncio.to_thread(self._orphans, hashes)

        def trim(state: AppliedState) -> None:
            for op_id in orphans:
                state.storage.drop_orphan(op_id)
            state.storage.purge_log(seq)
            state.storage.meta_set(PURGED_FACT, str(seq))

        await asyncio.wrap_future(self._engine.run_on_applier(trim))
        return True

    def _hashes(self, seq: int) -> frozenset[str]:
        """Hashes of an erasure, and of those just before it."""
        found: set[str] = set()
        rows = self._engine.database.read_log_back(
            seq + 1, entries_max=ERASURES_READ, bytes_max=1 << 24
        )
        for row in rows:
            kind, fields = describe_frame(row.frame)
            if kind is EraseTexts:
                found.update(fields["hashes"])
        return frozenset(found)

    def _forget_queries(self, hashes: frozenset[str]) -> int:
        """Forget queries with these texts that this node remembers in memory; return how many."""

        def is_gone(text: str) -> bool:
            return text_hash(text) in hashes or text_hash(same_text_form(text)) in hashes

        count = 0
        for name in list(self._engine.set_names):
            with suppress(SetNotFound):  # it was removed meanwhile
                unmatched = self._engine.unmatched_of(name)
                gone = {each.text for each in unmatched.newest if is_gone(each.text)}
                count += unmatched.forget(frozenset(gone))
                self._engine.decisions_of(name).forget(is_gone)
        self._engine.forget_embeddings()
        self._engine.forget_shadowed()
        return count

    def _orphans(self, hashes: frozenset[str]) -> list[bytes]:
        """Orphaned writes that hold an erased text."""
        found = []
        for orphan in self._engine.database.orphans():
            try:
                _, fields = describe_frame(orphan.frame)
            except ProtocolError:
                continue
            if any(text_hash(text) in hashes for text in _strings(fields)):
                found.append(orphan.op_id)
        return found


class ErasureDuty:
    """Drops what is older than an erasure, in a task of its own, on every node."""

    def __init__(self, eraser: Callable[[], Eraser]) -> None:
        self._eraser = eraser
        self._seen_seq = 0  # Of the newest entry that was looked at
        self._erased_seq = 0  # Of the newest erasure
        self._is_clean = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for erasures."""
        self._task = asyncio.create_task(self._run(), name="erasures")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except SynaptoRouteError as error:
                _log.debug("erased texts are still in the log: %s", error)
            except Exception as error:  # a bug: the next round goes on
                _log.exception("the purge of erased texts failed: %s", error)
            await asyncio.sleep(CHECK_SECONDS * random.uniform(0.8, 1.2))

    async def _look(self) -> None:
        """Look at the entries since the last time; search the whole op log only once."""
        eraser = self._eraser()
        applied_seq = eraser.applied_seq
        if applied_seq < self._seen_seq:  # a recovery or a snapshot put this node back
            self._seen_seq = self._erased_seq = 0
        if applied_seq > self._seen_seq:
            seq = await eraser.newest(self._seen_seq)
            self._seen_seq = applied_seq
            if seq is not None:
                self._erased_seq, self._is_clean = seq, False
                await eraser.forget(seq)
        # A snapshot that was installed since may have brought entries back.
        if self._erased_seq and (not self._is_clean or eraser.purged_seq < self._erased_seq):
            self._is_clean = await eraser.purge(self._erased_seq)


def seq_of(version: str) -> int:
    """Seq of ``epoch.seq``; 0 for a write that is not decided."""
    return int(version.partition(".")[2] or 0)


def _find_in(
    content: Iterable[tuple[list[RouteRecord], list[str], list[str]]], forms: frozenset[str]
) -> _Found:
    found = _Found()

    def is_wanted(text: str, what: str) -> bool:
        if same_text_form(text) not in forms:
            return False
        found.texts.add(text)
        found.counts[what] += 1
        return True

    for routes, tests, feedback in content:
        for record in routes:
            gone = 0
            for _, owner, text in record.rows():
                kind = kind_of(owner)
                if is_wanted(text, _KIND_NAMES[kind]) and kind is RowKind.UTTERANCE:
                    gone += 1
            found.counts["routes_deleted"] += gone == len(record.slots)
        for text in tests:
            is_wanted(text, "tests")
        for text in feedback:
            if text:
                is_wanted(text, "feedback")
    return found


def _strings(value: Any) -> Iterator[str]:
    """Every text in the fields of a frame."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
