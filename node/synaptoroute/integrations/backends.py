"""What the MCP server answers from: a cluster over HTTP, or a router in this process.

Both answer with the documents of the HTTP API, and raise errors with a stable ``code``.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote

import httpx

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.router import AdaptiveRouter
from synaptoroute.version import __version__

Document = dict[str, Any]
CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 30.0


class Backend(Protocol):
    """Routes texts."""

    async def query(self, document: Document) -> Document:
        """Answer the body of ``POST /v1/query``."""
        ...

    async def list_routes(self, after: str, limit: int) -> Document:
        """Return a page of routes in order of name."""
        ...

    async def writer(self) -> Writer | None:
        """Return what changes routes; None if the backend's key does not allow it."""
        ...


class Writer(Protocol):
    """Changes routes, and takes feedback."""

    async def put_route(self, name: str, document: Document) -> Document:
        """Create or replace a route: the body of ``PUT /v1/routes/{name}``."""
        ...

    async def add_utterances(self, name: str, utterances: Sequence[str]) -> Document:
        """Add utterances to a route."""
        ...

    async def delete_route(self, name: str) -> Document:
        """Delete a route."""
        ...

    async def give_feedback(self, document: Document) -> Document:
        """Put the body of ``POST /v1/feedback`` into the review queue."""
        ...


class EmbeddedBackend:
    """Asks a router in this process, whose routes come from a file and do not change."""

    def __init__(self, router: AdaptiveRouter) -> None:
        self._router = router

    async def query(self, document: Document) -> Document:
        options = {key: value for key, value in document.items() if key != "text"}
        match: Match = await self._router.aquery(document["text"], **options)
        return match.model_dump(mode="json")

    async def list_routes(self, after: str, limit: int) -> Document:
        page = await self._router.alist_routes(after=after, limit=limit)
        routes = [route.model_dump(mode="json") for route in page.routes]
        return {"routes": routes, "next_after": page.next_after, "version": page.version}

    async def writer(self) -> Writer | None:
        return None


class NodeRefused(SynaptoRouteError):
    """A node refused a request; ``code`` is that of its answer."""

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.code = code  # type: ignore[misc]  # of the answer, not of this class


class ClusterBackend:
    """Asks the nodes of a cluster, the next one if one does not answer."""

    def __init__(self, urls: Sequence[str], api_key: str | None, verify: Any = True) -> None:
        headers = {"User-Agent": f"synaptoroute-mcp/{__version__}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._urls = [url.rstrip("/") for url in urls]
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            verify=verify,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def query(self, document: Document) -> Document:
        return await self._call("POST", "/v1/query", document)

    async def list_routes(self, after: str, limit: int) -> Document:
        return await self._call("GET", "/v1/routes", parameters={"after": after, "limit": limit})

    async def writer(self) -> Writer | None:
        scopes = (await self._call("GET", "/v1/key"))["scopes"]
        return self if {"write", "admin"}.intersection(scopes) else None

    async def put_route(self, name: str, document: Document) -> Document:
        return await self._write("PUT", _path(name), {"name": name, **document})

    async def add_utterances(self, name: str, utterances: Sequence[str]) -> Document:
        return await self._write("POST", f"{_path(name)}/utterances", {"utterances": utterances})

    async def delete_route(self, name: str) -> Document:
        return await self._write("DELETE", _path(name))

    async def give_feedback(self, document: Document) -> Document:
        return await self._write("POST", "/v1/feedback", document)

    async def _write(self, method: str, path: str, document: Any = None) -> Document:
        return await self._call(
            method, path, document, headers={"Idempotency-Key": str(uuid.uuid4())}
        )

    async def _call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        parameters: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        failure = NodeRefused("node_unreachable", "no node answers")
        for url in list(self._urls):
            try:
                answer = await self._http.request(
                    method, f"{url}{path}", params=parameters, json=document, headers=headers
                )
            except httpx.TransportError:
                self._urls.append(self._urls.pop(0))
                continue
            if answer.is_success:
                found: Document = answer.json()
                return found
            failure = _refusal(answer)
            if answer.status_code not in (502, 503, 504):
                break
        raise failure


def _refusal(answer: httpx.Response) -> NodeRefused:
    try:
        problem = answer.json()
        wait = answer.headers.get("Retry-After")
        return NodeRefused(problem["code"], problem["detail"], float(wait) if wait else None)
    except (ValueError, KeyError, TypeError):
        return NodeRefused("not_a_node", f"what answered with {answer.status_code} is no node")


def _path(name: str) -> str:
    return f"/v1/routes/{quote(name, safe='')}"
