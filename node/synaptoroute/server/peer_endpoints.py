"""What the nodes of a cluster fetch from each other: log entries, rows and snapshots.

These paths are not part of the public API.  A request proves that it comes from a member
of the cluster; API keys do not open these paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from synaptoroute.core.digest import BUCKET_COUNT
from synaptoroute.errors import ProtocolError
from synaptoroute.replication.follower import Follower
from synaptoroute.replication.row_repair import dump_rows
from synaptoroute.sequencer.peers import (
    LOG_PATH,
    POSITION_HEADER,
    PROOF_HEADER,
    ROWS_PATH,
    SHA_HEADER,
    SNAPSHOT_PATH,
    format_position,
    parse_position,
)
from synaptoroute.server.runtime import runtime_of
from synaptoroute.web.problems import EndpointNotFound, InvalidParameter, Unauthorized

PART_BYTES: Final = 1 << 20
_BINARY: Final = "application/octet-stream"

endpoints = APIRouter(include_in_schema=False)


def _member(request: Request) -> Follower:
    follower = runtime_of(request).router.follower
    if follower is None:
        raise EndpointNotFound("this node has no peers")
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if not follower.membership.is_proof(asked, request.headers.get(PROOF_HEADER, "")):
        raise Unauthorized("a proof of membership is needed")
    return follower


@endpoints.get(LOG_PATH)
async def peer_log(request: Request) -> Response:
    """Entries after a position."""
    server = _member(request).snapshots
    asked = request.query_params
    try:
        after = parse_position(
            f"{asked.get('epoch', '')}.{asked.get('seq', '')}.{asked.get('chain', '')}"
        )
    except ProtocolError as error:
        raise InvalidParameter("epoch, seq and chain name a position") from error
    body = await server.read_log(after)
    return Response(
        body, media_type=_BINARY, headers={POSITION_HEADER: format_position(server.position)}
    )


@endpoints.get(ROWS_PATH)
async def peer_rows(request: Request) -> Response:
    """Sums over buckets of slots, and the rows of those that are named."""
    follower = _member(request)
    asked = request.query_params.get("buckets", "")
    words = asked.split(".") if asked else []
    if not all(word.isascii() and word.isdigit() and int(word) < BUCKET_COUNT for word in words):
        raise InvalidParameter("buckets are numbers below 256, separated by dots")
    return Response(
        await dump_rows(follower.session.engine, map(int, words)), media_type="application/json"
    )


@endpoints.get(SNAPSHOT_PATH)
async def peer_snapshot(request: Request) -> Response:
    """The whole state at one position, as a SQLite file."""
    server = _member(request).snapshots
    stack = AsyncExitStack()
    download = await stack.enter_async_context(server.snapshot())
    return StreamingResponse(
        _parts(download.path, stack),
        media_type=_BINARY,
        headers={
            POSITION_HEADER: format_position(download.position),
            SHA_HEADER: download.sha256,
            "Content-Length": str(download.size_bytes),
        },
        background=BackgroundTask(stack.aclose),
    )


async def _parts(path: Path, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    offset = 0
    try:
        while part := await asyncio.to_thread(_read_part, path, offset):
            offset += len(part)
            yield part
    finally:
        await stack.aclose()


def _read_part(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PART_BYTES)
