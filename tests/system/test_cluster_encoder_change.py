"""Goal: a cluster changes its encoder at one place of the log, under load, and back.

Method: three real nodes with two encoders of different dimensions; clients query and write
through all of them meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from encoders import second_model
from node_cluster import Cluster, Member, StartCluster, until
from synaptoroute.cluster import RedisLog
from synaptoroute.encoder import DEFAULT_MODEL, HashEncoder, fast_encoder, open_encoder
from synaptoroute.encoder.measuring import measure
from synaptoroute.encoder.prepared import file_name, save_prepared
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.presence import CommandKind, NodeCommand

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROUTES = {
    "refunds": ["I want my money back", "When will I get my refund?", "Please refund the fee"],
    "order-status": ["Where is my parcel?", "Track my order", "My package has not come"],
    "sign-in": ["I forgot my password", "I cannot log in", "Reset my password"],
}
SERVING, NEXT = HashEncoder(64), HashEncoder(32)


def order(cluster: Cluster, member: Member, kind: CommandKind, encoder: str) -> None:
    """Leave a command for a node, as the holder of a lease."""

    async def give() -> None:
        log = RedisLog(cluster.server.url, namespace=cluster.namespace)
        try:
            lease = log.lease("coordinator", uuid.uuid4().hex)
            held = await lease.acquire()
            assert isinstance(held, Held)
            head: Any = await log.head()
            now_ms = head.time_us // 1_000
            said = NodeCommand(uuid.uuid4().hex, kind, "the test asks", now_ms, (), encoder)
            nodes = await log.presence.nodes()
            (node_id,) = {n.report.node_id for n in nodes if n.report.url == member.process.url}
            assert await log.node_commands.send(held, node_id, said)
            await lease.release(held)
        finally:
            await log.close()

    asyncio.run(give())


def generations(member: Member) -> dict[str, Any]:
    """A node's view of its encoders."""
    found: dict[str, Any] = member.http.get("/-/generations").json()
    return found


def done(member: Member) -> bool:
    """Whether a node has executed its command."""
    progress = generations(member)["progress"]
    assert progress["step"] != "failed", progress
    return bool(progress["step"] == "done")


def change_to(cluster: Cluster, member: Member, encoder: str) -> None:
    """Compute the vectors of an encoder and switch to it."""
    for kind in ("generate", "switch"):
        order(cluster, member, kind, encoder)
        until(lambda: generations(member)["progress"]["encoder"] == encoder)
        until(lambda: done(member), 60)
    # What was done may still be the first order.
    until(lambda: done(member) and generations(member)["serving"] == encoder)


def serving(cluster: Cluster) -> set[str]:
    """Fingerprints of the encoders that serve."""
    return {generations(member)["serving"] for member in cluster.running}


def test_encoder_changes_at_one_place_and_back(start_cluster: StartCluster) -> None:
    """Under queries and writes on every node nothing fails, and all states are equal."""
    cluster = start_cluster("valkey", 3, next_model="test-hash-32")
    for number in range(30):
        cluster.put(number % 3, f"r{number}", *(f"r{number} text {n}" for n in range(8)))
    with cluster.queries(0, 1, 2) as failed, cluster.writers(2, pause=0.05) as history:
        change_to(cluster, cluster[1], NEXT.fingerprint)
        until(lambda: serving(cluster) == {NEXT.fingerprint})
        cluster.put(0, "late", "written with the other encoder")
        change_to(cluster, cluster[2], SERVING.fingerprint)
        until(lambda: serving(cluster) == {SERVING.fingerprint})
    refused = [write for write in history.writes if write.status >= 500 or not write.status]

    assert [] == failed
    assert [] == refused
    cluster.judge()


def test_node_that_was_away_changes_its_encoder_when_it_returns(
    start_cluster: StartCluster,
) -> None:
    """By the log, by a snapshot, and by its own database at the next start."""
    cluster = start_cluster("valkey", 3, next_model="test-hash-32")
    cluster.put(0, "kept", "one text", "another text")
    cluster[2].kill()
    change_to(cluster, cluster[0], NEXT.fingerprint)
    cluster[1].signal(signal.SIGTERM)
    cluster[1].process.wait()
    cluster[1].start().wait_ready()
    cluster.trim()
    cluster[2].start().wait_ready()
    cluster.settle()

    assert {NEXT.fingerprint} == serving(cluster)
    cluster.judge()


def test_node_without_the_encoder_halts(start_cluster: StartCluster) -> None:
    """It serves its state, reports why it halts, and resumes once it has the encoder."""
    cluster = start_cluster("valkey", 3, next_model="test-hash-32")
    cluster.put(0, "kept", "one text", "another text")
    lone = cluster[2]
    lone.signal(signal.SIGTERM)
    lone.process.wait()
    settings = dict(lone.process.settings)
    lone.process.settings = {k: v for k, v in settings.items() if k != "next_model"}
    lone.start().wait_ready()
    change_to(cluster, cluster[0], NEXT.fingerprint)
    until(lambda: lone.follower["log_state"] == "mismatch")
    answer = lone.http.post("/v1/query", json={"text": "one text"}).json()

    assert "kept" == answer["route"]
    assert {SERVING.fingerprint, NEXT.fingerprint} == serving(cluster)

    lone.signal(signal.SIGTERM)
    lone.process.wait()
    lone.process.settings = settings
    lone.start().wait_ready()
    cluster.settle()

    assert {NEXT.fingerprint} == serving(cluster)
    cluster.judge()


def test_node_restarted_without_its_encoder_does_not_start(start_cluster: StartCluster) -> None:
    """It cannot encode queries for its vectors: it reports that, and the others continue."""
    cluster = start_cluster("valkey", 3, next_model="test-hash-32")
    cluster.put(0, "kept", "one text", "another text")
    change_to(cluster, cluster[0], NEXT.fingerprint)
    until(lambda: serving(cluster) == {NEXT.fingerprint})
    lone = cluster[2]
    lone.signal(signal.SIGTERM)
    lone.process.wait()
    settings = dict(lone.process.settings)
    lone.process.settings = {k: v for k, v in settings.items() if k != "next_model"}
    lone.start()
    said = until(lambda: start_failure(lone))
    exit_code = lone.process.wait()
    cluster.put(0, "late", "written meanwhile")

    assert "encoder_mismatch" == said["code"]
    assert NEXT.fingerprint in said["detail"]
    assert exit_code

    lone.process.settings = settings
    lone.start().wait_ready()
    cluster.settle()

    assert {NEXT.fingerprint} == serving(cluster)
    cluster.judge()


def start_failure(member: Member) -> dict[str, Any] | None:
    """The log of a node whose start failed."""
    lines = member.process.log_file.read_text().splitlines()
    found = [json.loads(line) for line in lines if '"start_failed"' in line]
    return found[-1] if found else None


def test_incomplete_generation_is_not_switched_to(start_cluster: StartCluster) -> None:
    """Staged vectors are shown with what they lack, and a comparison is refused."""
    cluster = start_cluster("valkey", 1, next_model="test-hash-32")
    cluster.put(0, "kept", "one text", "another text")
    order(cluster, cluster[0], "generate", NEXT.fingerprint)
    until(lambda: generations(cluster[0])["progress"]["step"] == "done")
    cases = [{"text": "one text", "route": "kept"}, {"text": "unknown", "route": None}]
    asked = {"encoder": NEXT.fingerprint, "texts": cases}
    tried = cluster[0].http.post("/-/generations/trial", json=asked).json()
    cluster.put(0, "new", "a third text")
    staged = generations(cluster[0])["staged"]
    refused = cluster[0].http.post("/-/generations/trial", json=asked)

    assert (2, 2) == (tried["texts"], tried["correct_after"])
    assert [(NEXT.fingerprint, 32, 2, 1)] == [tuple(each.values()) for each in staged]
    assert 503 == refused.status_code

    order(cluster, cluster[0], "drop", "")
    until(lambda: not generations(cluster[0])["staged"])


def test_change_to_a_prepared_model_of_ones_own_keeps_confidence(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Every node has the measured numbers without a fit: they lie beside the model."""
    folder = tmp_path / "own"
    shutil.copytree(second_model(), folder)
    bundled, own = open_encoder(), open_encoder(str(folder))
    save_prepared(measure(own, bundled, str(folder)), folder / file_name(own.fingerprint))
    cluster = start_cluster("valkey", 3, model=bundled.name, next_model=str(folder))
    cluster.put(0, "refund", "I want my money back", "please refund the payment")
    cluster.put(1, "parcel", "where is my parcel", "the package has not arrived")

    def answers(text: str) -> list[Any]:
        found = [member.http.post("/v1/query", json={"text": text}) for member in cluster.members]
        return [
            {name: each.json()[name] for name in ("route", "score", "confidence", "reason")}
            for each in found
        ]

    def starting() -> set[str]:
        shown = [member.http.get("/v1/settings/calibration") for member in cluster.members]
        return {each.json()["starting_numbers"] for each in shown}

    before, numbers = answers("give me the money back"), starting()
    change_to(cluster, cluster[1], own.fingerprint)
    until(lambda: serving(cluster) == {own.fingerprint})
    after = answers("give me the money back")

    assert before == [before[0]] * 3
    assert after == [after[0]] * 3
    assert before[0]["confidence"] is not None
    assert after[0]["confidence"] is not None
    assert after[0]["score"] != before[0]["score"]
    assert len(numbers) == len(starting()) == 1
    assert numbers != starting()
    assert {"not_understood"} == {
        each["reason"] for each in answers("\u0393\u03b5\u03b9\u03b1 \u03c3\u03bf\u03c5")
    }
    cluster.judge()


def test_cluster_changes_to_the_fast_encoder(start_cluster: StartCluster) -> None:
    """From the bundled one, by the model of earlier releases, which goes on until it is changed.

    A node that is killed goes on with it.
    """
    cluster = start_cluster("valkey", 2, model=DEFAULT_MODEL, next_model="fast")
    for name, utterances in ROUTES.items():
        cluster.put(0, name, *utterances)
    former, fast = (
        open_encoder(name).fingerprint for name in (fast_encoder.DISTILLED.name, "fast")
    )
    with cluster.queries(0, 1) as failed:
        change_to(cluster, cluster[1], former)
        until(lambda: serving(cluster) == {former})
    cluster[1].kill()
    cluster[1].start().wait_ready()
    with cluster.queries(0, 1) as failed_later:
        assert {former} == serving(cluster)
        cluster.put(1, "hours", "When do you open?", "Are you open on Sunday?")
        change_to(cluster, cluster[1], fast)
        until(lambda: serving(cluster) == {fast})
    answers = [
        member.http.post("/v1/query", json={"text": "has my package come"}).json()
        for member in cluster.running
    ]

    assert [] == failed + failed_later
    assert {"order-status"} == {answer["route"] for answer in answers}
    assert all(answer["confidence"] for answer in answers)
    cluster.judge()
