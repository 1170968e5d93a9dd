"""The review queue and revisions: what people said about answers becomes better routes.

Feedback goes into a replicated queue (``core.feedback``).  A reviewer resolves items: they
become utterances of a route, or are dismissed.  All that one review decides is one *revision*,
one entry of the log, which every node applies as a whole or rejects as a whole.

Items that nobody resolves are deleted when their time has come: any node proposes that, by its
own clock, and the log decides.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from synaptoroute.core.change import FeedbackItem
from synaptoroute.core.feedback import RETENTION_DAYS_MAX, item_id_of, read_feedback_settings
from synaptoroute.core.feedback import FeedbackSettings as QueueSettings
from synaptoroute.core.levels import DECISION_LEVEL
from synaptoroute.core.mutation import (
    KEEP,
    Keep,
    Mutation,
    PutFeedback,
    ReviseRoutes,
    RouteRevision,
    Settings,
)
from synaptoroute.errors import (
    DecisionUnknown,
    FeedbackNotFound,
    FeedbackOff,
    InvalidQuery,
    InvalidRoute,
    SynaptoRouteError,
)
from synaptoroute.inputs.ignore import check_pattern
from synaptoroute.learning.redaction import KINDS, redacted
from synaptoroute.log import Log
from synaptoroute.models import (
    UTTERANCE_BYTES_MAX,
    FeedbackPage,
    FeedbackReceipt,
    FeedbackSettings,
    RouteSetSettings,
    StoredFeedback,
    WriteResult,
    check_text,
)
from synaptoroute.ports import AppliedState
from synaptoroute.router.evaluation import OwnEvaluation, evaluate_own
from synaptoroute.router.op_ids import derived_op_id
from synaptoroute.router.revision_preview import (
    LabelledText,
    RevisionEffect,
    RouteChange,
    copy_routes,
    effect_of,
)
from synaptoroute.router.route_checks import checked_name
from synaptoroute.router.shared_log import shared_log
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine

PAGE_ITEMS_MAX: Final = 500
PREVIEW_TEXTS_MAX: Final = 200
RESOLVED_MAX: Final = 500
"""Resolutions and changes of one revision."""
CHECK_SECONDS: Final = 15.0
CHECK_SECONDS_MIN: Final = 0.5
PURGE_CHECKS: Final = 4
"""Checks of the queue to one look into the log, which reads all of it."""
DAY_MS: Final = 86_400_000
EXPIRED_AT_ONCE: Final = 500
_DEFAULTS: Final = WriteOptions()
_previews: Final = asyncio.Semaphore(1)
"""For all routers of the process: more at a time would take the CPUs from queries."""

ResolveAs: TypeAlias = Literal["utterance", "negative", "dismiss"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The decision on one item of the review queue.

    Attributes:
        item_id: The item.
        resolve_as: ``utterance`` of ``route``, ``negative`` of ``route``, or ``dismiss``.
        route: The route that learns; None for the one that the feedback names, and for a
            negative the one of the answer.
        text: The text to learn; None for that of the item.
        create: Whether the route does not exist yet.
    """

    item_id: str
    resolve_as: ResolveAs
    route: str | None = None
    text: str | None = None
    create: bool = False


@dataclass(slots=True)
class _Plan:
    """Changes by route, and the items that they resolve."""

    changes: dict[str, RouteChange] = field(default_factory=dict)
    resolved: set[str] = field(default_factory=set)

    def add(self, change: RouteChange) -> None:
        known = self.changes.get(change.name)
        if known is None:
            self.changes[change.name] = change
            return
        self.changes[change.name] = replace(
            known,
            utterances=tuple(dict.fromkeys((*known.utterances, *change.utterances))),
            negatives=tuple(dict.fromkeys((*known.negatives, *change.negatives))),
            create=known.create or change.create,
        )


class FeedbackQueue:
    """The review queue of one router.  Used on its event loop."""

    def __init__(self, engine: QueryEngine, writer: Writer, log: Log) -> None:
        self._engine = engine
        self._writer = writer
        self._log = log

    # --- taking feedback ---------------------------------------------------------------

    async def put(
        self,
        route: str | None,
        *,
        text: str | None = None,
        decision_id: str | None = None,
        was: str | Keep | None = KEEP,
        options: WriteOptions = _DEFAULTS,
    ) -> FeedbackReceipt:
        """Say that a text belongs to a route, or to none.

        Args:
            route: The route that is right; None for no route.
            text: The text; or
            decision_id: the answer of this node, which remembers the newest ones.
            was: The route of the answer, if a text is given.

        Raises:
            NotFinalized: The log is below level 3.
            FeedbackOff: The settings of the route set keep no feedback.
            FeedbackFull: The queue is full.
            DecisionUnknown: This node does not remember the answer.
            RouteNotFound: There is no such route.
        """
        # Before the queue is looked at, which cannot be switched on below this level.
        self._writer.require_level(DECISION_LEVEL)
        known = await self._writer.repeated(options)
        settings = self._settings()
        try:
            said, given = self._said(text, decision_id, was)
        except DecisionUnknown:
            if known is None:
                raise
            # The answer was remembered when this was said first.
            return _receipt("", known)
        kept = redacted(said, settings.redaction)
        if not kept.strip():
            raise InvalidQuery("nothing is left of the text after redaction")
        item_id = item_id_of(kept, route, given)
        put = PutFeedback(
            item_id=item_id,
            text="" if settings.is_hash_only else kept,
            route=None if route is None else checked_name(route),
            was=None if given is None else checked_name(given),
            at_ms=time.time_ns() // 1_000_000,
        )
        return _receipt(item_id, known or await self._writer.write(put, options))

    def _said(
        self, text: str | None, decision_id: str | None, was: str | Keep | None
    ) -> tuple[str, str | None]:
        if (text is None) == (decision_id is None):
            raise InvalidQuery("either a text or a decision_id is expected")
        if decision_id is not None:
            decision = self._engine.decisions.find(decision_id)
            if decision is None:
                raise DecisionUnknown(
                    "this node does not remember that answer: ask the node that gave it, its"
                    " field `node`, or send the text"
                )
            if not isinstance(was, Keep) and was != decision.route:
                raise InvalidQuery("`was` is not the route of that answer")
            return decision.text, decision.route
        try:
            said = check_text(text, UTTERANCE_BYTES_MAX) if text is not None else ""
        except ValueError as error:
            raise InvalidQuery(f"text {error}") from error
        return said, None if isinstance(was, Keep) else was

    def _settings(self) -> QueueSettings:
        found = read_feedback_settings(self._engine.published.settings.feedback)
        if found is None:
            raise FeedbackOff(
                "the review queue is off; the field `feedback` of the settings switches it on"
            )
        return found

    # --- reading -----------------------------------------------------------------------

    async def page(
        self, *, after: str = "", limit: int = 100, route: str | None = None
    ) -> FeedbackPage:
        """Read a page of the queue, newest first.

        Args:
            after: The ``next_after`` of the page before.
            limit: 1 to ``PAGE_ITEMS_MAX``.
            route: Only items that name this route, as the right one or as the answer.
        """
        if not 1 <= limit <= PAGE_ITEMS_MAX:
            raise InvalidQuery(f"limit must be 1 to {PAGE_ITEMS_MAX}")
        start = _parsed_place(after)
        items, version, is_on = await self._read()
        found = [each for each in items if route is None or route in (each.route, each.was)]
        found.sort(key=_place, reverse=True)
        rest = [each for each in found if start is None or _place(each) < start]
        shown = rest[:limit]
        at_ms, item_id = _place(shown[-1]) if len(rest) > limit else (0, "")
        return FeedbackPage(
            is_on=is_on,
            items=[_stored(each) for each in shown],
            next_after=f"{at_ms}.{item_id}" if item_id else None,
            total=len(found),
            version=version,
        )

    async def _read(self) -> tuple[list[FeedbackItem], str, bool]:
        def read(state: AppliedState) -> tuple[list[FeedbackItem], str, bool]:
            table = state.table
            version = str(state.replica.position.revision)
            return list(table.feedback.values()), version, bool(table.settings.feedback)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    # --- resolving ---------------------------------------------------------------------

    async def resolve(
        self, resolutions: Sequence[Resolution], options: WriteOptions = _DEFAULTS
    ) -> WriteResult:
        """Resolve items in one entry of the log: all become visible at once, or none.

        Raises:
            NotFinalized: The log is below level 3.
            FeedbackNotFound: An item is not there any more; nothing changed.
            RouteNotFound: A route does not exist; nothing changed.
        """
        self._writer.require_level(DECISION_LEVEL)
        if (known := await self._writer.repeated(options)) is not None:
            return known
        changes, resolved = await self.planned(resolutions)
        return await self.revise(changes, resolved, options)

    async def planned(
        self, resolutions: Sequence[Resolution]
    ) -> tuple[list[RouteChange], list[str]]:
        """Turn resolutions into changes of routes, and the items that leave the queue."""
        if not 1 <= len(resolutions) <= RESOLVED_MAX:
            raise InvalidQuery(f"1 to {RESOLVED_MAX} items are expected")
        items = {each.item_id: each for each in (await self._read())[0]}
        plan = _Plan()
        for each in resolutions:
            item = items.get(each.item_id)
            if item is None:
                raise FeedbackNotFound(f"the review queue has no item {each.item_id!r}")
            plan.resolved.add(item.item_id)
            if each.resolve_as == "dismiss":
                continue
            is_negative = each.resolve_as == "negative"
            text = each.text or item.text
            route = each.route or (item.was if is_negative else item.route)
            if route is None:
                raise InvalidQuery(f"item {item.item_id}: name the route that learns")
            if not text:
                raise InvalidQuery(f"item {item.item_id}: the queue keeps no texts; give one")
            if is_negative:
                plan.add(RouteChange(route, negatives=(text,)))
            else:
                plan.add(RouteChange(route, (text,), create=each.create))
        return list(plan.changes.values()), sorted(plan.resolved)

    async def revise(
        self,
        changes: Sequence[RouteChange],
        resolved: Sequence[str] = (),
        options: WriteOptions = _DEFAULTS,
        settings: RouteSetSettings | None = None,
    ) -> WriteResult:
        """Change several routes, resolve items, and set the settings, in one entry of the log.

        Raises:
            RouteError: It was rejected; nothing changed.
        """
        wanted = checked_changes(changes)
        put = None if settings is None else stored_settings(settings)
        if not wanted and not resolved and put is None:
            raise InvalidQuery("the revision changes nothing")
        texts = [text for each in wanted for text in each.texts]
        gone = tuple(sorted(set(resolved)))

        def make(vectors: tuple[bytes, ...]) -> Mutation:
            rows = iter(vectors)
            routes = [
                RouteRevision(
                    name=each.name,
                    utterances=each.utterances,
                    vectors=tuple(next(rows) for _ in each.utterances),
                    is_new=each.create,
                    revision=each.revision,
                    threshold=each.threshold,
                    confidence_min=each.confidence_min,
                    negatives=each.negatives,
                    negative_vectors=tuple(next(rows) for _ in each.negatives),
                )
                for each in wanted
            ]
            return ReviseRoutes(tuple(routes), gone, put)

        return await self._writer.revise(texts, make, options)

    async def preview(
        self,
        changes: Sequence[RouteChange],
        resolved: Sequence[str] = (),
        texts: Sequence[LabelledText] = (),
    ) -> RevisionEffect:
        """Show what ``revise`` would change, without changing anything.

        Args:
            resolved: Items that would leave the queue; they are judged as well.
            texts: Up to ``PREVIEW_TEXTS_MAX`` texts, some of them labelled.

        Raises:
            TooLarge: The route set is too large to be copied.
        """
        if len(texts) > PREVIEW_TEXTS_MAX:
            raise InvalidQuery(f"a preview takes at most {PREVIEW_TEXTS_MAX} texts")
        wanted = checked_changes(changes)
        async with _previews:
            learned = [text for each in wanted for text in each.texts]
            encoder = self._engine.encoder
            vectors = (
                await self._writer.encode(learned, None, encoder)
                if learned
                else np.zeros((0, encoder.dim), np.float32)
            )
            routes = await asyncio.wrap_future(self._engine.read(copy_routes))
            items = {each.item_id: each for each in (await self._read())[0]}
            first = [items[each] for each in resolved if each in items]
            rest = sorted(items.values(), key=_place, reverse=True)
            judged = list(dict.fromkeys((*first, *rest)))[:PREVIEW_TEXTS_MAX]
            asked = {*(each.text for each in texts), *(each.text for each in judged)}
            read = {text: self._engine.prepare(text).text for text in asked}
            return await asyncio.to_thread(
                effect_of, encoder, routes, wanted, vectors, texts, judged, read
            )

    async def evaluate(self, limit: int = 1) -> OwnEvaluation:
        """Judge the routes' own utterances, each as a query that the route set has never seen."""
        return await evaluate_own(self._engine, limit)

    # --- expiry ------------------------------------------------------------------------

    @property
    def retention_days(self) -> float:
        """Days that feedback is kept; the most there are while the queue is off."""
        settings = read_feedback_settings(self._engine.published.settings.feedback)
        return settings.retention_days if settings else RETENTION_DAYS_MAX

    async def expire(self, now_ms: int | None = None) -> int:
        """Delete items whose time has come; return how many were proposed.

        Several nodes may propose the same deletion: the log applies the first one.
        """
        settings = read_feedback_settings(self._engine.published.settings.feedback)
        if settings is None:
            self._engine.decisions.clear()
            return 0
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        oldest_ms = now_ms - settings.retention_days * DAY_MS
        items = (await self._read())[0]
        gone = sorted(each.item_id for each in items if each.at_ms < oldest_ms)[:EXPIRED_AT_ONCE]
        if gone:
            seqs = [str(each.seq) for each in items if each.item_id in set(gone)]
            op_id = derived_op_id("feedback expiry", *gone, *sorted(seqs))
            await self._writer.write(ReviseRoutes((), tuple(gone)), WriteOptions(op_id=op_id))
        return len(gone)

    @property
    def is_on(self) -> bool:
        """Whether the route set keeps feedback."""
        return read_feedback_settings(self._engine.published.settings.feedback) is not None

    @property
    def kept_days(self) -> float:
        """Days that feedback is kept; 0 while the queue is off."""
        return self.retention_days if self.is_on else 0.0

    async def purge(self, now_ms: int | None = None, kept_days: float | None = None) -> bool:
        """Drop entries of the log that hold feedback whose time is over, on this node.

        The entries before them go as well: a log has no gaps.

        Args:
            kept_days: Days that entries with feedback are kept; None for those of this queue.

        Returns:
            Whether nothing of it is left here, and in Redis.
        """
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        kept_days = self.kept_days if kept_days is None else kept_days
        before_us = round((now_ms - kept_days * DAY_MS) * 1_000)
        database = self._engine.database
        seq = await asyncio.to_thread(database.last_feedback, before_us)
        if seq is None:
            return True
        log = shared_log(self._log)
        if log is not None and not await log.retention.drop_through(seq):
            return False  # a node is behind; the next round looks again

        def trim(state: AppliedState) -> None:
            state.storage.trim_log(seq + 1)

        await asyncio.wrap_future(self._engine.run_on_applier(trim))
        return True


class FeedbackExpiry:
    """Deletes old feedback in a task of its own: from the queue, and from the log."""

    def __init__(
        self, queue: FeedbackQueue, queues: Callable[[], Iterable[FeedbackQueue]] | None = None
    ) -> None:
        """Prepare; ``start`` begins to look.

        Args:
            queue: The queue of ``default``.
            queues: Returns the queues of the sets that keep feedback; None for ``queue`` alone.
        """
        self._queue = queue
        self._queues = queues or (lambda: (queue,))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for old items."""
        self._task = asyncio.create_task(self._run(), name="feedback-expiry")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        purged_at = time.monotonic()
        while True:
            # Jitter, so that mostly one node proposes and the others find it done.
            days = min((each.retention_days for each in self._queues()), default=RETENTION_DAYS_MAX)
            retention_seconds = days * DAY_MS / 1_000
            check_seconds = min(CHECK_SECONDS, max(CHECK_SECONDS_MIN, retention_seconds / 4))
            await asyncio.sleep(check_seconds * random.uniform(0.5, 1.5))
            try:
                for each in self._queues():
                    await each.expire()
                if time.monotonic() - purged_at >= PURGE_CHECKS * check_seconds:
                    purged_at = time.monotonic()
                    kept = [each.kept_days for each in self._queues() if each.is_on]
                    # The log of one set is that of all: entries go with the shortest time.
                    await self._queue.purge(kept_days=min(kept, default=0.0))
            except SynaptoRouteError as error:
                _log.debug("old feedback could not be deleted: %s", error)
            except Exception as error:  # a bug: the next round goes on
                _log.exception("the expiry of feedback failed: %s", error)


def checked_changes(changes: Sequence[RouteChange]) -> list[RouteChange]:
    """Check changes and put them in order of name, each route once."""
    if len(changes) > RESOLVED_MAX:
        raise InvalidQuery(f"a revision changes at most {RESOLVED_MAX} routes")
    plan = _Plan()
    for each in changes:
        name = checked_name(each.name)
        texts = _checked_texts(name, each.utterances)
        negatives = _checked_texts(name, each.negatives)
        if each.create and not texts:
            raise InvalidRoute(f"{name}: a new route needs utterances")
        plan.add(replace(each, name=name, utterances=texts, negatives=negatives))
    return [plan.changes[name] for name in sorted(plan.changes)]


def _checked_texts(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise InvalidRoute(f"{name}: texts must be a list of strings")
    try:
        return tuple(dict.fromkeys(check_text(text, UTTERANCE_BYTES_MAX) for text in texts))
    except (TypeError, ValueError) as error:
        raise InvalidRoute(f"{name}: a text {error}") from error


def check_queue_settings(settings: FeedbackSettings | None) -> None:
    """Refuse a redaction that is neither a known kind nor a pattern."""
    for pattern in settings.redaction if settings else ():
        if pattern in KINDS:
            continue
        # A misspelled kind would be a pattern that cuts nothing but its own name.
        if pattern.replace("_", "").isalpha():
            known = ", ".join(KINDS)
            raise InvalidRoute(f"feedback.redaction: {pattern!r} is none of {known}")
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise InvalidRoute(f"feedback.redaction: {error}") from error


def stored_settings(settings: RouteSetSettings) -> Settings:
    """Check settings of the route set, and bring them into the form of the log."""
    check_queue_settings(settings.feedback)
    fields = settings.model_dump(exclude={"feedback", "ignore"})
    queue = settings.feedback.canonical if settings.feedback else ""
    return Settings(**fields, feedback=queue, ignore=tuple(settings.ignore))


def _receipt(item_id: str, result: WriteResult) -> FeedbackReceipt:
    return FeedbackReceipt(
        id=item_id, times=max(1, result.count), version=result.version, status=result.status
    )


def _place(item: FeedbackItem) -> tuple[int, str]:
    return item.at_ms, item.item_id


def _parsed_place(after: str) -> tuple[int, str] | None:
    if not after:
        return None
    at_ms, _, item_id = after.partition(".")
    if not (at_ms.isascii() and at_ms.isdigit() and len(at_ms) < 20 and len(item_id) <= 16):
        raise InvalidQuery("`after` is not the `next_after` of a page")
    return int(at_ms), item_id


def _stored(item: FeedbackItem) -> StoredFeedback:
    return StoredFeedback(
        id=item.item_id,
        text=item.text or None,
        route=item.route,
        was=item.was,
        at_ms=item.at_ms,
        times=item.times,
    )
