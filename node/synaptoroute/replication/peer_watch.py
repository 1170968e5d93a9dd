"""Asks the peers how new this node is, where the log does not tell.

While Redis does not answer, a node asks the voters, and a few other peers, for their positions
every second.  It fetches what they have and it lacks.  It is current if a majority of the voters
then holds nothing newer: so it holds every write that a quorum held when the round began.  If
nobody reaches Redis, nobody advances and all say the same.

While Redis answers, some voters are asked every few seconds whether they still take part in the
epoch of this log: a node may be the only one that was left on an old master.

The addresses come from the nodes' reports in Redis.  They are kept in the database, for a start
while Redis is away.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import is_majority
from synaptoroute.errors import ClusterError, ProtocolError, SynaptoRouteError
from synaptoroute.replication.readiness import PeersSay, Readiness
from synaptoroute.replication.session import CLUSTER_ID_KEY, FRESH_KEY, LogState, Session
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.peers import PeerClient, PeerHead
from synaptoroute.sequencer.proven_http import PeerDown, PeerTooOld

PEERS_KEY: Final = "peers"  # Key of the peers' addresses in the node's database
PEERS_KEPT_MAX: Final = 64
OBSERVERS_ASKED_MAX: Final = 3
VOTERS_SAMPLED: Final = 3  # Voters that are asked while the log is open
TICK_SECONDS: Final = 0.25
ASK_SECONDS: Final = 1.0  # Pause between two rounds while the log is silent
SAMPLE_SECONDS: Final = 4.0  # Pause between two rounds while the log is open
ASK_SECONDS_PER_NODE: Final = 0.003
SAMPLE_SECONDS_PER_NODE: Final = 0.02
"""The pauses grow with the fleet, so that the questions to a voter do not grow with it."""
DIRECTORY_SECONDS: Final = 30.0
DIRECTORY_SECONDS_PER_NODE: Final = 0.1  # The list holds every node
TAKE_SECONDS: Final = 2.5  # Time to fetch what a peer has before the node counts as behind

_log = logging.getLogger(__name__)


class PeerDirectory:
    """Addresses of the peers, by node; those of the settings have no node yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._urls: dict[str, str] = {}
        self._seeds = tuple(
            url for url in session.config.peer_urls.replace(",", " ").split() if url
        )
        self._read_at = -DIRECTORY_SECONDS

    def __len__(self) -> int:
        return len({*self._urls.values(), *self._seeds})

    def load(self) -> None:
        """Read the addresses that were kept."""
        text = self._session.engine.database.meta_get(PEERS_KEY) or "[]"
        with contextlib.suppress(ValueError, TypeError):
            self._urls = {str(node): str(url) for node, url in json.loads(text)}

    def url_of(self, node_id: str) -> str:
        return self._urls.get(node_id, "")

    @property
    def urls(self) -> Mapping[str, str]:
        """Addresses by node; a seed whose node is not known stands under its address."""
        known = set(self._urls.values())
        return {**self._urls, **{url: url for url in self._seeds if url not in known}}

    async def refresh(self) -> None:
        """Read the list of nodes from Redis now and then, and keep their addresses."""
        if time.monotonic() - self._read_at < self._pause_seconds:
            return
        seen = await self._session.log.presence.nodes()
        self._read_at = time.monotonic()
        await self.learn(seen)

    @property
    def _pause_seconds(self) -> float:
        # Soon again while not every voter is known: nodes report one after another at first.
        voters = set(self._session.engine.replica_status.voters) - {self._session.node_id}
        is_whole = voters <= self._urls.keys() and self._urls
        seconds = DIRECTORY_SECONDS if is_whole else 1.0
        return max(seconds, DIRECTORY_SECONDS_PER_NODE * self._session.live_count)

    async def learn(self, seen: Sequence[NodeSeen]) -> None:
        """Keep the addresses of the nodes that were seen: voters first, then live ones."""
        own, voters = self._session.node_id, self._session.engine.replica_status.voters
        others = [each for each in seen if each.report.url and each.report.node_id != own]
        others.sort(key=lambda each: (each.report.node_id not in voters, not each.is_live))
        found = {each.report.node_id: each.report.url for each in others[:PEERS_KEPT_MAX]}
        if found == self._urls or not found:
            return
        self._urls = found
        text = json.dumps(sorted(found.items()), separators=(",", ":"))
        with contextlib.suppress(SynaptoRouteError):  # a full disk; it is kept at the next change
            await self._session.on_applier(lambda at: at.storage.meta_set(PEERS_KEY, text))


@dataclass(frozen=True, slots=True)
class Round:
    """The answers of one round of questions."""

    heads: Mapping[str, PeerHead]  # By node
    down: frozenset[str]  # Peers on whose address nothing listens
    silent: frozenset[str]  # Peers that gave no usable answer

    @property
    def newest(self) -> Position:
        positions = (head.position for head in self.heads.values())
        return max(positions, key=lambda at: at.revision, default=Position())


class PeerWatch:
    """Rounds of questions, and the readiness that follows from them."""

    def __init__(self, session: Session, peers: PeerClient, directory: PeerDirectory) -> None:
        self.directory = directory
        self.state = Readiness.WAITING
        self.ahead: tuple[str, ...] = ()  # Addresses of peers that were ahead, the newest first
        self.is_peer_ahead = True  # Whether one of those asked last was; unknown counts as yes
        self._session = session
        self._peers = peers

    # --- start and stop ---------------------------------------------------------------

    def load(self) -> None:
        """Read what was kept about the peers and about the age of the state; blocks."""
        session = self._session
        self.directory.load()
        session.readiness.begin(time.monotonic(), _stored_age_seconds(session))

    async def keep_freshness(self) -> None:
        """Note durably until when this node knew that it was current."""
        wall_ms = str(int(time.time() * 1_000) - self._session.staleness_ms)
        with contextlib.suppress(SynaptoRouteError):
            await self._session.on_applier(lambda at: at.storage.meta_set(FRESH_KEY, wall_ms))

    # --- loops ------------------------------------------------------------------------

    async def track(self) -> None:
        """Derive the readiness several times a second."""
        while True:
            self.update()
            await asyncio.sleep(TICK_SECONDS)

    def update(self) -> None:
        session = self._session
        before = self.state
        has_state = session.position.seq > 0
        self.state = session.readiness.update(
            time.monotonic(),
            has_state=has_state,
            stuck_since=None if self.is_peer_ahead else session.halted_since,
        )
        if self.state is before:
            return
        if self.state in (Readiness.FOLLOWING, Readiness.CONFIRMED):
            _log.info("this node is %s", self.state.value)
        else:
            _log.warning("this node is %s; log: %s", self.state.value, session.log_state.value)

    async def run(self) -> None:
        """Ask the peers, often while the log is silent."""
        session = self._session
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds() * random.uniform(0.8, 1.2)):
                    await session.peers_wanted.wait()
            session.peers_wanted.clear()
            try:
                if session.log_state is LogState.OPEN:
                    await self.directory.refresh()
                    await self._sample()
                elif session.position.epoch and session.log_state is not LogState.UNKNOWN:
                    await self._ask_all()
            except ClusterError as error:
                _log.debug("the peers were not asked: %s", error)

    def _pause_seconds(self) -> float:
        session, count = self._session, max(len(self.directory), self._session.live_count)
        limit = session.config.staleness_seconds_max
        if session.log_state is not LogState.OPEN:
            return min(limit / 4, max(ASK_SECONDS, ASK_SECONDS_PER_NODE * count))
        if not len(self.directory):
            return ASK_SECONDS
        return min(limit, max(SAMPLE_SECONDS, SAMPLE_SECONDS_PER_NODE * count))

    # --- rounds -----------------------------------------------------------------------

    async def _sample(self) -> None:
        """Ask some voters whether they still take part in the epoch of the log."""
        session = self._session
        head, voters = session.head, session.engine.replica_status.voters
        others = [
            node for node in self.directory.urls if node in voters and node != session.node_id
        ]
        others = others or list(self.directory.urls)  # of observers only positions count
        if head is None or not others:
            # Live nodes without an address cannot be asked: they may be ahead.
            self.is_peer_ahead = session.live_count > 1
            return
        asked_at = time.monotonic()
        found = await self._ask(random.sample(others, min(len(others), VOTERS_SAMPLED)))
        self.is_peer_ahead = self._is_any_ahead(found)
        if any(each.promised.epoch > head.epoch for each in found.heads.values()):
            found = await self._ask(others)
        gone = [node for node, each in found.heads.items() if each.promised.epoch > head.epoch]
        is_current = session.head is not None and session.head.epoch == head.epoch
        is_superseded = is_current and is_majority(gone, voters)
        session.hear_peers(PeersSay.SUPERSEDED if is_superseded else None, None, asked_at)

    async def _ask_all(self) -> None:
        """Ask the voters and some others, and fetch what they have and this node lacks."""
        session = self._session
        voters = session.engine.replica_status.voters
        urls = self.directory.urls
        others = [node for node in urls if node not in voters]
        chosen = [node for node in urls if node in voters and node != session.node_id]
        chosen += random.sample(others, min(len(others), OBSERVERS_ASKED_MAX))
        asked_at = time.monotonic()
        found = await self._ask(chosen)
        heads = found.heads.values()
        newer = [node for node, head in found.heads.items() if self._is_behind(head.position)]
        newer.sort(key=lambda node: found.heads[node].position.revision, reverse=True)
        self.ahead = tuple(urls[node] for node in newer if node in urls)
        if newer:
            session.catch_up_wanted.set()
            await self._reach(found.newest, TAKE_SECONDS)
        if session.log_state is LogState.OPEN:
            return  # the log answers again, and knows better
        self.is_peer_ahead = self._is_any_ahead(found)
        say = PeersSay.AHEAD if self.is_peer_ahead else self._judge(found, voters)
        # Where nobody else runs, this node holds the newest entry that anybody can have read.
        is_sole = say is PeersSay.CURRENT and not heads and not found.down
        newest = found.newest if heads else session.position if is_sole else None
        session.hear_peers(say, newest, asked_at)

    def _judge(self, found: Round, voters: Iterable[str]) -> PeersSay:
        """The result of a round in which no peer is ahead."""
        # The only voter is a majority by itself, but observers may go on without it.
        is_answered = bool(found.heads) or not found.silent
        if is_answered and is_majority({*found.heads, self._session.node_id}, voters):
            return PeersSay.CURRENT
        if found.silent:
            return PeersSay.SILENT
        return PeersSay.CURRENT if found.heads else PeersSay.NONE

    def _is_any_ahead(self, found: Round) -> bool:
        return any(self._is_behind(head.position) for head in found.heads.values())

    def _is_behind(self, position: Position) -> bool:
        return self._session.position.revision < position.revision

    async def _reach(self, position: Position, seconds: float) -> None:
        """Wait until a position is visible here, but not for long."""
        engine = self._session.engine
        future = engine.expect_version(position.seq)
        try:
            # It may have become visible between the answer and ``expect_version``.
            if self._is_behind(position):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await asyncio.wrap_future(future)
        finally:
            engine.forget_version(future)

    async def _ask(self, nodes: Sequence[str]) -> Round:
        urls = self.directory.urls
        answers = await asyncio.gather(*(self.ask(node, urls[node]) for node in nodes))
        heads: dict[str, PeerHead] = {}
        down: set[str] = set()
        silent: set[str] = set()
        for node, answer in zip(nodes, answers, strict=True):
            # Behind an address that was learned stands one node; behind a seed, any.
            if isinstance(answer, PeerHead) and node in (answer.node_id, urls[node]):
                heads[answer.node_id] = answer
            elif isinstance(answer, PeerDown):
                down.add(node)
            else:
                silent.add(node)
        heads.pop(self._session.node_id, None)  # a seed may be this node's own address
        return Round(heads, frozenset(down), frozenset(silent))

    async def ask(self, node: str, url: str) -> PeerHead | SynaptoRouteError:
        """Ask one peer of this cluster; return why there is no answer, if there is none.

        Of a peer of an earlier release only the position is known: its epoch id is empty.
        """
        own = self.own_head()
        try:
            # Behind a seed may be any node: it says which, and is then asked to prove it.
            if node == url:
                node = (await self._peers.read_head(url)).node_id
            head = await self._peers.read_head(url, node)
        except PeerTooOld:
            return await self._ask_old(node, url)
        except (ClusterError, ProtocolError) as error:
            return error
        if own.cluster_id and head.cluster_id != own.cluster_id:
            return ProtocolError("a peer is of another cluster")
        return head

    async def _ask_old(self, node: str, url: str) -> PeerHead | SynaptoRouteError:
        own = self.own_head()
        try:
            found = await self._peers.read_log(url, own.position)
        except (ClusterError, ProtocolError) as error:
            return error
        return PeerHead(node, own.cluster_id, found.position, Ballot(), "")

    def own_head(self) -> PeerHead:
        """The answer of this node to its peers."""
        session = self._session
        status = session.engine.replica_status
        return PeerHead(
            session.node_id,
            session.engine.database.meta_get(CLUSTER_ID_KEY) or "",
            session.position,
            status.promised,
            status.epoch_id,
        )


def _stored_age_seconds(session: Session) -> float:
    """Seconds since the stored state was known to be current, at most."""
    database, position = session.engine.database, session.position
    known_ms = float(database.meta_get(FRESH_KEY) or 0)
    with contextlib.suppress(SynaptoRouteError):
        rows = (
            database.read_log(position.seq - 1, entries_max=1, bytes_max=1) if position.seq else []
        )
        known_ms = max([known_ms, *(row.time_us / 1_000 for row in rows)])
    return max(0.0, time.time() - known_ms / 1_000) if known_ms else 0.0
