"""Goal: an operator changes the encoder of a running cluster, and goes back.

Method: three nodes with the bundled model and a second real one, a coordinator, queries
through every node all the time.  Each answer names its position, so it can be told
exactly from which position on each node answered with which encoder.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from encoders import second_model
from node_cluster import Cluster, StartCluster, until
from processes import CoordinatorProcess

pytestmark = [pytest.mark.system, pytest.mark.accept, pytest.mark.timeout(420)]

ROUTES = {
    "refunds": ["I want my money back", "When will I get my refund?", "Please refund the fee"],
    "order-status": ["Where is my parcel?", "Track my order", "My package has not come"],
    "sign-in": ["I forgot my password", "I cannot log in", "Reset my password"],
}
LABELLED = [
    {"text": "give me my money back", "route": "refunds"},
    {"text": "has my parcel been sent", "route": "order-status"},
    {"text": "my password does not work", "route": "sign-in"},
    {"text": "what is the capital of France", "route": None},
]
ASKED = "give me my money back"


@dataclass
class Answers:
    """The answers of every node, by position."""

    scores: dict[str, dict[int, set[tuple[str, float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    failed: list[str] = field(default_factory=list)
    count: int = 0

    def encoders_change_at(self, node: str) -> list[int]:
        """Return the positions of a node at which the answer changed."""
        changes, before = [], None
        for seq, found in sorted(self.scores[node].items()):
            assert 1 == len(found), f"two answers of {node} at {seq}: {found}"
            (answer,) = found
            if before is not None and answer != before:
                changes.append(seq)
            before = answer
        return changes


@contextmanager
def asking(cluster: Cluster) -> Iterator[Answers]:
    """Ask every node one question repeatedly while the block runs."""
    answers, ended = Answers(), threading.Event()

    def run(index: int) -> None:
        member = cluster[index]
        with httpx.Client(base_url=member.process.url, timeout=20, trust_env=False) as client:
            while not ended.wait(0.02):
                try:
                    found = client.post("/v1/query", json={"text": ASKED})
                    said = found.json()
                    if found.status_code != 200:
                        answers.failed.append(f"{member.name}: {said}")
                        continue
                except httpx.TransportError as error:
                    answers.failed.append(f"{member.name}: {error!r}")
                    continue
                seq = int(said["version"].split(".")[1])
                answers.scores[member.name][seq].add((said["route"], said["score"]))
                answers.count += 1

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(cluster.members))]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)


def switched_at(cluster: Cluster, coordinator: CoordinatorProcess) -> int:
    """Return the sequence number of the newest switch of the encoder."""
    entries = coordinator.http("GET", "/v1/log?limit=200").json()["entries"]
    return int(next(each["seq"] for each in entries if each["kind"] == "switch encoder"))


def order(coordinator: CoordinatorProcess, step: str, encoder: str) -> None:
    """Give an order and wait until it is carried out."""
    body = {"step": step, "encoder": encoder}
    answer = coordinator.http("POST", "/v1/actions/encoder", json=body)
    assert 200 == answer.status_code, answer.text

    def is_done() -> bool:
        found = encoders(coordinator)
        work = [each for each in found["work"] if each["encoder"] == encoder]
        assert all(each["step"] != "failed" for each in work), work
        if step == "generate":
            (row,) = [each for each in found["encoders"] if each["encoder"] == encoder]
            return bool(row["missing_texts"] == 0)
        names = {node["encoder"] for node in coordinator.cluster()["nodes"]}
        return found["serving"] == encoder and names == {encoder}

    coordinator.until(is_done, 120)


def encoders(coordinator: CoordinatorProcess) -> dict[str, Any]:
    """Return the encoders as the coordinator sees them."""
    found: dict[str, Any] = coordinator.http("GET", "/v1/encoders").json()
    return found


def test_cluster_switches_to_another_encoder_and_back(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    """Encoded in the background, tried on labelled texts, switched everywhere at one position."""
    cluster = start_cluster(
        "valkey", 3, model="all-MiniLM-L6-v2-int8", next_model=str(second_model())
    )
    for name, utterances in ROUTES.items():
        assert "applied" == cluster.put(0, name, *utterances).outcome
    settings = {"backup_folder": str(tmp_path / "backups"), "audit_seconds": "2"}
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        coordinator.until(lambda: len(coordinator.cluster()["nodes"]) == 3)
        former = encoders(coordinator)["serving"]
        (other,) = {e["encoder"] for e in encoders(coordinator)["encoders"]} - {former}
        with asking(cluster) as answers:
            early = coordinator.http(
                "POST", "/v1/actions/encoder", json={"step": "switch", "encoder": other}
            )
            order(coordinator, "generate", other)
            asked = {"encoder": other, "texts": LABELLED}
            trial = coordinator.http("POST", "/v1/encoders/trial", json=asked).json()
            cluster.put(1, "late", "written while the vectors are made")
            order(coordinator, "switch", other)
            there = switched_at(cluster, coordinator)
            cluster.put(2, "later", "written with the other encoder")
            order(coordinator, "switch", former)
            back = switched_at(cluster, coordinator)
            cluster.put(0, "last", "written with the first encoder again")
            cluster.settle()
            until(lambda: answers.count > 100)
        coordinator.until(lambda: (coordinator.cluster()["audit"] or {}).get("is_sound"))
    finally:
        coordinator.end()

    assert 409 == early.status_code
    assert (4, 4) == (trial["texts"], trial["correct_best"])
    assert [] == answers.failed
    assert there < back
    for member in cluster.members:
        assert [there, back] == answers.encoders_change_at(member.name)
    cluster.judge()
