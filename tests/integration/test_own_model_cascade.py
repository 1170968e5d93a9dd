"""Goal: the cascade works with a user's own model, on every node of a cluster.

Method: two real nodes with a model in a folder, of which one has the table.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from encoders import mixed_things, second_model
from ports import free_port
from processes import NodeProcess
from servers import Server
from synaptoroute.encoder import Encoder, distil, save_table, table_file
from synaptoroute.encoder.table_files import kept_tables
from synaptoroute.models import Route

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
WAIT_SECONDS = 60.0
WORDS = 2_600
"""Token ids of the tokenizer: marks, letters and six hundred words."""


def own_model(folder: Path) -> Path:
    """A model of the test's own: another vocabulary and a prefix."""
    shutil.copytree(second_model(), folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content["model"]["vocab"]
    content["model"]["vocab"] = {word: number for word, number in known.items() if number < WORDS}
    file.write_text(json.dumps(content), encoding="utf-8")
    recipe = {"pooling": "mean", "query_prefix": "query: ", "utterance_prefix": "query: "}
    (folder / "synaptoroute.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


def two_nodes(
    folder: Path, model: Path, server: Server, **settings: str
) -> tuple[NodeProcess, NodeProcess]:
    """Two nodes of one cluster, each with a cache of its own; not started."""

    def node(name: str) -> NodeProcess:
        own = {
            "model": str(model),
            "model_cache_dir": str(folder / name / "cache"),
            "redis_url": server.url,
            "namespace": "own",
            "port": str(free_port()),
        }
        return NodeProcess(folder / name, {**own, **settings})

    return node("first"), node("second")


def fill(node: NodeProcess, routes: list[Route]) -> None:
    """Import routes that are decided by their scores."""
    httpx.put(f"{node.url}/v1/settings", json=_by_score(node)).raise_for_status()
    body = "\n".join(json.dumps(route.model_dump(exclude={"vectors"})) for route in routes)
    headers = {"content-type": "application/x-ndjson"}
    found = httpx.post(f"{node.url}/v1/import", content=body, headers=headers, timeout=60)
    found.raise_for_status()


def when_on(node: NodeProcess, name: str = "default") -> dict[str, Any]:
    give_up_at = time.monotonic() + WAIT_SECONDS
    while True:
        report: dict[str, Any]
        report = httpx.get(f"{node.url}/v1/sets/{name}/settings/cascade").json()
        if report.get("state") == "on":
            return report
        assert time.monotonic() < give_up_at, report
        time.sleep(0.1)


def answers(node: NodeProcess, texts: list[str]) -> list[tuple[str | None, str]]:
    found = []
    for text in texts:
        answer = httpx.post(f"{node.url}/v1/query", json={"text": text, "explain": True})
        assert answer.is_success, answer.text
        found.append((answer.json()["route"], answer.json()["stage"]))
    return found


def test_own_model_answers_by_its_table_on_every_node(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A node without the table reads it from the other, and has it at once after a kill."""
    model = own_model(tmp_path / "own")
    encoder = Encoder(model)
    fingerprint = encoder.fingerprint
    save_table(distil(encoder), table_file(fingerprint, tmp_path / "first" / "cache"))
    encoder.close()
    routes, asked = mixed_things()
    nodes = two_nodes(tmp_path, model, valkey_server)
    first, second = nodes
    try:
        first.start()
        second.start()
        fill(first, routes)
        reports = [when_on(node) for node in nodes]
        before = [answers(node, asked[::3]) for node in nodes]
        second.kill()
        second.start()
        again = httpx.get(f"{second.url}/v1/settings/cascade").json()
        httpx.post(f"{first.url}/v1/sets/default/fork", json={"as": "copy"}).raise_for_status()
        added = {"utterances": ["where is my flight, please, and when"]}
        httpx.post(f"{first.url}/v1/routes/flight/utterances", json=added).raise_for_status()
        for node in nodes:
            for name in ("default", "copy"):
                when_on(node, name)
    finally:
        for node in nodes:
            node.end()

    assert reports[0]["table"] == reports[1]["table"]
    assert len(kept_tables(fingerprint, tmp_path / "second" / "cache")) == 1
    assert before[0] == before[1]
    assert "static" in {stage for _, stage in before[0]}
    assert "on" == again["state"]


@pytest.mark.slow
def test_node_killed_while_it_distils_is_replaced(tmp_path: Path, valkey_server: Server) -> None:
    """Another node makes the table once the lease has ended, and the first reads it from there."""
    model = own_model(tmp_path / "own")
    routes, asked = mixed_things()
    nodes = two_nodes(tmp_path, model, valkey_server, distil_tokens_max="65536")
    first, second = nodes
    try:
        first.start()
        second.start()
        fill(first, routes)
        killed = _distilling(nodes)
        killed.kill()
        (other,) = (node for node in nodes if node is not killed)
        before = when_on(other)
        killed.start()
        after = when_on(killed)
        found = [answers(node, asked[::3]) for node in nodes]
    finally:
        for node in nodes:
            node.end()

    assert before["table"] == after["table"]
    assert found[0] == found[1]
    assert "static" in {stage for _, stage in found[0]}


def _distilling(nodes: tuple[NodeProcess, ...]) -> NodeProcess:
    """The node that has made a part of the table."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up_at:
        for node in nodes:
            report = httpx.get(f"{node.url}/v1/settings/cascade").json()
            if report.get("reason") == "distilling" and report["distilled_share"] > 0:
                return node
        time.sleep(0.05)
    raise AssertionError("no node distils")


def _by_score(node: NodeProcess) -> dict[str, Any]:
    """Settings by which the model needs no numbers of its own."""
    settings = httpx.get(f"{node.url}/v1/settings").json()
    return {**settings, "aggregation": "blend", "threshold": 0.3, "confidence_min": None}
