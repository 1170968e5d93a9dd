"""Real processes under mixed faults: ``make chaos MINUTES=30``.

Three voters and an observer on a real Redis or Valkey; clients write and query all the while.
After each fault the cluster must get well by itself, all nodes must be one to the bit, and
nothing that was acknowledged by a quorum may be missing.  The faults follow from the seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.attackers import Attackers
from chaos.clients import Clients
from chaos.judge import Judge
from chaos.record import RESULTS, Record
from chaos.storm import Storm, make_server
from node_cluster import Cluster, Member, cluster_on, until

VOTERS = 3
CHEAP_MODEL = "test-hash-64"
WRITERS, QUERIERS = 3, 2
CALM_SECONDS = 1.0
HEAL_SECONDS_MAX = 90.0
NODE_SHARE = 0.5
"""How often a node is in trouble while Redis is, too."""


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        faults: How often each fault struck.
        found: Violations.
        figures: Sizes of the run.
    """

    faults: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line."""
        shown = ", ".join(f"{value:,} {name}" for name, value in self.figures.items())
        return f"{sum(self.faults.values())} faults, {len(self.found)} violations; {shown}"


ATTACK_SHARE = 0.7
"""How often an attack strikes in a run that has some."""
ATTACKS = ("adversary", "adversary", "lying peer", "two orders")
RETURN_SECONDS_MAX = 15.0
"""Writes are back so soon after an attack, if nothing else is broken, on a busy machine as well."""


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def strike(storm: Storm, faults: Sequence[str]) -> None:
    """Let faults befall the cluster at the same time; a fault that breaks off breaks the run."""
    known = storm.server_faults | storm.node_faults
    under_way = []
    for name in faults:
        under_way.append(storm.hands.submit(known[name]))
        time.sleep(storm.draw.uniform(0.0, 0.5))
    for each in under_way:
        each.result()


def plan(draw: random.Random, storm: Storm) -> list[str]:
    """Draw the faults that come next."""
    if draw.random() < 0.2:
        return [draw.choice(sorted(storm.node_faults))]
    chosen = [draw.choice(sorted(storm.server_faults))]
    if storm.adversary is not None and draw.random() < ATTACK_SHARE:
        chosen = [draw.choice(ATTACKS)]
    if chosen == ["lying peer"]:
        return chosen  # it needs two nodes
    # Whoever restarts everything, or exchanges a voter, needs all the others.
    beside = sorted(set(storm.node_faults) - {"database corrupt"})
    if draw.random() < NODE_SHARE and chosen[0] not in ("everything restarts", "split brain"):
        chosen.append(draw.choice(beside))
    return chosen


def heal(cluster: Cluster) -> None:
    """Wait until every node is ready and takes writes."""

    def is_well(member: Member) -> bool:
        body = {"utterances": [f"well {time.monotonic()}"]}
        answer = member.http.put("/v1/routes/well?ack=quorum&ack_timeout=2", json=body)
        return answer.status_code in (200, 201)

    for member in cluster.members:
        try:
            until(lambda member=member: member.is_ready() and is_well(member), HEAL_SECONDS_MAX)
        except AssertionError:
            for each in cluster.running:
                say(f"  {each.name}: {each.state()}")
            raise


def rage(
    folder: Path,
    kind: str,
    seed: int,
    seconds: float,
    chosen: Sequence[Sequence[str]] = (),
    model: str = CHEAP_MODEL,
    *,
    is_attacked: bool = False,
) -> Outcome:
    """Run faults until the time is over, or those that are chosen; give what came of it.

    With ``is_attacked`` the cluster has a secret, API keys and a coordinator.  Somebody without
    them attacks its Redis, and a process without the secret answers in the place of nodes.
    """
    settings = {"sqlite_synchronous": "full", "model": model}
    draw = random.Random(seed)
    attackers = Attackers(folder, draw) if is_attacked else None
    adversary = attackers.adversary if attackers else None
    settings |= attackers.settings if attackers else {}
    api_key = attackers.api_key if attackers else ""
    first = make_server(kind, folder / "first", "aof-everysec").start()
    outcome, epochs = Outcome(), 0
    try:
        nodes = folder / "nodes"
        settings["fit_confidence"] = "true"
        with cluster_on(nodes, first, VOTERS, api_key=api_key, **settings) as cluster:
            cluster.add(VOTERS).start().wait_ready()
            clients = Clients(lambda: list(cluster.members), seed, cluster.headers)
            liar = attackers.liar if attackers else None
            storm = Storm(cluster, clients, draw, folder, [first], adversary, liar)
            judge = Judge(clients.history, adversary.op_ids if adversary else set())
            try:
                clients.start(WRITERS, QUERIERS)
                if attackers:
                    attackers.start(cluster)
                until_ = time.monotonic() + seconds
                waiting = [list(each) for each in chosen]
                while waiting if chosen else time.monotonic() < until_:
                    faults = waiting.pop(0) if chosen else plan(draw, storm)
                    _cycle(cluster, clients, storm, judge, faults, outcome)
                    epochs = cluster.members[0].version.epoch
            finally:
                clients.stop()
                if attackers:
                    attackers.stop()
                storm.close()
            outcome.found = [*judge.end(), *clients.failed, *clients.promotions.found]
            outcome.figures = _figures(clients, judge, epochs)
            if attackers:
                outcome.found += attackers.leaks()
                outcome.figures |= attackers.figures
                slowest = judge.slowest_seconds
                outcome.figures["slowest return of writes, ms"] = int(slowest * 1e3)
                if slowest > RETURN_SECONDS_MAX:
                    outcome.found.append(f"writes were away for {slowest:.1f} s after an attack")
    finally:
        first.stop()
        if attackers:
            attackers.close()
    return outcome


def _cycle(
    cluster: Cluster,
    clients: Clients,
    storm: Storm,
    judge: Judge,
    faults: list[str],
    outcome: Outcome,
) -> None:
    """Good weather, trouble, recovery, judgement."""
    time.sleep(CALM_SECONDS)
    outcome.faults.update(faults)
    say(f"{' + '.join(faults)} ...")
    before, began = len(judge.found), time.monotonic()
    strike(storm, faults)
    struck = time.monotonic()
    heal(cluster)
    if len(faults) == 1 and faults[0] in ATTACKS:
        judge.slowest_seconds = max(judge.slowest_seconds, time.monotonic() - struck)
    clients.rest()
    head = judge.checkpoint(cluster)
    clients.go()
    took = f"{time.monotonic() - began:.1f} s"
    say(f"  one at {head.revision} after {took}")
    for each in judge.found[before:]:
        say(f"  VIOLATION {each}")


def _figures(clients: Clients, judge: Judge, epochs: int) -> dict[str, Any]:
    return {
        "writes sent": len(clients.history.ops),
        "writes held by a quorum": len(clients.history.acknowledged),
        "entries": judge.entries,
        "epochs": epochs,
        "queries": clients.counts["queries"],
        "failed queries": len(clients.failed),
        "promotions held by a quorum": clients.promotions.counts["promotions"],
        "queries to the alias": clients.promotions.counts["alias_queries"],
        "reads with a version": len(clients.history.reads),
        "reads of the newest state": len(clients.history.head_reads),
        "checkpoints": judge.checkpoints,
    }


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--encoder", default=CHEAP_MODEL, help="a model's name, as of a node")
    parser.add_argument("--adversary", action="store_true", help="attack Redis, without a secret")
    parser.add_argument("--json", type=Path, default=RESULTS / "chaos.json")
    given = parser.parse_args()
    command = f"make chaos MINUTES={given.minutes:g} SEED={given.seed} KIND={given.kind}"
    if given.encoder != CHEAP_MODEL:
        command += f' CHAOS_ARGS="--encoder {given.encoder}"'
    if given.adversary:
        command += ' CHAOS_ARGS="--adversary"'
    record = Record("chaos", command)
    say(f"repeat: {command}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        seconds = given.minutes * 60
        outcome = rage(
            Path(folder),
            given.kind,
            given.seed,
            seconds,
            model=given.encoder,
            is_attacked=given.adversary,
        )
    for each in outcome.found[:20]:
        say(f"VIOLATION {each}")
    say(f"{given.kind}, seed {given.seed}, {given.minutes:g} minutes: {outcome.summary}")
    figures = {
        "kind": given.kind,
        "encoder": given.encoder,
        "minutes": given.minutes,
        "violations": outcome.found,
        "faults": dict(sorted(outcome.faults.items())),
        "sizes": outcome.figures,
    }
    record.write(given.json, figures)
    return 1 if outcome.found else 0


if __name__ == "__main__":
    sys.exit(main())
