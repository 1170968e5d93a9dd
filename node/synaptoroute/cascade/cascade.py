"""The cascade: sure queries are answered by the static stage, all others by the encoder.

Rule 1: a decision is a function of the query's text and of the replicated state at one
position: rows, thresholds and the calibration in the settings.  So the scorer changes the
static rows in the same step as the tensor, and one lock makes each answer see one position.
Rule 2: whoever asks computes; no lane, no queue, no thread is waited for.
Rule 3: a node that cannot follow rule 1 (no table, another table than the calibration's)
asks the encoder for everything, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade import (
    UTTERANCES_MAX,
    Calibration,
    StaticRoutes,
    StaticTable,
    Turn,
    is_superseded,
    read_calibration,
    read_turn,
)
from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.models import Match
from synaptoroute.serving.query import Query, match_of
from synaptoroute.tensor import Tensor

NAME_DIGITS: Final = 16
RECALIBRATED_SHARE: Final = 0.1
"""Routes that differ from those that were judged, when the cascade is judged anew."""

SUSPENDED_SHARE: Final = 0.25
"""The same, when the old judgement counts no longer."""

NO_TABLE: Final = "not_prepared"
OTHER_TABLE: Final = "other_table"
STATES: Final = ("off", "no_table", "uncalibrated", "refused", "suspended", "on")
Written: TypeAlias = Mapping[int, NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class CascadeStatus:
    """How the cascade stands on this node.

    Attributes:
        state: ``off``, ``no_table``, ``uncalibrated``, ``refused``, ``suspended`` or ``on``.
        reason: Why it is not on; empty where it is, or is off.
        static: Queries answered by the static stage.
        deferred: Queries that it left to the encoder while it was on.
        changed_share: Routes that differ from those that were judged.
        calibration: What was measured last; None before the first.
    """

    state: str = "off"
    reason: str = ""
    static: int = 0
    deferred: int = 0
    changed_share: float = 0.0
    calibration: Calibration | None = None


class Cascade:
    """The static stage of one node.

    Invariants: ``_routes`` is of the tensor's position whenever the lock is free.

    Attributes:
        is_being_judged: Whether a calibration is under way on this node.
    """

    def __init__(self, tables: Sequence[StaticTable]) -> None:
        self._tables = {each.fingerprint: (each, each.checksum[:NAME_DIGITS]) for each in tables}
        self._lock = threading.Lock()
        self._routes: StaticRoutes | None = None
        self._encoder: TextEncoder | None = None
        self._calibration: Calibration | None = None
        self._same_count = 0
        self._state, self._reason = "off", ""
        self._static = 0
        self._deferred = 0
        self.is_being_judged = False

    # --- from any thread ---

    def table_of(self, encoder: TextEncoder) -> tuple[StaticTable, str] | None:
        """The table of an encoder and its name; None where none was prepared."""
        return self._tables.get(encoder.fingerprint)

    @property
    def table_names(self) -> list[str]:
        """Names of all tables that were prepared here."""
        return sorted(name for _, name in self._tables.values())

    @property
    def foreign_table(self) -> str:
        """The table that was measured, where this node has another one; else empty."""
        judged = self._calibration
        return judged.table if judged is not None and self._reason == OTHER_TABLE else ""

    @property
    def status(self) -> CascadeStatus:
        """How it stands."""
        return CascadeStatus(
            self._state,
            self._reason,
            self._static,
            self._deferred,
            self._changed_share(),
            self._calibration,
        )

    @property
    def wants_calibration(self) -> bool:
        """Whether the route set should be judged, and nobody here does."""
        if self.is_being_judged:
            return False
        if self._state in ("off", "no_table") or self._reason in (OTHER_TABLE, "unreadable"):
            return False
        return self._calibration is None or self._changed_share() >= RECALIBRATED_SHARE

    @property
    def is_on(self) -> bool:
        """Whether some queries may be answered here."""
        return self._state == "on"

    def answer(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        """Answer queries on the caller's thread; None for those that are the encoder's.

        Together they cost less, and each is answered as if it were alone.
        """
        asked = [query for query in queries if query.routes is None]
        found = self._look_at(asked, node)
        left = sum(query.look is not None and not query.look.is_sure for query in asked)
        with self._lock:  # other loops and the scorer count as well
            self._static += len(found)
            self._deferred += left
        return [found.get(id(query)) for query in queries]

    def answer_again(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        """Judge queries once more that come back from the encoder, if the position moved.

        What was visible when they were asked is not what their answer is of.  Runs in the
        scorer's turn, when no position moves.
        """
        routes = self._routes if self._state == "on" else None
        at = None if routes is None else routes.revision
        moved = [query for query in queries if query.looked_at != at and query.routes is None]
        for query in moved:
            query.look, query.looked_at = None, None
        if not moved:
            return [None] * len(queries)
        found = self._look_at(moved, node)
        with self._lock:
            self._static += len(found)
        return [found.get(id(query)) for query in queries]

    def _look_at(self, queries: Sequence[Query], node: str) -> dict[int, Match]:
        """Tell every query what the static stage sees, and give the answers that are sure."""
        encoder = self._encoder
        if self._state != "on" or encoder is None or not queries:
            return {}
        new = [query for query in queries if query.tokens_of is not encoder]
        for query, tokens in zip(new, encoder.tokenize([each.text for each in new]), strict=True):
            query.tokens, query.tokens_of = tokens, encoder
        table, _ = self._tables[encoder.fingerprint]
        embeddings = table.embed_all([query.tokens for query in queries])
        limits = [query.candidates for query in queries]
        with self._lock:
            routes, judged = self._routes, self._calibration
            if self._state != "on" or routes is None or judged is None or judged.guard is None:
                return {}
            if encoder is not self._encoder:
                return {}
            version = str(routes.revision)
            found = {}
            looks = routes.look(embeddings, judged.guard, limits)
            for query, look in zip(queries, looks, strict=True):
                query.look, query.looked_at = look, routes.revision
                if look.ranking is not None:
                    found[id(query)] = match_of(query, look.ranking, routes, version, node)
        return found

    def built_of(self, tensor: Tensor, encoder: TextEncoder) -> StaticRoutes | None:
        """Embed the route set of a tensor that nobody changes meanwhile; see ``built``."""
        return self.built(encoder, tensor.settings, tensor.routes.values(), tensor.revision)

    def is_rebuilt_by(self, change: Change) -> bool:
        """Whether a change needs the whole route set embedded, or turned anew."""
        settings, routes = change.settings, self._routes
        if settings is None or not settings.cascade:
            return False
        if routes is None:
            return True
        return bool(settings.calibration) and settings.calibration != routes.settings.calibration

    def rebuilt(
        self,
        encoder: TextEncoder,
        settings: Settings,
        records: Iterable[RouteRecord],
        revision: Revision,
    ) -> StaticRoutes | None:
        """Turn what is embedded by other settings, or embed it, while nobody changes it."""
        found, routes = self.table_of(encoder), self._routes
        if routes is None or found is None:
            return self.built(encoder, settings, records, revision)
        return routes.turned(_turn_of(settings, found[0].dim), settings, revision)

    def built(
        self,
        encoder: TextEncoder,
        settings: Settings,
        records: Iterable[RouteRecord],
        revision: Revision,
    ) -> StaticRoutes | None:
        """Embed a whole route set: some ten microseconds an utterance; None where of no use."""
        found = self.table_of(encoder)
        kept = tuple(records)
        if not settings.cascade or found is None:
            return None
        if sum(len(record.slots) for record in kept) > UTTERANCES_MAX:
            return None
        dim = found[0].dim
        routes = StaticRoutes(dim, settings, revision, _turn_of(settings, dim))
        routes.load(kept, [self._embed(encoder, found[0], each.utterances) for each in kept])
        return routes

    def embed(self, change: Change, encoder: TextEncoder) -> Written:
        """Embed what a change writes, ahead of its becoming visible."""
        found = self.table_of(encoder)
        if self._routes is None or found is None or not change.writes:
            return {}
        rows = self._embed(encoder, found[0], [write.utterance for write in change.writes])
        return {write.slot: row for write, row in zip(change.writes, rows, strict=True)}

    @staticmethod
    def _embed(encoder: TextEncoder, table: StaticTable, texts: Sequence[str]) -> NDArray[np.int8]:
        return table.embed_all(encoder.tokenize_utterances(texts))

    # --- on the scorer's thread ---

    def install(
        self, routes: StaticRoutes | None, encoder: TextEncoder, settings: Settings
    ) -> None:
        """Take over a whole state, or that there is none."""
        with self._lock:
            self._routes, self._encoder = routes, encoder
            self._judge(settings)

    def follow(
        self,
        change: Change,
        at: Revision,
        written: Written,
        tensor: Tensor,
        built: StaticRoutes | None = None,
    ) -> None:
        """Follow one change, in the step in which it becomes visible.

        Args:
            change: As the table enacted it.
            at: Its place in the log.
            written: What ``embed`` gave for it; what it lacks is embedded here.
            tensor: What the change is visible in.
            built: The route set at this place, if ``rebuilt`` was called ahead.
        """
        encoder, settings = self._encoder, change.settings
        assert encoder is not None, "nothing was installed: this is a bug"
        if settings is not None and self.is_rebuilt_by(change):
            routes = built or self.rebuilt(encoder, settings, tensor.routes.values(), at)
            self.install(routes, encoder, settings)
            return
        if self._routes is None:
            return
        if len(written) < len(change.writes):
            written = self.embed(change, encoder)
        with self._lock:
            self._routes.apply(change, at, written)
            if settings is None:
                gone = (*change.before, *change.deleted)
                self._same_count -= sum(self._is_as_judged(record) for record in gone)
                settings = self._routes.settings
                self._decide(settings)
                return
            if not settings.cascade:
                self._routes = None
            self._judge(settings)

    # --- under the lock ---

    def _is_as_judged(self, record: RouteRecord) -> bool:
        judged = self._calibration
        return judged is not None and record.revision <= _revision(judged.at)

    def _judge(self, settings: Settings) -> None:
        """Read the calibration, and count the routes that it was measured on."""
        text = settings.calibration
        self._calibration = read_calibration(text) if text else None
        routes = self._routes
        if routes is not None:
            self._same_count = sum(map(self._is_as_judged, routes.routes.values()))
        if self._calibration is None and text and not is_superseded(text):
            self._state, self._reason = "refused", "unreadable"
            return
        self._decide(settings)

    def _decide(self, settings: Settings) -> None:
        """Say whether static answers count now; a function of the replicated state."""
        self._state, self._reason = self._verdict(settings)
        if self._state == "uncalibrated":
            self._calibration = None

    def _verdict(self, settings: Settings) -> tuple[str, str]:
        encoder, judged = self._encoder, self._calibration
        if not settings.cascade or encoder is None:
            return "off", ""
        found = self.table_of(encoder)
        if found is None:
            return "no_table", NO_TABLE
        if self._routes is None:
            return "refused", "too_many_utterances"
        if judged is None or judged.fingerprint != encoder.fingerprint[:NAME_DIGITS]:
            return "uncalibrated", "not_judged_yet"
        if judged.guard is None:
            return "refused", judged.reason
        if judged.table != found[1]:
            return "refused", OTHER_TABLE
        if self._routes.turn is None:
            return "refused", "unreadable"
        if self._changed_share() > SUSPENDED_SHARE:
            return "suspended", "routes_changed"
        return "on", ""

    def _changed_share(self) -> float:
        """Routes that were added, changed or removed since, of those that were judged."""
        routes, judged = self._routes, self._calibration
        if routes is None or judged is None:
            return 0.0
        changed = max(len(routes.routes), judged.routes) - self._same_count
        return changed / max(1, judged.routes)


def _turn_of(settings: Settings, dim: int) -> Turn | None:
    """The turn that a calibration brings along; None where there is none."""
    judged = read_calibration(settings.calibration) if settings.calibration else None
    return read_turn(judged.turn, dim) if judged is not None else None


def _revision(version: str) -> Revision:
    epoch, _, seq = version.partition(".")
    return Revision(int(epoch), int(seq))
