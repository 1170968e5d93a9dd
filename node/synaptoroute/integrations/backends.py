"""Backends of the MCP server: a cluster over HTTP, or a router in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from synaptoroute.client import AsyncClient, NotFound
from synaptoroute.models import FeedbackReceipt, Match, Route, StoredRoute, WriteResult
from synaptoroute.router import AdaptiveRouter


class Page(Protocol):
    """Some routes, in order of name."""

    @property
    def routes(self) -> list[StoredRoute]: ...
    @property
    def next_after(self) -> str | None: ...
    @property
    def version(self) -> str: ...


class Writer(Protocol):
    """Changes routes, and takes feedback; an ``AsyncClient`` is one."""

    async def put_route(self, route: Route) -> WriteResult: ...
    async def add_utterances(self, name: str, utterances: Sequence[str]) -> WriteResult: ...
    async def delete_route(self, name: str) -> WriteResult: ...
    async def feedback(self, route: str | None, *, text: str) -> FeedbackReceipt: ...


class Backend(Protocol):
    """Routes texts."""

    async def query(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context: Sequence[str] = (),
    ) -> Match:
        """Route a text."""
        ...

    async def list_routes(self, after: str, limit: int) -> Page:
        """Return a page of routes, after a name."""
        ...

    async def writer(self) -> Writer | None:
        """Return what changes routes; None if the backend's key does not allow it."""
        ...


class EmbeddedBackend:
    """Asks a router in this process, whose routes come from a file and do not change."""

    def __init__(self, router: AdaptiveRouter) -> None:
        self._router = router

    async def query(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context: Sequence[str] = (),
    ) -> Match:
        return await self._router.aquery(
            text, limit=limit, routes=routes, explain=explain, context=context
        )

    async def list_routes(self, after: str, limit: int) -> Page:
        return await self._router.alist_routes(after=after, limit=limit)

    async def writer(self) -> Writer | None:
        return None


class ClusterBackend:
    """Asks the nodes of a cluster by their client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def query(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context: Sequence[str] = (),
    ) -> Match:
        return await self._client.query(
            text, limit=limit, routes=routes, explain=explain, context=context
        )

    async def list_routes(self, after: str, limit: int) -> Page:
        return await self._client.list_routes(after=after, limit=limit)

    async def writer(self) -> Writer | None:
        try:
            scopes = (await self._client.request("GET", "/v1/key"))["scopes"]
        except NotFound:  # a node of a release before, which does not say
            return None
        return self._client if {"write", "admin"}.intersection(scopes) else None
