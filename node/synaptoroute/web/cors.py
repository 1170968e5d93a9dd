"""Cross-origin requests of browsers: which pages of other origins may call the API.

Off by default.  Credentials of the browser (cookies) are never allowed: a page sends an API key
in a header.  Without API keys, only origins that are listed by name may send changes; see
``site_rules``.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from synaptoroute.config import HttpConfig
from synaptoroute.errors import ConfigError
from synaptoroute.web.http_parser import HttpRequest
from synaptoroute.web.http_protocol import DirectHandler, Respond

ANY_ORIGIN: Final = "*"
REQUEST_HEADERS: Final = (
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "SR-Deadline-Ms",
    "SR-Min-Version",
    "SR-Min-Version-Timeout",
    "SR-Note",
    "SR-Session",
    "traceparent",
    "tracestate",
    "X-API-Key",
    "X-Request-Id",
)
EXPOSED_HEADERS: Final = (
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "SR-Held-By",
    "SR-Node",
    "SR-Op-Id",
    "SR-Route-Set",
    "SR-Staleness-Ms",
    "SR-Version",
    "X-Request-Id",
)
_SCHEMES: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def cors_origins(config: HttpConfig) -> list[str]:
    """Read the origins that may call the API.

    Raises:
        ConfigError: One of them is not an origin.
    """
    return [_origin(each) for each in _listed(config.cors_origins)]


def add_cors(app: FastAPI, config: HttpConfig) -> None:
    """Answer preflights and mark responses, where origins are allowed.

    Raises:
        ConfigError: An origin is malformed.
    """
    if not (origins := cors_origins(config)):
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_listed(config.cors_methods.upper()),
        allow_headers=[*REQUEST_HEADERS, *_listed(config.cors_headers)],
        expose_headers=EXPOSED_HEADERS,
        allow_credentials=False,
        max_age=config.cors_max_age_seconds,
    )


def unless_of_a_page(direct: DirectHandler, config: HttpConfig) -> DirectHandler:
    """Leave requests of pages to the application, which marks its answers for them."""
    if not cors_origins(config):
        return direct

    def handle(request: HttpRequest, respond: Respond) -> bool:
        if any(name == b"origin" for name, _ in request.headers):
            return False
        return direct(request, respond)

    return handle


def _origin(text: str) -> str:
    if text == ANY_ORIGIN:
        return text
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError:
        found, port = urlsplit(""), None
    is_bare = not (found.path.rstrip("/") or found.query or found.fragment or found.username)
    if found.scheme not in _SCHEMES or not found.hostname or "*" in text or not is_bare:
        raise ConfigError(f"cors_origins: {text!r} is no origin, such as https://app.example")
    # As browsers write it: lower case, and no port that the scheme implies.
    host = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
    shown = "" if port in (None, _SCHEMES[found.scheme]) else f":{port}"
    return f"{found.scheme}://{host}{shown}"


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
