"""Labelled queries, and the backends that answer them: a node, or a route file.

Both backends answer with the documents of the HTTP API.

A file of labelled queries has one query per line, ``text<TAB>route``, or is a CSV table or JSON
lines; ``-`` stands for no route; see ``importers.tables``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.options import read_bytes
from synaptoroute.cli.terminal import progress, waiting
from synaptoroute.errors import RouteError

if TYPE_CHECKING:
    from synaptoroute.config import Precision
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter

RouteDocuments = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled query and its answer; ``score`` is the best one if no route matched."""

    text: str
    expected: str | None
    given: str | None
    score: float | None = None
    runner_up: str | None = None
    margin: float | None = None
    latency_ms: float = 0.0
    best: str | None = None  # The best route, whether it was answered or not
    confidence: float | None = None  # Of that route, if the node reports confidences
    threshold: float | None = None  # What its score must reach
    confidence_min: float | None = None  # What its confidence must reach
    reason: str = ""

    @property
    def is_correct(self) -> bool:
        return self.expected == self.given


class QueryBackend(Protocol):
    """Routes texts."""

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        """Route one text; return the match as the HTTP API gives it."""
        ...

    def routes(self) -> RouteDocuments:
        """Return all routes with their fields."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return the settings of the route set."""
        ...

    def own_utterances(self, limit: int) -> list[tuple[str, str, dict[str, Any]]]:
        """Judge the routes' own utterances, each without itself: text, route and match."""
        ...


class NodeBackend:
    """Asks a node."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        match: dict[str, Any] = self.client.post("/v1/query", {"text": text, "limit": limit})
        return match

    def routes(self) -> RouteDocuments:
        return list(self.client.routes())

    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/settings")
        return found

    def own_utterances(self, limit: int) -> list[tuple[str, str, dict[str, Any]]]:
        found = self.client.get("/v1/evaluation", limit=limit, answers="true")
        return [(each["text"], each["route"], each["match"]) for each in found["utterances"]]


class FileBackend:
    """Asks a router in this process, on the routes of a file."""

    def __init__(self, router: AdaptiveRouter, routes: RouteDocuments) -> None:
        self._router = router
        self._routes = routes

    def query(self, text: str, limit: int = 1) -> dict[str, Any]:
        return self._router.query(text, limit=limit).model_dump()

    def routes(self) -> RouteDocuments:
        return self._routes

    def settings(self) -> dict[str, Any]:
        return asdict(self._router.visible.settings)

    def own_utterances(self, limit: int) -> list[tuple[str, str, dict[str, Any]]]:
        found = asyncio.run(self._router.feedback.evaluate(limit))
        return [(each.text, each.route, each.match.model_dump()) for each in found.utterances]


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
    with open_empty_router(routes_file, model, precision) as (router, routes):
        with progress("Encoding routes", len(routes)) as step:
            for route in routes:
                router.add_route(route)
                step(1)
        if given := _settings_of_folder(routes_file):
            settings = asyncio.run(router.aget_settings())
            wanted = settings.model_validate({**settings.model_dump(), **given})
            router.set_changes.put_settings_now(wanted)
        # A node fits in the background; without a fit the answers would be those of its first
        # seconds.
        with suppress(RouteError):  # it is too small to be fitted
            asyncio.run(router.fits.fit_now())
        yield FileBackend(router, [route.model_dump() for route in routes])


def _settings_of_folder(routes_file: Path) -> dict[str, Any]:
    """The settings that a route folder names; none for other route files."""
    if not routes_file.is_dir():
        return {}
    from synaptoroute.cli.route_files import read_source
    from synaptoroute.importers.folder import is_route_folder, read_route_folder

    source = read_source(routes_file)
    return (read_route_folder(source).settings or {}) if is_route_folder(source) else {}


def judge_own(backend: QueryBackend, limit: int) -> list[tuple[Answer, dict[str, Any]]]:
    """Judge the routes' own utterances; return each answer and its match."""
    with waiting("Judging the routes by their own utterances ..."):
        found = backend.own_utterances(limit)
    if not found:
        raise FileRejected("no route has two utterances; give a file of labelled queries")
    return [(_answer_of(text, route, match, 0.0), match) for text, route, match in found]


def ask_all(
    backend: QueryBackend, queries: Sequence[LabelledQuery], limit: int = 1
) -> Iterator[tuple[Answer, dict[str, Any]]]:
    """Ask one query after another, with a progress bar; yield each answer and its match."""
    with progress("Asking", len(queries)) as step:
        for query in queries:
            started = time.perf_counter()
            match = backend.query(query.text, limit)
            latency_ms = (time.perf_counter() - started) * 1_000
            yield _answer_of(query.text, query.route, match, latency_ms), match
            step(1)


def _answer_of(text: str, route: str | None, match: dict[str, Any], latency_ms: float) -> Answer:
    return Answer(
        text=text,
        expected=route,
        given=match["route"],
        score=match["score"],
        runner_up=match["runner_up"],
        margin=match["margin"],
        latency_ms=latency_ms,
        **_best_of(match),
    )


def _best_of(match: dict[str, Any]) -> dict[str, Any]:
    """The best route of a match and its values; below its limit it stands in the candidates."""
    candidates = match.get("candidates") or ()
    best = match["route"] or (candidates[0]["route"] if candidates else None)
    return {
        "best": best,
        "confidence": match.get("confidence"),
        "threshold": match["threshold"],
        "confidence_min": match.get("confidence_min"),
        "reason": match["reason"],
    }


# --- files of labelled queries -----------------------------------------------------------


QUERIES_BYTES_MAX: Final = 268_435_456
NO_ROUTE: Final = "-"


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """One query and its right route; None stands for no route."""

    text: str
    route: str | None


def read_labelled(path: Path) -> list[LabelledQuery]:
    """Read a file of labelled queries, see ``importers.labels``."""
    from synaptoroute.cli.route_files import rejected
    from synaptoroute.importers import FileRefused, read_labels

    try:
        found = read_labels(path.name, read_bytes(path, QUERIES_BYTES_MAX))
    except FileRefused as error:
        raise rejected(path, error) from error
    return [LabelledQuery(each.text, each.route) for each in found]


def tests_of_folder(routes_file: Path | None) -> Path | None:
    """The file of tests in a route folder; None for other route files, and without tests."""
    if routes_file is None or not routes_file.is_dir():
        return None
    found = (routes_file / f"tests{suffix}" for suffix in (".yaml", ".yml"))
    return next((each for each in found if each.is_file()), None)


def check_known(queries: Sequence[LabelledQuery], names: frozenset[str], path: Path) -> None:
    """Refuse labels that are no routes: they would count as errors of the router."""
    unknown = sorted({query.route for query in queries if query.route} - names)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise FileRejected(f"{path}: unknown routes: {', '.join(map(repr, unknown[:3]))}{more}")
