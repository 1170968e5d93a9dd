"""Gathers a content certificate: asks the voters, peer to peer, what they hold at a position.

Redis says where the voters are; what they say is verified by their keys.  So an address that
Redis makes up costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Iterable, Sequence
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ProtocolError
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.peers import PeerClient, format_position, parse_position
from synaptoroute.trust.certificates import STATEMENTS_MAX as VOTERS_ASKED_MAX
from synaptoroute.trust.certificates import Certificate, ContentCount
from synaptoroute.trust.statements import Verifier
from synaptoroute.trust.voters import verify_chain

GATHER_SECONDS: Final = 10.0
KEPT_MS: Final = 30_000  # How long a question and its answers stay in Redis
BOARD_SECONDS: Final = 0.5
CHAINS_ASKED_MAX: Final = 3  # Nodes that are asked for the chain of the voters
BOARD_TRIES: Final = 6

_log = logging.getLogger(__name__)


class ContentBoard:
    """Statements by way of Redis, for voters that no peer can reach.  Used on one event loop.

    A statement proves itself, so it does not matter who hands it on.
    """

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def ask(self, position: Position) -> None:
        """Ask every voter to certify a position."""
        await self._link.call(
            "SET", self._keys.content_wanted, format_position(position), "PX", KEPT_MS
        )

    async def wanted(self) -> Position | None:
        """The position that a node wants to have certified; None if there is none."""
        text = await self._link.call("GET", self._keys.content_wanted)
        try:
            return None if text is None else parse_position(text.decode("utf-8", "replace"))
        except ProtocolError:
            return None

    async def tell(self, node_id: str, position: Position, statement: str) -> None:
        """Leave the statement of a voter."""
        key = self._keys.content(position.seq)
        await self._link.call("HSET", key, node_id, statement)
        await self._link.call("PEXPIRE", key, KEPT_MS)

    async def gather(self, position: Position, count: ContentCount) -> Certificate | None:
        """Ask the voters and wait some seconds for a certificate."""
        await self.ask(position)
        for _ in range(BOARD_TRIES):
            await asyncio.sleep(BOARD_SECONDS)
            flat = await self._link.call("HGETALL", self._keys.content(position.seq))
            for statement in flat[1 : 2 * VOTERS_ASKED_MAX : 2]:
                with contextlib.suppress(ProtocolError):
                    count.add(bytes(statement))
            if (found := count.result()) is not None:
                return found
        return None


async def learn_chain(
    peers: PeerClient,
    urls: Sequence[str],
    verifier: Verifier,
    genesis: frozenset[str],
    cluster_id: str,
) -> tuple[frozenset[str], int]:
    """Ask some nodes for the chain of the voters; return where the longest one leads.

    A chain proves itself, so it does not matter who shows it.  See ``trust.voters.verify_chain``.
    """
    best, longest = genesis, 0
    for url in random.sample(urls, min(len(urls), CHAINS_ASKED_MAX)):
        with contextlib.suppress(ClusterError, ProtocolError, ValueError, TypeError, KeyError):
            document = json.loads(await peers.read_voters(url))
            links = [str(each) for each in document["links"]]
            keys, length = verify_chain(links, verifier, genesis, cluster_id)
            if length > longest:
                best, longest = keys, length
    return best, longest


async def gather_certificate(
    peers: PeerClient,
    urls: Iterable[str],
    position: Position,
    count: ContentCount,
    timeout_seconds: float = GATHER_SECONDS,
) -> Certificate:
    """Ask nodes until a majority of the voters certifies one content.

    Args:
        peers: Sends the requests.
        urls: Addresses of the voters.
        position: The position that is to be certified.
        count: Counts the statements; may hold some already.
        timeout_seconds: Longest wait.

    Raises:
        ClusterError: There is no majority.
    """
    if (found := count.result()) is not None:
        return found
    asked = list(dict.fromkeys(urls))[:VOTERS_ASKED_MAX]
    tasks = [asyncio.create_task(peers.read_certificate(url, position)) for url in asked]
    problem = "no voter was reached"
    try:
        for answer in asyncio.as_completed(tasks, timeout=timeout_seconds):
            try:
                count.add(await answer)
            except TimeoutError:
                problem = "the voters did not answer in time"
                break
            except (ClusterError, ProtocolError) as error:
                problem = str(error)
                _log.info("a statement about %s does not count: %s", position.revision, error)
                continue
            if (found := count.result()) is not None:
                return found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise ClusterError(
        f"no majority of the voters certifies the state at {position.revision}: "
        f"{count.count} made a statement; {problem}"
    )
