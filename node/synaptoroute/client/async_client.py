"""``AsyncClient``: the API of a cluster for programs with an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from synaptoroute.change_models import (
    Erasure,
    ErasureStatus,
    HistoryPage,
    Promotion,
    SetDiff,
    SetTestPage,
    SetTestRun,
    ShadowReport,
)
from synaptoroute.client import calls
from synaptoroute.client.calls import (
    KEEP,
    Ack,
    Choice,
    Consistency,
    Format,
    Keep,
    Labels,
    Operation,
    RouteLike,
    RoutePage,
    WriteOptions,
)
from synaptoroute.client.http_async import AsyncHttpClient
from synaptoroute.models import (
    FeedbackReceipt,
    ImportResult,
    Match,
    Route,
    RouteSetSettings,
    StoredRoute,
    WriteResult,
)


class AsyncClient(AsyncHttpClient):
    """A client of a cluster; may be shared by the tasks of one event loop.

    Use it as a context manager, or await ``close``.  It fails over between its addresses, tries
    again what may be tried again, and reads its own writes on every node.
    """

    # --- queries ---------------------------------------------------------------------

    async def query(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context: Sequence[str] = (),
        prior: Mapping[str, float] | None = None,
        session: str | None = None,
        consistency: Consistency = "local",
        timeout_seconds: float | None = None,
    ) -> Match:
        """Route a text.

        Args:
            text: The text.
            limit: Best routes to list as candidates, 1 to 100.
            routes: Only these may match; None for all.
            explain: Whether to list candidates with scores and confidence.
            context: Earlier turns of the conversation, oldest first.
            prior: Weights of routes, -20 to 20.
            session: Keeps the queries of one session on one side of an alias with a canary.
            consistency: ``head`` asks the log for its newest entry first.
            timeout_seconds: Time of this call; None for that of the client.

        Returns:
            The match; false in a condition if no route matched.

        Raises:
            ClientError: As for every call; see ``synaptoroute.client.errors``.
        """
        fields = calls.query_fields(
            limit=limit,
            routes=routes,
            explain=explain,
            context=context,
            prior=prior,
            session=session,
        )
        return await self.send(calls.query(text, fields, consistency), timeout_seconds)

    async def explain(
        self, text: str, *, limit: int = 5, timeout_seconds: float | None = None
    ) -> Match:
        """Route a text and list the best candidates with scores and confidence."""
        return await self.query(text, limit=limit, explain=True, timeout_seconds=timeout_seconds)

    async def query_split(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        timeout_seconds: float | None = None,
    ) -> list[Match]:
        """Route each clause of a text; every match has the ``span`` of its part."""
        fields = calls.query_fields(limit=limit, routes=routes, explain=explain)
        return await self.send(calls.query_split(text, fields), timeout_seconds)

    async def query_batch(
        self,
        texts: Sequence[str],
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context: Sequence[str] = (),
        prior: Mapping[str, float] | None = None,
        session: str | None = None,
        consistency: Consistency = "local",
        timeout_seconds: float | None = None,
    ) -> list[Match]:
        """Route up to 1,024 texts; one match each, in their order."""
        fields = calls.query_fields(
            limit=limit,
            routes=routes,
            explain=explain,
            context=context,
            prior=prior,
            session=session,
        )
        return await self.send(calls.query_batch(texts, fields, consistency), timeout_seconds)

    async def choose(
        self,
        state: Any,
        options: Sequence[str | bool] | Mapping[str, str | None],
        *,
        instructions: str = "Which option?",
        model: str = "default",
        timeout_seconds: float | None = None,
    ) -> Choice:
        """Choose one of several options for a text, an object or an array.

        Args:
            state: What is decided about.
            options: The options, or a description of each; one that is the name of a route uses
                the utterances of that route.
            instructions: The question.
            model: Route set that answers.
            timeout_seconds: Time of this call; None for that of the client.
        """
        request = calls.choose(state, options, instructions, model)
        return await self.send(request, timeout_seconds)

    async def decide(
        self,
        state: Any,
        questions: Sequence[Mapping[str, Any]],
        *,
        model: str = "default",
        timeout_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Answer several questions in one call, in the form of ``POST /v1/decisions``."""
        return await self.send(calls.decide(state, questions, model), timeout_seconds)

    async def feedback(
        self,
        route: str | None,
        *,
        text: str | None = None,
        decision_id: str | None = None,
        was: str | Keep | None = KEEP,
        timeout_seconds: float | None = None,
    ) -> FeedbackReceipt:
        """Say which route is right, None for no route; name the text or the ``decision_id``."""
        request = calls.feedback(
            route, text=text, decision_id=decision_id, was=was, options=WriteOptions()
        )
        return await self.send(request, timeout_seconds)

    # --- routes ----------------------------------------------------------------------

    async def routes(
        self, *, consistency: Consistency = "local", timeout_seconds: float | None = None
    ) -> AsyncIterator[StoredRoute]:
        """Yield all routes in order of name, page by page."""
        after: str | None = ""
        while after is not None:
            page = await self.list_routes(
                after=after, consistency=consistency, timeout_seconds=timeout_seconds
            )
            for route in page.routes:
                yield route
            after = page.next_after

    async def list_routes(
        self,
        *,
        after: str = "",
        limit: int = calls.PAGE_ROUTES,
        consistency: Consistency = "local",
        timeout_seconds: float | None = None,
    ) -> RoutePage:
        """One page of the routes, after a name."""
        return await self.send(calls.list_routes(after, limit, consistency), timeout_seconds)

    async def get_route(
        self,
        name: str,
        *,
        consistency: Consistency = "local",
        timeout_seconds: float | None = None,
    ) -> StoredRoute:
        """One route with its utterances.

        Raises:
            NotFound: No route has this name.
        """
        return await self.send(calls.get_route(name, consistency), timeout_seconds)

    async def put_route(
        self,
        route: RouteLike,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Create a route or replace all of it; ``created`` of the result says which."""
        return await self.send(calls.put_route(route, options or WriteOptions()), timeout_seconds)

    async def patch_route(
        self,
        name: str,
        *,
        threshold: float | Keep | None = KEEP,
        confidence_min: float | Keep | None = KEEP,
        description: str | Keep | None = KEEP,
        negatives: Sequence[str] | Keep = KEEP,
        metadata: Mapping[str, Any] | Keep = KEEP,
        payload: Any = KEEP,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Replace fields of a route; the others and the utterances stay as they are."""
        changes = {
            "threshold": threshold,
            "confidence_min": confidence_min,
            "description": description,
            "negatives": negatives if isinstance(negatives, Keep) else list(negatives),
            "metadata": metadata if isinstance(metadata, Keep) else dict(metadata),
            "payload": payload,
        }
        request = calls.patch_route(name, changes, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def delete_route(
        self,
        name: str,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Remove a route."""
        return await self.send(calls.delete_route(name, options or WriteOptions()), timeout_seconds)

    async def add_utterances(
        self,
        name: str,
        utterances: Sequence[str],
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Add examples to a route; ``count`` of the result says how many were new."""
        request = calls.add_utterances(name, utterances, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def remove_utterances(
        self,
        name: str,
        utterances: Sequence[str],
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Remove examples from a route; the last one cannot be removed."""
        request = calls.remove_utterances(name, utterances, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    # --- transfer --------------------------------------------------------------------

    async def import_routes(
        self,
        routes: Iterable[RouteLike] | bytes,
        *,
        format: Format = "ndjson",
        replace: bool = False,
        import_id: str | None = None,
        ack: Ack = "applied",
        timeout_seconds: float | None = calls.TRANSFER_SECONDS,
    ) -> ImportResult:
        """Create or replace many routes, all at once or not at all.

        Args:
            routes: Routes, sent as a stream; or a document in ``format``.  An iterator is read
                once, so the call is not tried again after it began to send; a list is.
            format: Format of a document.
            replace: Whether to delete every route that the import does not name.
            import_id: Names the import, so that an interrupted one can be sent again.
            ack: Level of durability to wait for.
            timeout_seconds: Time of this call.
        """
        request = calls.import_routes(
            routes, format=format, replace=replace, import_id=import_id, ack=ack
        )
        return await self.send(request, timeout_seconds)

    async def export_routes(
        self,
        *,
        consistency: Consistency = "local",
        timeout_seconds: float | None = calls.TRANSFER_SECONDS,
    ) -> AsyncIterator[Route]:
        """Yield all routes at one position, as a stream."""
        lines = calls.Lines()
        async with self.export_document("ndjson", consistency, timeout_seconds) as pieces:
            async for piece in pieces:
                for line in lines.feed(piece):
                    yield calls.exported_route(line)
        for line in lines.end():
            yield calls.exported_route(line)

    @asynccontextmanager
    async def export_document(
        self,
        format: Format = "yaml",
        consistency: Consistency = "local",
        timeout_seconds: float | None = calls.TRANSFER_SECONDS,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """All routes as a document that an import takes back, in pieces."""
        request = calls.export_routes(format, consistency)
        async with self.stream(request, timeout_seconds) as pieces:
            yield pieces

    # --- settings and outcomes ---------------------------------------------------------

    async def get_settings(
        self, *, consistency: Consistency = "local", timeout_seconds: float | None = None
    ) -> RouteSetSettings:
        """Settings of the route set."""
        return await self.send(calls.get_settings(consistency), timeout_seconds)

    async def put_settings(
        self,
        settings: RouteSetSettings,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Replace all settings of the route set; needs the scope ``admin``."""
        request = calls.put_settings(settings, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def get_operation(self, op_id: str, *, timeout_seconds: float | None = None) -> Operation:
        """Outcome of a write by its ``op_id``."""
        return await self.send(calls.operation(op_id), timeout_seconds)

    # --- route sets --------------------------------------------------------------------

    async def list_sets(
        self,
        *,
        after: str = "",
        limit: int = calls.PAGE_ROUTES,
        timeout_seconds: float | None = None,
    ) -> dict[str, Any]:
        """One page of the route sets: ``sets``, ``next_after``, ``version``."""
        return await self.send(calls.list_sets(after, limit), timeout_seconds)

    async def get_set(self, name: str, *, timeout_seconds: float | None = None) -> dict[str, Any]:
        """One route set: counts, limits, revision and aliases.

        Raises:
            NotFound: No set has this name, or the key may not know it.
        """
        return await self.send(calls.get_set(name), timeout_seconds)

    async def put_set(
        self,
        name: str,
        limits: Mapping[str, int] | None = None,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Create a route set, or replace the limits of one; without ``limits`` they stay."""
        request = calls.put_set(name, limits, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def delete_set(
        self,
        name: str,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Remove a route set with everything in it."""
        return await self.send(calls.delete_set(name, options or WriteOptions()), timeout_seconds)

    async def fork_set(
        self,
        name: str,
        into: str,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Copy a route set with its routes, settings, tests and limits."""
        request = calls.fork_set(name, into, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def list_aliases(
        self,
        *,
        after: str = "",
        limit: int = calls.PAGE_ROUTES,
        timeout_seconds: float | None = None,
    ) -> dict[str, Any]:
        """One page of the aliases: ``aliases``, ``next_after``, ``version``."""
        return await self.send(calls.list_aliases(after, limit), timeout_seconds)

    async def get_alias(self, name: str, *, timeout_seconds: float | None = None) -> dict[str, Any]:
        """One alias with its newest changes.

        Raises:
            NotFound: No alias has this name, or the key may not know it.
        """
        return await self.send(calls.get_alias(name), timeout_seconds)

    async def put_alias(
        self,
        name: str,
        route_set: str,
        fields: Mapping[str, Any] = MappingProxyType({}),
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> Promotion:
        """Point an alias at a route set.

        Args:
            name: The alias.
            route_set: The set that answers.
            fields: ``shadow``, ``shadow_share``, ``canary``, ``canary_share``, ``gate``.
            options: Options of the write.
            timeout_seconds: Time of this call; None for that of the client, or with a gate for
                150 s.

        Raises:
            Conflict: ``gate_failed``, with what was measured as ``evidence``.
        """
        request = calls.put_alias(name, route_set, fields, options or WriteOptions())
        if timeout_seconds is None:
            timeout_seconds = request.attempt_seconds
        return await self.send(request, timeout_seconds)

    async def delete_alias(
        self,
        name: str,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Remove an alias; the sets stay."""
        return await self.send(calls.delete_alias(name, options or WriteOptions()), timeout_seconds)

    async def roll_back(
        self,
        name: str,
        version: str | None = None,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Restore what an alias named before its last change, or since the change ``version``."""
        request = calls.roll_back(name, version, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def get_shadow(self, name: str, *, timeout_seconds: float | None = None) -> ShadowReport:
        """Counts of one node of the shadow of an alias."""
        return await self.send(calls.shadow_report(name), timeout_seconds)

    async def reset_shadow(
        self, name: str, *, timeout_seconds: float | None = None
    ) -> ShadowReport:
        """Count the shadow of an alias from zero, on one node."""
        return await self.send(calls.reset_shadow(name), timeout_seconds)

    # --- tests -----------------------------------------------------------------------

    async def list_tests(
        self,
        *,
        after: str = "",
        limit: int = calls.PAGE_ROUTES,
        timeout_seconds: float | None = None,
    ) -> SetTestPage:
        """One page of the tests of the route set, after a text."""
        return await self.send(calls.list_tests(after, limit), timeout_seconds)

    async def put_tests(
        self,
        tests: Labels,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Replace all tests of the route set.

        Args:
            tests: The right route of each text; None for no route.
            options: Options of the write, which takes no preconditions.
            timeout_seconds: Time of this call; None for that of the client.

        Returns:
            The result; its ``count`` is the number of tests that changed.
        """
        return await self.send(calls.put_tests(tests, options or WriteOptions()), timeout_seconds)

    async def patch_tests(
        self,
        tests: Labels = MappingProxyType({}),
        *,
        removed: Sequence[str] = (),
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Add or replace tests, and remove those of the texts in ``removed``."""
        request = calls.patch_tests(tests, removed, options or WriteOptions())
        return await self.send(request, timeout_seconds)

    async def delete_tests(
        self, *, options: WriteOptions | None = None, timeout_seconds: float | None = None
    ) -> WriteResult:
        """Remove all tests of the route set."""
        return await self.send(calls.delete_tests(options or WriteOptions()), timeout_seconds)

    async def evaluate(
        self,
        texts: Labels | None = None,
        *,
        timeout_seconds: float | None = calls.TESTS_SECONDS,
    ) -> SetTestRun:
        """Ask the route set its own tests, or the labelled ``texts``."""
        return await self.send(calls.evaluate(texts), timeout_seconds)

    async def diff(
        self,
        before: str,
        after: str,
        texts: Labels | Sequence[str] | None = None,
        *,
        timeout_seconds: float | None = calls.TESTS_SECONDS,
    ) -> SetDiff:
        """Compare the answers of two route sets.

        Args:
            before: A set, or an alias for the set that answers.
            after: The other.
            texts: What both are asked, with or without labels; None for the tests of both.
            timeout_seconds: Time of this call.
        """
        return await self.send(calls.diff(before, after, texts), timeout_seconds)

    # --- history and erasure -----------------------------------------------------------

    async def history(
        self,
        *,
        route: str | None = None,
        route_set: str | None = None,
        before: int | None = None,
        limit: int = calls.PAGE_ROUTES,
        changes: bool = True,
        timeout_seconds: float | None = None,
    ) -> HistoryPage:
        """One page of the history, newest first.

        Args:
            route: Only changes of this route.
            route_set: Only changes of this route set or alias; None for all, or for the set of a
                client that is bound to one.
            before: ``next_before`` of the page before.
            limit: Entries to look for, 1 to 500.
            changes: Whether to show what was before and after.
            timeout_seconds: Time of this call; None for that of the client.
        """
        request = calls.history(route, route_set, before, limit, changes=changes)
        return await self.send(request, timeout_seconds)

    async def revert(
        self,
        version: str,
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> WriteResult:
        """Restore what the entry of a version changed.

        Raises:
            Conflict: ``change_superseded`` or ``not_revertible``.
        """
        return await self.send(calls.revert(version, options or WriteOptions()), timeout_seconds)

    async def erase(
        self,
        texts: Sequence[str],
        *,
        options: WriteOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> Erasure:
        """Erase up to 100 texts from every route set and the logs; needs the scope ``admin``."""
        return await self.send(calls.erase(texts, options or WriteOptions()), timeout_seconds)

    async def get_erasure(self, *, timeout_seconds: float | None = None) -> ErasureStatus:
        """Whether one node and Redis still keep entries from before the newest erasure."""
        return await self.send(calls.erasure_status(), timeout_seconds)
