"""The engine as the parts of a router see it that work on one route set.

Everything that is about the node or the log as a whole is the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar, cast

from synaptoroute.core.change import Outcome, StagedImport
from synaptoroute.models import Match
from synaptoroute.ports import AppliedState, Published
from synaptoroute.router.op_ids import scoped_op_id
from synaptoroute.serving.preparation import PreparedText
from synaptoroute.serving.query import Query, QueryEngine, RecentDecisions, UnmatchedQueries
from synaptoroute.tensor import Tensor
from synaptoroute.web.set_paths import set_not_found

ResultT = TypeVar("ResultT")


class SetEngine:
    """The engine, narrowed to one route set; for queries the name may be that of an alias.

    Raises:
        SetNotFound: By every method that reads or queries: there is no such set.
    """

    def __init__(self, engine: QueryEngine, route_set: str) -> None:
        self._engine = engine
        self._route_set = route_set

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _check(self) -> str:
        if self._route_set not in self._engine.set_names:
            raise set_not_found(self._route_set)
        return self._route_set

    # --- reads ---

    @property
    def published(self) -> Published:
        return self._engine.published_of(self._check())

    def read(self, task: Callable[[Tensor], ResultT]) -> Future[ResultT]:
        return self._engine.read(task, self._check())

    def known_texts(self, texts: Sequence[str]) -> list[str]:
        # A write is decided at its place in the log: the set may have been created since.
        if self._route_set not in self._engine.set_names:
            return []
        return self._engine.known_texts(texts, self._route_set)

    def run_on_applier(self, task: Callable[[AppliedState], ResultT]) -> Future[ResultT]:
        def run(state: AppliedState) -> ResultT:
            if state.replica.sets.table_of(self._route_set) is None:
                raise set_not_found(self._route_set)
            return task(replace(state, route_set=self._route_set))

        return self._engine.run_on_applier(run)

    def staged_imports(self) -> Future[tuple[StagedImport, ...]]:
        return self.run_on_applier(lambda state: tuple(state.table.imports.values()))

    @property
    def unmatched(self) -> UnmatchedQueries:
        return self._engine.unmatched_of(self._check())

    @property
    def decisions(self) -> RecentDecisions:
        return self._engine.decisions_of(self._check())

    def prepare(self, text: str, ignore: tuple[str, ...] | None = None) -> PreparedText:
        return self._engine.prepare(text, ignore, self._route_set)

    # --- writes ---

    def look_up(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome | None]:
        return self._engine.look_up(scoped_op_id(op_id, self._route_set), request_hash)

    # --- queries ---

    def submit(self, query: Query) -> None:
        query.route_set = self._route_set
        self._engine.submit(query)

    def submit_all(self, queries: Sequence[Query]) -> None:
        for query in queries:
            query.route_set = self._route_set
        self._engine.submit_all(queries)

    def answer_sure(self, queries: Sequence[Query]) -> Sequence[Match | None]:
        for query in queries:
            query.route_set = self._route_set
        return self._engine.answer_sure(queries)

    def answer_alone(self, query: Query) -> Match | None:
        query.route_set = self._route_set
        return self._engine.answer_alone(query)

    def answer_now(self, queries: Sequence[Query]) -> list[Match]:
        for query in queries:
            query.route_set = self._route_set
        return self._engine.answer_now(queries)


def of_set(engine: QueryEngine, route_set: str) -> QueryEngine:
    """Narrow an engine to a route set."""
    return cast(QueryEngine, SetEngine(engine, route_set))
