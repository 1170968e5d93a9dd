"""The dashboard: its files, which are part of the package, and its sessions."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import Overloaded
from synaptoroute.version import __version__
from synaptoroute.web.api_keys import KEY_CHARACTERS_MAX
from synaptoroute.web.key_grants import SCOPES
from synaptoroute.web.middleware import context_of
from synaptoroute.web.prefixes import prefix_of
from synaptoroute.web.problems import EndpointNotFound, Unauthorized
from synaptoroute_coordinator.app.responses import RESPONSES, RequestModel, json_response
from synaptoroute_coordinator.app.runtime import COOKIE, cookie_of, runtime_of

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

endpoints = APIRouter()


# --- sessions --------------------------------------------------------------------------


class SessionKey(RequestModel):
    """The API key that opens a session."""

    key: str = Field(min_length=1, max_length=KEY_CHARACTERS_MAX)


@endpoints.get(
    "/v1/session", tags=["session"], summary="Show the current session", responses=RESPONSES
)
async def show_session(request: Request) -> Response:
    """Whether an API key is required, and what the caller may do."""
    runtime = runtime_of(request)
    key = context_of(request.scope).key
    scopes = [scope for scope in SCOPES if key is not None and key.may(scope)]
    return json_response(
        {
            "needs_key": runtime.keys is not None,
            "name": key.name if key else None,
            "scopes": scopes,
            "grants": [str(grant) for grant in key.grants] if key is not None else [],
            "release": __version__,
            "namespace": runtime.config.namespace,
        }
    )


@endpoints.post("/v1/session", tags=["session"], summary="Open a session", responses=RESPONSES)
async def open_session(request: Request, given: SessionKey) -> Response:
    """Checks the API key once and sets a cookie that scripts cannot read."""
    runtime = runtime_of(request)
    if runtime.keys is None:
        return await show_session(request)
    key = runtime.keys.find(given.key)
    if key is None:
        address = context_of(request.scope).client_address
        if not runtime.sessions.allow_failure(address, given.key):
            raise Overloaded("too many wrong keys came from this address", retry_after_seconds=60.0)
        is_known = runtime.keys.look_up(given.key) is not None
        raise Unauthorized("the API key has expired" if is_known else "unknown API key")
    context_of(request.scope).key = key
    await runtime.reconciler.audit_log.add(key.name, "open a session", "done")
    response = await show_session(request)
    response.set_cookie(
        COOKIE,
        runtime.sessions.open(key),
        max_age=int(runtime.sessions.seconds),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=prefix_of(request.scope) or "/",
    )
    return response


@endpoints.delete("/v1/session", tags=["session"], summary="Close the session", responses=RESPONSES)
async def close_session(request: Request) -> Response:
    """Makes the cookie invalid."""
    runtime_of(request).sessions.close(cookie_of(request.headers.get("cookie", "").encode()))
    response = json_response({"needs_key": runtime_of(request).keys is not None, "name": None})
    response.delete_cookie(COOKIE, path=prefix_of(request.scope) or "/")
    return response


# --- files -----------------------------------------------------------------------------


def load_assets() -> dict[str, tuple[bytes, str, str]]:
    """Read every file once: name -> content, media type, ETag."""
    assets: dict[str, tuple[bytes, str, str]] = {}
    for entry in files("synaptoroute_coordinator").joinpath("assets").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            assets[entry.name] = (content, MEDIA_TYPES[suffix], etag)
    return assets


_ASSETS: Final = load_assets()


@endpoints.get("/", include_in_schema=False)
async def show_page(request: Request) -> Response:
    """The page of the dashboard."""
    prefix = prefix_of(request.scope)
    if not prefix:
        return _asset_response(request, "index.html")
    # Without a slash at the end of its address, a page's relative links miss the prefix.
    page = _ASSETS["index.html"][0].replace(b'"assets/', f'"{prefix}/assets/'.encode())
    return Response(page, headers={"Cache-Control": "no-cache"}, media_type=MEDIA_TYPES[".html"])


@endpoints.get("/assets/{name}", include_in_schema=False)
async def show_asset(request: Request, name: str) -> Response:
    """One file of the dashboard."""
    return _asset_response(request, name)


def _asset_response(request: Request, name: str) -> Response:
    if name not in _ASSETS:
        raise EndpointNotFound("there is no such file")
    content, media_type, etag = _ASSETS[name]
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
