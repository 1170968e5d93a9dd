"""The path prefix under which a proxy serves this process, such as ``/router``.

A proxy that removes the prefix says so in ``X-Forwarded-Prefix``, which counts from trusted
proxies only.  Where a proxy passes it on, the setting ``root_path`` names it and this process
removes it.  Either way the addresses that this process tells begin with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from synaptoroute.web.http_parser import Header, HttpRequest

PREFIX: Final = "synaptoroute.prefix"
"""Key of the prefix in the ASGI scope."""
PREFIX_BYTES_MAX: Final = 256
_PREFIX: Final = re.compile(rb"(?:/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+")
_LINKS: Final = {b"location": b"/v1/", b"link": b"</v1/"}


def remove_root_path(request: HttpRequest, root_path: str) -> None:
    """Take the prefix off a request that has it."""
    rest = request.path[len(root_path) :]
    if request.path.startswith(root_path) and rest[:1] in ("", "/"):
        # In its normal form a path has no escapes where the prefix may have characters.
        request.path = rest or "/"
        request.raw_path = request.raw_path[len(root_path) :] or b"/"


def forwarded_prefix(headers: Sequence[Header]) -> str:
    """Read ``X-Forwarded-Prefix``, outermost prefix first; empty if it is absent or malformed."""
    found = b""
    for name, value in headers:
        if name == b"x-forwarded-prefix":
            for part in value.split(b","):
                part = part.strip().rstrip(b"/")
                if part and not _PREFIX.fullmatch(part):
                    return ""
                found += part
    return found.decode("ascii") if len(found) <= PREFIX_BYTES_MAX else ""


def prefix_of(scope: Any) -> str:
    """The prefix of a request; empty if there is none."""
    found: str = scope.get(PREFIX, "")
    return found


def with_prefix(headers: Sequence[Header], prefix: str, base: str = "/v1/") -> list[Header]:
    """Put the prefix, and ``base`` for /v1/, before the paths of ``Location`` and ``Link``."""
    return [
        (name, value.replace(b"/v1/", (prefix + base).encode(), 1))
        if value.startswith(_LINKS.get(name, b"\0"))
        else (name, value)
        for name, value in headers
    ]
