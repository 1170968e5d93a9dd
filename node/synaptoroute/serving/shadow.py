"""Shadow scoring: what another route set would have answered, counted beside the answers.

The vector of a query is scored on the shadow once the answer has left and the scorer has
nothing else to do.  It is compared only
where both sets read the text alike, since another reading needs another encoding.  The counts are
about the content of both sets at one revision each, and begin again once one of them changes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import AliasRecord
from synaptoroute.core.feedback import FeedbackSettings, read_feedback_settings
from synaptoroute.core.mutation import Revision
from synaptoroute.learning.redaction import redacted
from synaptoroute.models import Match
from synaptoroute.ports import Disagreement, RoutePair, ShadowFigures
from synaptoroute.scoring import Scratch
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.query import Query
from synaptoroute.serving.served_set import Answer, Asked, ServedSet

PAIRS_MAX: Final = 256
"""Pairs of routes that are counted each; further ones are counted together."""
SAMPLE_MAX: Final = 100
SAMPLE_CHARACTERS_MAX: Final = 1_024


@dataclass(slots=True)
class _Counts:
    """Counts about one content of both sets."""

    of: tuple[str, str, Revision | None, Revision | None]
    agreed: int = 0
    disagreed: int = 0
    skipped: int = 0
    other: int = 0
    pairs: dict[RoutePair, int] = field(default_factory=dict)
    sample: deque[Disagreement] = field(default_factory=lambda: deque(maxlen=SAMPLE_MAX))


Flight: TypeAlias = "tuple[InFlightQuery, NDArray[np.float32], Sequence[Answer]]"


class Comparison:
    """Answered queries of one alias that are to be scored on its shadow.

    Attributes:
        flights: Each with its vector, float32[dim], and the answers that its callers got.
    """

    def __init__(
        self,
        alias: AliasRecord,
        target: ServedSet,
        shadow: ServedSet,
        flights: list[Flight],
    ) -> None:
        self.alias = alias
        self.target = target
        self.shadow = shadow
        self.flights = flights
        self.content = _content(target, shadow)

    @property
    def is_current(self) -> bool:
        """Whether both sets have the content that they had when the queries were answered."""
        return self.content == _content(self.target, self.shadow)


class ShadowLog:
    """The counts of each alias that has a shadow; the scorer writes, any thread reads."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()

    def figures(self, alias: AliasRecord, target: ServedSet, shadow: ServedSet) -> ShadowFigures:
        """Count what was compared of these sets as they are now."""
        of = _content(target, shadow)
        with self._lock:
            counts = self._counts.get(alias.name)
            if counts is None or counts.of != of:
                return ShadowFigures(*of)
            pairs = sorted(counts.pairs.items(), key=lambda pair: -pair[1])
            return ShadowFigures(
                *of,
                counts.agreed,
                counts.disagreed,
                counts.skipped,
                tuple(pairs),
                counts.other,
                tuple(reversed(counts.sample)),
            )

    def drop(self, alias: str) -> None:
        """Forget the counts of an alias that is gone or has no shadow any more."""
        with self._lock:
            self._counts.pop(alias, None)

    def forget_texts(self) -> None:
        """Forget the samples; the counts stay.

        All of them, since a redacted text does not tell whether it is one that is erased.
        """
        with self._lock:
            for counts in self._counts.values():
                counts.sample.clear()

    # --- on the thread that scores ---

    def compare(self, comparison: Comparison, at: tuple[str, str], scratch: Scratch) -> None:
        """Score answered queries on the shadow, and count.

        Args:
            at: Version and node, as of an answer.
        """
        target, shadow, of = comparison.target, comparison.shadow, comparison.content
        asked: list[tuple[Query, Match]] = []
        vectors, tokens = [], []
        skipped = 0
        for flight, vector, answers in comparison.flights:
            pairs = [
                (query, match)
                for query, match in answers
                if isinstance(match, Match) and not query.is_probe
            ]
            if not pairs:
                continue
            if not _is_read_alike(flight, shadow):
                skipped += len(pairs)
                continue
            asked += pairs
            vectors += [vector] * len(pairs)
            tokens += [flight.tokens] * len(pairs)
        found: list[Answer] = []
        if asked:
            queries = [query for query, _ in asked]
            try:
                request = Asked(queries, np.stack(vectors), tokens, *at)
                found = shadow.score(request, scratch, is_counted=False)
            except Exception:  # nobody waits for it; the scorer must live on
                skipped += len(asked)
                asked = []
        feedback = _feedback_of(target.tensor.settings.feedback)
        with self._lock:
            counts = self._counts.get(comparison.alias.name)
            if counts is None or counts.of != of:
                counts = self._counts[comparison.alias.name] = _Counts(of)
            counts.skipped += skipped
            for (query, match), (_, other) in zip(asked, found, strict=True):
                if isinstance(other, Match):
                    _count(counts, query, match, other, feedback)
                else:
                    counts.skipped += 1


def _content(
    target: ServedSet, shadow: ServedSet
) -> tuple[str, str, Revision | None, Revision | None]:
    return target.name, shadow.name, target.revision, shadow.revision


def _is_read_alike(flight: InFlightQuery, shadow: ServedSet) -> bool:
    prepared = flight.prepared
    if prepared is None:
        return False
    other = shadow.preparation.prepare(flight.text)
    return (other.text, other.kept, other.turns) == (prepared.text, prepared.kept, prepared.turns)


def _count(
    counts: _Counts, query: Query, match: Match, other: Match, feedback: FeedbackSettings | None
) -> None:
    if match.route == other.route:
        counts.agreed += 1
        return
    counts.disagreed += 1
    pair = (match.route, other.route)
    if pair in counts.pairs or len(counts.pairs) < PAIRS_MAX:
        counts.pairs[pair] = counts.pairs.get(pair, 0) + 1
    else:
        counts.other += 1
    if feedback is None or feedback.is_hash_only or len(query.text) > SAMPLE_CHARACTERS_MAX:
        return
    text = redacted(query.text, feedback.redaction)
    if text:
        counts.sample.append(
            Disagreement(
                text,
                time.time_ns() // 1_000_000,
                match.route,
                other.route,
                match.confidence,
                other.confidence,
            )
        )


@lru_cache(maxsize=64)
def _feedback_of(settings: str) -> FeedbackSettings | None:
    return read_feedback_settings(settings)
