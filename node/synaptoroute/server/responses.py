"""How results become HTTP answers; the counterpart of ``problems``."""

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


def json_answer(
    body: bytes | str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of ready-made JSON."""
    return Response(body, status_code=status, headers=headers, media_type=JSON)


def model_answer(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that shows a model."""
    return json_answer(model.model_dump_json(), status=status, headers=headers)


def render_match(match: Match) -> str:
    """A match as JSON; candidates and stage only where the query asked for them."""
    if match.candidates is None:
        return match.model_dump_json(exclude=_WITHOUT_EXPLAIN)
    if match.stage is None:
        return match.model_dump_json(exclude=_OF_CASCADE)
    return match.model_dump_json()


def version_headers(version: str, revision: str | None = None) -> dict[str, str]:
    """Where a state stands in the order, for reads of one's own writes."""
    headers = {"SR-Version": version} if version else {}
    if revision is not None:
        headers["ETag"] = etag(revision)
    return headers


def write_answer(result: WriteResult, options: WriteOptions, *, is_new: bool = False) -> Response:
    """The answer to a write: 201 for a new route, 202 while ``ack`` is not reached, else 200."""
    headers = version_headers(result.version, result.revision)
    headers["SR-Op-Id"] = result.op_id
    status = 201 if is_new and result.status == "applied" else 200
    if result.status == "pending" or not reached(result.ack, options.ack):
        status = 202
        headers["Location"] = f"/v1/ops/{result.op_id}"
    return model_answer(result, status=status, headers=headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Wait for a result as long as the client does; its whole body has been read.

    Raises:
        ClientGone: The client closed the connection; the work was cancelled.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
