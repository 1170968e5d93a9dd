"""The cascade: a first stage answers sure queries, the encoder answers all others.

* A decision is a function of the query's text and of the replicated state at one position:
  rows, thresholds and the calibration in the settings.  So the scorer changes the static rows
  in the same step as the tensor, and one lock makes each answer see one position.
* The first stage runs on the caller's thread.  It waits for no worker, queue or thread.
* A node that cannot decide as the others do (it has no table, or another one than the
  calibration's) sends every query to the encoder, and says so in its status.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade import (
    UTTERANCES_MAX,
    Calibration,
    RouteCounts,
    StaticRoutes,
    StaticTable,
    is_offered,
    is_superseded,
    read_calibration,
    read_projection,
    scored_by,
)
from synaptoroute.cascade.table_store import (
    NAME_DIGITS,
    NO_TABLE,
    TableStore,
    state_without_table,
)
from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.decision import DecisionCalibration
from synaptoroute.encoder import TextEncoder, Tokens
from synaptoroute.models import Match
from synaptoroute.scoring import numbers_of
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.query import (
    DecisionCounts,
    FirstStage,
    FirstStageResult,
    Query,
    RecentDecisions,
    ServedPlace,
    StageAt,
    match_of,
)
from synaptoroute.tensor import Tensor

RECALIBRATED_SHARE: Final = 0.1
"""Share of routes changed since the calibration at which it is measured again."""
SUSPENDED_SHARE: Final = 0.25
"""Share of changed routes at which a calibration that is not by route no longer applies."""
OUTGROWN_SHARE: Final = 1.5
"""The same for one that is by route: most routes are others, and the projection not of them."""

BOOT_ROWS_MAX: Final = 1_024
"""Rows of a set that is embedded while a node boots, about 35 us a row."""

OTHER_TABLE: Final = "other_table"
NOT_FINALIZED: Final = "not_finalized"
STATES: Final = ("off", "no_table", "uncalibrated", "refused", "suspended", "on")
StaticRows: TypeAlias = Mapping[int, NDArray[np.int8]]


class EmbeddedRows(dict[int, NDArray[np.int8]]):
    """Static embeddings by slot, and the table that they were made with."""

    def __init__(
        self, table: StaticTable, rows: Iterable[tuple[int, NDArray[np.int8]]] = ()
    ) -> None:
        super().__init__(rows)
        self.table = table


@dataclass(frozen=True, slots=True)
class CascadeStatus:
    """The cascade on this node at one moment."""

    state: str = "off"
    reason: str = ""
    static: int = 0
    deferred: int = 0
    changed_share: float = 0.0
    calibration: Calibration | None = None
    distilled_share: float | None = None


class StageCounts:
    """Queries that the first stages of all route sets but ``default`` answered and left.

    Those of removed sets count as well, so that the figures never fall.
    """

    def __init__(self) -> None:
        self.static = 0
        self.deferred = 0
        self.decisions = DecisionCounts()
        self.on: set[int] = set()  # Numbers of the sets, ``default`` included, where it is on
        self.updates = 0  # States that were computed, of all sets
        # While a node boots, large sets are not embedded: that is done once it serves.
        self.is_booting = True
        self.are_rows_late = False
        self._lock = threading.Lock()

    def count(self, found: Collection[Match], deferred: int, *, is_decided: bool) -> None:
        """Count answers.

        Args:
            is_decided: Whether nobody else counts their decisions.
        """
        with self._lock:
            self.static += len(found)
            self.deferred += deferred
            if is_decided:
                self.decisions.count(found)


class Named(Protocol):
    """Queries that name a route set or an alias, and the set that was found for them."""

    @property
    def set_name(self) -> str:
        """The set that answers."""
        ...

    def locked_with(self, lock: threading.Lock) -> AbstractContextManager[None]:
        """Hold a lock of a first stage while no set and no alias may change."""
        ...

    def holds(self, query: Query) -> bool:
        """Whether the query's name still leads to the set.  The caller holds that lock."""
        ...


class Cascade:
    """The first stage of one route set; ``FirstStage`` documents most of its methods.

    Invariant: ``_routes`` is at the tensor's position whenever the lock is free.

    Attributes:
        decisions: Answers that may be reviewed; the scorer adds its own.
    """

    def __init__(
        self,
        tables: TableStore | Sequence[StaticTable],
        number: int = 0,
        place: ServedPlace | None = None,
        total: StageCounts | None = None,
    ) -> None:
        """Prepare; it is off until ``install``.

        Args:
            tables: Those of all sets; a store may get more while it is used.
            number: Of its route set; 0 is ``default``.
            place: The position that is visible, for a set that does not follow every entry.
            total: Counts of all sets but ``default``.
        """
        self.tables = tables if isinstance(tables, TableStore) else TableStore(tables)
        self._number, self._place = number, place
        self.total = total or StageCounts()
        self._lock = threading.Lock()
        self._routes: StaticRoutes | None = None
        self._encoder: TextEncoder | None = None
        self._preparation: TextPreparation | None = None
        self._numbers: DecisionCalibration | None = None
        self._calibration: Calibration | None = None
        self._counts = RouteCounts()
        self._unfit = ""  # Why they cannot be measured, as the state says
        self._is_unreadable = False
        self._state, self._reason = "off", ""
        self._is_automatic = self._awaits_fit = False
        self._static = 0
        self._deferred = 0
        self.is_calibrating = False
        self.decision_counts = DecisionCounts()
        self.decisions = RecentDecisions()

    # --- from any thread ---

    def table_of(self, encoder: TextEncoder) -> tuple[StaticTable, str] | None:
        """Find the table of an encoder and its name: that of the calibration, if it is here."""
        calibration = self._calibration
        return self.tables.find(encoder.fingerprint, calibration.table if calibration else "")

    @property
    def lacks_table(self) -> bool:
        """Whether it could be on, if this node had a table."""
        if self._reason != NO_TABLE:
            return False
        return not self._is_automatic or not self._counts.unfit

    @property
    def foreign_table(self) -> str:
        """Table of the calibration if this node has another one; else empty."""
        calibration = self._calibration
        is_foreign = calibration is not None and self._reason == OTHER_TABLE
        return calibration.table if calibration is not None and is_foreign else ""

    @property
    def status(self) -> CascadeStatus:
        tables, reason = self.tables, self._reason
        return CascadeStatus(
            self._state,
            tables.reason if reason == NO_TABLE else reason,
            self._static,
            self._deferred,
            self._changed_share(),
            self._calibration,
            tables.distilled_share if reason == NO_TABLE else None,
        )

    @property
    def is_automatic(self) -> bool:
        """Whether nobody asked for it by name: the settings say ``auto``."""
        return self._is_automatic

    @property
    def wants_calibration(self) -> bool:
        """Whether a calibration is due and this node is not measuring one."""
        if self.is_calibrating or self._reason in (OTHER_TABLE, "unreadable"):
            return False
        calibration = self._calibration
        if calibration is None:
            return self._state not in ("off", "no_table")
        # With ``auto`` it is off where it would not pay, until the routes are others.
        is_measured = self._state != "off" or bool(calibration.reason)
        return is_measured and self._changed_share() >= RECALIBRATED_SHARE

    @property
    def awaits_fit(self) -> bool:
        """Whether a first fit would change the score that it is measured by."""
        return self._awaits_fit

    @property
    def is_on(self) -> bool:
        return self._state == "on"

    def answer(
        self, queries: Sequence[Query], node: str, named: Named | None = None
    ) -> list[Match | None]:
        """Answer queries on the caller's thread; None for those left to the encoder.

        A batch costs less than its queries alone, and gives the same answers.

        Args:
            named: What the queries name; None for ``default``, where none has a name.
        """
        is_named = named is not None
        asked = [query for query in queries if query.is_plain and (is_named or not query.route_set)]
        found = self._evaluate(asked, node, named)
        left = sum(
            query.first_stage is not None and not query.first_stage.is_sure for query in asked
        )
        answers = [found.get(id(query)) for query in queries]
        with self._lock:  # other loops and the scorer count as well
            self._static += len(found)
            self._deferred += left
            self.decision_counts.count(found.values())
            is_reviewed = self._routes is not None and bool(self._routes.settings.feedback)
        if self._place is not None:
            self.total.count(found.values(), left, is_decided=True)
        if is_reviewed:
            self.decisions.add(
                (query, match)
                for query, match in zip(queries, answers, strict=True)
                if match is not None
            )
        return answers

    def answer_if_moved(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        # The first evaluation saw an older position than the answer will carry: at this one
        # the first stage might be sure, and every node must decide alike at one position.
        routes = self._routes if self._state == "on" else None
        at: StageAt | None = None if routes is None else routes.revision
        if routes is not None and self._number:
            at = self._number, routes.revision
        moved = [query for query in queries if query.first_stage_at != at and query.is_plain]
        for query in moved:
            query.first_stage, query.first_stage_at = None, None
        if not moved:
            return [None] * len(queries)
        found = self._evaluate(moved, node)
        with self._lock:
            self._static += len(found)
        if self._place is not None:
            self.total.count(found.values(), 0, is_decided=False)
        return [found.get(id(query)) for query in queries]

    def _evaluate(
        self, queries: Sequence[Query], node: str, named: Named | None = None
    ) -> dict[int, Match]:
        """Store the result of the first stage in every query; returns sure answers by ``id``."""
        encoder, preparation = self._encoder, self._preparation
        if self._state != "on" or encoder is None or preparation is None or not queries:
            return {}
        new = [
            query
            for query in queries
            if query.tokens_of is not encoder
            or query.prepared is None
            or query.prepared.version is not preparation.version
        ]
        prepared = [preparation.prepare(query.text) for query in new]
        tokenized = encoder.tokenize([each.text for each in prepared])
        for query, each, tokens in zip(new, prepared, tokenized, strict=True):
            query.prepared, query.tokens, query.tokens_of = each, tokens, encoder
        former = self._routes
        if former is None or former.table is None:
            return {}
        table = former.table
        embeddings = table.embed_all([query.tokens for query in queries])
        limits = [query.candidates for query in queries]
        # Tokens and embeddings depend on the encoder alone and are made without the lock; the
        # checks are repeated under it, since the state may have changed meanwhile.
        with self._lock if named is None else named.locked_with(self._lock):
            routes, calibration = self._routes, self._calibration
            guard = calibration.guard if calibration is not None else None
            if self._state != "on" or routes is None or guard is None:
                return {}
            if encoder is not self._encoder or routes.table is not table:
                return {}
            # Rows of another set than ``default`` stay as they are at most entries.
            version = str(routes.revision if self._place is None else self._place.revision)
            at: StageAt = (self._number, routes.revision) if self._number else routes.revision
            found = {}
            levels = calibration.levels if calibration is not None else None
            results = routes.evaluate(embeddings, guard, limits, self._numbers, levels)
            for query, result in zip(queries, results, strict=True):
                if query.prepared is None or query.prepared.version is not preparation.version:
                    continue  # the words changed meanwhile; the scorer evaluates it again
                if named is not None and not named.holds(query):
                    continue  # it is of another set now
                # What is not sure stays so, whatever text it equals.
                exact = routes.exact_match(query.prepared.kept) if result.is_sure else None
                # An exact match is the same with and without this stage, and so is a text that
                # the encoder does not understand.
                if not _agrees(result, exact, query.tokens):
                    result = result._replace(is_sure=False, ranking=None)
                query.first_stage, query.first_stage_at = result, at
                if result.ranking is not None:
                    slot = None if exact is None else exact[1]
                    found[id(query)] = match = match_of(
                        query, result.ranking, routes, version, node, query.tokens, slot
                    )
                    if named is not None:
                        match.route_set = named.set_name
        return found

    def build_from(self, tensor: Tensor, encoder: TextEncoder) -> StaticRoutes | None:
        """Embed the route set of a tensor, which must not change meanwhile; see ``rebuild``."""
        if self.total.is_booting and tensor.slots_used > BOOT_ROWS_MAX:
            self.total.are_rows_late = True
            return None
        return self.rebuild(encoder, tensor.settings, tensor.routes.values(), tensor.revision)

    def needs_rebuild(self, change: Change) -> bool:
        settings, routes = change.settings, self._routes
        if settings is None or not settings.cascade or not settings.calibration:
            return False
        return routes is None or settings.calibration != routes.settings.calibration

    def rebuild(
        self,
        encoder: TextEncoder,
        settings: Settings,
        records: Iterable[RouteRecord],
        revision: Revision,
    ) -> StaticRoutes | None:
        """Embed a whole route set, about 35 us an utterance; None if it would not be used."""
        calibration = _calibration_of(settings)
        if not settings.cascade or calibration is None or calibration.guard is None:
            return None
        found = self.tables.find(encoder.fingerprint, calibration.table)
        if found is None or calibration.table != found[1]:
            return None  # nothing will be answered by them
        kept = tuple(records)
        if sum(len(record.slots) for record in kept) > UTTERANCES_MAX:
            return None
        dim = found[0].dim
        routes = StaticRoutes(dim, settings, revision, read_projection(calibration.turn, dim))
        routes.table = found[0]
        routes.measured = _measured(calibration)
        tokenize = encoder.tokenize_utterances
        routes.load(kept, (found[0].embed_texts(each.utterances, tokenize) for each in kept))
        return routes

    def embed(self, change: Change, encoder: TextEncoder) -> StaticRows:
        routes = self._routes
        if routes is None or routes.table is None or not change.writes:
            return {}
        texts = [write.utterance for write in change.writes]
        rows = routes.table.embed_texts(texts, encoder.tokenize_utterances)
        slots = (write.slot for write in change.writes)
        return EmbeddedRows(routes.table, zip(slots, rows, strict=True))

    def sibling(self, number: int, place: ServedPlace) -> Cascade:
        """Make the first stage of another route set, which is off until ``install``."""
        return Cascade(self.tables, number, place, self.total)

    def copy_for(
        self, number: int, place: ServedPlace, tensor: Tensor, preparation: TextPreparation
    ) -> Cascade:
        """Copy it for a fork of its set; nothing may change either meanwhile.

        Args:
            tensor: That of the fork.
            preparation: That of the fork.
        """
        cascade, routes = self.sibling(number, place), self._routes
        assert self._encoder is not None, "nothing was installed: this is a bug"
        cascade.install(
            None if routes is None else routes.copy(), self._encoder, tensor, preparation
        )
        return cascade

    # --- on the scorer's thread ---

    def keep_counts_of(self, former: FirstStage | None, decisions: RecentDecisions) -> None:
        self.decisions = decisions
        if isinstance(former, Cascade):
            self._static, self._deferred = former._static, former._deferred
            self.decision_counts = former.decision_counts

    def install(
        self,
        routes: StaticRoutes | None,
        encoder: TextEncoder,
        tensor: Tensor,
        preparation: TextPreparation,
    ) -> None:
        with self._lock:
            self._routes, self._encoder = routes, encoder
            self._preparation = preparation
            self._take_settings(tensor)

    def apply(
        self,
        change: Change,
        at: Revision,
        written: StaticRows,
        tensor: Tensor,
        built: StaticRoutes | None = None,
    ) -> None:
        """Apply one change, in the step in which it becomes visible.

        Args:
            written: What ``embed`` returned for it; missing rows are embedded here.
            built: The route set at this place, if ``rebuild`` was called before.
        """
        encoder, settings = self._encoder, change.settings
        assert encoder is not None, "nothing was installed: this is a bug"
        if settings is not None and self.needs_rebuild(change):
            routes = built or self.rebuild(encoder, settings, tensor.routes.values(), at)
            assert self._preparation is not None
            self.install(routes, encoder, tensor, self._preparation)
            return
        routes = self._routes
        # They may have been embedded by the table of the rows before the last calibration.
        if routes is not None and change.writes and not _is_of(routes, written):
            written = self.embed(change, encoder)
        with self._lock:
            is_fitted = change.decision is not None
            if routes is not None:
                routes.apply(change, at, written)
            if settings is None:
                counts = self._counts
                counts.apply(change)
                unfit, is_measured = counts.unfit, self._calibration is not None
                if is_fitted or is_measured or not unfit:
                    # Without a fit they depend on the numbers of routes and utterances.
                    self._numbers = numbers_of(tensor, encoder.fingerprint)
                if is_fitted or is_measured or unfit != self._unfit:
                    self._update_state(tensor.settings)
                return
            if not settings.cascade:
                self._routes = None
            self._take_settings(tensor)

    def advance(self, at: Revision) -> None:
        if self._routes is not None:
            with self._lock:
                self._routes.revision = at

    # --- under the lock ---

    def _take_settings(self, tensor: Tensor) -> None:
        """Read the calibration, and count the routes that have not changed since."""
        settings, encoder = tensor.settings, self._encoder
        assert encoder is not None, "nothing was installed: this is a bug"
        self._numbers = numbers_of(tensor, encoder.fingerprint)
        text = settings.calibration
        self._calibration = found = read_calibration(text) if text else None
        self._is_unreadable = bool(text) and found is None and not is_superseded(text)
        since = None if found is None else _revision(found.at)
        self._counts = RouteCounts(tensor.routes.values(), since)
        self._update_state(settings)

    def _update_state(self, settings: Settings) -> None:
        """Compute the state; a function of the replicated state alone."""
        self._is_automatic = settings.cascade == "auto"
        scored = scored_by(settings, self._numbers)
        self._awaits_fit = settings.aggregation == "adaptive" and scored == "blend"
        if not self._applies(settings):
            self._calibration = None
        self._state, self._reason = self._state_for(settings)
        self.total.updates += 1
        if self._state == "on":
            self.total.on.add(self._number)
        else:
            self.total.on.discard(self._number)

    def _applies(self, settings: Settings) -> bool:
        """Whether the calibration is of the encoder and the score that decide."""
        encoder, calibration = self._encoder, self._calibration
        if encoder is None or calibration is None:
            return False
        is_of_encoder = calibration.fingerprint == encoder.fingerprint[:NAME_DIGITS]
        return is_of_encoder and calibration.scored == scored_by(settings, self._numbers)

    def _state_for(self, settings: Settings) -> tuple[str, str]:
        encoder, calibration = self._encoder, self._calibration
        if not settings.cascade or encoder is None:
            return "off", ""
        is_auto, found = settings.cascade == "auto", self.table_of(encoder)
        if found is None:
            return state_without_table(encoder, settings.cascade)
        refused = "off" if is_auto else "refused"
        if calibration is None:
            return self._uncalibrated(settings)
        if calibration.guard is None:
            return refused, calibration.reason
        if calibration.table != found[1]:
            return "refused", OTHER_TABLE
        if self._routes is None:
            is_late = self._counts.utterances <= UTTERANCES_MAX
            return ("suspended", "starting") if is_late else (refused, "too_many_utterances")
        if self._routes.projection is None:
            return "refused", "unreadable"
        limit = OUTGROWN_SHARE if calibration.is_by_route else SUSPENDED_SHARE
        if self._changed_share() > limit:
            return "suspended", "routes_changed"
        return "on", ""

    def _uncalibrated(self, settings: Settings) -> tuple[str, str]:
        if self._is_unreadable:
            return "refused", "unreadable"
        unfit = self._unfit = self._counts.unfit
        scored = scored_by(settings, self._numbers)
        if settings.cascade == "auto":
            if unfit:
                return "off", unfit
            if not is_offered(scored or settings.aggregation, scored):
                return "off", "aggregation_not_offered"
        return "uncalibrated", "not_judged_yet"

    def _changed_share(self) -> float:
        """Share of routes added, changed or removed since the calibration."""
        calibration = self._calibration
        return 0.0 if calibration is None else self._counts.changed_share(calibration.routes)


def _is_of(routes: StaticRoutes, written: StaticRows) -> bool:
    """Whether embeddings were made with the table of the others."""
    return isinstance(written, EmbeddedRows) and written.table is routes.table


def _agrees(result: FirstStageResult, exact: tuple[int, int] | None, tokens: Tokens) -> bool:
    """Whether a sure answer may stand: no utterance of another route equals the text."""
    if exact is None or result.ranking is None or result.ranking.best is None:
        return tokens.is_understood
    return result.ranking.best.route_id == exact[0]


def _calibration_of(settings: Settings) -> Calibration | None:
    return read_calibration(settings.calibration) if settings.calibration else None


def _measured(calibration: Calibration) -> Revision | None:
    """Position after which a change of a route leaves it to the encoder; None for none."""
    return _revision(calibration.at) if calibration.is_by_route else None


def _revision(version: str) -> Revision:
    epoch, _, seq = version.partition(".")
    return Revision(int(epoch), int(seq))
