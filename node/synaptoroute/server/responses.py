"""HTTP responses to results; those to errors are in ``web.problems``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import Match, WriteResult
from synaptoroute.router import WriteOptions
from synaptoroute.server.parameters import etag, reached
from synaptoroute.web.problems import ClientGone

JSON: Final = "application/json"
_OF_CASCADE: Final = {"stage", "static_margin", "guard_margin"}
_WITHOUT_EXPLAIN: Final = {"candidates", *_OF_CASCADE}
ResultT = TypeVar("ResultT")


def json_response(
    body: bytes | str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(body, status_code=status, headers=headers, media_type=JSON)


def model_response(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return json_response(model.model_dump_json(), status=status, headers=headers)


def render_match(match: Match) -> str:
    """A match as JSON, with candidates and stage only if the query asked for them."""
    if match.candidates is None:
        return match.model_dump_json(exclude=_WITHOUT_EXPLAIN)
    if match.stage is None:
        return match.model_dump_json(exclude=_OF_CASCADE)
    return match.model_dump_json()


def version_headers(version: str, revision: str | None = None) -> dict[str, str]:
    """Headers that name the version of a state and the revision of a route."""
    headers = {"SR-Version": version} if version else {}
    if revision is not None:
        headers["ETag"] = etag(revision)
    return headers


def write_response(result: WriteResult, options: WriteOptions, *, is_new: bool = False) -> Response:
    """The response to a write: 201 for a new route, 202 while ``ack`` is not reached, else 200."""
    headers = version_headers(result.version, result.revision)
    headers["SR-Op-Id"] = result.op_id
    status = 201 if is_new and result.status == "applied" else 200
    if result.status == "pending" or not reached(result.ack, options.ack):
        status = 202
        headers["Location"] = f"/v1/ops/{result.op_id}"
    return model_response(result, status=status, headers=headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Wait for a result, and cancel the work if the client goes away.

    The whole body must have been read: what arrives next is then the end of the connection.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
