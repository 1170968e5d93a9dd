"""Gathers a content certificate: asks the voters, peer to peer, what they hold at a position.

Redis says where the voters are; what they say is verified by their keys.  So an address that
Redis makes up costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ProtocolError
from synaptoroute.sequencer.peers import PeerClient
from synaptoroute.trust.certificates import STATEMENTS_MAX as VOTERS_ASKED_MAX
from synaptoroute.trust.certificates import Certificate, ContentCount

GATHER_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


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
