"""What operators do after a loss: force a recovery, change voters, replay what was left."""

from __future__ import annotations

import uuid
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import OrphanedWrite, RecoveryOutlook
from synaptoroute.router import WriteOptions
from synaptoroute.server.openapi import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    answer,
    json_body,
    problems,
)
from synaptoroute.server.parameters import checked, read_document
from synaptoroute.server.responses import model_answer, runtime_of, write_answer
from synaptoroute.server.route_endpoints import WRITE_EXAMPLE
from synaptoroute.server.schemas import OrphanToReplay, RecoveryRequest, VoterChange
from synaptoroute.web.refusals import InvalidParameter

endpoints = APIRouter(tags=["cluster"])

_OUTLOOK: Final = {
    "log_state": "recovering",
    "detail": "waiting for voters to answer ballot 3.9f0c: 5f0c6a5e9d1b4b0f",
    "is_needed": True,
    "base": "2.118",
    "missing": ["5f0c6a5e9d1b4b0f"],
    "risk": "writes after 2.118 that only 5f0c6a5e9d1b4b0f hold are lost for this cluster",
}
_ORPHAN: Final = {
    "op_id": "0f" * 16,
    "version": "1.42",
    "kind": "PutRoute",
    "route": "refund",
    "moved_at_ms": 1_760_000_000_000,
}
_RECOVERY: Final = TypeAdapter(RecoveryRequest)
_REPLAY: Final = TypeAdapter(OrphanToReplay)
_VOTER: Final = TypeAdapter(VoterChange)
_QUORUM: Final = WriteOptions(ack="quorum")


class Orphans(BaseModel):
    """Writes that recoveries left behind on this node."""

    orphans: list[OrphanedWrite]


def _check_member(request: Request) -> None:
    """Refuse where there is no cluster.

    Raises:
        InvalidParameter: This node is on its own.
    """
    if runtime_of(request).router.follower is None:
        raise InvalidParameter("this node is on its own: there is no cluster to look after")


@endpoints.post(
    "/v1/cluster/recover",
    summary="Show how a recovery stands, or force it",
    responses={
        200: answer("How it stands", _OUTLOOK, RecoveryOutlook),
        **problems(*READ_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("RecoveryRequest", {"force": False}),
)
async def recover(request: Request) -> Response:
    """Without `force` nothing is done: the answer says what forcing would keep and may lose.
    With it the nodes that are there open the log, and the absent voters vote no longer.
    Needs the scope `admin`.
    """
    asked = checked(_RECOVERY, await read_document(request), InvalidParameter)
    _check_member(request)
    router = runtime_of(request).router
    outlook = await (router.aforce_recovery() if asked.force else router.arecovery())
    return model_answer(outlook)


@endpoints.post(
    "/v1/cluster/voters",
    summary="Let one node vote on recoveries, or no longer",
    responses={
        200: answer("What came of it", WRITE_EXAMPLE),
        202: answer("Not held by a majority yet", WRITE_EXAMPLE),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("VoterChange", {"node": "5f0c6a5e9d1b4b0f", "vote": True}),
)
async def change_voter(request: Request) -> Response:
    """One node at a time; the next change is taken once a majority holds this one. Needs the
    scope `admin`.
    """
    asked = checked(_VOTER, await read_document(request), InvalidParameter)
    _check_member(request)
    router = runtime_of(request).router
    result = await router.achange_voter(asked.node, is_adding=asked.vote)
    return write_answer(result, _QUORUM)


@endpoints.get(
    "/v1/cluster/orphans",
    summary="List writes that recoveries left behind on this node",
    responses={
        200: answer("The writes", {"orphans": [_ORPHAN]}, Orphans),
        **problems(*READ_PROBLEMS),
    },
)
async def list_orphans(request: Request) -> Response:
    """They were taken by a server that lost: no majority held them. Needs the scope `admin`."""
    return model_answer(Orphans(orphans=await runtime_of(request).router.aorphans()))


@endpoints.post(
    "/v1/cluster/orphans",
    summary="Make one of those writes again",
    responses={
        200: answer("What came of it", WRITE_EXAMPLE),
        202: answer("Not decided yet", WRITE_EXAMPLE),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS, 404),
    },
    openapi_extra=json_body("OrphanToReplay", {"op_id": "0f" * 16}),
)
async def replay_orphan(request: Request) -> Response:
    """The same write with the same conditions: if it was made elsewhere meanwhile, it has no
    second effect. It is forgotten once it is decided. Needs the scope `admin`.
    """
    asked = checked(_REPLAY, await read_document(request), InvalidParameter)
    result = await runtime_of(request).router.areplay_orphan(uuid.UUID(asked.op_id).bytes)
    return write_answer(result, WriteOptions())
