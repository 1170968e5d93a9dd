"""Several intents in one text: each clause is routed, and the answers are put together.

The whole text, its clauses and neighbouring pairs of clauses are asked in one batch.  Then:

- neighbours that get the same route become one part;
- a clause that gets no route alone is read together with a neighbour, the one before it
  first: if both together get that neighbour's route, it belongs to that part;
- what still gets no route is a part without a route;
- if one part is left, or no clause gets a route, the answer is that of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from synaptoroute.inputs.clauses import Span, split_clauses
from synaptoroute.models import Match


@dataclass(slots=True)
class _Part:
    """Neighbouring clauses with one answer."""

    span: Span
    match: Match


@dataclass(frozen=True, slots=True)
class SplitText:
    """A text and its clauses.

    Attributes:
        text: The text as the caller wrote it.
        spans: Its clauses, in order.
    """

    text: str
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, text: str) -> SplitText:
        return cls(text, tuple(split_clauses(text)))

    @property
    def texts(self) -> list[str]:
        """Texts to ask: the whole, its clauses, and each clause with the next one."""
        if len(self.spans) == 1:
            return [self.text]
        clauses = [self.text[start:end] for start, end in self.spans]
        pairs = [self.text[a.start : b.end] for a, b in pairwise(self.spans)]
        return [self.text, *clauses, *pairs]

    def combine(self, matches: Sequence[Match]) -> list[Match]:
        """Make the answer from one match for each of ``texts``; sets the span of each."""
        count = len(self.spans)
        whole, clauses, pairs = matches[0], matches[1 : count + 1], matches[count + 1 :]
        parts = [_Part(*each) for each in zip(self.spans, clauses, strict=False)]
        for at, clause in enumerate(clauses):
            if clause.route is None:
                self._read_with_neighbour(at, parts, clauses, pairs)
        joined: list[_Part] = []
        for part in parts:
            if joined and joined[-1].match.route == part.match.route:
                joined[-1] = _join(joined[-1], part)
            else:
                joined.append(part)
        if len(joined) < 2:
            stripped = self.text.strip()
            start = self.text.index(stripped)
            joined = [_Part(Span(start, start + len(stripped)), whole)]
        for part in joined:
            part.match.span = part.span
        return [part.match for part in joined]

    @staticmethod
    def _read_with_neighbour(
        at: int, parts: list[_Part], clauses: Sequence[Match], pairs: Sequence[Match]
    ) -> None:
        """Give a clause without a route the route of a neighbour, if both together get it."""
        for neighbour in (at - 1, at + 1):
            if not 0 <= neighbour < len(clauses) or clauses[neighbour].route is None:
                continue
            pair = pairs[min(at, neighbour)]
            if pair.route == clauses[neighbour].route:
                parts[at].match = pair
                return


def _join(left: _Part, right: _Part) -> _Part:
    """Make one part of two with the same route; the better match of both speaks for it."""
    scores = left.match.score, right.match.score
    is_better = scores[0] is not None and (scores[1] is None or scores[0] >= scores[1])
    match = left.match if is_better else right.match
    return _Part(Span(left.span.start, right.span.end), match)
