"""Queries to a router in this process or to a cluster's client, sync and async alike.

The LangChain runnable and the LlamaIndex selector take any of ``AdaptiveRouter``, ``Client`` and
``AsyncClient``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synaptoroute.errors import ConfigError, RouteError
from synaptoroute.models import QUERY_BATCH_TEXTS_MAX, Match

if TYPE_CHECKING:
    from synaptoroute.client import AsyncClient, Client
    from synaptoroute.router import AdaptiveRouter

    Router = AdaptiveRouter | Client | AsyncClient


class Asker:
    """Asks a router; options are those of its ``query``."""

    def __init__(self, router: Router) -> None:
        self._router: Any = router
        self._is_embedded = hasattr(router, "aquery")
        self._is_async = inspect.iscoroutinefunction(getattr(router, "query", None))
        if not hasattr(router, "query"):
            raise ConfigError("the router is an AdaptiveRouter, a Client or an AsyncClient")

    def query(self, text: str, **options: Any) -> Match:
        """Route a text.

        Raises:
            ConfigError: The router is an ``AsyncClient``.
        """
        if self._is_async:
            raise ConfigError("an AsyncClient answers coroutines only; give a Client")
        found: Match = self._router.query(text, **options)
        return found

    async def aquery(self, text: str, **options: Any) -> Match:
        """Route a text; a ``Client`` waits on another thread."""
        found: Match
        if self._is_embedded:
            found = await self._router.aquery(text, **options)
        elif self._is_async:
            found = await self._router.query(text, **options)
        else:
            found = await asyncio.to_thread(self._router.query, text, **options)
        return found

    def query_batch(self, texts: Sequence[str], **options: Any) -> list[Match]:
        """Route texts; one match each, in their order.  One that is refused fails them all."""
        if self._is_embedded:
            return [self.query(text, **options) for text in texts]
        if self._is_async:
            raise ConfigError("an AsyncClient answers coroutines only; give a Client")
        found: list[Match] = []
        for some in _parts(texts):
            found += self._router.query_batch(some, **options)
        return found

    async def aquery_batch(self, texts: Sequence[str], **options: Any) -> list[Match]:
        """Route texts; one match each, in their order.  One that is refused fails them all."""
        found: list[Match] = []
        for some in _parts(texts):
            if self._is_embedded:
                found += await self._router.aquery_batch(some, **options)
            elif self._is_async:
                found += await self._router.query_batch(some, **options)
            else:
                found += await asyncio.to_thread(self._router.query_batch, some, **options)
        return found


def is_of_the_text(error: Exception) -> bool:
    """Whether an error is about the text alone: another text may be routed now."""
    return isinstance(error, RouteError) or getattr(error, "status", None) in (400, 413, 422)


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [
        texts[start : start + QUERY_BATCH_TEXTS_MAX]
        for start in range(0, len(texts), QUERY_BATCH_TEXTS_MAX)
    ]
