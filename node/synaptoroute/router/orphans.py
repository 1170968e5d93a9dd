"""Writes that a recovery left behind on this node: shown, and made again on demand.

A replay is the same write, with the same op_id and the same conditions, at a new place:
if it was made elsewhere meanwhile, it has no second effect.
"""

from __future__ import annotations

import asyncio
from typing import Final

from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
)
from synaptoroute.errors import ProtocolError, RouteError, RouteNotFound
from synaptoroute.models import OrphanedWrite, WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.write_options import Guard
from synaptoroute.router.writes import Writer
from synaptoroute.storage import Orphan

_NAMED: Final = (PutRoute, DeleteRoute, AddUtterances, RemoveUtterances, PatchRoute)


async def list_orphans(engine: EnginePort) -> list[OrphanedWrite]:
    """List them in the order in which they were put aside.

    Raises:
        StorageUnavailable: They cannot be read.
    """
    orphans = await asyncio.to_thread(engine.database.orphans)
    return [shown for each in orphans if (shown := _shown(each)) is not None]


async def replay_orphan(engine: EnginePort, writer: Writer, op_id: bytes) -> WriteResult:
    """Make one of them again, and forget it once it is decided.

    Raises:
        RouteNotFound: There is no such write here.
        RouteError: It is refused now; it is forgotten, too.
        SequencerUnavailable: It is kept.
    """
    orphans = await asyncio.to_thread(engine.database.orphans)
    found = next((each for each in orphans if each.op_id == op_id), None)
    proposal = _proposal(found) if found else None
    if proposal is None or not _is_replayable(proposal.mutation):
        raise RouteNotFound("no write of this identity was left behind on this node")
    guard = Guard(
        op_id=op_id,
        request_hash=proposal.request_hash,
        if_match=proposal.if_match,
        if_none_match=proposal.if_none_match,
    )
    try:
        result = await writer.write(proposal.mutation, guard)
    except RouteError:
        await _forget(engine, op_id)
        raise
    if result.status != "pending":
        await _forget(engine, op_id)
    return result


async def _forget(engine: EnginePort, op_id: bytes) -> None:
    await asyncio.wrap_future(engine.run_on_applier(lambda state: state.storage.drop_orphan(op_id)))


def _proposal(orphan: Orphan) -> Proposal | None:
    """The write, if this release can read it."""
    try:
        return decode_proposal(orphan.frame)
    except ProtocolError:
        return None


def _is_replayable(mutation: Mutation) -> bool:
    return isinstance(mutation, (*_NAMED, PutSettings))


def _shown(orphan: Orphan) -> OrphanedWrite | None:
    """What a person sees; None for what no client wrote."""
    proposal = _proposal(orphan)
    if proposal is None or not _is_replayable(proposal.mutation):
        return None
    mutation = proposal.mutation
    return OrphanedWrite(
        op_id=orphan.op_id.hex(),
        version=str(Revision(orphan.epoch, orphan.seq)),
        kind=type(mutation).__name__,
        route=mutation.name if isinstance(mutation, _NAMED) else None,
        moved_at_ms=orphan.moved_at_us // 1_000,
    )
