"""Content certificates of one node: what it certifies to others, and what it asks of the voters.

A state that did not grow here entry by entry is accepted only if a majority of the voters
certifies its content: a peer's snapshot before it is installed, a peer's rows before they are
written, and a state that a new node has read from the log before the node becomes ready.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import (
    ClusterError,
    ConfigError,
    NotCaughtUp,
    ProtocolError,
    RouteError,
    StorageUnavailable,
    SynaptoRouteError,
)
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.certificates import gather_certificate, learn_chain
from synaptoroute.sequencer.peers import PeerClient
from synaptoroute.trust.certificates import (
    CERTIFIED_LEVEL,
    Certificate,
    ContentCount,
    Electorate,
    sign_content,
)
from synaptoroute.trust.genesis import read_genesis, read_operator
from synaptoroute.trust.operator import Operator
from synaptoroute.trust.statements import Signer, Verifier
from synaptoroute.trust.voters import verify_chain

WAIT_SECONDS: Final = 5.0
"""Longest that a voter waits for a position that a peer asks for."""
POLL_SECONDS: Final = 0.02
BOARD_POLL_SECONDS: Final = 1.0
UNPROVEN_KEY: Final = "unproven"
"""Fact of a node whose state no majority has certified yet."""

_log = logging.getLogger(__name__)


class Certificates:
    """Certifies this node's states, and has those of others certified.

    Args:
        session: The follower's session.
        peers: Sends requests to peers.
        signer: Signs as this node.
        verifier: Verifies statements.
        has_secret: Whether a cluster secret is configured.
    """

    def __init__(
        self,
        session: Session,
        peers: PeerClient,
        signer: Signer,
        verifier: Verifier,
        *,
        has_secret: bool,
    ) -> None:
        self.last_error = ""
        self._session = session
        self._engine = session.engine
        self._peers = peers
        self._signer = signer
        self._verifier = verifier
        self._has_secret = has_secret
        self.pinned: frozenset[str] = frozenset()  # Public keys of the genesis file
        self._keys: frozenset[str] = frozenset()  # Those of today's voters, as far as is proved
        self._chain_length = 0  # Number of changes that led to them
        self._voters_followed: tuple[str, ...] = ()

    # --- policy -----------------------------------------------------------------------

    @property
    def is_required(self) -> bool:
        """Whether a state from elsewhere needs a certificate."""
        if self.pinned:
            return True
        # An empty node knows the level from Redis alone.  Without pinned keys it can be told
        # that there is none to ask for.
        head = self._session.head
        level = max(self._session.level, head.level if head else 0)
        return self._has_secret and level >= CERTIFIED_LEVEL

    @property
    def electorate(self) -> Electorate:
        """The voters whose majority counts."""
        if self.pinned:
            return Electorate(keys=self._keys)
        replica, head = self._engine.replica_status, self._session.head
        names = replica.voters or (head.voters if head else ())
        return Electorate.of_names(names, replica.voter_keys)

    async def _follow_own_chain(self) -> None:
        """Follow the changes of the voters that this node has applied."""
        voters = self._engine.replica_status.voters
        if voters != self._voters_followed:
            self.follow_chain(await asyncio.to_thread(self._engine.database.voter_links))
            self._voters_followed = voters

    def follow_chain(self, links: Sequence[str]) -> None:
        """Follow a chain of the voters, whoever shows it, if it leads farther than the known."""
        verifier, cluster_id = self._verifier, self._session.cluster_id
        keys, count = verify_chain(links, verifier, self.pinned, cluster_id)
        if count >= self._chain_length:
            self._keys, self._chain_length = keys, count

    async def _learn_chain(self) -> None:
        """Ask some peers for the chain of the voters: an empty node knows the genesis alone."""
        seen = await self._session.log.presence.nodes()
        own = self._session.node_id
        urls = [e.report.url for e in seen if e.report.url and e.report.node_id != own]
        cluster_id = self._session.cluster_id
        keys, length = await learn_chain(self._peers, urls, self._verifier, self.pinned, cluster_id)
        if length > self._chain_length:
            self._keys, self._chain_length = keys, length

    # --- this node's own state --------------------------------------------------------

    async def load(self) -> None:
        """Read the genesis file, and whether this node's state was certified before.

        Raises:
            ConfigError: The genesis file is malformed.
        """
        if (path := self._session.config.genesis_file) is not None:
            namespace = self._session.log.signing_keys.namespace
            keys = await asyncio.to_thread(read_genesis, path, namespace)
            self.pinned = self._keys = frozenset(keys.values())
            self._session.log.has_genesis = True
        await asyncio.to_thread(self._load_operator)
        database = self._engine.database
        is_empty = self._engine.published.position.epoch == 0
        if is_empty and (self._has_secret or self.pinned):
            with contextlib.suppress(
                StorageUnavailable
            ):  # a full disk: it stays unproven in memory
                await self._note_unproven("1")
        self._session.is_uncertified = is_empty or bool(database.meta_get(UNPROVEN_KEY))

    def _load_operator(self) -> None:
        config = self._session.config
        named = read_operator(config.genesis_file) if config.genesis_file else ""
        if named and config.operator_public_key not in ("", named):
            raise ConfigError("the genesis file and the settings name different operators")
        if key := named or config.operator_public_key:
            namespace = self._session.log.signing_keys.namespace
            self._session.operator = Operator(key, namespace)

    async def _note_unproven(self, value: str | None) -> None:
        await self._session.on_applier(lambda state: state.storage.meta_set(UNPROVEN_KEY, value))

    @property
    def is_unproven(self) -> bool:
        """Whether this node may not answer queries until its state is certified."""
        return self._session.is_uncertified and self.is_required

    async def prove(self) -> bool:
        """Have this node's state certified, if that is required; whether it is certified.

        Raises:
            ClusterError: The voters certify another state than this node's.
        """
        if self.is_unproven:
            position = self._engine.published.position
            if position.epoch == 0:
                return False  # Nothing is visible yet
            try:
                root = await self._own_root(position)
                certificate = await self.gather(position, own_root=root)
            except (ClusterError, RouteError) as error:
                if not self.last_error:
                    _log.warning("this node is not ready: %s", error)
                self.last_error = str(error)
                return False
            if certificate.root != root:
                raise ClusterError(
                    f"a majority of the voters certifies another state at {position.revision}"
                )
        await self.note_proven()
        return True

    async def note_proven(self) -> None:
        """Note that this node's state is certified, or needs no certificate."""
        if self._session.is_uncertified:
            with contextlib.suppress(StorageUnavailable):
                await self._note_unproven(None)
            self._session.is_uncertified = False
        self.last_error = ""

    # --- asking -----------------------------------------------------------------------

    async def gather(self, position: Position, own_root: str = "") -> Certificate:
        """Have the voters certify a position.

        Args:
            position: The position.
            own_root: Root of a state that this node built from the log; it counts as this
                node's statement if the node is a voter.

        Raises:
            ClusterError: No majority of the voters certifies it.
        """
        if self.pinned:
            await self._follow_own_chain()
            if self._session.is_uncertified:
                await self._learn_chain()
        count = ContentCount(self._verifier, self.electorate, self._session.cluster_id, position)
        if own_root:
            own = sign_content(self._signer, self._session.cluster_id, position, own_root)
            with contextlib.suppress(ProtocolError):  # this node has no vote
                count.add(own)
        head = self._session.head
        voters = set(head.voters if head else ()) | set(self._engine.replica_status.voters)
        urls = [
            seen.report.url
            for seen in await self._session.log.presence.nodes()
            if seen.report.url
            and seen.report.node_id != self._session.node_id
            and (seen.report.node_id in voters or seen.report.role == "voter")
        ]
        try:
            return await gather_certificate(self._peers, urls, position, count)
        except ClusterError:
            # Voters inside other programs have no address.
            found = await self._session.log.content_board.gather(position, count)
            if found is None:
                raise
            return found

    # --- answering --------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to keep the roots that a voter certifies."""
        if (self._has_secret or self.pinned) and self._session.role == "voter":
            with contextlib.suppress(RouteError):
                self._engine.content_root(self._engine.published.position)

    async def answer_board(self) -> None:
        """Certify, by way of Redis, what nodes ask for there; for voters without an address."""
        board, answered = self._session.log.content_board, None
        while True:
            await asyncio.sleep(BOARD_POLL_SECONDS)
            is_asked = self._has_secret or bool(self.pinned)
            if not is_asked or self._session.role != "voter" or self._session.config.advertise_url:
                continue
            with contextlib.suppress(SynaptoRouteError):
                wanted = await board.wanted()
                if wanted is None or wanted == answered:
                    continue
                statement = await self.certify(wanted)
                await board.tell(self._session.node_id, wanted, statement)
                answered = wanted

    async def certify(self, position: Position) -> str:
        """State the content of this node at a position; waits until it is reached.

        Raises:
            NotCaughtUp: It was not reached in time.
            VersionLost: It is too old, or of another history.
            RouteError: This node has no vote.
        """
        replica = self._engine.replica_status
        if self._session.node_id not in replica.voters:
            raise RouteError("this node has no vote, so it certifies nothing")
        root = await self._own_root(position)
        return sign_content(self._signer, self._session.cluster_id, position, root)

    async def _own_root(self, position: Position) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while (root := self._engine.content_root(position)) is None:
            if time.monotonic() > deadline:
                at = self._engine.published.position.revision
                raise NotCaughtUp(
                    f"this node is at {at}, not yet at {position.revision}",
                    retry_after_seconds=1.0,
                    version=str(at),
                )
            await asyncio.sleep(POLL_SECONDS)
        return root
