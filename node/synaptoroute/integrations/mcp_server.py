"""An MCP server over stdio or streamable HTTP, with the official SDK.

A tool that changes routes is listed and runs only if the key of the caller and the key of the
backend both allow writes.  Over HTTP the server keeps no session: any request may be the first.

Source: Model Context Protocol, revisions 2025-11-25 and 2026-07-28.
"""

# The SDK is an extra, which the environment of the type checkers does not have.
# pyright: reportMissingImports=false, reportInvalidTypeForm=false
from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from synaptoroute.client import ClientError
from synaptoroute.errors import Overloaded, RouteError, SynaptoRouteError
from synaptoroute.integrations.backends import Backend, Writer
from synaptoroute.integrations.extras import MissingExtra
from synaptoroute.integrations.mcp_tools import TOOLS, ToolSpec
from synaptoroute.version import __version__
from synaptoroute.web.api_keys import ApiKeys
from synaptoroute.web.connections import HttpLimits
from synaptoroute.web.http_server import HttpServer, ProcessHooks, ServerProcess
from synaptoroute.web.key_grants import SCOPES, Scope
from synaptoroute.web.logs import ServerLog, server_log
from synaptoroute.web.middleware import presented_key
from synaptoroute.web.problems import Forbidden

try:
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server
    from mcp.server.transport_security import TransportSecuritySettings
except ImportError as error:
    raise MissingExtra("mcp", error.name) from error

MCP_PATH: Final = "/mcp"
CALLS_MAX: Final = 64
"""Calls that run at once; further ones are refused."""
CALL_SECONDS_MAX: Final = 60.0
BODY_BYTES_MAX: Final = 4_194_304
CONNECTIONS_MAX: Final = 1_024
WRITER_SECONDS: Final = 30.0
"""How long the answer of the backend about its own key is used."""
INSTRUCTIONS: Final = (
    "SynaptoRoute decides which named route a message belongs to. Call `route` with the message "
    "as the user wrote it; a null route means that none fits. `confidence` is the probability "
    "that the route is right."
)
_SCOPES_KEY: Final = "synaptoroute.scopes"


class UnknownTool(RouteError):
    """No tool has this name."""

    code = "unknown_tool"


class ToolCalls:
    """Lists and calls the tools of one backend; used on one event loop."""

    def __init__(self, backend: Backend, log: ServerLog, *, calls_max: int = CALLS_MAX) -> None:
        self._backend = backend
        self._log = log
        self._calls_max = calls_max
        self._calls_count = 0
        self._writer: Writer | None = None
        self._writer_until = 0.0  # monotonic seconds

    async def list(self, context: Any, _page: Any) -> types.ListToolsResult:
        """Answer ``tools/list``."""
        may_write = "write" in _scopes_of(context) and await self._writer_now() is not None
        shown = [_described(spec) for spec in TOOLS.values() if may_write or not spec.writes]
        return types.ListToolsResult(tools=shown)

    async def call(self, context: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        """Answer ``tools/call``; every failure is a result that the model can read."""
        started = time.perf_counter()
        try:
            if self._calls_count >= self._calls_max:
                raise Overloaded("too many calls at once", retry_after_seconds=1.0)
            self._calls_count += 1
            try:
                async with asyncio.timeout(CALL_SECONDS_MAX):
                    found = await self._run(asked, _scopes_of(context))
            finally:
                self._calls_count -= 1
        except Exception as error:
            code, message, wait_seconds = _failure_of(error)
            # The name of an unknown tool is the caller's text.
            tool = asked.name if asked.name in TOOLS else "unknown"
            took_ms = round((time.perf_counter() - started) * 1_000, 1)
            if code == "internal_error":
                self._log.error("tool_failed", tool=tool, exc_info=error)
            else:
                self._log.info("tool_refused", tool=tool, code=code, took_ms=took_ms)
            return _failed(code, message, wait_seconds)
        text = types.TextContent(type="text", text=json.dumps(found, ensure_ascii=False))
        return types.CallToolResult(content=[text], structured_content=found)

    async def _run(self, asked: types.CallToolRequestParams, scopes: frozenset[str]) -> Any:
        spec = TOOLS.get(asked.name)
        if spec is None:
            raise UnknownTool("no tool has this name")
        needed = "write" if spec.writes else "read"
        if needed not in scopes:
            raise Forbidden(f"the API key lacks the scope {needed!r}")
        target: Backend | Writer | None = self._backend
        if spec.writes and (target := await self._writer_now(is_asked=True)) is None:
            raise Forbidden("the routes cannot be changed here: the server has no write key")
        arguments = spec.read(asked.arguments or {})
        return spec.shape(await spec.run(target, arguments))

    async def _writer_now(self, *, is_asked: bool = False) -> Writer | None:
        """Return the tools that change routes; None if that cannot be found out, unless asked."""
        if time.monotonic() >= self._writer_until:
            try:
                self._writer = await self._backend.writer()
                self._writer_until = time.monotonic() + WRITER_SECONDS
            except Exception as error:
                if is_asked:
                    raise
                self._log.warning("scopes_unknown", code=_failure_of(error)[0])
        return self._writer


def make_server(calls: ToolCalls) -> Server[Any]:
    """Make the server of the SDK."""
    logging.getLogger("mcp").setLevel(logging.WARNING)  # it logs every request
    return Server(
        "synaptoroute",
        title="SynaptoRoute",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=calls.list,
        on_call_tool=calls.call,
    )


async def serve_stdio(backend: Backend, log: ServerLog | None = None) -> None:
    """Serve one client on the standard streams until it closes them."""
    server = make_server(ToolCalls(backend, log or server_log()))
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


# --- HTTP --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Address of the server, and the hosts that it answers for.

    Attributes:
        allowed_hosts: Names that the ``Host`` header may have beside those of loopback.
    """

    host: str
    port: int
    allowed_hosts: Sequence[str] = ()


def make_app(
    backend: Backend, address: HttpAddress, keys: ApiKeys | None, log: ServerLog
) -> tuple[ASGIApp, AbstractAsyncContextManager[None]]:
    """Make the ASGI application of streamable HTTP, and its lifespan.

    Without ``keys`` every client that reaches it has all rights of the backend's key.
    """
    app = make_server(ToolCalls(backend, log)).streamable_http_app(
        streamable_http_path=MCP_PATH,
        stateless_http=True,
        json_response=True,
        max_request_body_size=BODY_BYTES_MAX,
        transport_security=_security(address),
        host=address.host,
    )
    return BearerKeys(app, keys, log), _lifespan(app, keys, log)


@asynccontextmanager
async def _lifespan(app: Any, keys: ApiKeys | None, log: ServerLog) -> AsyncIterator[None]:
    """The lifespan of the SDK's application, in which the file of keys is read again."""
    watching = asyncio.create_task(keys.watch(log)) if keys is not None else None
    try:
        async with app.router.lifespan_context(app):
            yield
    finally:
        if watching is not None:
            watching.cancel()


class BearerKeys:
    """Lets requests through that carry a key, and notes its scopes."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, log: ServerLog) -> None:
        self._app = app
        self._keys = keys
        self._log = log

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scopes: frozenset[str] | None = frozenset(SCOPES)
            if self._keys is not None:
                presented = presented_key(dict(scope["headers"]))
                key = None if presented is None else self._keys.find(presented)
                scopes = None if key is None else _with_implied(key.scopes)
            if scopes is None:
                self._log.info("request_refused", code="unauthorized")
                refusal = {"code": "unauthorized", "detail": "a valid API key is needed"}
                headers = {"WWW-Authenticate": 'Bearer realm="synaptoroute"'}
                response = JSONResponse(refusal, status_code=401, headers=headers)
                await response(scope, receive, send)
                return
            if scope["method"] != "POST":
                # The SDK would hold a stream open on which a server without sessions says nothing.
                await Response(status_code=405, headers={"Allow": "POST"})(scope, receive, send)
                return
            scope[_SCOPES_KEY] = scopes
        await self._app(scope, receive, send)


def _with_implied(scopes: frozenset[Scope]) -> frozenset[str]:
    return frozenset(SCOPES) if "admin" in scopes else frozenset(scopes)


def _security(address: HttpAddress) -> TransportSecuritySettings:
    hosts = ["127.0.0.1", "localhost", "[::1]", *address.allowed_hosts]
    sites = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[*hosts, *(f"{host}:*" for host in hosts)],
        allowed_origins=[*sites, *(f"{site}:*" for site in sites)],
    )


def _scopes_of(context: Any) -> frozenset[str]:
    """Permissions of the caller; all of them over stdio, whose client started this process."""
    request = context.request
    if request is None:
        return frozenset(SCOPES)
    assert isinstance(request, Request)
    found: frozenset[str] = request.scope[_SCOPES_KEY]
    return found


async def serve_http(
    backend: Backend, address: HttpAddress, keys: ApiKeys | None, log: ServerLog
) -> bool:
    """Serve until a stop signal; return False if the address cannot be used."""
    app, lifespan = make_app(backend, address, keys, log)
    server = HttpServer(app, limits=HttpLimits(connections_max=CONNECTIONS_MAX))
    hooks = ProcessHooks(lifespan=lifespan, on_drain=lambda: None)
    return await ServerProcess(server, hooks, log).run(address.host, address.port)


# --- results -----------------------------------------------------------------------------


def _described(spec: ToolSpec) -> types.Tool:
    return types.Tool(
        name=spec.name,
        description=spec.about,
        input_schema=spec.arguments.model_json_schema(),
        output_schema=spec.result.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(
            read_only_hint=not spec.writes,
            destructive_hint=spec.destroys,
            idempotent_hint=spec.repeats,
            open_world_hint=False,
        ),
    )


def _failure_of(error: Exception) -> tuple[str, str, float | None]:
    """Stable code, message for the model, and when to try again."""
    if isinstance(error, TimeoutError):
        return "deadline_exceeded", f"no answer in {CALL_SECONDS_MAX:g} s", None
    if isinstance(error, SynaptoRouteError | ClientError):
        return error.code, error.message, error.retry_after_seconds
    return "internal_error", "the call failed; the log of the server has the details", None


def _failed(code: str, message: str, wait_seconds: float | None) -> types.CallToolResult:
    again = "" if wait_seconds is None else f" (try again in {wait_seconds:g} s)"
    document: dict[str, Any] = {"code": code, "message": message}
    if wait_seconds is not None:
        document["retry_after_seconds"] = wait_seconds
    text = types.TextContent(type="text", text=f"{code}: {message}{again}")
    return types.CallToolResult(content=[text], structured_content=document, is_error=True)
