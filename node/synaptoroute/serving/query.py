"""A query, its answer, and the protocols of the query path."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder, Tokens
from synaptoroute.models import Candidate, Match, MatchReason, WordRepair
from synaptoroute.ports import CONFIDENCE_BOUNDS, DecisionFigures, EnginePort, ShadowFigures
from synaptoroute.scoring import QuerySpec, Ranking, RouteScore
from synaptoroute.serving.context import context_weight
from synaptoroute.serving.preparation import KEY_SEPARATOR, PreparedText, TextPreparation
from synaptoroute.tensor import Tensor

EXPLAIN_CANDIDATES = 5
DECISIONS_KEPT = 4_096
DECISION_CHARACTERS_MAX = 8_192


class FirstStageResult(NamedTuple):
    """Result of the first stage for one query.

    Attributes:
        is_sure: Whether it answers.
        margin: Lead of its best route; None without a second one.
        guard_margin: The lead that it needs.
        ranking: Its answer in the encoder's scale; None if it is not sure.
    """

    is_sure: bool
    margin: float | None = None
    guard_margin: float | None = None
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OptionSet:
    """The options of the questions about a text that may be other than routes.

    Attributes:
        fingerprint: Of the encoder of the vectors.
        names: Name of each, under which it may be a route; None for none.
        texts: Text of each.
        vectors: float32[n, dim], of the texts.
    """

    fingerprint: str
    names: Sequence[str | None]
    texts: Sequence[str]
    vectors: NDArray[np.float32]


_ONE_OF_ALL: Final = QuerySpec()

StageAt: TypeAlias = "Revision | tuple[int, Revision]"
"""Place of the rows of a first stage; with the number of its set if that is not ``default``."""


@dataclass(slots=True, eq=False)
class Query:
    """One caller's query.

    Attributes:
        routes: Names to choose among; None for all.
        explain: Report candidates even with a limit of one.
        use_cache: False encodes the text again, to measure.
        deadline_seconds: A longer predicted wait is refused.
        context: Earlier turns of its conversation, oldest first.
        prior: Weights of routes by name, see ``serving.prior``.
        is_probe: Whether nobody asked exactly this; then it does not count as unmatched.
        options: Score these options rather than choose a route; the answer is then their
            ``OptionScores``.
        flow: Name of its client, among which capacity is shared.
        route_set: The set or the alias that it is for; empty for the default set.
        session: Keeps its caller on one side of an alias with a canary; None for no canary.
        cache_scope: Embeddings are shared with queries of the same scope alone.
        future: Resolved on the event loop.
        prepared: Its text as it is encoded; set by the stage that reads it.
        tokens: Its tokens, if the first stage made them.
        was_cached: Whether its embedding was known; set by the stage that scores it.
        first_stage: What the first stage found, if it is on.
        first_stage_at: Which rows that result was found in.
        times: When its batch was taken, tokenized and encoded; nanoseconds since 1970.
    """

    text: str
    limit: int
    routes: frozenset[str] | None
    explain: bool
    use_cache: bool = True
    context: tuple[str, ...] = ()
    prior: Mapping[str, float] | None = None
    is_probe: bool = False
    options: OptionSet | None = None
    deadline_seconds: float = math.inf
    flow: str = ""
    route_set: str = ""
    session: str | None = None
    cache_scope: str = ""
    future: asyncio.Future[Any] | None = None
    loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)
    prepared: PreparedText | None = field(default=None, repr=False)
    tokens: Any = field(default=None, repr=False)
    tokens_of: Any = field(default=None, repr=False)
    was_cached: bool = False
    first_stage: FirstStageResult | None = None
    first_stage_at: StageAt | None = None
    times: tuple[int, int, int] | None = None

    @property
    def is_abandoned(self) -> bool:
        return self.future is not None and self.future.done()

    @property
    def is_plain(self) -> bool:
        """Whether its text alone decides, among all routes."""
        is_whole = self.routes is None and self.options is None
        return is_whole and not self.context and not self.prior

    @property
    def key(self) -> str:
        """Key of its embedding: queries with equal keys may share one."""
        return KEY_SEPARATOR.join((self.text, *self.context)) if self.context else self.text

    @property
    def in_flight_key(self) -> tuple[str, str | None, str, str]:
        """What queries have in common that are answered together, if they name a set or scope."""
        return self.route_set, self.session, self.cache_scope, self.key

    @property
    def candidates(self) -> int:
        """Number of candidates that the answer carries."""
        return max(self.limit, EXPLAIN_CANDIDATES) if self.explain else self.limit

    def spec(self, routes: Mapping[str, RouteRecord]) -> QuerySpec:
        """Translate it to the numbers that scoring understands."""
        if self.routes is None and self.limit == 1 and not self.explain:
            return _ONE_OF_ALL
        ids = None
        if self.routes is not None:
            ids = frozenset(routes[name].route_id for name in self.routes if name in routes)
            if self.options is not None:
                return QuerySpec(limit=max(1, len(ids)), routes=ids)
        return QuerySpec(limit=self.candidates, routes=ids)


class Records(Protocol):
    """The routes that ``match_of`` reads: the tensor, or the first stage."""

    @property
    def routes(self) -> Mapping[str, RouteRecord]: ...

    def record_of(self, route_id: int) -> RouteRecord: ...


def match_of(
    query: Query,
    ranking: Ranking,
    rows: Records,
    version: str,
    node: str,
    tokens: Tokens | None = None,
    exact_slot: int | None = None,
) -> Match:
    """Make the answer to one query.  The caller holds the lock of the rows.

    Args:
        tokens: Those of the query, if its encoder made any.
        exact_slot: The row of the best route whose utterance is the text, if there is one.
    """
    shown = ranking.best or (ranking.top[0] if ranking.top else None)
    truncated = tokens is not None and tokens.is_truncated
    is_noise = query.prepared is not None and not query.prepared.text
    is_known = tokens is None or tokens.is_understood or exact_slot is not None
    wants_candidates = query.explain or query.limit > 1
    # Without validation: every value comes from validated state.
    if shown is None or is_noise or not is_known:
        reason: MatchReason = "not_understood"
        if shown is None:
            reason = "no_routes" if not rows.routes else "filter_empty"
        return _undecided(query, reason, version, node, truncated=truncated)
    record = rows.record_of(shown.route_id)
    is_match = ranking.best is not None
    runner_up = ranking.runner_up
    reason = "matched"
    if exact_slot is not None:
        reason = "exact"
    elif not is_match:
        reason = "below_confidence" if shown.reaches_threshold else "below_threshold"
    is_plain = exact_slot is None
    match = Match.of_valid(
        {
            "route": record.name if is_match else None,
            "score": shown.score,
            "threshold": shown.threshold_shown,
            "utterance": utterance_at(record, shown.slot if exact_slot is None else exact_slot),
            "similarity": shown.similarity,
            "margin": shown.score - runner_up.score if runner_up else None,
            "runner_up": rows.record_of(runner_up.route_id).name if runner_up else None,
            "reason": reason,
            "confidence": shown.confidence if is_plain else 1.0,
            "confidence_min": shown.confidence_min or None,
            "p_none": ranking.p_none if is_plain else 0.0,
            "truncated": truncated,
            # Most routes have neither, and a call costs more than a comparison.
            "payload": load_json(record.payload) if is_match and record.payload != "null" else None,
            "metadata": load_json(record.metadata) if is_match and record.metadata != "{}" else {},
            "candidates": (
                [candidate_of(each, rows) for each in ranking.top] if wants_candidates else None
            ),
            "version": version,
            "node": node,
        }
    )
    if exact_slot is not None and match.candidates:
        match.candidates[0].passed, match.candidates[0].confidence = True, 1.0
        for other in match.candidates[1:]:
            other.passed, other.confidence = other.passed and not other.confidence_min, 0.0
    return _explained(match, query) if query.explain else match


def _undecided(
    query: Query, reason: MatchReason, version: str, node: str, *, truncated: bool
) -> Match:
    """Answer a query for which there is no route to choose, or a text that means nothing."""
    has_candidates = reason == "not_understood" and (query.explain or query.limit > 1)
    match = Match.of_valid(
        {
            "route": None,
            "reason": reason,
            "confidence": 0.0,
            "p_none": 1.0,
            "truncated": truncated,
            "metadata": {},
            "candidates": [] if has_candidates else None,
            "version": version,
            "node": node,
        }
    )
    return _explained(match, query) if query.explain else match


def _explained(match: Match, query: Query) -> Match:
    """Explain how the text was read, what else counted, and which stage answered."""
    prepared, stage = query.prepared, query.first_stage
    if query.prior and match.candidates:
        for candidate in match.candidates:
            candidate.prior = query.prior.get(candidate.route)
    if prepared is not None and prepared.turns:
        match.context_weight = context_weight(prepared.text)
    if prepared is not None and prepared.text != query.text:
        match.encoded_text = prepared.text
        match.repairs = [
            WordRepair.model_construct(written=each.written, read=each.read)
            for each in prepared.repairs
        ]
    if stage is not None:
        match.stage = "static" if stage.is_sure else "encoder"
        match.static_margin = stage.margin
        match.guard_margin = stage.guard_margin
    return match


def candidate_of(score: RouteScore, rows: Records) -> Candidate:
    """Describe the score of one route."""
    record = rows.record_of(score.route_id)
    return Candidate.model_construct(
        route=record.name,
        score=score.score,
        threshold=score.threshold_shown,
        passed=score.passed,
        utterance=utterance_at(record, score.slot),
        similarity=score.similarity,
        confidence=score.confidence,
        confidence_min=score.confidence_min or None,
    )


def utterance_at(record: RouteRecord, slot: int) -> str | None:
    """Find the utterance at a slot of a route; None for its description."""
    if slot == record.description_slot:
        return None
    return record.utterances[bisect_left(record.slots, slot)]


def load_json(text: str) -> Any:
    """Parse stored JSON; each caller gets a value of its own, since values are mutable."""
    if text == "null":
        return None
    return {} if text == "{}" else json.loads(text)


@dataclass(frozen=True, slots=True)
class UnmatchedQuery:
    """One query that no route took.

    Attributes:
        at_ms: Wall clock, milliseconds since 1970.
        nearest: Utterance of the route with the highest score; None without routes, and for a
            text that the encoder does not understand.
        reason: That of the match.
        confidence: That of the route with the highest score.
    """

    text: str
    at_ms: int
    nearest: str | None
    score: float | None
    threshold: float | None
    reason: str = "below_threshold"
    confidence: float | None = None


class UnmatchedQueries:
    """The newest queries that no route took, for operators.

    They are what users wrote: nothing is kept unless an operator says how many, and nothing
    is written to disk or log.  Written under the tensor lock, read from any thread.
    """

    def __init__(self, kept: int = 0) -> None:
        self.is_on = kept > 0
        self._newest: deque[UnmatchedQuery] = deque(maxlen=kept)

    @property
    def newest(self) -> list[UnmatchedQuery]:
        """The kept queries, newest first."""
        # A copy in one step: the scorer may append meanwhile.
        return list(reversed(self._newest.copy()))

    def forget(self, texts: frozenset[str]) -> int:
        """Forget queries with these texts; return how many."""
        kept = self._newest.copy()
        gone = [each for each in kept if each.text in texts]
        for each in gone:
            with suppress(ValueError):  # it became too old meanwhile
                self._newest.remove(each)
        return len(gone)

    def add(self, answers: Iterable[tuple[Query, object]]) -> None:
        """Keep the unmatched queries of a batch; those with a filter or a context are left out."""
        at_ms = time.time_ns() // 1_000_000
        for query, match in answers:
            if not isinstance(match, Match) or match.route is not None:
                continue
            if query.is_plain and not query.is_probe:
                self._newest.append(
                    UnmatchedQuery(
                        query.text,
                        at_ms,
                        match.utterance,
                        match.score,
                        match.threshold,
                        match.reason,
                        match.confidence,
                    )
                )


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer that may be reviewed later."""

    text: str
    route: str | None


class RecentDecisions:
    """The newest answers of this node by their identity, while the review queue is on.

    The identity is a hash of version, text and route: equal answers have the same one on every
    node, and a cached response keeps it.  Nothing is written to disk or log.  Any thread.
    """

    def __init__(self, kept: int = DECISIONS_KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()  # The scorer and callers of the first stage add
        self._newest: dict[str, Decision] = {}

    def forget(self, is_gone: Callable[[str], bool]) -> int:
        """Forget the answers to some texts; return how many."""
        with self._lock:
            gone = [name for name, each in self._newest.items() if is_gone(each.text)]
            for name in gone:
                del self._newest[name]
        return len(gone)

    def add(self, answers: Iterable[tuple[Query, object]]) -> None:
        """Name and keep the answers of a batch; texts too long to become utterances are left."""
        with self._lock:
            newest = self._newest
            for query, match in answers:
                if not isinstance(match, Match) or len(query.text) > DECISION_CHARACTERS_MAX:
                    continue
                said = f"{match.version}|{match.route or ''}|{query.text}".encode()
                match.decision_id = found = blake2b(said, digest_size=12).hexdigest()
                newest.pop(found, None)
                newest[found] = Decision(query.text, match.route)
                if len(newest) > self._kept:
                    del newest[next(iter(newest))]

    def find(self, decision_id: str) -> Decision | None:
        """Find an answer; None if it is not one of the newest."""
        return self._newest.get(decision_id)

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._newest = {}


class DecisionCounts:
    """Counts decisions; one thread at a time writes, any thread reads."""

    def __init__(self) -> None:
        self._reasons = dict.fromkeys(get_args(MatchReason), 0)
        self._confidences = [0] * len(CONFIDENCE_BOUNDS)
        self._confidence_sum = 0.0

    def count(self, matches: Iterable[Match]) -> None:
        for match in matches:
            self._reasons[match.reason] += 1
            confidence = match.confidence
            if confidence is not None:
                place = bisect_left(CONFIDENCE_BOUNDS, min(confidence, 1.0))
                self._confidences[place] += 1
                self._confidence_sum += confidence

    @property
    def figures(self) -> DecisionFigures:
        return DecisionFigures(
            tuple(self._reasons.items()), tuple(self._confidences), self._confidence_sum
        )


class ServedPlace(Protocol):
    """What knows the position that is visible.

    Attributes:
        revision: That position.
    """

    revision: Revision


class FirstStage(Protocol):
    """A stage that answers sure queries without the encoder; the cascade implements it.

    It follows the same changes as the tensor, so that both answer at one position.
    """

    @property
    def is_on(self) -> bool:
        """Whether some queries may be answered here."""
        ...

    def answer_if_moved(self, queries: Sequence[Query], node: str) -> Sequence[Match | None]:
        """Evaluate queries that come back from the encoder, if the position moved meanwhile."""
        ...

    def needs_rebuild(self, change: Change) -> bool:
        """Whether a change requires the whole route set to be embedded again."""
        ...

    def rebuild(
        self,
        encoder: TextEncoder,
        settings: Settings,
        records: Iterable[RouteRecord],
        revision: Revision,
    ) -> Any:
        """Prepare the state for a change that ``needs_rebuild`` names; any thread."""
        ...

    def embed(self, change: Change, encoder: TextEncoder) -> Mapping[int, Any]:
        """Embed the rows that a change writes, before it becomes visible; any thread."""
        ...

    def build_from(self, tensor: Tensor, encoder: TextEncoder) -> Any:
        """Prepare the state for ``install`` from a tensor that must not change meanwhile."""
        ...

    def sibling(self, number: int, place: ServedPlace) -> FirstStage:
        """Make the first stage of another route set, which is off until ``install``."""
        ...

    def copy_for(
        self, number: int, place: ServedPlace, tensor: Tensor, preparation: TextPreparation
    ) -> FirstStage:
        """Copy it for a fork of its set; nothing may change either meanwhile."""
        ...

    def keep_counts_of(self, former: FirstStage | None, decisions: RecentDecisions) -> None:
        """Count on where the first stage of the same set counted before it was replaced."""
        ...

    def install(
        self,
        routes: Any,
        encoder: TextEncoder,
        tensor: Tensor,
        preparation: TextPreparation,
    ) -> None:
        """Replace the whole state.  Runs on the scorer's thread."""
        ...

    def apply(
        self, change: Change, at: Revision, written: Mapping[int, Any], tensor: Tensor, built: Any
    ) -> None:
        """Apply one change, in the step in which it becomes visible."""
        ...

    def advance(self, at: Revision) -> None:
        """Follow an entry that changed another route set."""
        ...


class QueryEngine(EnginePort, Protocol):
    """The engine as the router sees it: ``EnginePort`` and the query path."""

    @property
    def has_first_stage(self) -> bool:
        """Whether the first stage of some route set is on."""
        ...

    @property
    def unmatched(self) -> UnmatchedQueries: ...

    @property
    def decisions(self) -> RecentDecisions: ...

    def unmatched_of(self, route_set: str) -> UnmatchedQueries:
        """Find those of a set or of the set that an alias names; empty for the default.

        Raises:
            SetNotFound: There is none of that name.
        """
        ...

    def decisions_of(self, route_set: str) -> RecentDecisions:
        """Find those of a set, as ``unmatched_of`` does."""
        ...

    def shadow_figures(self, alias: str) -> ShadowFigures | None:
        """Count what the shadow of an alias would have answered.

        None for an alias without a shadow, and for one that does not exist.
        """
        ...

    def decision_figures_of(self, route_set: str) -> DecisionFigures:
        """Count the decisions of a set, as ``unmatched_of`` finds it."""
        ...

    @property
    def cascades(self) -> Mapping[str, Any]:
        """The ``Cascade`` of each set that has one, by its name; that of ``default`` is empty."""
        ...

    def cascade_of(self, route_set: str) -> Any:
        """Find the ``Cascade`` of a set, as ``unmatched_of`` does; None if it has none."""
        ...

    def reset_shadow(self, alias: str) -> None:
        """Count what the shadow of an alias would have answered from zero."""
        ...

    def forget_embeddings(self) -> None:
        """Forget the embeddings of queries."""
        ...

    def forget_shadowed(self) -> None:
        """Forget the texts of queries that a shadow would have answered otherwise."""
        ...

    def start(self) -> None: ...

    def stop(self) -> None:
        """Answer what was accepted, end the threads, close the database."""
        ...

    def check_queue(
        self, texts: Sequence[object], share: bool, deadline_seconds: float, flow: str = ""
    ) -> None:
        """Refuse queries of a client that no text could make acceptable now.

        Raises:
            Overloaded: The queue is full, or the predicted wait over the deadline.
        """
        ...

    def submit(self, query: Query) -> None:
        """Answer or queue a query; its future is resolved on its event loop.

        Raises:
            Overloaded: The queue is full, or the predicted wait over the deadline.
            NotReady: The engine is stopping.
        """
        ...

    def submit_all(self, queries: Sequence[Query]) -> None:
        """Queue several queries, all or none; see ``submit``."""
        ...

    def answer_sure(self, queries: Sequence[Query]) -> Sequence[Match | None]:
        """Answer on the caller's thread what the first stage is sure of; None for the rest."""
        ...

    def answer_alone(self, query: Query) -> Match | None:
        """Answer on the caller's thread if that is quicker; None for the usual way."""
        ...

    def prepare(
        self, text: str, ignore: tuple[str, ...] | None = None, route_set: str = ""
    ) -> PreparedText:
        """Say how a set reads a text now, or with other ``ignore`` patterns; any thread.

        Raises:
            SetNotFound: There is none of that name.
        """
        ...

    def answer_now(self, queries: Sequence[Query]) -> list[Match]:
        """Encode and score on the caller's thread, before ``start``."""
        ...
