"""Use of httpx by both clients: addresses, keys, TLS, and errors of the transport."""

from __future__ import annotations

import ssl
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from synaptoroute.client.config import client_environment
from synaptoroute.client.core import ATTEMPT_SECONDS, CALL_SECONDS, RetryPolicy, Session
from synaptoroute.client.library import httpx
from synaptoroute.core.names import is_set_name
from synaptoroute.errors import ConfigError
from synaptoroute.version import __version__

DEFAULT_URL: Final = "http://127.0.0.1:8080"
Tls = ssl.SSLContext | Literal[False]
OF_CLUSTER: Final = frozenset(
    {"aliases", "cluster", "diff", "erase", "key", "openapi.json", "sets"}
)
"""First parts of the paths below ``/v1`` that are not about one route set."""
LIMITS: Final = httpx.Limits(
    max_connections=200, max_keepalive_connections=50, keepalive_expiry=30.0
)
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors after which no node can have the request."""


def make_session(
    urls: str | Sequence[str] | None,
    *,
    api_key: str | None,
    timeout_seconds: float = CALL_SECONDS,
    attempt_seconds: float = ATTEMPT_SECONDS,
    retry: RetryPolicy | None = None,
    read_your_writes: bool = True,
    min_version: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Session:
    """The session of a client.

    Raises:
        ConfigError: An address or the key is malformed.
    """
    found = urls if urls is not None else client_environment().url or DEFAULT_URL
    listed = found.split(",") if isinstance(found, str) else list(found)
    addresses = list(dict.fromkeys(each.strip().rstrip("/") for each in listed if each.strip()))
    if not addresses:
        raise ConfigError("a client needs at least one address")
    for each in addresses:
        _check_url(each)
    key = client_environment().api_key if api_key is None else api_key
    own = {"User-Agent": f"synaptoroute/{__version__}", **(headers or {})}
    if key:
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError("the API key has characters that no key has")
        own["Authorization"] = f"Bearer {key}"
    return Session(
        addresses,
        headers=own,
        policy=retry or RetryPolicy(),
        call_seconds=timeout_seconds,
        attempt_seconds=attempt_seconds,
        reads_own_writes=read_your_writes,
        version=min_version,
    )


def verification(
    tls: Tls | None,
    ca_file: Path | str | None,
    cert_file: Path | str | None,
    key_file: Path | str | None,
) -> ssl.SSLContext | bool:
    """How the certificate of a node is verified.

    Raises:
        ConfigError: A file cannot be used.
    """
    if tls is not None:
        return tls
    environment = client_environment()
    ca = ca_file or environment.ca
    cert = cert_file or environment.client_cert
    key = key_file or environment.client_key
    if not (ca or cert or key):
        return True
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key or None)
        elif key:
            raise ConfigError("a client key needs its client certificate")
    except OSError as error:  # also ssl.SSLError
        raise ConfigError(f"the files of TLS cannot be used: {error}") from error
    return context


def placed(path: str, route_set: str) -> str:
    """Path of an endpoint for a route set; empty for ``default``."""
    if not route_set or not path.startswith("/v1/") or path.split("/")[2] in OF_CLUSTER:
        return path
    return f"/v1/sets/{quote(checked_set_name(route_set), safe='')}/{path[4:]}"


def checked_set_name(name: str) -> str:
    """The name of a route set or an alias, in its normal form.

    Raises:
        ValueError: It is malformed.
    """
    # A dot segment such as ".." would be resolved before it is sent: the request would be about
    # ``default``.
    normal = unicodedata.normalize("NFC", name)
    if not is_set_name(normal):
        raise ValueError(f"{name!r} is no name of a route set or an alias")
    return normal


def trace_headers() -> dict[str, str]:
    """Headers that continue the caller's trace; empty unless it uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    carrier: dict[str, str] = {}
    import_module("opentelemetry.propagate").inject(carrier)
    return carrier


def timeout_of(connect_seconds: float, read_seconds: float) -> httpx.Timeout:
    return httpx.Timeout(read_seconds, connect=connect_seconds)


def describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        shown = repr(url) if "@" not in url else "its user must go"
        raise ConfigError(f"invalid address: {shown} ({error})") from error
    if parsed.userinfo:
        # The message may reach a log: it must not repeat the password.
        raise ConfigError("the address must have no user and no password; pass a key instead")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"the address must start with http:// or https://, got {url!r}")
    if parsed.query or parsed.fragment:
        raise ConfigError(f"the address must have no query and no fragment, got {url!r}")
