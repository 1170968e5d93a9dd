"""One route set as the scorer serves it: its tensor, how its texts are read, what it counts.

The scorer owns the sets of a node.  All of them have one position; a set answers from its own
rows alone, so an answer is the same whatever other sets there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change
from synaptoroute.core.mutation import DEFAULT_SET, Revision
from synaptoroute.core.same_text import same_text_form
from synaptoroute.encoder import TextEncoder, Tokens
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import Match
from synaptoroute.questions import OptionScores
from synaptoroute.scoring import DecisionRule, QuerySpec, Ranking, Scratch, rank, rule_of
from synaptoroute.serving.option_scoring import score_options
from synaptoroute.serving.preparation import ChangedWords, TextPreparation
from synaptoroute.serving.prior import rank_with_prior
from synaptoroute.serving.query import (
    DecisionCounts,
    FirstStage,
    Query,
    RecentDecisions,
    UnmatchedQueries,
    match_of,
)
from synaptoroute.tensor import Tensor, TensorView
from synaptoroute.tensor.score_terms import ScoreTerms

Answer: TypeAlias = "tuple[Query, Match | OptionScores | Exception]"
TensorSource: TypeAlias = "Tensor | Callable[[], Tensor]"
"""A tensor, or what builds the one of a small set when it is first used."""
NewStage: TypeAlias = "Callable[[ServedSet, Tensor, TextPreparation], FirstStage | None]"

_OF_TENSOR: Final = frozenset({"tensor", "preparation", "_rule", "_rule_view", "_has_negatives"})


class Asked(NamedTuple):
    """Queries of one set, and at which position which node answers them."""

    queries: Sequence[Query]
    embeddings: NDArray[np.float32]  # float32[n, dim], one row a query
    tokens: Sequence[Tokens | None]
    version: str
    node: str


class ServedSet:
    """The serving view of one route set; the scorer's thread changes it under its lock.

    The tensor of a small set may be built when it, or its preparation, is first used; any
    thread may be the first.

    Attributes:
        number: Its number; 0 is ``default``.
        decision_counts: Decisions of this set since it is served.
        revision: Place of the last change of what answers in it; None before the first one at
            level 5 of the log.
        tensor: Its rows and routes; replaced with the encoder.
        preparation: Prepares texts for encoder and tensor; replaced with them.
    """

    tensor: Tensor
    preparation: TextPreparation

    def __init__(
        self,
        tensor: TensorSource,
        encoder: TextEncoder,
        preparation: TextPreparation | None = None,
        *,
        number: int = 0,
        name: str = DEFAULT_SET,
        revision: Revision | None = None,
        unmatched: UnmatchedQueries | None = None,
        decisions: RecentDecisions | None = None,
        first_stage: FirstStage | None = None,
        total: DecisionCounts | None = None,
        new_stage: NewStage | None = None,  # Makes the first stage of a set that is built later
    ) -> None:
        self.number = number
        self.name = name
        self.revision = revision
        self.first_stage = first_stage
        self.unmatched = unmatched or UnmatchedQueries()
        self.decision_counts = DecisionCounts()
        self._total = total
        self.decisions = decisions or RecentDecisions()
        if isinstance(tensor, Tensor):
            self.use(tensor, encoder, preparation or TextPreparation(tensor, encoder))
            return
        self.encoder = encoder
        self._build: Callable[[], Tensor] | None = tensor
        self._build_lock = threading.Lock()
        self._new_stage = new_stage

    def __getattr__(self, name: str) -> Any:
        # Called for attributes that are missing only: queries pay nothing once they are there.
        if name not in _OF_TENSOR or "_build" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._build_lock:
            if self._build is not None:
                tensor = self._build()
                preparation = TextPreparation(tensor, self.encoder)
                if self._new_stage is not None and self.first_stage is None:
                    self.first_stage = self._new_stage(self, tensor, preparation)
                # Last: who sees the tensor needs the first stage as well.
                self.use(tensor, self.encoder, preparation)
                self._build = None
        return self.__dict__[name]

    @property
    def rows_count(self) -> int | None:
        """Rows of all routes; None while the tensor is not built."""
        tensor: Tensor | None = self.__dict__.get("tensor")
        return None if tensor is None else tensor.slots_used

    def use(self, tensor: Tensor, encoder: TextEncoder, preparation: TextPreparation) -> None:
        """Serve another tensor from now on, perhaps of another encoder."""
        tensor.use_encoder(encoder.fingerprint)
        self.tensor = tensor
        self.encoder = encoder
        self.preparation = preparation
        self._rule: DecisionRule | None = None
        self._rule_view: TensorView | None = None
        self._has_negatives = False

    # --- how it changes ---

    def apply(
        self,
        change: Change,
        at: Revision,
        *,
        is_filled: bool = False,
        terms: ScoreTerms | None = None,
        written: Mapping[int, Any] | None = None,
        built: Any = None,
        words: ChangedWords | None = None,
    ) -> None:
        """Make the part of a change visible that is in this set.

        Args:
            written: What the first stage embedded of its rows.
            built: What the first stage rebuilt for it.
            words: The words that it adds and removes, if they were counted beforehand.
        """
        removed = self.preparation.begin(change, self.tensor, words)
        self.tensor.apply(change, at, filled=is_filled, terms=terms)
        if self.first_stage is not None:
            self.first_stage.apply(change, at, written or {}, self.tensor, built)
        self.preparation.finish(change, self.tensor, removed, words)
        if change.set_record is not None:
            self.revision = change.set_record.revision

    def advance(self, at: Revision) -> None:
        """Follow an entry that changed another set."""
        self.tensor.revision = at
        if self.first_stage is not None:
            self.first_stage.advance(at)

    def keep_counts_of(self, former: ServedSet) -> None:
        """Go on counting where the same set counted before it was replaced."""
        self.unmatched, self.decisions = former.unmatched, former.decisions
        self.decision_counts = former.decision_counts
        if self.first_stage is not None:
            self.first_stage.keep_counts_of(former.first_stage, self.decisions)

    def copy(
        self, number: int, name: str, unmatched: UnmatchedQueries, total: DecisionCounts
    ) -> ServedSet:
        """Copy the set for a fork; nothing may change it meanwhile, or be deferred in it."""
        tensor = self.tensor.copy()
        preparation = self.preparation.copy(tensor)
        return ServedSet(
            tensor,
            self.encoder,
            preparation,
            number=number,
            name=name,
            revision=self.revision,
            unmatched=unmatched,
            total=total,
        )

    # --- scoring ---

    def score(self, asked: Asked, scratch: Scratch, *, is_counted: bool = True) -> list[Answer]:
        """Score every query against the tensor's one position.

        Args:
            is_counted: Whether somebody gets the answers.
        """
        tensor, queries = self.tensor, asked.queries
        specs = [query.spec(tensor.routes) for query in queries]
        rule = self._current_rule()
        rankings = rank(tensor, asked.embeddings, specs, scratch, rule)
        stage = self.first_stage if is_counted else None
        sure = stage.answer_if_moved(queries, asked.node) if stage else repeat(None)
        answers: list[Answer] = []
        matches: list[Match] = []
        for query, spec, ranking, vector, own, known in zip(
            queries, specs, rankings, asked.embeddings, asked.tokens, sure, strict=False
        ):
            answer = self._answer(query, spec, ranking, vector, own, known, rule, asked, scratch)
            answers.append((query, answer))
            if isinstance(answer, Match):
                matches.append(answer)
        if is_counted:
            self._count(matches)
        return answers

    def score_one(self, asked: Asked, scratch: Scratch) -> Match | OptionScores | Exception:
        """As ``score`` for one query: the same answer for less."""
        (query,), (tokens,), tensor = asked.queries, asked.tokens, self.tensor
        spec, rule = query.spec(tensor.routes), self._current_rule()
        (ranking,) = rank(tensor, asked.embeddings, [spec], scratch, rule)
        known = None
        if self.first_stage is not None:
            (known,) = self.first_stage.answer_if_moved([query], asked.node)
        vector = asked.embeddings[0]
        answer = self._answer(query, spec, ranking, vector, tokens, known, rule, asked, scratch)
        if isinstance(answer, Match):
            self._count((answer,))
        return answer

    def _answer(
        self,
        query: Query,
        spec: QuerySpec,
        ranking: Ranking,
        vector: NDArray[np.float32],
        tokens: Tokens | None,
        known: Match | None,
        rule: DecisionRule,
        asked: Asked,
        scratch: Scratch,
    ) -> Match | OptionScores | Exception:
        """Make the answer to a query that was ranked.

        Args:
            known: That of the first stage, if it is sure by now.
        """
        tensor = self.tensor
        if query.options is not None:
            return self._option_scores(query, ranking, vector, tokens, rule, asked)
        weights: dict[int, float] = {}
        if query.prior:
            weights, unknown = self._weights(query.prior)
            if unknown is not None:
                return unknown
            if weights:
                ranking = rank_with_prior(tensor, vector, spec, weights, rule, scratch)
        slot = None
        text = query.text if query.prepared is None else query.prepared.kept
        if slots := tensor.texts.find(text):
            ranking, slot = self._exact(text, slots, spec, ranking, vector, rule, scratch)
        if self._has_negatives and ranking.best is not None:
            ranking, slot = self._unless_barred(
                text, (ranking, slot), spec, weights, vector, rule, scratch
            )
        match = known or match_of(query, ranking, tensor, asked.version, asked.node, tokens, slot)
        if query.route_set:
            match.route_set = self.name
        return match

    def _count(self, matches: Sequence[Match]) -> None:
        self.decision_counts.count(matches)
        if self._total is not None:
            self._total.count(matches)

    def _option_scores(
        self,
        query: Query,
        ranking: Ranking,
        vector: NDArray[np.float32],
        tokens: Tokens | None,
        rule: DecisionRule,
        asked: Asked,
    ) -> OptionScores:
        """Score the options of a query's questions."""
        tensor = self.tensor
        text = query.text if query.prepared is None else query.prepared.kept
        barred: frozenset[str] = frozenset()
        if self._has_negatives:
            form = same_text_form(text)
            barred = frozenset(
                name
                for name in query.routes or ()
                if name in tensor.routes and form in _forms(tensor.routes[name].negatives)
            )
        return score_options(
            query, ranking, tensor, vector, tokens, rule,
            text=text, barred=barred, version=asked.version, node=asked.node,
        )  # fmt: skip

    def _weights(self, prior: Mapping[str, float]) -> tuple[dict[int, float], InvalidQuery | None]:
        """Weights of a prior by route id, or the error that it names a route that is not there."""
        weights = {}
        for name, weight in prior.items():
            record = self.tensor.routes.get(name)
            if record is None:
                return {}, InvalidQuery(f"prior: there is no route {name!r}", route=name)
            if weight:
                weights[record.route_id] = weight
        return weights, None

    def _current_rule(self) -> DecisionRule:
        """The decision rule at the tensor's position."""
        view = self.tensor.view()
        if view is not self._rule_view:
            self._rule = rule_of(self.tensor, self.encoder.fingerprint)
            self._rule_view = view
            self._has_negatives = view.negatives is not None
        assert self._rule is not None
        return self._rule

    def _unless_barred(
        self,
        text: str,
        answer: tuple[Ranking, int | None],
        spec: QuerySpec,
        weights: Mapping[int, float],
        embedding: NDArray[np.float32],
        rule: DecisionRule,
        scratch: Scratch,
    ) -> tuple[Ranking, int | None]:
        """Leave out routes of which the text is a negative, whatever else speaks for them."""
        tensor, form = self.tensor, same_text_form(text)
        left: frozenset[int] | None = None
        ranking, slot = answer
        while ranking.best is not None:
            route_id = ranking.best.route_id
            if form not in _forms(tensor.record_of(route_id).negatives):
                break
            if left is None:
                every = frozenset(each.route_id for each in tensor.routes.values())
                left = every if spec.routes is None else every & spec.routes
            left -= {route_id}
            rest = QuerySpec(spec.limit, left)
            if weights:
                ranking = rank_with_prior(tensor, embedding, rest, weights, rule, scratch)
            else:
                (ranking,) = rank(tensor, embedding[np.newaxis], [rest], scratch, rule)
            slot = None
        if left is not None and not left:
            # Nothing is left to choose from: what is shown does not pass.
            shown = tuple(
                each._replace(confidence=0.0, confidence_min=each.confidence_min or 1.0)
                for each in answer[0].top
            )
            ranking = Ranking(None, shown, None, answer[0].route_count, 1.0)
        return ranking, slot

    def _exact(
        self,
        text: str,
        slots: Sequence[int],
        spec: QuerySpec,
        ranking: Ranking,
        embedding: NDArray[np.float32],
        rule: DecisionRule,
        scratch: Scratch,
    ) -> tuple[Ranking, int | None]:
        """Put the route first that has a text, if one has; and the slot of the text."""
        tensor = self.tensor
        found = tensor.exact_match(text, slots, spec.routes)
        if found is None:
            return ranking, None
        route_id, slot = found
        best, top = ranking.best, ranking.top
        if best is not None and best.route_id == top[0].route_id == route_id:
            return ranking, slot
        others = frozenset(each.route_id for each in tensor.routes.values()) - {route_id}
        if spec.routes is not None:
            others &= spec.routes
        specs = [QuerySpec(1, frozenset({route_id})), QuerySpec(spec.limit, others)]
        both = np.stack([embedding, embedding])
        own, rest = rank(tensor, both, specs, scratch, rule)
        top = (own.top[0], *rest.top)
        return Ranking(
            top[0], top[: spec.limit], top[1] if rest.top else None, ranking.route_count
        ), slot


@lru_cache(maxsize=1_024)
def _forms(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(same_text_form, texts))
