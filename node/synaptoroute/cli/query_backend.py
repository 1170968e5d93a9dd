"""Where the commands that ask many queries get their answers: a node, or a route file.

Both answer with the documents of the HTTP API, so that the commands need not know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.evaluation import Answer
from synaptoroute.cli.labelled import LabelledQuery
from synaptoroute.cli.terminal import progress, waiting

if TYPE_CHECKING:
    from synaptoroute.config import Precision
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter

RouteDocuments = list[dict[str, Any]]


class Answering(Protocol):
    """Something that routes texts."""

    def ask(self, text: str, limit: int = 1) -> dict[str, Any]:
        """Route one text: a match as the HTTP API gives it."""
        ...

    def routes(self) -> RouteDocuments:
        """Give all routes, with ``name``, ``threshold`` and ``effective_threshold``."""
        ...

    def default_threshold(self) -> float:
        """Give the threshold of routes without one of their own."""
        ...


class NodeAnswers:
    """Asks a node."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client

    def ask(self, text: str, limit: int = 1) -> dict[str, Any]:
        """Route one text."""
        match: dict[str, Any] = self.client.post("/v1/query", {"text": text, "limit": limit})
        return match

    def routes(self) -> RouteDocuments:
        """Give all routes."""
        return list(self.client.routes())

    def default_threshold(self) -> float:
        """Give the default threshold."""
        return float(self.client.get("/v1/settings")["threshold"])


class FileAnswers:
    """Asks a router in this process, on the routes of a file."""

    def __init__(self, router: AdaptiveRouter, routes: RouteDocuments, default: float) -> None:
        self._router = router
        self._routes = routes
        self._default = default

    def ask(self, text: str, limit: int = 1) -> dict[str, Any]:
        """Route one text."""
        return self._router.query(text, limit=limit).model_dump()

    def routes(self) -> RouteDocuments:
        """Give all routes."""
        return self._routes

    def default_threshold(self) -> float:
        """Give the default threshold."""
        return self._default


@contextmanager
def open_answering(
    url: str,
    api_key: str | None,
    routes_file: Path | None,
    model: str | None,
    precision: Precision = "auto",
) -> Iterator[Answering]:
    """Answer from a file where one is given, else from the node at ``url``."""
    if routes_file is None:
        with NodeClient(url, api_key) as client:
            yield NodeAnswers(client)
    else:
        with open_router(routes_file, model, precision) as answering:
            yield answering


@contextmanager
def open_unstarted(
    routes_file: Path, model: str | None, precision: Precision
) -> Iterator[tuple[AdaptiveRouter, Sequence[Route]]]:
    """Read a route file and load a model; the router is empty, in memory, not started."""
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
def open_router(
    routes_file: Path, model: str | None, precision: Precision = "auto"
) -> Iterator[FileAnswers]:
    """Load a model and the routes of a file into a router that lives in memory."""
    from synaptoroute.core.mutation import Settings

    default = Settings().threshold
    with open_unstarted(routes_file, model, precision) as (router, routes):
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
        yield FileAnswers(router, documents, default)


def ask_all(
    answering: Answering, queries: Sequence[LabelledQuery], limit: int = 1
) -> Iterator[tuple[Answer, dict[str, Any]]]:
    """Ask one query after another, with a progress bar; measures each."""
    with progress("Asking", len(queries)) as step:
        for query in queries:
            began = time.perf_counter()
            match = answering.ask(query.text, limit)
            yield _answer(query, match, (time.perf_counter() - began) * 1_000), match
            step(1)


def _answer(query: LabelledQuery, match: dict[str, Any], latency_ms: float) -> Answer:
    return Answer(
        text=query.text,
        expected=query.route,
        given=match["route"],
        score=match["score"],
        runner_up=match["runner_up"],
        margin=match["margin"],
        latency_ms=latency_ms,
    )
