"""Simulates nodes that join at once, from the measured time of one join.

    python benchmarks/bench_joining.py [--nodes 30 300 3000] [--members 3 30] [--seconds 1.9]

Prints one JSON line for each combination: when the last node has joined, how many requests a
node made, and the most that one donor got in a second.  The limits and pauses are those of the
program.  A donor that serves two snapshots takes twice as long for each; a node is asked for its
snapshot once its heartbeat has shown that it has joined.  One join takes 1.9 s with 50,000
utterances (BENCHMARKS.md).
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import Counter

from synaptoroute.replication.catch_up import (
    BUSY_SECONDS_MAX,
    BUSY_SECONDS_MIN,
    PEERS_ASKED_MAX,
    SPREAD_SECONDS,
)
from synaptoroute.replication.follower import RETRY_SECONDS
from synaptoroute.replication.snapshots import SNAPSHOTS_AT_ONCE_MAX
from synaptoroute.sequencer.presence import heartbeat_seconds


def storm(nodes: int, members: int, seconds: float, seed: int) -> dict[str, float]:
    """Let nodes join a cluster of members; return when the last one has."""
    draw = random.Random(seed)
    serving = dict.fromkeys(range(members), 0)
    donors = list(range(members))
    events = [
        (draw.uniform(0, SPREAD_SECONDS), node, -1) for node in range(members, members + nodes)
    ]
    heapq.heapify(events)
    waiting, requests, last = nodes, 0, 0.0
    interval = heartbeat_seconds(members + nodes)
    pauses = dict.fromkeys(range(members, members + nodes), 0.0)
    busiest = Counter[tuple[int, int]]()
    shown: list[tuple[float, int]] = []
    while waiting:
        now, node, donor = heapq.heappop(events)
        while shown and shown[0][0] <= now:
            donors.append(heapq.heappop(shown)[1])
        if donor >= 0:  # the snapshot has arrived
            serving[donor] -= 1
            serving[node] = 0
            waiting, last = waiting - 1, now
            heapq.heappush(shown, (now + draw.uniform(0, interval), node))
            continue
        for asked in draw.sample(donors, min(PEERS_ASKED_MAX, len(donors))):
            requests += 1
            busiest[asked, int(now)] += 1
            if serving[asked] < SNAPSHOTS_AT_ONCE_MAX:
                serving[asked] += 1
                heapq.heappush(events, (now + seconds * SNAPSHOTS_AT_ONCE_MAX, node, asked))
                break
        else:
            pauses[node] = min(max(2 * pauses[node], BUSY_SECONDS_MIN), BUSY_SECONDS_MAX)
            pause = max(pauses[node], RETRY_SECONDS) * draw.uniform(0.5, 1.0)
            heapq.heappush(events, (now + pause, node, -1))
    return {
        "seconds": round(last, 1),
        "requests_per_node": round(requests / nodes, 1),
        "requests_of_a_donor_in_a_second": max(busiest.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", nargs="+", type=int, default=[30, 300, 3_000])
    parser.add_argument("--members", nargs="+", type=int, default=[3, 30])
    parser.add_argument("--seconds", type=float, default=1.9)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for nodes in given.nodes:
        for members in given.members:
            found = storm(nodes, members, given.seconds, given.seed)
            print(json.dumps({"nodes": nodes, "members": members, **found}), flush=True)


if __name__ == "__main__":
    main()
