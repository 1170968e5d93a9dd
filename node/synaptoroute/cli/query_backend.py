"""Where commands that ask many queries get their answers: from a node or from a route file.

Both backends answer with the documents of the HTTP API.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.query_files import LabelledQuery
from synaptoroute.cli.terminal import progress, waiting

if TYPE_CHECKING:
    from synaptoroute.config import Precision
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter

RouteDocuments = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled query and its answer.

    Attributes:
        score: Score of that route; of the best one if none matched.
        runner_up: Name of the next best route.
    """

    text: str
    expected: str | None
    given: str | None
    score: float | None = None
    runner_up: str | None = None
    margin: float | None = None
    latency_ms: float = 0.0

    @property
    def is_correct(self) -> bool:
        return self.expected == self.given


class QueryBackend(Protocol):
    """Routes texts."""

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        """Route one text; return the match as the HTTP API gives it."""
        ...

    def routes(self) -> RouteDocuments:
        """Return all routes, with ``name``, ``threshold`` and ``effective_threshold``."""
        ...

    def default_threshold(self) -> float: ...


class NodeBackend:
    """Asks a node."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        match: dict[str, Any] = self.client.post("/v1/query", {"text": text, "limit": limit})
        return match

    def routes(self) -> RouteDocuments:
        return list(self.client.routes())

    def default_threshold(self) -> float:
        return float(self.client.get("/v1/settings")["threshold"])


class FileBackend:
    """Asks a router in this process, on the routes of a file."""

    def __init__(self, router: AdaptiveRouter, routes: RouteDocuments, default: float) -> None:
        self._router = router
        self._routes = routes
        self._default = default

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        return self._router.query(text, limit=limit).model_dump()

    def routes(self) -> RouteDocuments:
        return self._routes

    def default_threshold(self) -> float:
        return self._default


@contextmanager
def open_backend(
    url: str,
    api_key: str | None,
    routes_file: Path | None,
    model: str | None,
    precision: Precision = "auto",
) -> Iterator[QueryBackend]:
    """Answer from a route file if one is given, else from the node at ``url``."""
    if routes_file is None:
        with NodeClient(url, api_key) as client:
            yield NodeBackend(client)
    else:
        with open_file_backend(routes_file, model, precision) as backend:
            yield backend


@contextmanager
def open_empty_router(
    routes_file: Path, model: str | None, precision: Precision
) -> Iterator[tuple[AdaptiveRouter, Sequence[Route]]]:
    """Read a route file and load a model; the router is empty, in memory and not started."""
    from synaptoroute.cli.route_files import read_route_file
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder
    from synaptoroute.router import AdaptiveRouter

    routes = read_route_file(routes_file).routes
    with waiting("Loading the model ..."):
        encoder = open_encoder(model or DEFAULT_MODEL, precision=precision)
    router = AdaptiveRouter(encoder)
    try:
        yield router, routes
    finally:
        router.close()
        encoder.close()


@contextmanager
def open_file_backend(
    routes_file: Path, model: str | None, precision: Precision = "auto"
) -> Iterator[FileBackend]:
    """Load a model and the routes of a file into a router in memory."""
    from synaptoroute.core.mutation import Settings

    default = Settings().threshold
    with open_empty_router(routes_file, model, precision) as (router, routes):
        with progress("Encoding routes", len(routes)) as step:
            for route in routes:
                router.add_route(route)
                step(1)
        documents = [
            {
                "name": route.name,
                "threshold": route.threshold,
                "effective_threshold": default if route.threshold is None else route.threshold,
            }
            for route in routes
        ]
        yield FileBackend(router, documents, default)


def ask_all(
    backend: QueryBackend, queries: Sequence[LabelledQuery], limit: int = 1
) -> Iterator[tuple[Answer, dict[str, Any]]]:
    """Ask one query after another, with a progress bar; yield each answer and its match."""
    with progress("Asking", len(queries)) as step:
        for query in queries:
            started = time.perf_counter()
            match = backend.query(query.text, limit)
            latency_ms = (time.perf_counter() - started) * 1_000
            answer = Answer(
                text=query.text,
                expected=query.route,
                given=match["route"],
                score=match["score"],
                runner_up=match["runner_up"],
                margin=match["margin"],
                latency_ms=latency_ms,
            )
            yield answer, match
            step(1)
