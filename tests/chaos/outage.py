"""How long writes are closed when Redis restarts, is wiped, or is replaced by a replica.

``PYTHONPATH=tests:tests/support python -m chaos.outage`` writes ``benchmarks/results/outage.json``.
A client writes every 20 ms with a deadline; an outage lasts from the last write that was held
by a quorum before the fault to the first one after it.  Clients query every node meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from chaos.clients import Clients
from chaos.record import RESULTS, Record
from chaos.storm import Storm, make_server
from node_cluster import Cluster, cluster_on, until

PACE_SECONDS = 0.02
REST_SECONDS = 2.0
GOAL_SECONDS = {"restart": 3.0, "kill": 3.0, "wipe": 5.0, "flush": 5.0, "lossy promotion": 5.0}


@dataclass
class Pulse:
    """A client that writes without a pause through one node after the other."""

    cluster: Cluster
    held_at: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Write until ``stop``."""
        number = 0
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            while not self._ended.wait(PACE_SECONDS):
                number += 1
                member = self.cluster.members[number % len(self.cluster.members)]
                url = f"{member.process.url}/v1/routes/pulse?ack=quorum&ack_timeout=1"
                try:
                    answer = client.put(url, json={"utterances": [f"beat {number}"]})
                except httpx.HTTPError:
                    continue
                if answer.is_success and answer.json()["ack"] == "quorum":
                    self.held_at.append(time.monotonic())

    def stop(self) -> None:
        """End it."""
        self._ended.set()

    def outage_seconds(self, since: float) -> float:
        """The longest pause between two held writes that ends after a moment."""
        times = [at for at in self.held_at if at > since - 1.0]
        return max(after - before for before, after in pairwise(times))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(folder: Path, kind: str, rounds: int) -> dict[str, Any]:
    """Let each loss happen so often; give what it cost."""
    server = make_server(kind, folder / "server", "aof-everysec").start()
    try:
        with cluster_on(folder / "nodes", server, 3) as cluster:
            clients = Clients(lambda: list(cluster.members), seed=1)
            storm = Storm(cluster, clients, random.Random(1), folder, [server])
            pulse = Pulse(cluster)
            writer = threading.Thread(target=pulse.run)
            writer.start()
            clients.start(writers=0, queriers=2)
            try:
                return _losses(cluster, storm, clients, pulse, rounds)
            finally:
                pulse.stop()
                writer.join()
                clients.stop()
                storm.close()
    finally:
        server.stop()


def _losses(
    cluster: Cluster, storm: Storm, clients: Clients, pulse: Pulse, rounds: int
) -> dict[str, Any]:

    def kill() -> None:
        storm.server.kill()
        storm.server.start()

    faults = {
        "restart": storm.stop,
        "kill": kill,
        "wipe": storm.wipe,
        "flush": storm.flush,
        "lossy promotion": storm.promote,
    }
    found: dict[str, Any] = {}
    for name, fault in faults.items():
        outages: list[float] = []
        queries, failed = clients.counts["queries"], len(clients.failed)
        for _ in range(rounds):
            time.sleep(REST_SECONDS)
            epoch, since = cluster[0].version.epoch, time.monotonic()
            fault()
            until(lambda epoch=epoch: cluster[0].version.epoch > epoch)
            count = len(pulse.held_at)
            until(lambda count=count: len(pulse.held_at) > count + 5)
            outages.append(pulse.outage_seconds(since))
        found[name] = {
            "outage_seconds": [round(each, 3) for each in sorted(outages)],
            "p50_seconds": round(percentile(outages, 0.5), 3),
            "p95_seconds": round(percentile(outages, 0.95), 3),
            "goal_p95_seconds": GOAL_SECONDS[name],
            "queries": clients.counts["queries"] - queries,
            "failed_queries": len(clients.failed) - failed,
        }
        sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        sys.stdout.flush()
    return found


def main() -> int:
    """Measure on Redis and Valkey; fail where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", default=["redis", "valkey"])
    parser.add_argument("--json", type=Path, default=RESULTS / "outage.json")
    given = parser.parse_args()
    record = Record("outage", f"make outage ROUNDS={given.rounds}")
    document: dict[str, Any] = {}
    is_good = True
    for kind in given.kinds:
        with tempfile.TemporaryDirectory(prefix="outage-") as folder:
            found = document[kind] = measure(Path(folder), kind, given.rounds)
        for each in found.values():
            is_good &= each["p95_seconds"] <= each["goal_p95_seconds"]
            is_good &= not each["failed_queries"]
    record.write(given.json, {"rounds": given.rounds, "nodes": 3, "servers": document})
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
