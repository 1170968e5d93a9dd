"""The OpenAPI documents of node and coordinator: identifiers, servers, errors, delivery."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.web.prefixes import prefix_of

PATH: Final = "/v1/openapi.json"
SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
SECURITY: Final[Sequence[Mapping[str, Sequence[str]]]] = ({}, {"bearer": []}, {"api_key": []})
"""A request needs no key where the server has none."""
_PREFIXES_MAX: Final = 64


def operation_id(route: APIRoute) -> str:
    """Identifier of an operation: the name of its function.

    Generated clients name their functions after it, so it must not change with the path.
    """
    return route.name


def with_servers(document: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The document of a server behind a prefix; its paths count from there."""
    servers = [{"url": prefix or "/", "description": "The server of this document."}]
    return {**document, "servers": servers}


def serve_document(app: FastAPI) -> None:
    """Serve ``app.openapi()``, with the address under which the client knows this server.

    There is no page to show it: such pages load their scripts from other sites.
    """
    rendered: dict[str, bytes] = {}

    async def show_document(request: Request) -> Response:
        prefix = prefix_of(request.scope)
        if prefix not in rendered:
            if len(rendered) >= _PREFIXES_MAX:  # a proxy says what it likes
                rendered.clear()
            document = with_servers(app.openapi(), prefix)
            rendered[prefix] = json.dumps(document, separators=(",", ":")).encode()
        return Response(rendered[prefix], media_type="application/json")

    app.add_api_route(PATH, show_document, include_in_schema=False)
