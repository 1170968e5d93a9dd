"""Diagnostics: what operators ask of a node beside queries and routes.

Each reads one position of the log and stays behind queries: it copies what it needs between
two batches and does its work on other threads.  Nothing is written.

A preview shows where texts would go after a change of a route.  A route's score for a text
depends on that route alone, so the changed route is scored in a tensor of its own and
compared with the other routes as they are.

A comparison of encoders shows the same for a change of the encoder, on labelled texts.  The
staged vectors of the spare encoder become a tensor of their own, and the spare encoder
encodes the texts.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import RouteRecord, StagedImport
from synaptoroute.core.imports import encoder_of, generation_id, missing_texts, vectors_in
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import InvalidQuery, NotReady
from synaptoroute.inputs.clauses import split_clauses
from synaptoroute.learning.clusters import TEXTS_MAX as CLUSTERED_MAX
from synaptoroute.learning.clusters import cluster
from synaptoroute.models import (
    QUERY_BYTES_MAX,
    Match,
    Route,
    TextReading,
    WordRepair,
    check_text,
)
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.replication.scrub import Scrub, scrub
from synaptoroute.router.queries import make_query
from synaptoroute.router.revision_preview import (
    RouteSet,
    answer,
    copy_routes,
    encoded,
    tensor_of,
    with_route,
)
from synaptoroute.router.route_checks import checked_route, texts_of
from synaptoroute.router.writes import Writer
from synaptoroute.scoring import Scratch, rank, rule_of
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.query import QueryEngine, UnmatchedQuery
from synaptoroute.tensor import Tensor

if TYPE_CHECKING:
    from synaptoroute.replication.encoder_migration import MigrationProgress
    from synaptoroute.replication.follower import Follower

CONFLICT_ROWS_MAX: Final = 10_000
"""More rows are not compared: the work grows with their square."""
CONFLICTS_MAX: Final = 500
_BLOCK_ROWS: Final = 512
_DIAGNOSTICS_AT_ONCE: Final = 2

AskAll = Callable[[Sequence[str]], Awaitable[list[Match]]]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two near-duplicate utterances of different routes."""

    route: str
    utterance: str
    other_route: str
    other_utterance: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Near-duplicate utterances of different routes.

    Attributes:
        conflicts: Pairs, most similar first.
        rows_compared: Utterances that were compared.
        version: ``epoch.seq`` of the route set that was compared.
    """

    conflicts: list[Conflict]
    rows_compared: int
    rows: int
    version: str


@dataclass(frozen=True, slots=True)
class StagedVectors:
    """Staged vectors of another encoder."""

    encoder: str
    dim: int
    vectors: int
    missing_texts: int


@dataclass(frozen=True, slots=True)
class EncoderDetails:
    """Identity and properties of an encoder.

    Attributes:
        dim: Length of a vector.
        max_tokens: Tokens that it reads of a text.
        precision: ``float32`` or ``int8``; empty if the encoder does not tell.
        why_padded: Why texts of unequal length do not share a run; empty if they do, None for
            an encoder without a graph.
    """

    dim: int
    max_tokens: int
    precision: str
    why_padded: str | None = None


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """The encoders of a node and the progress of a change to another one.

    Attributes:
        serving: Fingerprint of the encoder that answers.
        encoders: Name by fingerprint.
        details: By fingerprint.
    """

    serving: str
    encoders: dict[str, str]
    staged: tuple[StagedVectors, ...]
    progress: MigrationProgress
    details: dict[str, EncoderDetails]


@dataclass(frozen=True, slots=True)
class NamedCluster:
    """Texts that mean nearly the same, and the route nearest to them.

    Attributes:
        texts: Each text with how often it occurred, the most typical one first.
        size: How often all of them occurred.
        similarity: Mean similarity of the texts to their centre.
        nearest: The best route for the most typical text, whether it matches or not.
    """

    texts: tuple[tuple[str, int], ...]
    size: int
    similarity: float
    nearest: RoutedText


class Diagnostics:
    """Diagnostics of one node.  Used on the event loop."""

    # For all routers of the process: more at a time would take the CPUs from queries.
    _room = asyncio.Semaphore(_DIAGNOSTICS_AT_ONCE)

    def __init__(self, engine: QueryEngine, writer: Writer, follower: Follower | None) -> None:
        self._engine = engine
        self._writer = writer
        self._follower = follower

    async def preview(
        self, name: str, route: Route | None, texts: Sequence[str], ask_all: AskAll
    ) -> list[PreviewedText]:
        """Show where texts would go if a route were put, or deleted if it is None.

        Args:
            texts: 1 to ``PREVIEW_TEXTS_MAX`` queries.
            ask_all: Queries the node with ``CANDIDATES_MAX`` candidates.

        Raises:
            InvalidQuery: The texts are malformed.
            InvalidRoute: The route is malformed.
        """
        asked = _checked_texts(texts, PREVIEW_TEXTS_MAX)
        async with self._room:
            now = await ask_all(asked)
            encoder = self._engine.encoder
            vectors = np.empty((0, encoder.dim), np.float32)
            if route is not None:
                route = checked_route(route)
                vectors = await self._writer.encode(texts_of(route), route.vectors, encoder)
            read = [
                text if match.encoded_text is None else match.encoded_text
                for text, match in zip(asked, now, strict=True)
            ]
            routes = await asyncio.wrap_future(self._engine.read(copy_routes))
            changed = with_route(routes, name, route, vectors)
            then = await asyncio.to_thread(_answer_changed, encoder, changed, read)
        return [
            PreviewedText(text, _routed(before), _routed(after))
            for text, before, after in zip(asked, now, then, strict=True)
        ]

    def read_texts(
        self, texts: Sequence[str], ignore: Sequence[str] | None = None
    ) -> list[TextReading]:
        """Show how texts are read: what is cut out, which words are repaired, and the clauses.

        Args:
            texts: 1 to ``PREVIEW_TEXTS_MAX`` queries.
            ignore: Patterns to try in place of those of the settings.
        """
        patterns = None if ignore is None else tuple(ignore)
        found = []
        for text in texts:
            prepared = self._engine.prepare(text.strip(), patterns)
            repairs = [
                WordRepair.model_construct(written=each.written, read=each.read)
                for each in prepared.repairs
            ]
            spans = [tuple(span) for span in split_clauses(text)]
            found.append(
                TextReading.model_construct(
                    text=text, encoded_text=prepared.text, repairs=repairs, spans=spans
                )
            )
        return found

    async def conflicts(self, similarity_min: float, limit: int) -> Conflicts:
        """Find near-duplicate utterances of different routes."""
        if not (0.0 < similarity_min <= 1.0 and 1 <= limit <= CONFLICTS_MAX):
            raise InvalidQuery(f"similarity is above 0 to 1, limit is 1 to {CONFLICTS_MAX}")
        async with self._room:
            rows, version = await asyncio.wrap_future(
                self._engine.read(lambda tensor: (_copy_rows(tensor), str(tensor.revision)))
            )
            found = await asyncio.to_thread(_find_conflicts, rows, similarity_min, limit)
        return Conflicts(found, len(rows.owners), rows.total, version)

    async def clusters(
        self, texts: Sequence[tuple[str, int]], similarity_min: float, ask_all: AskAll
    ) -> list[NamedCluster]:
        """Cluster texts, such as queries that no route took, by what they mean.

        Args:
            texts: Up to ``clusters.TEXTS_MAX`` texts, each with how often it occurred.
            similarity_min: Lowest similarity of two groups that become one.
            ask_all: Queries the node with candidates.
        """
        if not -1.0 <= similarity_min <= 1.0:
            raise InvalidQuery("similarity_min is between -1 and 1")
        counts: Counter[str] = Counter()
        for text, times in texts:
            counts[text] += times
        asked = _checked_texts(sorted(counts), CLUSTERED_MAX)
        async with self._room:
            vectors = await self._writer.encode(asked, None)
            sizes = [counts[text] for text in asked]
            found = await asyncio.to_thread(cluster, vectors, sizes, similarity_min)
            centres = [asked[each.members[0]] for each in found]
            matches: list[Match] = []
            for start in range(0, len(centres), TEXTS_AT_ONCE):
                matches += await ask_all(centres[start : start + TEXTS_AT_ONCE])
        return [
            NamedCluster(
                texts=tuple((asked[index], sizes[index]) for index in each.members),
                size=sum(sizes[index] for index in each.members),
                similarity=each.similarity,
                nearest=_nearest(match),
            )
            for each, match in zip(found, matches, strict=True)
        ]

    def dismiss(self, texts: Sequence[str]) -> int:
        """Forget unmatched queries with these texts; return how many."""
        return self._engine.unmatched.forget(frozenset(texts))

    async def scrub(self) -> Scrub:
        """Compare memory and disk with the digest, row by row."""
        if self._follower is not None:
            return await self._follower.maintenance.scrub()
        return await scrub(self._engine)

    async def compare_encoders(
        self, fingerprint: str, cases: Sequence[LabelledText], ask_all: AskAll
    ) -> EncoderComparison:
        """Compare a spare encoder with the one that serves, on labelled texts."""
        asked = _checked_texts([case.text for case in cases], COMPARED_TEXTS_MAX)
        checked = [LabelledText(text, case.route) for text, case in zip(asked, cases, strict=True)]
        async with self._room:
            now: list[Match] = []
            for start in range(0, len(asked), TEXTS_AT_ONCE):
                now += await ask_all(asked[start : start + TEXTS_AT_ONCE])
            return await compare_encoders(self._engine, fingerprint, checked, now)

    async def encoders(self) -> EncoderStatus:
        """Show the encoders and how far a change to another one has come."""
        engine = self._engine

        def read(state: AppliedState) -> tuple[StagedVectors, ...]:
            sets = state.replica.sets
            routes = [each for table in sets.tables.values() for each in table.routes.values()]
            found = []
            for name, staged in sets.default.imports.items():
                encoder = encoder_of(name)
                if encoder is not None:
                    missing = len(missing_texts(routes, vectors_in(staged)))
                    found.append(StagedVectors(*encoder, staged.row_count, missing))
            return tuple(found)

        staged = await asyncio.wrap_future(engine.run_on_applier(read))
        follower = self._follower
        if follower is None:
            progress = await asyncio.to_thread(_no_migration)
        else:
            progress = follower.maintenance.migration.progress
        names = engine.encoders.names
        details = {each: _details_of(engine.encoders.find(each)) for each in names}
        return EncoderStatus(engine.encoder.fingerprint, names, staged, progress, details)

    def unmatched(self) -> tuple[bool, list[UnmatchedQuery]]:
        """Whether queries without a route are kept, and the newest of them."""
        kept = self._engine.unmatched
        return kept.is_on, kept.newest

    async def open_imports(self) -> tuple[StagedImport, ...]:
        """List the imports that are neither committed nor aborted."""
        return await asyncio.wrap_future(self._engine.staged_imports())


def _checked_texts(texts: Sequence[str], texts_max: int) -> list[str]:
    if not 1 <= len(texts) <= texts_max:
        raise InvalidQuery(f"1 to {texts_max} texts are expected, got {len(texts)}")
    try:
        return [check_text(text, QUERY_BYTES_MAX) for text in texts]
    except ValueError as error:
        raise InvalidQuery(f"a text {error}") from error


# --- conflicts -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows copied from the tensor."""

    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]
    utterances: tuple[str, ...]
    routes: tuple[str, ...]
    total: int


def _copy_rows(tensor: Tensor) -> _Rows:
    """Copy up to ``CONFLICT_ROWS_MAX`` rows, whole routes in order of name."""
    slots: list[int] = []
    owners: list[int] = []
    texts: list[str] = []
    names: list[str] = []
    for name in sorted(tensor.routes):
        record = tensor.routes[name]
        if len(slots) + len(record.slots) > CONFLICT_ROWS_MAX:
            break
        owners += [len(names)] * len(record.slots)
        names.append(name)
        slots += record.slots
        texts += record.utterances
    vectors = tensor.vectors_of(np.asarray(slots, np.int64))
    return _Rows(
        vectors, np.asarray(owners, np.int64), tuple(texts), tuple(names), tensor.slots_used
    )


def _find_conflicts(rows: _Rows, similarity_min: float, limit: int) -> list[Conflict]:
    """Find the most similar pairs of utterances of different routes; takes seconds."""
    best: list[tuple[float, int, int]] = []
    # In blocks: all similarities at once would take 400 MB.
    for start in range(0, len(rows.vectors), _BLOCK_ROWS):
        part = rows.vectors[start : start + _BLOCK_ROWS]
        similarities = part @ rows.vectors[start:].T
        is_other = rows.owners[start : start + len(part), np.newaxis] != rows.owners[start:]
        is_later = np.arange(len(part))[:, np.newaxis] < np.arange(len(rows.vectors) - start)
        first, second = np.nonzero((similarities >= similarity_min) & is_other & is_later)
        values = similarities[first, second]
        if len(values) > limit:
            kept = np.argpartition(-values, limit)[:limit]
            first, second, values = first[kept], second[kept], values[kept]
        pairs = zip(
            values.tolist(), (first + start).tolist(), (second + start).tolist(), strict=True
        )
        best = heapq.nlargest(limit, [*best, *pairs])
    return [
        Conflict(
            rows.routes[int(rows.owners[one])],
            rows.utterances[one],
            rows.routes[int(rows.owners[two])],
            rows.utterances[two],
            round(min(1.0, value), 4),
        )
        for value, one, two in best
    ]


# --- comparisons before a change ---------------------------------------------------------


PREVIEW_TEXTS_MAX: Final = 200
COMPARED_TEXTS_MAX: Final = 2_000
TEXTS_AT_ONCE: Final = 32
CHANGED_SHOWN_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class RoutedText:
    """The route of a text; if none matches, ``score`` is that of the best one."""

    route: str | None
    score: float | None
    threshold: float | None
    utterance: str | None
    confidence: float | None = None


def _nearest(match: Match) -> RoutedText:
    best = match.candidates[0] if match.candidates else None
    return (
        RoutedText(best.route, best.score, best.threshold, best.utterance)
        if best
        else (_routed(match))
    )


def _routed(match: Match) -> RoutedText:
    return RoutedText(match.route, match.score, match.threshold, match.utterance, match.confidence)


# --- a change of one route -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreviewedText:
    """A text before and after a change of a route."""

    text: str
    before: RoutedText
    after: RoutedText

    @property
    def is_changed(self) -> bool:
        return self.before.route != self.after.route


def _answer_changed(encoder: TextEncoder, routes: RouteSet, texts: Sequence[str]) -> list[Match]:
    embeddings, tokens = encoded(encoder, texts)
    return answer(tensor_of(routes), texts, embeddings, encoder.fingerprint, tokens)


# --- a change of the encoder ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and the route that it belongs to; None for none."""

    text: str
    route: str | None


@dataclass(frozen=True, slots=True)
class ComparedText:
    """A text with both encoders."""

    text: str
    expected: str | None
    before: RoutedText
    after: RoutedText


@dataclass(frozen=True, slots=True)
class EncoderComparison:
    """The effect of a change of the encoder on labelled texts.

    Attributes:
        correct_after: Texts that the other encoder routes correctly, with the current thresholds.
        threshold_best: Default threshold with which the other encoder is right most
            often, if no route has its own threshold.
        correct_best: How often that is.
        changed: Texts that would go to another route, the first ones.
    """

    encoder: str
    texts: int
    correct_before: int
    correct_after: int
    threshold_best: float
    correct_best: int
    changed: list[ComparedText]


@dataclass(frozen=True, slots=True)
class _StagedSet:
    """The routes with their vectors of another encoder."""

    routes: tuple[RouteRecord, ...]
    settings: Settings
    vectors: dict[str, bytes]


def _details_of(encoder: TextEncoder) -> EncoderDetails:
    return EncoderDetails(
        encoder.dim,
        encoder.max_tokens,
        getattr(encoder, "precision", ""),
        getattr(encoder, "why_padded", None),
    )


async def compare_encoders(
    engine: EnginePort, fingerprint: str, cases: Sequence[LabelledText], now: Sequence[Match]
) -> EncoderComparison:
    """Compare a spare encoder with the one that serves."""
    encoder = engine.encoders.find(fingerprint)
    name = generation_id(fingerprint, encoder.dim)

    def read(state: AppliedState) -> _StagedSet:
        table = state.table
        vectors = vectors_in(table.imports.get(name))
        routes = tuple(table.routes.values())
        if missing_texts(routes, vectors):
            raise NotReady("some utterances have no vector of this encoder yet")
        return _StagedSet(routes, table.settings, vectors)

    staged = await asyncio.wrap_future(engine.run_on_applier(read))
    texts = [case.text for case in cases]
    scored = await asyncio.to_thread(_score_staged, encoder, staged, texts)
    return _compare(fingerprint, cases, now, scored)


def _score_staged(
    encoder: TextEncoder, staged: _StagedSet, texts: Sequence[str]
) -> list[tuple[RoutedText, bool]]:
    """Find the best route of each text, and whether it matches."""
    tensor = Tensor(encoder.dim, staged.settings, encoder.fingerprint)
    rows = sorted((slot, text) for route in staged.routes for slot, _, text in route.rows())
    slots = np.array([slot for slot, _ in rows], np.int64)
    joined = b"".join(staged.vectors[text] for _, text in rows)
    vectors = np.frombuffer(joined, "<f4").reshape(len(rows), encoder.dim)
    tensor.load(slots, vectors, staged.routes, staged.settings, Revision(1, 0))
    found: list[tuple[RoutedText, bool]] = []
    scratch, preparation = Scratch(), TextPreparation(tensor, encoder)
    rule = rule_of(tensor, encoder.fingerprint)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[start : start + TEXTS_AT_ONCE]
        specs = [make_query(text).spec(tensor.routes) for text in some]
        read = [preparation.prepare(text).text for text in some]
        for ranking in rank(tensor, encoder.encode(read), specs, scratch, rule):
            if not ranking.top:
                found.append((RoutedText(None, None, None, None), False))
                continue
            top = ranking.best or ranking.top[0]
            name = tensor.record_of(top.route_id).name
            routed = RoutedText(name, top.score, top.threshold_shown, None, top.confidence)
            found.append((routed, ranking.best is not None))
    return found


def _compare(
    fingerprint: str,
    cases: Sequence[LabelledText],
    now: Sequence[Match],
    scored: Sequence[tuple[RoutedText, bool]],
) -> EncoderComparison:
    after = [each if is_match else replace(each, route=None) for each, is_match in scored]
    best = [each for each, _ in scored]
    compared = [
        ComparedText(case.text, case.route, _routed(match), routed)
        for case, match, routed in zip(cases, now, after, strict=True)
    ]
    threshold, correct_best = _best_threshold(cases, best)
    changed = [each for each in compared if each.before.route != each.after.route]
    return EncoderComparison(
        encoder=fingerprint,
        texts=len(cases),
        correct_before=sum(each.before.route == each.expected for each in compared),
        correct_after=sum(each.after.route == each.expected for each in compared),
        threshold_best=threshold,
        correct_best=correct_best,
        changed=changed[:CHANGED_SHOWN_MAX],
    )


def _best_threshold(cases: Sequence[LabelledText], best: Sequence[RoutedText]) -> tuple[float, int]:
    """Find the default threshold that is right most often; the lowest of equal ones."""
    pairs = zip(cases, best, strict=True)
    scored = [(each.score or 0.0, case.route, each.route) for case, each in pairs]
    scored.sort(key=lambda row: row[0])
    # Sweep upwards: each threshold passed takes the route from one more text.
    correct = sum(expected == found for _, expected, found in scored)
    top, threshold = correct, 0.0
    for index, (score, expected, found) in enumerate(scored):
        correct += (expected is None) - (expected == found)
        following = scored[index + 1][0] if index + 1 < len(scored) else score
        if correct > top and following > score:
            top, threshold = correct, (score + following) / 2
    return round(threshold, 3), top


def _no_migration() -> MigrationProgress:
    """Make the progress of a router on its own; loading the replication reads files."""
    from synaptoroute.replication.encoder_migration import MigrationProgress

    return MigrationProgress()
