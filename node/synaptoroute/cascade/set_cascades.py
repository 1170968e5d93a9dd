"""First stages of queries that name a route set or an alias.

The name is looked up on the calling thread, and again under the lock of the sets: an answer is of
the set that the name leads to at the version in the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.models import Match
from synaptoroute.serving.query import Query
from synaptoroute.serving.served_set import ServedSet
from synaptoroute.serving.served_sets import ServedSets


class SetCascades:
    """The first stages of all route sets of a node; any thread."""

    def __init__(self, sets: ServedSets) -> None:
        self._sets = sets

    @property
    def is_on(self) -> bool:
        """Whether some queries may be answered here; ``may_answer`` says which."""
        return True

    def may_answer(self, query: Query) -> bool:
        """Whether the set that a query names has a first stage that is on."""
        served = self._sets.find(query.route_set, query.session)
        stage = None if served is None else served.first_stage
        return stage is not None and stage.is_on and not self._sets.is_shadowed(query)

    def answer(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        """Answer queries that name a set or an alias; see ``Cascade.answer``.

        Queries whose shadow is asked as well are left to the scorer: a shadow needs their vectors.
        """
        groups: dict[ServedSet, list[Query]] = {}
        for query in queries:
            served = self._sets.find(query.route_set, query.session)
            if served is not None and not self._sets.is_shadowed(query):
                groups.setdefault(served, []).append(query)
        found: dict[int, Match | None] = {}
        for served, own in groups.items():
            stage = served.first_stage
            if isinstance(stage, Cascade):
                answers = stage.answer(own, node, _Named(self._sets, served))
                found |= {id(query): match for query, match in zip(own, answers, strict=True)}
        return [found.get(id(query)) for query in queries]

    def cascade_of(self, name: str) -> Cascade | None:
        """Find the first stage of a set or of the set that an alias names; None for none.

        Raises:
            SetNotFound: There is none of that name.
        """
        stage = self._sets.get(name).first_stage
        return stage if isinstance(stage, Cascade) else None

    @property
    def by_name(self) -> Mapping[str, Cascade]:
        """The first stages by the names of their sets; that of ``default`` is empty."""
        # A copy in one step: the scorer may change it meanwhile.
        served = self._sets.by_number.copy().values()
        return {
            each.name if each.number else "": each.first_stage
            for each in served
            if isinstance(each.first_stage, Cascade)
        }


@dataclass(frozen=True, slots=True)
class _Named:
    """Queries that were found to be of one set."""

    sets: ServedSets
    served: ServedSet

    @property
    def set_name(self) -> str:
        return self.served.name

    @contextmanager
    def locked_with(self, lock: threading.Lock) -> Iterator[None]:
        with self.sets.lock, lock:
            yield

    def holds(self, query: Query) -> bool:
        found = self.sets.find(query.route_set, query.session)
        return found is self.served and not self.sets.is_shadowed(query)
