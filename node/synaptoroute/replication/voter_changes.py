"""Changes of the voters: how a voter decides whether it agrees, and who asks the voters.

Where the voters are pinned, a change needs the statements of a majority of the voters before it
(``trust.voters``).  A voter agrees to what the operator signed, and to the replacement of a lost
voter.  It judges for itself, peer to peer, who lives: rows in Redis can be deleted.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import VoterAdd, VoterRemove
from synaptoroute.errors import ClusterError, OperatorSignatureNeeded, ProtocolError, RouteError
from synaptoroute.replication.certificates import Certificates
from synaptoroute.replication.peer_watch import PeerWatch
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.peers import PeerClient, PeerHead
from synaptoroute.trust.operator import SignedChange
from synaptoroute.trust.voters import (
    AgreedChange,
    VoterChange,
    count_agreed,
    hash_of_keys,
    read_change,
    sign_change,
)

AGREE_SECONDS: Final = 8.0  # Longest wait for the voters' statements


@dataclass(frozen=True, slots=True)
class AskedChange:
    """A change of the voters that somebody asks for."""

    op: str  # Identity of the write, 32 hexadecimal digits
    is_adding: bool
    node: str
    key: str = ""  # Public key of the node; empty if it is removed
    warrant: str = ""  # What the operator signed

    def query(self) -> str:
        """Write it as the query of a request."""
        change = "add" if self.is_adding else "remove"
        fields = {"op": self.op, "change": change, "node": self.node, "key": self.key}
        return urlencode(fields | {"warrant": self.warrant})


class VoterChanges:
    """Agrees to changes of the voters, and has others agree."""

    def __init__(
        self,
        session: Session,
        peers: PeerClient,
        peer_watch: PeerWatch,
        certificates: Certificates,
    ) -> None:
        self._session = session
        self._peers = peers
        self._peer_watch = peer_watch
        self._certificates = certificates

    # --- asking -----------------------------------------------------------------------

    async def prepare(
        self, mutation: VoterAdd | VoterRemove, op_id: bytes, warrant: str = ""
    ) -> VoterAdd | VoterRemove:
        """Add to a change what nodes need to follow it: the key, and the voters' statements.

        Raises:
            OperatorSignatureNeeded: The voters agree only to what the operator signed.
            ClusterError: No majority of the voters agreed in time.
            RouteError: The node that is to vote is not known.
        """
        session = self._session
        if session.level < VOTES_LEVEL or not session.log.is_strict:
            return mutation
        is_adding, node = isinstance(mutation, VoterAdd), mutation.node_id
        replica = session.engine.replica_status
        if is_adding == (node in replica.voters):
            return mutation  # It changes nothing
        key = ""
        if is_adding:
            rows = await self._rows()
            if node not in rows or not rows[node].public_key:
                raise RouteError(f"no live node {node} has signed a row: its key is not known")
            key = rows[node].public_key
            mutation = VoterAdd(node, key)
        if not session.log.has_genesis:
            return mutation
        asked = AskedChange(op_id.hex(), is_adding, node, key, warrant)
        return replace(mutation, votes=await self._gather(asked, replica.voters))

    async def _gather(self, asked: AskedChange, voters: tuple[str, ...]) -> tuple[str, ...]:
        session = self._session
        keys = session.engine.replica_status.voter_keys
        urls = self._peer_watch.directory.urls
        others = [name for name in voters if name in urls and name != session.node_id]
        tasks = [
            asyncio.create_task(self._peers.read_agreement(urls[name], name, asked.query()))
            for name in others
        ]
        if session.node_id in voters:
            tasks.append(asyncio.create_task(self.agree(asked)))
        agreed: dict[str, AgreedChange] = {}
        refusals: list[Exception] = []
        try:
            async with asyncio.timeout(AGREE_SECONDS):
                for task in asyncio.as_completed(tasks):
                    try:
                        statement = await task
                        agreed[statement] = read_change(session.log.verifier, statement)
                    except (ClusterError, ProtocolError, RouteError) as error:
                        refusals.append(error)
        except TimeoutError:
            pass
        finally:
            for each in tasks:
                each.cancel()
        if 2 * count_agreed(agreed.values(), voters, keys) > len(voters):
            return tuple(sorted(agreed))
        for refusal in refusals:
            if isinstance(refusal, OperatorSignatureNeeded):
                raise refusal
        detail = f": {refusals[0]}" if refusals else ""
        raise ClusterError(
            f"{len(agreed)} of {len(voters)} voters agreed to the change{detail}",
            outcome="not_taken",
            retry_after_seconds=2.0,
        )

    # --- agreeing ---------------------------------------------------------------------

    async def agree(self, asked: AskedChange) -> str:
        """State that this voter agrees to a change.

        Raises:
            OperatorSignatureNeeded: It agrees only to what the operator signed.
            RouteError: This node has no vote.
        """
        session, replica = self._session, self._session.engine.replica_status
        if session.node_id not in replica.voters:
            raise RouteError("this node has no vote")
        keys = [replica.voter_keys.get(name, "") for name in replica.voters]
        key = asked.key if asked.is_adding else replica.voter_keys.get(asked.node, "")
        change = VoterChange(
            session.cluster_id, asked.op, asked.is_adding, asked.node, key, hash_of_keys(keys)
        )
        if (refusal := await self._refusal(asked)) is not None:
            raise OperatorSignatureNeeded(f"this voter does not agree: {refusal}")
        return sign_change(session.signer, change, session.position)

    async def _refusal(self, asked: AskedChange) -> str | None:
        """Return why this voter does not agree to a change, or None."""
        session = self._session
        if session.operator is not None:
            try:
                change = SignedChange(session.cluster_id, asked.is_adding, asked.node, asked.key)
                # By this node's own clock: Redis' clock is Redis' word.
                now_ms = int(time.time() * 1_000)
                session.operator.check_change(asked.warrant, change, now_ms)
                return None
            except ProtocolError as error:
                if asked.warrant:
                    return error.message
        rows = await self._rows()
        if asked.is_adding:
            return await self._refusal_to_add(asked, rows)
        return await self._refusal_to_remove(asked, rows)

    async def _refusal_to_add(self, asked: AskedChange, rows: dict[str, NodeSeen]) -> str | None:
        replica, pinned = self._session.engine.replica_status, self._certificates.pinned
        row = rows.get(asked.node)
        if row is None or not row.is_live or row.public_key != asked.key:
            return f"no live node {asked.node} has this key"
        if asked.key in pinned:
            return None
        alive = [name for name in replica.voters if await self._is_alive(name, rows)]
        if len(alive) + 1 > len(pinned):
            return f"it replaces no lost voter: {len(alive)} voters live"
        return None

    async def _refusal_to_remove(self, asked: AskedChange, rows: dict[str, NodeSeen]) -> str | None:
        if await self._is_alive(asked.node, rows):
            return f"{asked.node} lives"
        return None

    async def _is_alive(self, node: str, rows: dict[str, NodeSeen]) -> bool:
        if node == self._session.node_id:
            return True
        if node in rows:
            return rows[node].is_live  # or it has signed that it ended
        url = self._peer_watch.directory.url_of(node)
        return bool(url) and isinstance(await self._peer_watch.ask(node, url), PeerHead)

    async def _rows(self) -> dict[str, NodeSeen]:
        seen = await self._session.log.presence.nodes()
        return {e.report.node_id: e for e in seen if e.is_live or e.report.is_ended}
