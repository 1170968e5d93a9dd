"""A query on its way, and the making of its answer from a ranking."""

from __future__ import annotations

import asyncio
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.models import Candidate, Match, MatchReason
from synaptoroute.ports import EnginePort
from synaptoroute.scoring import QuerySpec, Ranking, RouteScore
from synaptoroute.serving.unmatched import Unmatched
from synaptoroute.tensor import Tensor

EXPLAIN_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class StaticLook:
    """What the static stage saw of one query.

    Attributes:
        is_sure: Whether it answers.
        margin: Lead of its best route; None without a second one.
        guard_margin: Lead that was needed.
        ranking: Its answer in the encoder's scale; None where it is not sure.
    """

    is_sure: bool
    margin: float | None = None
    guard_margin: float | None = None
    ranking: Ranking | None = None


@dataclass(slots=True, eq=False)
class Query:
    """One caller's question.

    Attributes:
        text: Checked text.
        limit: Candidates to report.
        routes: Names to choose among; None for all.
        explain: Report candidates even with a limit of one.
        use_cache: False encodes the text anew, to measure.
        deadline_seconds: Predicted wait beyond which it is refused.
        future: Resolved on the event loop.
        loop: That event loop.
        tokens: Its tokens, where the static stage made them.
        tokens_of: For which encoder.
        look: What the static stage saw, where the cascade is on,
        looked_at: and at which place of the log.
    """

    text: str
    limit: int
    routes: frozenset[str] | None
    explain: bool
    use_cache: bool = True
    deadline_seconds: float = math.inf
    future: asyncio.Future[Match] | None = None
    loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)
    tokens: Any = field(default=None, repr=False)
    tokens_of: Any = field(default=None, repr=False)
    look: StaticLook | None = None
    looked_at: Revision | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether the caller has gone."""
        return self.future is not None and self.future.done()

    @property
    def candidates(self) -> int:
        """How many candidates the answer shall carry."""
        return max(self.limit, EXPLAIN_CANDIDATES) if self.explain else self.limit

    def spec(self, routes: Mapping[str, RouteRecord]) -> QuerySpec:
        """The question in the numbers that scoring understands."""
        ids = None
        if self.routes is not None:
            ids = frozenset(routes[name].route_id for name in self.routes if name in routes)
        return QuerySpec(limit=self.candidates, routes=ids)


class Records(Protocol):
    """What the making of an answer reads of the tensor."""

    @property
    def routes(self) -> Mapping[str, RouteRecord]:
        """Routes by name."""
        ...

    def record_of(self, route_id: int) -> RouteRecord:
        """The route with this number."""
        ...


def match_of(query: Query, ranking: Ranking, rows: Records, version: str, node: str) -> Match:
    """Make the answer to one query.  Runs in the scorer's turn."""
    shown = ranking.best or (ranking.top[0] if ranking.top else None)
    if shown is None:
        reason: MatchReason = "no_routes" if not rows.routes else "filter_empty"
        return Match(route=None, reason=reason, version=version, node=node)
    record = rows.record_of(shown.route_id)
    is_match = ranking.best is not None
    runner_up = ranking.runner_up
    wants_candidates = query.explain or query.limit > 1
    match = Match.model_construct(
        route=record.name if is_match else None,
        score=shown.score,
        threshold=shown.threshold,
        utterance=utterance_at(record, shown.slot),
        similarity=shown.similarity,
        margin=shown.score - runner_up.score if runner_up else None,
        runner_up=rows.record_of(runner_up.route_id).name if runner_up else None,
        reason="matched" if is_match else "below_threshold",
        payload=load_json(record.payload) if is_match else None,
        metadata=load_json(record.metadata) if is_match else {},
        candidates=[candidate_of(each, rows) for each in ranking.top] if wants_candidates else None,
        version=version,
        node=node,
    )
    if query.explain and query.look is not None:
        match.stage = "static" if query.look.is_sure else "encoder"
        match.static_margin = query.look.margin
        match.guard_margin = query.look.guard_margin
    return match


def candidate_of(score: RouteScore, rows: Records) -> Candidate:
    """One route's standing."""
    record = rows.record_of(score.route_id)
    return Candidate.model_construct(
        route=record.name,
        score=score.score,
        threshold=score.threshold,
        passed=score.score >= score.threshold,
        utterance=utterance_at(record, score.slot),
        similarity=score.similarity,
    )


def utterance_at(record: RouteRecord, slot: int) -> str:
    """Text of a route's slot; the slots are ascending."""
    return record.utterances[bisect_left(record.slots, slot)]


def load_json(text: str) -> Any:
    """Read stored JSON anew, so that no two callers share a mutable value."""
    if text == "null":
        return None
    return {} if text == "{}" else json.loads(text)


class FirstStage(Protocol):
    """A stage that answers sure queries without the encoder; the cascade implements it.

    It follows the same changes as the tensor, so that both answer at one position.
    """

    @property
    def is_on(self) -> bool:
        """Whether some queries may be answered here."""
        ...

    def answer_again(self, queries: Sequence[Query], node: str) -> Sequence[Match | None]:
        """Evaluate queries that come back from the encoder, if the position moved meanwhile."""
        ...

    def is_rebuilt_by(self, change: Change) -> bool:
        """Whether a change requires the whole route set to be embedded again."""
        ...

    def rebuilt(
        self,
        encoder: TextEncoder,
        settings: Settings,
        records: Iterable[RouteRecord],
        revision: Revision,
    ) -> Any:
        """Prepare the state for a change that ``is_rebuilt_by`` names; any thread."""
        ...

    def embed(self, change: Change, encoder: TextEncoder) -> Mapping[int, Any]:
        """Embed the rows that a change writes, before it becomes visible; any thread."""
        ...

    def install(self, routes: Any, encoder: TextEncoder, settings: Settings) -> None:
        """Replace the whole state.  Runs on the scorer's thread."""
        ...

    def follow(
        self, change: Change, at: Revision, written: Mapping[int, Any], tensor: Tensor, built: Any
    ) -> None:
        """Apply one change, in the step in which it becomes visible."""
        ...


class QueryEngine(EnginePort, Protocol):
    """What the router uses of the engine: ``EnginePort`` and the query path."""

    @property
    def has_first_stage(self) -> bool:
        """Whether sure queries may be answered without the encoder."""
        ...

    @property
    def unmatched(self) -> Unmatched:
        """The newest queries that no route took."""
        ...

    def start(self) -> None:
        """Start the threads."""
        ...

    def stop(self) -> None:
        """Answer what was accepted, end the threads, close the database."""
        ...

    def check_queue(self, texts: Sequence[object], share: bool, deadline_seconds: float) -> None:
        """Refuse queries that would be refused whatever their texts are.

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

    def answer_now(self, queries: Sequence[Query]) -> list[Match]:
        """Encode and score on the caller's thread, before ``start``.

        Raises:
            NotReady: The engine has stopped.
        """
        ...
