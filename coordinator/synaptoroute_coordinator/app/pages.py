"""The dashboard's files, out of the package: nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.web.refusals import EndpointNotFound

TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

endpoints = APIRouter(include_in_schema=False)


def load_assets() -> dict[str, tuple[bytes, str, str]]:
    """Read every file once: name -> content, media type, ETag."""
    found: dict[str, tuple[bytes, str, str]] = {}
    for entry in files("synaptoroute_coordinator").joinpath("assets").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = (content, TYPES[suffix], tag)
    return found


_ASSETS: Final = load_assets()


@endpoints.get("/")
async def show_page(request: Request) -> Response:
    """The dashboard."""
    return _give(request, "index.html")


@endpoints.get("/assets/{name}")
async def show_asset(request: Request, name: str) -> Response:
    """One file of the dashboard."""
    return _give(request, name)


def _give(request: Request, name: str) -> Response:
    if name not in _ASSETS:
        raise EndpointNotFound("there is no such file")
    content, media_type, tag = _ASSETS[name]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
