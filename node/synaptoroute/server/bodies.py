"""Request bodies, with limits on their size; the connection limits their time.

Rule 1: a body is counted while it arrives, with or without a Content-Length.
Rule 2: all bodies held in memory at one time have one budget together.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from synaptoroute.errors import Overloaded, TooLarge
from synaptoroute.importers.json_reader import parse_json as read_json
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.web.problems import (
    ClientGone,
    MalformedBody,
    UnsupportedMediaType,
)

BODIES_BYTES_MAX: Final = 268_435_456
"""Bodies held in memory at one time, all requests together."""
PIECE_BYTES_MEAN_MIN: Final = 256
"""A body of smaller pieces on average is refused: reading byte by byte costs too much."""
_JSON_TYPE: Final = re.compile(r"application/(?:json|[\w.+-]+\+json)")
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii"})


class BodyBudget:
    """Bytes of bodies in memory; used on the event loop only.

    A client, by the name of its key or by its address, holds at most half of them, or one
    body of the largest size: one client's slow uploads leave room for another's.
    """

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX, body_bytes_max: int = 0) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0
        self._body_bytes_max = body_bytes_max
        self._held_by: dict[str, int] = {}

    @contextmanager
    def lease(self, client: str = "") -> Iterator[BodyLease]:
        lease = BodyLease(self, client)
        try:
            yield lease
        finally:
            self.release(lease.held_bytes, client)

    def take(self, count_bytes: int, client: str = "") -> None:
        own_bytes = self._held_by.get(client, 0) + count_bytes
        if self.held_bytes + count_bytes > self.bytes_max or (
            own_bytes > self.bytes_max // 2 and own_bytes > self._body_bytes_max
        ):
            raise Overloaded(
                "the bodies of the requests in flight fill the memory set aside for them",
                retry_after_seconds=1.0,
            )
        self.held_bytes += count_bytes
        self._held_by[client] = own_bytes

    def release(self, count_bytes: int, client: str = "") -> None:
        self.held_bytes -= count_bytes
        left_bytes = self._held_by.get(client, 0) - count_bytes
        if left_bytes > 0:
            self._held_by[client] = left_bytes
        else:
            self._held_by.pop(client, None)


class BodyLease:
    """The part of the budget that one request holds."""

    __slots__ = ("_budget", "_client", "held_bytes")

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self._budget = budget
        self._client = client
        self.held_bytes = 0

    def take(self, count_bytes: int) -> None:
        self._budget.take(count_bytes, self._client)
        self.held_bytes += count_bytes


async def body_pieces(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield a body as it arrives.

    Raises:
        TooLarge: It is, or says that it is, over the limit.
        ClientGone: The client closed the connection inside the body.
    """
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    received_bytes = 0
    stream = aiter(request.stream())
    pieces_max = 1_024 + bytes_max // PIECE_BYTES_MEAN_MIN
    for _ in range(pieces_max):
        try:
            piece = await anext(stream)
        except StopAsyncIteration:
            return
        except ClientDisconnect:
            raise ClientGone("the client closed the connection inside the body") from None
        received_bytes += len(piece)
        if received_bytes > bytes_max:
            raise _too_large(bytes_max)
        if piece:
            yield piece
    raise TooLarge(f"the body came in more than {pieces_max} pieces", limit=pieces_max)


async def read_body(request: Request, lease: BodyLease, bytes_max: int) -> bytes:
    """Read a whole body."""
    pieces = []
    async for piece in body_pieces(request, bytes_max):
        lease.take(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parse_json(body: bytes, *, takes_last: bool = False) -> Any:
    """Read JSON by the rules of ``importers.json_reader``.

    Args:
        takes_last: Whether the last value counts where an object has a key twice, as in a query,
            of which nothing is kept.

    Raises:
        MalformedBody: Not JSON, or with a key twice; says at which line and column.
    """
    try:
        return read_json(body, takes_last=takes_last)
    except FileRefused as error:
        is_twice = error.code == "duplicate_key"
        message = unrepeated(error) if is_twice else f"the body is {error.message}"
        raise MalformedBody(message, line=error.line) from None


def unrepeated(error: FileRefused) -> str:
    """The message of an error without what the client sent: a key, or a piece of its text."""
    if error.code == "duplicate_key":
        place = error.message.partition(":")[0]
        return f"the body has a key twice in one object, at {place}"
    head, found, _ = error.message.partition("not valid YAML")
    return head + found if found else error.message


def media_type(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType("a compressed body is not read here")
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if not kind:
        raise UnsupportedMediaType("a body needs a Content-Type header")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in _UTF8:
            raise UnsupportedMediaType("the charset must be UTF-8")
    return kind


def is_json(kind: str) -> bool:
    return _JSON_TYPE.fullmatch(kind) is not None


def require_json(request: Request) -> None:
    # A page of another origin may send other types without a preflight request.
    if not is_json(media_type(request)):
        raise UnsupportedMediaType("the body must be sent as application/json")


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body must be at most {bytes_max} bytes", limit=bytes_max)
