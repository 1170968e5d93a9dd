"""``/v1/cluster``: its nodes, and what operators do after a loss; and what peers fetch.

After a loss operators force a recovery, change voters and replay orphaned writes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from synaptoroute.core.digest import BUCKET_COUNT
from synaptoroute.core.mutation import Position
from synaptoroute.encoder.table_files import dump_table
from synaptoroute.errors import ClusterError, NotReady, OperatorSignatureNeeded, ProtocolError
from synaptoroute.replication.follower import Follower
from synaptoroute.replication.row_repair import dump_rows
from synaptoroute.replication.session import LogState
from synaptoroute.replication.voter_changes import AskedChange
from synaptoroute.router import WriteOptions
from synaptoroute.router.admin import LevelOutlook, OrphanedWrite, RecoveryOutlook
from synaptoroute.sequencer.node_rows import STRICT_LEVEL
from synaptoroute.sequencer.peers import (
    AGREEMENT_PATH,
    CERTIFICATE_PATH,
    CHALLENGE_CHARACTERS_MAX,
    HEAD_PATH,
    LOG_PATH,
    OLD_PROOF_HEADER,
    POSITION_HEADER,
    ROWS_PATH,
    SHA_HEADER,
    SNAPSHOT_PATH,
    TABLE_PATH,
    VOTERS_PATH,
    dump_refusal,
    format_position,
    parse_position,
)
from synaptoroute.sequencer.proven_http import NONCE_PATH
from synaptoroute.server.parameters import (
    AckTimeout,
    IdempotencyKey,
    WriteRequest,
    checked,
    read_document,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    any_json,
    json_body,
    json_response,
    model_response,
    problems,
    success,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import WRITE_EXAMPLE
from synaptoroute.server.runtime import runtime_of
from synaptoroute.server.schemas import (
    FinalizeRequest,
    OrphanToReplay,
    RecoveryRequest,
    VoterChange,
)
from synaptoroute.trust.operator import WARRANT_CHARACTERS_MAX
from synaptoroute.trust.requests import (
    ANSWER_HEADER,
    NO_BODY,
    NONCE_HEADER,
    PROOF_HEADER,
    Proven,
)
from synaptoroute.web.problems import EndpointNotFound, InvalidParameter, Unauthorized

endpoints = APIRouter(tags=["cluster"])
peer_endpoints = APIRouter(include_in_schema=False)


class ClusterNode(BaseModel):
    """One node, as it last described itself.

    Attributes:
        node: Its identity.
        url: Where its peers reach it; empty if they cannot.
        role: ``voter`` or ``observer``.
        release: Its release.
        version: ``epoch.seq`` that it has made durable.
        digest: Digest of its state there.
        state: State of its replica.
        lag_entries: Entries that it was behind.
        queue_requests: Queries that waited.
        age_ms: Age of that description, by the clock of Redis.
        is_live: Whether it counts as live.
        public_key: Key by which it signs; empty if its row is not signed.
    """

    node: str
    url: str
    role: str
    release: str
    version: str
    digest: str
    state: str
    lag_entries: int
    queue_requests: int
    age_ms: int
    is_live: bool
    public_key: str = ""


class Cluster(BaseModel):
    """The cluster as one node sees it.

    Attributes:
        log_state: State of the log; ``local`` for a standalone node.
        detail: What an operator should know; empty if there is nothing to do.
        head: ``epoch.seq`` of the newest entry that this node knows of.
        log_bytes: Bytes that the log keeps; 0 for a standalone node.
        log_bytes_max: Bytes that it may keep, as this node is set; 0 for a standalone node.
        trust_mode: ``trusting-redis`` if whoever writes to Redis is believed,
            ``authenticated`` if nodes prove that they know the cluster secret, ``pinned`` if the
            keys of the voters are pinned as well; empty for a standalone node.
        operator_key: Public key of the operator, who signs what is done without a majority of
            the voters; empty if none is configured: then nodes follow such an epoch unsigned.
        nodes: Every node that reported in the last hour.
    """

    log_state: str
    detail: str
    head: str
    trust_mode: str = ""
    operator_key: str = ""
    log_bytes: int = 0
    log_bytes_max: int = 0
    nodes: list[ClusterNode]


_EXAMPLE: Final = {
    "log_state": "open",
    "detail": "",
    "head": "1.42",
    "trust_mode": "authenticated",
    "operator_key": "",
    "log_bytes": 48_210,
    "log_bytes_max": 268_435_456,
    "nodes": [
        {
            "node": "5f0c6a5e9d1b4b0f",
            "url": "http://10.0.0.7:8080",
            "role": "voter",
            "release": "1.0.0",
            "version": "1.42",
            "digest": "449644e0dc8c6d0b583de989387ed5ca",
            "state": "live",
            "lag_entries": 0,
            "queue_requests": 0,
            "age_ms": 412,
            "is_live": True,
        }
    ],
}


@endpoints.get(
    "/v1/cluster",
    summary="Show every node of the cluster",
    responses={200: success("The cluster", _EXAMPLE, Cluster), **problems(*READ_PROBLEMS)},
)
async def show_cluster(request: Request) -> Response:
    """Positions, digests, lag and age of every node. While Redis cannot be
    reached the list is empty and `log_state` says so.
    """
    router = runtime_of(request).router
    status, follower = router.status(), router.follower
    if follower is None:
        return model_response(
            Cluster(log_state="local", detail="", head=status.version, nodes=[]),
            headers=version_headers(status.version),
        )
    nodes: list[ClusterNode] = []
    detail = ""
    try:
        seen = await follower.session.log.presence.nodes()
    except ClusterError as error:
        seen, detail = (), error.message
    for each in seen:
        report = each.report
        nodes.append(
            ClusterNode(
                node=report.node_id,
                url=report.url,
                role=report.role,
                release=report.version,
                version=str(report.position.revision),
                digest=report.digest,
                state=report.state,
                lag_entries=report.lag_entries,
                queue_requests=report.queue_count,
                age_ms=each.age_ms,
                is_live=each.is_live,
                public_key=each.public_key,
            )
        )
    follows = follower.status()
    return model_response(
        Cluster(
            log_state=follows.log_state.value,
            detail=detail or follows.detail or follows.identity_conflict,
            head=follows.head,
            trust_mode=follows.trust_mode,
            operator_key=follows.operator_key,
            log_bytes=follows.log_bytes,
            log_bytes_max=follows.log_bytes_max,
            nodes=sorted(nodes, key=lambda node: node.node),
        ),
        headers=version_headers(status.version),
    )


@endpoints.get(
    "/-/propagation",
    tags=["node"],
    summary="Show how long the newest entries took to become visible",
    responses={200: any_json("Delays"), **problems(*READ_PROBLEMS)},
)
async def show_propagation(request: Request) -> Response:
    """Pairs of seq and milliseconds from the log to this node's tensor, newest last."""
    router = runtime_of(request).router
    document: dict[str, Any] = {
        "entries": router.propagation(),
        "follower": None
        if router.follower is None
        else dataclasses.asdict(router.follower.status()),
    }
    return json_response(json.dumps(document, default=str))


# --- after a loss: recoveries, voters, orphaned writes ------------------------

_OUTLOOK: Final = {
    "log_state": "recovering",
    "detail": "waiting for voters to answer ballot 3.9f0c: 5f0c6a5e9d1b4b0f",
    "is_needed": True,
    "base": "2.118",
    "missing": ["5f0c6a5e9d1b4b0f"],
    "risk": "writes after 2.118 that only 5f0c6a5e9d1b4b0f hold are lost for this cluster",
    "namespace": "default",
    "cluster_id": "9d41c2f7a3b84d0f8a65d1c0f6f3a2b1",
    "operator_key": "",
}
_ORPHAN: Final = {
    "op_id": "0f" * 16,
    "version": "1.42",
    "kind": "PutRoute",
    "route": "refund",
    "moved_at_ms": 1_760_000_000_000,
}
_LEVEL: Final = {"level": 1, "level_known": 2, "waiting_for": ["5f0c6a5e9d1b4b0f"], "version": ""}


class Orphans(BaseModel):
    """The orphaned writes of a node."""

    orphans: list[OrphanedWrite]


def _check_member(request: Request) -> None:
    if runtime_of(request).router.follower is None:
        raise InvalidParameter("this node is not a member of a cluster")


@endpoints.post(
    "/v1/cluster/recover",
    summary="Show the state of a recovery, or force it",
    responses={
        200: success("State of the recovery", _OUTLOOK, RecoveryOutlook),
        **problems(*READ_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("RecoveryRequest", {"force": False}),
)
async def recover(request: Request) -> Response:
    """Without `force` nothing changes: the response says what a forced recovery would keep and
    may lose. With `force` the nodes that are reachable open the log, and absent voters lose
    their vote. Where the cluster knows the operator's key, `warrant` is the operator's signature,
    as `synaptoroute cluster recover --operator-key` makes it. Needs the scope `admin`.
    """
    asked = checked(RecoveryRequest, await read_document(request), InvalidParameter)
    _check_member(request)
    router = runtime_of(request).router
    forced = asked.force
    outlook = await (router.aforce_recovery(asked.warrant) if forced else router.arecovery())
    return model_response(outlook)


@endpoints.post(
    "/v1/cluster/unfreeze",
    summary="Open a log that was frozen",
    responses={
        200: success("State of the log", _OUTLOOK | {"is_needed": False}, RecoveryOutlook),
        **problems(*READ_PROBLEMS),
    },
)
async def unfreeze(request: Request) -> Response:
    """The state `frozen` in the header closes the log to writes and to recoveries until this is
    called. Needs the scope `admin`.
    """
    _check_member(request)
    return model_response(await runtime_of(request).router.aunfreeze())


@endpoints.post(
    "/v1/cluster/voters",
    summary="Give a node a vote on recoveries, or take it away",
    responses={
        200: success("The outcome", WRITE_EXAMPLE),
        202: success("A majority does not hold the change yet", WRITE_EXAMPLE),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("VoterChange", {"node": "5f0c6a5e9d1b4b0f", "vote": True}),
)
async def change_voter(
    request: Request, ack_timeout: AckTimeout = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """One node at a time: the next change is accepted once a majority holds this one. Needs
    the scope `admin`.
    """
    del idempotency_key  # declared for the document; the options read it
    document = await read_document(request)
    asked = checked(VoterChange, document, InvalidParameter)
    _check_member(request)
    options = WriteRequest(request, "quorum", ack_timeout).options(document)
    router = runtime_of(request).router
    result = await router.achange_voter(
        asked.node, is_adding=asked.vote, options=options, warrant=asked.warrant
    )
    return write_response(result, options)


@endpoints.post(
    "/v1/cluster/finalize",
    summary="Raise the formats of the cluster to the newest level",
    responses={
        200: success("The level", _LEVEL, LevelOutlook),
        **problems(*READ_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("FinalizeRequest", {"apply": False}),
)
async def finalize(request: Request) -> Response:
    """Call it after an upgrade, once no node runs the release before. Without `apply` nothing
    changes. With `apply` and no node to wait for, the new formats are switched on; a node of the
    release before cannot join any more. Needs the scope `admin`.
    """
    asked = checked(FinalizeRequest, await read_document(request), InvalidParameter)
    router = runtime_of(request).router
    return model_response(await (router.afinalize() if asked.apply else router.alevel()))


@endpoints.get(
    "/v1/cluster/orphans",
    summary="List the orphaned writes of this node",
    responses={
        200: success("The writes", {"orphans": [_ORPHAN]}, Orphans),
        **problems(*READ_PROBLEMS),
    },
)
async def list_orphans(request: Request) -> Response:
    """Writes that a recovery discarded because no majority held them. Needs the scope
    `admin`.
    """
    return model_response(Orphans(orphans=await runtime_of(request).router.aorphans()))


@endpoints.post(
    "/v1/cluster/orphans",
    summary="Replay an orphaned write",
    responses={
        200: success("The outcome", WRITE_EXAMPLE),
        202: success("Not decided yet", WRITE_EXAMPLE),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS, 404),
    },
    openapi_extra=json_body("OrphanToReplay", {"op_id": "0f" * 16}),
)
async def replay_orphan(request: Request) -> Response:
    """The same write with the same conditions: if it was made elsewhere in the meantime, it
    has no second effect. It leaves the list once it is decided. Needs the scope `admin`.
    """
    asked = checked(OrphanToReplay, await read_document(request), InvalidParameter)
    result = await runtime_of(request).router.areplay_orphan(uuid.UUID(asked.op_id).bytes)
    return write_response(result, WriteOptions())


# --- what nodes fetch from each other: log entries, rows and snapshots -----------------

# Not part of the public API.  A request proves that it comes from a member of the cluster;
# API keys do not open these paths.

PART_BYTES: Final = 1 << 20
_AGREEMENT: Final = re.compile(
    r"[0-9a-f]{32}\|(add\|[A-Za-z0-9_\-]{1,64}\|[0-9a-f]{64}|remove\|[A-Za-z0-9_\-]{1,64}\|)"
)
_BINARY: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class _Peer:
    """A peer whose request was verified, and the follower that serves it."""

    follower: Follower
    proven: Proven | None  # None for a peer of a release before level 2

    def headers(self, digest: str, position: Position | None = None) -> dict[str, str]:
        """The headers of an answer: what is signed, and a nonce for the next request."""
        at = "" if position is None else format_position(position)
        headers = {POSITION_HEADER: at} if at else {}
        if self.proven is not None:
            gatekeeper = self.follower.gatekeeper
            headers[ANSWER_HEADER] = gatekeeper.answer(self.proven, 200, digest, at)
            headers[NONCE_HEADER] = gatekeeper.nonces.issue()
        return headers

    def respond(self, body: bytes, media_type: str, position: Position | None = None) -> Response:
        headers = self.headers(hashlib.sha256(body).hexdigest(), position)
        return Response(body, media_type=media_type, headers=headers)


def _follower_of(request: Request) -> Follower:
    follower = runtime_of(request).router.follower
    if follower is None:
        raise EndpointNotFound("this node has no peers")
    return follower


def _member(request: Request) -> _Peer:
    follower = _follower_of(request)
    if follower.session.log_state is LogState.CLONE:
        # It would speak, and vote, for the node whose identity it has.
        raise NotReady(follower.session.detail, retry_after_seconds=5.0)
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    proof = request.headers.get(PROOF_HEADER)
    if proof is not None:
        try:
            proven = follower.gatekeeper.verify(proof, request.method, asked)
            is_empty = proven.request.sha256 == NO_BODY
        except ProtocolError as error:
            raise Unauthorized(str(error)) from error
        if not is_empty:
            raise Unauthorized("a proof of a request with a body")
        return _Peer(follower, proven)
    old_proof = request.headers.get(OLD_PROOF_HEADER, "")
    is_old_taken = follower.session.level < STRICT_LEVEL
    if not is_old_taken or not follower.membership.is_proof(asked, old_proof):
        raise Unauthorized("a proof of membership is needed")
    return _Peer(follower, None)


@peer_endpoints.get(HEAD_PATH)
async def peer_head(request: Request) -> Response:
    """Position and promise of this node."""
    peer = _member(request)
    return peer.respond(peer.follower.peer_watch.own_head().dump(), "application/json")


@peer_endpoints.get(NONCE_PATH)
async def peer_nonce(request: Request) -> Response:
    """The identity of the run of the node that answers here, and a nonce for one request."""
    gatekeeper = _follower_of(request).gatekeeper
    challenge = request.query_params.get("challenge", "")
    if len(challenge) > CHALLENGE_CHARACTERS_MAX or not challenge.isascii():
        raise InvalidParameter(f"a challenge has at most {CHALLENGE_CHARACTERS_MAX} characters")
    return json_response(json.dumps(gatekeeper.boot_document(challenge)))


@peer_endpoints.get(LOG_PATH)
async def peer_log(request: Request) -> Response:
    """Entries after a position."""
    peer = _member(request)
    server = peer.follower.snapshots
    asked = request.query_params
    try:
        after = parse_position(
            f"{asked.get('epoch', '')}.{asked.get('seq', '')}.{asked.get('chain', '')}"
        )
    except ProtocolError as error:
        raise InvalidParameter("epoch, seq and chain name a position") from error
    body = await server.read_log(after)
    return peer.respond(body, _BINARY, server.position)


@peer_endpoints.get(ROWS_PATH)
async def peer_rows(request: Request) -> Response:
    """Sums over buckets of slots, and the rows of those that are named."""
    peer = _member(request)
    asked = request.query_params.get("buckets", "")
    words = asked.split(".") if asked else []
    if not all(word.isascii() and word.isdigit() and int(word) < BUCKET_COUNT for word in words):
        raise InvalidParameter("buckets are numbers below 256, separated by dots")
    rows = await dump_rows(peer.follower.session.engine, map(int, words))
    return peer.respond(rows, "application/json")


@peer_endpoints.get(TABLE_PATH)
async def peer_table(request: Request) -> Response:
    """A static table of the cascade, in the format of its file."""
    peer = _member(request)
    asked = request.query_params
    engine = peer.follower.session.engine
    table = engine.static_table(asked.get("encoder", ""), asked.get("name", ""))
    if table is None:
        raise EndpointNotFound("this node has no such table")
    body = await asyncio.to_thread(dump_table, table)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
    return Response(body, media_type=_BINARY, headers=peer.headers(digest))


@peer_endpoints.get(CERTIFICATE_PATH)
async def peer_certificate(request: Request) -> Response:
    """The signed statement of this voter about its content at a position."""
    peer = _member(request)
    try:
        position = parse_position(request.query_params.get("position", ""))
    except ProtocolError as error:
        raise InvalidParameter("position is epoch.seq.chain") from error
    text = await peer.follower.certificates.certify(position)
    return peer.respond(text.encode(), "application/json")


@peer_endpoints.get(VOTERS_PATH)
async def peer_voters(request: Request) -> Response:
    """The voters, their keys, and the chain of changes that proves them from the genesis on."""
    peer = _member(request)
    engine = peer.follower.session.engine
    replica = engine.replica_status
    links = await asyncio.to_thread(engine.database.voter_links)
    document = {"voters": list(replica.voters), "keys": dict(replica.voter_keys), "links": links}
    return peer.respond(json.dumps(document).encode(), "application/json")


@peer_endpoints.get(AGREEMENT_PATH)
async def peer_agreement(request: Request) -> Response:
    """The signed statement of this voter that it agrees to a change of the voters."""
    peer = _member(request)
    asked = request.query_params
    op, change, key = asked.get("op", ""), asked.get("change", ""), asked.get("key", "")
    node, warrant = asked.get("node", ""), asked.get("warrant", "")
    if not _AGREEMENT.fullmatch(f"{op}|{change}|{node}|{key}"):
        raise InvalidParameter("op, change, node and key name a change of the voters")
    if len(warrant) > WARRANT_CHARACTERS_MAX:
        raise InvalidParameter(f"a warrant has at most {WARRANT_CHARACTERS_MAX} characters")
    try:
        is_adding = change == "add"
        text = await peer.follower.voter_changes.agree(
            AskedChange(op, is_adding, node, key, warrant)
        )
    except OperatorSignatureNeeded as error:
        text = dump_refusal(error.message)
    return peer.respond(text.encode(), "application/json")


@peer_endpoints.get(SNAPSHOT_PATH)
async def peer_snapshot(request: Request) -> Response:
    """The whole state at one position, as a SQLite file."""
    peer = _member(request)
    server = peer.follower.snapshots
    stack = AsyncExitStack()
    download = await stack.enter_async_context(server.snapshot())
    return StreamingResponse(
        _parts(download.path, stack),
        media_type=_BINARY,
        headers={
            **peer.headers(download.sha256, download.position),
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
