"""``POST /v1/query`` between parser and socket, past everything that has the form of ASGI.

For a query that is refused or answered with kept bytes, tasks, events and messages of
dictionaries cost several times the rest, and a node that is asked for four times what it
can do mostly refuses.  So the connection gives each such request, once its body is there,
to ``Express`` first: it sends the answer in the same turn of the event loop, or when the
future of the query is done.

Rule 1: what is out of the ordinary it leaves alone, and the request goes its usual way as
if nothing had happened: another key, header, type or length, a malformed body, a node that
starts or drains.  Rule 2: every decision is that of ``door`` and ``hot_query``, by the same
functions.  Rule 3: a client that goes away takes its query along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from synaptoroute.errors import Overloaded, SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.server.bodies import BodyLease
from synaptoroute.server.middleware import (
    Visit,
    authorize,
    instance_of,
    log_incident,
    marks,
    note,
    overloaded_headers,
    problem_parts,
    request_id,
)
from synaptoroute.server.query_endpoints import parse_query
from synaptoroute.server.query_handler import (
    PATH,
    Begun,
    HotQuery,
    Wish,
    headers_of,
    is_plain,
    is_plain_json,
    wish_of,
)
from synaptoroute.server.runtime import Runtime
from synaptoroute.web.problems import (
    STATUS_BY_CODE,
    OverloadedAnswers,
    internal_problem,
    problem_of,
)

SendBytes: TypeAlias = Callable[[bytes], None]
_Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
_OK: Final = 200
_OVERLOADED: Final = STATUS_BY_CODE[Overloaded.code]


@dataclass(frozen=True, slots=True)
class PlainHead:
    """What a plain query's head says, read once.

    Attributes:
        wish: How it is to be answered.
        last: Headers; of one that is sent twice the last.
        size_bytes_max: The longest body that it may have.
    """

    wish: Wish
    last: Mapping[bytes, bytes]
    size_bytes_max: int


@dataclass(frozen=True, slots=True)
class _Asking:
    """One request, how to answer it, and its way through the door."""

    cycle: RequestResponseCycle
    send: SendBytes
    visit: Visit


class Express:
    """Answers plain queries of all connections; used on the event loop only."""

    def __init__(self, runtime: Runtime, hot_query: HotQuery) -> None:
        self._runtime = runtime
        self._hot_query = hot_query
        self._overloaded = OverloadedAnswers()

    @staticmethod
    def is_for(cycle: RequestResponseCycle) -> bool:
        """Whether a request may be for here, as far as its first line tells."""
        return cycle.scope["path"] == PATH and cycle.scope["method"] == "POST"

    def read(self, scope: HTTPScope) -> PlainHead | None:
        """Read a head; None where it asks for anything out of the ordinary.

        Raises:
            InvalidParameter: The deadline is malformed.
        """
        # Of a header that is sent twice the first counts, as it does in the framework.
        headers = dict(reversed(scope["headers"]))  # type: ignore[call-overload]
        bytes_max = self._runtime.config.body_bytes_max
        if not is_plain(headers, scope["query_string"], bytes_max) or not is_plain_json(headers):
            return None
        return PlainHead(wish_of(headers), dict(scope["headers"]), bytes_max)

    def take(
        self, cycle: RequestResponseCycle, send: SendBytes, head: PlainHead | None = None
    ) -> asyncio.Future[Match] | bool:
        """Answer a request whose body is there.

        Args:
            cycle: The request.
            send: Sends a whole answer on its connection.
            head: What ``read`` gave of its head, if anybody has asked.

        Returns:
            True where it is answered, the future after which it will be, or false where it
            is not for here and nothing has happened.
        """
        runtime = self._runtime
        if not runtime.is_open or runtime.is_draining or not runtime.node.isprintable():
            return False
        asking: _Asking | None = None
        try:
            head, body = head or self.read(cycle.scope), bytes(cycle.body)
            if head is None or len(body) > head.size_bytes_max:
                return False
            visit = Visit(request_id(head.last.get(b"x-request-id")), PATH)
            asking = _Asking(cycle, send, visit)
            visit.key_name = authorize(runtime.keys, "POST", PATH, head.last)
            return self._answer(asking, body, head.wish)
        except Overloaded as error:
            assert asking is not None, "no head is too much: this is a bug"
            self._refuse(asking, error)
            return True
        except SynaptoRouteError:
            return False

    def _answer(self, asking: _Asking, body: bytes, wish: Wish) -> asyncio.Future[Match] | bool:
        """Answer with what was kept or is found at once, or begin to.

        Raises:
            SynaptoRouteError: As ``HotQuery``; nothing was sent.
        """
        hot_query = self._hot_query
        found = hot_query.kept(body, wish)
        if found is not None:
            self._send(asking, _OK, headers_of(found), found.content)
            return True
        hot_query.check_queue(body, wish)
        asked = parse_query(body)
        lease = BodyLease(self._runtime.bodies)
        lease.take(len(body))
        try:
            begun = hot_query.begin(asked, body, wish)
        except BaseException:
            lease.release()
            raise
        if isinstance(begun.answer, Match):
            lease.release()
            hot_query.leave(begun)
            found = hot_query.end(begun, begun.answer)
            self._send(asking, _OK, headers_of(found), found.content)
            return True
        self._runtime.metrics.in_flight.inc()
        begun.answer.add_done_callback(partial(self._answered, asking, begun, lease))
        return begun.answer

    def _answered(
        self, asking: _Asking, begun: Begun, lease: BodyLease, future: asyncio.Future[Match]
    ) -> None:
        """Send what became of a query; nothing to a client that has gone."""
        lease.release()
        self._hot_query.leave(begun)
        self._runtime.metrics.in_flight.dec()
        if future.cancelled():
            note(self._runtime, asking.cycle.scope, asking.visit)
            return
        try:
            found = self._hot_query.end(begun, future.result())
        except Exception as error:  # the client gets it; the connection must live on
            self._refuse(asking, error)
        else:
            self._send(asking, _OK, headers_of(found), found.content)

    def _refuse(self, asking: _Asking, error: Exception) -> None:
        """Send a problem document, as the door does."""
        visit = asking.visit
        if isinstance(error, Overloaded):
            body = self._overloaded.render(error, instance_of(visit))
            if body is not None:
                headers = overloaded_headers(error, body)
                self._send(asking, _OVERLOADED, headers, body)
                return
        problem = problem_of(error) if isinstance(error, SynaptoRouteError) else internal_problem()
        if problem.status == 500:
            log_incident(self._runtime, visit, problem, error)
        self._send(asking, problem.status, *problem_parts(problem, visit))

    def _send(self, asking: _Asking, status: int, headers: _Headers, body: bytes) -> None:
        """Send a whole answer in one piece, and let the connection go on."""
        cycle, visit, runtime = asking.cycle, asking.visit, self._runtime
        visit.status = status
        note(runtime, cycle.scope, visit)
        all_headers = [*cycle.default_headers, *headers, *marks(runtime, visit)]
        is_last = not cycle.keep_alive or runtime.is_draining
        if is_last and not runtime.is_draining:  # the door says so while it drains
            all_headers.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % header for header in all_headers])
        asking.send(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
        cycle.response_started = cycle.response_complete = True
        if is_last:
            cycle.transport.close()
        on_response, cycle.on_response = cycle.on_response, _nothing
        on_response()


def _nothing() -> None:
    """What a request whose answer was sent has to say."""
