"""Fair order of queued queries: each client gets an equal share of the encoder.

A *flow* is the queries of one client: of one name of an API key, or of one address.  Flows
are served by start-time fair queueing: a flow's next query has the virtual time at which the
flow may be served again, the smallest is served next, and serving a query moves its flow's
time on by the query's cost.  With one flow the order is that of arrival.  A flow that was
idle begins at the present virtual time: it neither saves up a claim nor loses its debt, which
is why flows are remembered while they are ahead of the virtual time.

No worker idles while any flow has a query, whatever its share.

Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", IEEE/ACM Transactions on Networking
5(5), 1997.

Not thread-safe: the queue's lock guards it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import Any, Final, Protocol, TypeAlias

from synaptoroute.serving.admission import CHARACTERS_MAX

QUERY_CHARACTERS: Final = 8
"""Fixed cost of a query, in characters: its special tokens, and its part of a batch."""
CHARACTERS_PER_TOKEN: Final = 4
"""By which a query's cost is corrected once it is tokenized: 500 characters may be 500 tokens."""
IDLE_FLOWS_MAX: Final = 1_024
"""Flows that are remembered without a query; beyond that their debts are forgotten."""


class Waiter(Protocol):
    """A caller that waits for an answer.

    Attributes:
        flow: Name of the flow that it belongs to.
    """

    flow: str

    @property
    def is_abandoned(self) -> bool: ...


@dataclass(slots=True, eq=False)
class InFlightQuery:
    """One text in the queue or being encoded, with all its callers.

    The text of queries with a context is their key, see ``Query.key``.

    It is changed by one owner at a time: the queue under its lock, then a worker, then the
    thread that scores.

    Attributes:
        waiters: Its callers; more may join until it is completed.
        queued_at: Monotonic seconds.
        tokens: Set by the worker that tokenized it.
        tokens_of: The encoder of these tokens.
        prepared: The text that they were made of, a ``PreparedText``.
        turn_tokens: Tokens of the turns of its context.
        is_shared: Whether others may join it and caches may serve it.
        predicted_seconds: The predicted wait; 0 for none.
        flow: The flow of its first caller, among whose work it counts.
        served_by: The flow that paid for it: a flow that joined it may come first.
        joined_by: Flows of callers that joined it, which have it in their queues too.
        is_taken: Whether it has left the queue.
        was_cached: Whether its embedding was known already.
        key: What its callers have in common; queries with equal keys are one.
        route_set: The set or alias that its callers name; empty for the default set.
        session: The session that they name, which decides between the sides of an alias.
        cache_scope: Embeddings are shared inside this scope; empty for all without one.
        times: When its batch was taken, tokenized and encoded; nanoseconds since 1970.
    """

    text: str
    waiters: list[Waiter]
    queued_at: float
    tokens: Any = None
    tokens_of: Any = None
    prepared: Any = None
    turn_tokens: Any = ()
    is_shared: bool = True
    predicted_seconds: float = 0.0
    flow: Flow | None = None
    served_by: Flow | None = None
    joined_by: tuple[Flow, ...] = ()
    is_taken: bool = False
    was_cached: bool = False
    key: Hashable = None
    route_set: str = ""
    session: str | None = None
    cache_scope: str = ""
    times: tuple[int, int, int] | None = None

    @property
    def is_abandoned(self) -> bool:
        for waiter in self.waiters:  # noqa: SIM110 - a generator costs two calls more
            if not waiter.is_abandoned:
                return False
        return True


@dataclass(slots=True, eq=False)
class Flow:
    """The queries of one client.

    Attributes:
        queries: Those that wait, next first; one that was taken through another flow stays
            until it comes up.
        time: Virtual time at which its next query may be served.
        place: Its present entry in the heap; None while nothing waits.
        requests: Its callers in the queue or being answered.
        texts: Its queries in the queue or being answered.
        characters: Of these texts.
    """

    queries: deque[InFlightQuery]
    time: float
    place: Place | None = None
    requests: int = 0
    texts: int = 0
    characters: int = 0


Place: TypeAlias = tuple[float, int, Flow]
"""A flow's virtual time, a number that orders equal times by arrival, and the flow."""


class FairQueue:
    """The queued queries of all flows.

    Attributes:
        flows: Every flow that is remembered, by name.
        count: Queries that wait.
        active: Flows with callers in the queue or being answered.
    """

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.count = 0
        self.active = 0
        self._heap: list[Place] = []
        self._now = 0.0  # virtual time: that of the query served last
        self._number = 0
        self._sweep_at = IDLE_FLOWS_MAX

    def add_flow(self, name: str) -> Flow:
        """Make the flow of a client that is not known, and forget idle ones if there are many."""
        if len(self.flows) >= self._sweep_at:
            self._forget_idle()
        flow = self.flows[name] = Flow(deque(), self._now)
        return flow

    def _forget_idle(self) -> None:
        """Forget flows without a query: those without a debt, or all if that is not enough."""
        for has_debt in (False, True):
            self.flows = {
                name: flow
                for name, flow in self.flows.items()
                if flow.requests or flow.place or (flow.time > self._now and not has_debt)
            }
            if len(self.flows) < IDLE_FLOWS_MAX:
                break
        # All others have queries; the walk must not be repeated for each newcomer.
        self._sweep_at = max(IDLE_FLOWS_MAX, 2 * len(self.flows))

    def push(self, query: InFlightQuery, flow: Flow) -> None:
        """Put a query at the end of a flow."""
        flow.queries.append(query)
        if query.flow is None:
            query.flow = flow
            self.count += 1
        if flow.place is None:
            flow.time = max(flow.time, self._now)
            self._number += 1
            flow.place = place = (flow.time, self._number, flow)
            heappush(self._heap, place)

    def join(self, query: InFlightQuery, flow: Flow) -> None:
        """Let another flow have a query that waits: it comes up in whichever is served first."""
        if flow is not query.flow and not query.is_taken and flow not in query.joined_by:
            query.joined_by = (*query.joined_by, flow)
            self.push(query, flow)

    def head(self) -> InFlightQuery | None:
        """Return the query that is served next, without taking it."""
        heap = self._heap
        while heap:
            place = heap[0]
            flow = place[2]
            if place is not flow.place:
                heappop(heap)
            elif flow.queries[0].is_taken:
                flow.queries.popleft()
                if not flow.queries:
                    flow.place = None
            else:
                return flow.queries[0]
        return None

    def pop(self) -> InFlightQuery | None:
        """Take the query that is served next; None if nothing waits."""
        heap = self._heap
        while heap:
            place = heap[0]
            flow = place[2]
            if place is not flow.place:  # the flow has another place since
                heappop(heap)
                continue
            queries = flow.queries
            query = queries.popleft()
            is_taken = query.is_taken
            if not is_taken:
                self._now = max(self._now, place[0])
                flow.time += min(len(query.text), CHARACTERS_MAX) + QUERY_CHARACTERS
            if queries:
                self._number += 1
                flow.place = (flow.time, self._number, flow)
                heapreplace(heap, flow.place)
            else:
                flow.place = None
                heappop(heap)
            if not is_taken:
                query.is_taken, query.served_by = True, flow
                self.count -= 1
                return query
        return None

    def give_back(self, queries: Iterable[InFlightQuery], flow: Flow) -> None:
        """Return taken queries, in reverse order, to the heads of the flows that paid for them.

        ``flow`` is for a query that never had one.
        """
        for query in queries:
            payer = query.served_by or flow
            if query.flow is None:
                query.flow = payer
            else:
                payer.time -= min(len(query.text), CHARACTERS_MAX) + QUERY_CHARACTERS
            query.is_taken = False
            payer.queries.appendleft(query)
            self.count += 1
            self._number += 1
            payer.place = (payer.time, self._number, payer)
            heappush(self._heap, payer.place)

    def remove(self, is_gone: Callable[[InFlightQuery], bool]) -> list[InFlightQuery]:
        """Remove waiting queries that a condition names; return them."""
        removed: list[InFlightQuery] = []
        for flow in self.flows.values():
            kept: deque[InFlightQuery] = deque()
            for query in flow.queries:
                if query.is_taken:
                    continue
                if is_gone(query):
                    query.is_taken = True
                    removed.append(query)
                else:
                    kept.append(query)
            flow.queries = kept
            if not kept:
                flow.place = None
        self.count -= len(removed)
        return removed
