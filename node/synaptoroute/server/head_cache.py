"""A head that came before on the same connection, so that nobody parses it again.

A client that keeps its connection sends query after query with the same head; only the
length of the body differs.  What was parsed of the one before then holds for this one, too:
a head is known by its bytes, so whatever else it might say, it says again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from synaptoroute.server.fast_path import PlainHead

Header: TypeAlias = tuple[bytes, bytes]
HEAD_BYTES_MAX: Final = 4_096
_START: Final = b"POST /v1/query HTTP/1.1\r\n"
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ([1-9][0-9]{0,8})(?=\r\n)", re.IGNORECASE)
_DIGITS_MAX: Final = 9
_UNFIT: Final = frozenset({b"connection", b"expect", b"transfer-encoding", b"upgrade"})
"""Headers that say how the connection goes on."""
_CHANGING: Final = frozenset({b"traceparent", b"x-request-id"})
"""Headers that hardly come twice."""


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The bytes around the length of the body, and the request they belonged to.

    Attributes:
        before: Up to the length.
        after: From the length on, the blank line included.
        cycle: The request, answered; it may be asked again.
        on_response: What it said when it was answered.
        plain: What was read of the head.
    """

    before: bytes
    after: bytes
    cycle: RequestResponseCycle
    on_response: Callable[[], None]
    plain: PlainHead

    def body_in(self, data: bytes) -> bytes | None:
        """The body, where these bytes are this head and one whole body; else None."""
        if not data.startswith(self.before):
            return None
        start = len(self.before)
        stop = data.find(b"\r", start, start + _DIGITS_MAX + 1)
        length = data[start:stop]
        if stop < 0 or not length.isdigit() or length.startswith(b"0"):
            return None
        if not data.startswith(self.after, stop):
            return None
        body_start = stop + len(self.after)
        return data[body_start:] if len(data) - body_start == int(length) else None

    def renew(self, body: bytes, default_headers: list[Header]) -> RequestResponseCycle:
        """The request once more, with another body, headers of now and no answer yet."""
        cycle = self.cycle
        cycle.default_headers = default_headers
        cycle.body = bytearray(body)
        cycle.on_response = self.on_response
        cycle.response_started = cycle.response_complete = False
        return cycle


def known_head(
    data: bytes,
    cycle: RequestResponseCycle,
    on_response: Callable[[], None],
    read: Callable[[HTTPScope], PlainHead | None],
) -> KnownHead | None:
    """Remember the head of a request that was parsed from exactly these bytes.

    Returns:
        None where they are anything else, or it would hardly come again.
    """
    names = [name for name, _ in cycle.scope["headers"]]
    if not _UNFIT.isdisjoint(names) or not _CHANGING.isdisjoint(names):
        return None
    stop = data.find(_END) + len(_END)
    head = data[:stop]
    found = _LENGTH.findall(head)
    is_plain = head.startswith(_START) and len(head) <= HEAD_BYTES_MAX and cycle.keep_alive
    if not is_plain or len(found) != 1 or names.count(b"content-length") != 1:
        return None
    if data[stop:] != cycle.body or int(found[0]) != len(cycle.body):
        return None
    place, plain = _LENGTH.search(head), read(cycle.scope)
    if place is None or plain is None:
        return None
    return KnownHead(head[: place.start(1)], head[place.end(1) :], cycle, on_response, plain)
