"""Goal: a program that uses the client notices no failure that another node can answer for.

Method: three real nodes; one is killed under load, answers are lost in a proxy between.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import Fault
from needs import require_valkey
from node_cluster import Cluster, StartCluster, cluster_on, until
from repository import ROOT
from servers import Server
from synaptoroute.client import (
    AsyncClient,
    AuthenticationFailed,
    Client,
    Conflict,
    ConnectionFailed,
    PreconditionFailed,
    RetryPolicy,
    WriteOptions,
)
from synaptoroute.web.api_keys import key_line, make_key
from tls_files import TestTls

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CLIENTS = 4
LOAD_SECONDS = 6.0


def urls_of(cluster: Cluster) -> list[str]:
    return [member.process.url for member in cluster.members]


def route(name: str, *utterances: str) -> dict[str, Any]:
    return {"name": name, "utterances": list(utterances) or [f"{name} one"]}


def load(client: Client, number: int, ended: threading.Event, failed: list[str]) -> Iterator[str]:
    """Write, query and read until the end; yield the routes that were written."""
    while not ended.is_set():
        name = f"c{number}.{time.monotonic_ns()}"
        try:
            client.put_route(route(name, f"{name} text"))
            yield name
            assert client.query(f"{name} text").route == name
            assert client.get_route(name).name == name
        except Exception as error:
            failed.append(f"{name}: {error!r}")


def test_killed_node_fails_no_call(start_cluster: StartCluster) -> None:
    """Every call of every client succeeds, and reads its own writes, through a kill -9."""
    cluster = start_cluster(nodes=3)
    ended, failed, written = threading.Event(), [], []

    def run(number: int) -> None:
        with Client(urls_of(cluster), api_key="") as client:
            written.extend(load(client, number, ended, failed))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    until(lambda: len(written) >= 3 * CLIENTS)
    before = len(written)
    cluster[1].kill()
    killed_at = time.monotonic()
    until(lambda: time.monotonic() > killed_at + LOAD_SECONDS)
    ended.set()
    for thread in threads:
        thread.join(30)

    assert [] == failed
    assert len(written) > before + CLIENTS
    with Client(urls_of(cluster), api_key="") as client:
        assert set(written) <= {each.name for each in client.routes(consistency="head")}


def test_client_reads_its_writes_on_every_node(shared: Cluster) -> None:
    """Round after round each read goes to another node than the write."""
    with Client(urls_of(shared), api_key="") as client:
        for number in range(30):
            client.put_route(route("own", f"own {number}"))
            for _ in range(2):
                assert client.get_route("own").utterances == [f"own {number}"]
        version = client.version

    with Client(urls_of(shared), api_key="", min_version=version) as heir:
        assert heir.get_route("own").utterances == ["own 29"]
    assert version is not None


async def test_tasks_of_an_async_client_read_their_writes(shared: Cluster) -> None:
    """Tasks share one client and its version."""
    async with AsyncClient(urls_of(shared), api_key="") as client:

        async def one(number: int) -> bool:
            name = f"task.{number}"
            await client.put_route(route(name))
            return (await client.get_route(name)).name == name

        assert all(await asyncio.gather(*(one(number) for number in range(20))))


def test_every_kind_of_call_works(shared: Cluster) -> None:
    """Routes in and out, queries of all forms, a choice, conditions and outcomes."""
    with Client(urls_of(shared), api_key="") as client:
        imported = client.import_routes([route("kind.a"), route("kind.b", "b one", "b two")])
        exported = {each.name: each.utterances for each in client.export_routes()}
        stored = client.get_route("kind.a")
        options = WriteOptions(if_match=stored.revision, ack="quorum")
        patched = client.patch_route("kind.a", payload={"tool": 1}, options=options)
        removed = client.remove_utterances("kind.b", ["b two"])
        explained = client.explain("kind.a one")
        chosen = client.choose("b one", ["kind.a", "kind.b"])
        answers = client.decide(
            "b one",
            [{"type": "choice", "name": "x", "choices": [{"value": "kind.b"}, {"value": "y"}]}],
        )
        with pytest.raises(PreconditionFailed) as caught:
            client.delete_route("kind.a", options=options)
        settings = client.get_settings()

        assert imported.routes == 2
        assert exported["kind.b"] == ["b one", "b two"]
        assert patched.held_by.endswith("/3")
        assert client.get_operation(patched.op_id).status == "applied"
        assert (removed.count, client.get_route("kind.b").utterances) == (1, ["b one"])
        assert (explained.route, explained.payload) == ("kind.a", {"tool": 1})
        assert {each.route for each in explained.candidates or ()} >= {"kind.a"}
        assert len(client.query_batch(["kind.a one", "b one"])) == 2
        assert client.query_split("kind.a one")[0].route == "kind.a"
        assert chosen.choice == "kind.b"
        assert set(chosen.probabilities) == {"kind.a", "kind.b"}
        assert answers["answers"][0]["choice"] == "kind.b"
        assert caught.value.problem["current"] == patched.revision
        assert settings.capacity_slots > 0


def test_examples_of_the_guide_run(shared: Cluster) -> None:
    guide = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    first, sets = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    addresses = zip(("http://node-a:8080", "http://node-b:8080"), urls_of(shared), strict=False)
    for written, own in addresses:
        first = first.replace(written, own)
    done = [
        subprocess.run(
            [sys.executable, "-c", example],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "SYNAPTOROUTE_URL": ",".join(urls_of(shared))},
        )
        for example in (first, sets)
    ]

    assert [(0, "")] * 2 == [(each.returncode, each.stderr) for each in done]
    assert done[1].stdout.splitlines() == ["1.0", "refund"]
    with Client(urls_of(shared), api_key="") as client:
        assert client.delete_route("billing").status == "applied"
        assert client.get_alias("support")["set"] == "support@12"
        client.delete_alias("support")
        for name in ("support@12", "support@13"):
            assert client.delete_set(name).status == "applied"


def test_set_is_tested_compared_promoted_and_rolled_back(shared: Cluster) -> None:
    """A draft that breaks a test is refused with the evidence, and moves the alias once mended."""
    options = WriteOptions(note="ticket 12")
    with Client(urls_of(shared), api_key="") as client:
        client.put_set("old")
        old = client.set("old")
        old.put_route(route("refund", "money back", "refund my order"))
        written = old.put_tests({"money back": "refund", "refund my order": "refund", "x": None})
        old.patch_tests({"parcel 7": None}, removed=["x"])
        page = old.list_tests(limit=2)
        client.put_alias("live", "old", {"gate": {"min_accuracy": 0.5}}, options=options)
        client.fork_set("old", "new")
        new = client.set("new")
        drafted = new.put_route(route("order", "refund my order"))
        found = client.diff("live", "new", ["money back", "refund my order"])
        run = new.evaluate()
        with pytest.raises(Conflict) as refused:
            client.put_alias("live", "new", {"gate": {"max_regressions": 0}}, options=options)
        entry = new.history(route="order").entries[0]
        new.revert(entry.version)
        own = WriteOptions(if_match=client.get_alias("live")["revision"])
        fields = {"gate": {"max_regressions": 0}, "shadow": "old", "shadow_share": 1.0}
        moved = client.put_alias("live", "new", fields, options=own)
        with pytest.raises(PreconditionFailed):
            client.put_alias("live", "old", options=own)
        shadows = [new.get_shadow("live"), client.reset_shadow("live")]
        client.roll_back("live", options=options)
        last = client.history(route_set="live", limit=1).entries[0]
        erased = old.erase(["parcel 7"])
        client.delete_alias("live")

        assert (written.count, page.total, bool(page.next_after)) == (3, 3, True)
        assert [each.text for each in page.tests] == ["money back", "parcel 7"]
        assert found.changed_total >= 1
        assert "refund my order" in [each.text for each in run.failures]
        assert refused.value.code == "gate_failed"
        assert refused.value.evidence is not None
        assert refused.value.evidence["regressions"] >= 1
        assert entry.version == drafted.version
        assert [each.before for each in entry.changes or ()] == [None]
        assert moved.evidence is not None
        assert moved.evidence.regressions == 0
        assert [each.shadow for each in shadows] == ["old"] * 2
        assert (last.note, last.alias) == ("ticket 12", "live")
        assert erased.found.tests == 2
        assert client.get_erasure().version is not None
        assert new.list_tests().total == 2
        assert new.delete_tests().count == 2
        for name in ("old", "new"):
            client.delete_set(name)


def test_lost_answer_of_a_write_has_one_effect(shared: Cluster) -> None:
    """A proxy loses the answer; the retry through another node finds the first one's effect."""
    shared.put(0, "ambiguous", "first text")
    proxy = shared.network.proxy(shared[0].process.port)
    urls = [f"http://127.0.0.1:{proxy.port}", shared[1].process.url]
    shared.network.set_fault(proxy, Fault.TO_SERVER_ONLY)
    with Client(urls, api_key="", attempt_seconds=1.0) as client:
        # The calls begin with the addresses in turn, so one of the two goes through the proxy.
        added = [client.add_utterances("ambiguous", [text]) for text in ("second", "third")]
        assert proxy.answers_held.is_set()
        assert sorted(client.get_route("ambiguous").utterances) == ["first text", "second", "third"]
    history = shared[1].http.get("/v1/history", params={"route": "ambiguous"}).json()["entries"]

    assert [("applied", 1)] * 2 == [(each.status, each.count) for each in added]
    assert sorted(each.version for each in added) == sorted(
        entry["version"] for entry in history[: len(history) - 1]
    )
    shared.judge()


def test_client_verifies_nodes_and_shows_its_certificate(tmp_path: Path) -> None:
    """Nodes that require client certificates, and keys."""
    tls = TestTls.make(tmp_path / "tls")
    keys = tmp_path / "keys"
    key = make_key()
    keys.write_text(key_line(key, ["read", "write", "admin"], "program") + "\n")
    server = Server("valkey", require_valkey(), tmp_path / "valkey").start()
    settings = {"tls_client_auth": "required", "api_keys_file": str(keys)}
    once = RetryPolicy(attempts_max=1)
    try:
        with cluster_on(tmp_path, server, 2, tls=tls, api_key=key, **settings) as cluster:
            files = {
                "ca_file": tls.ca,
                "client_cert_file": tls.cert,
                "client_key_file": tls.key,
            }
            with Client(urls_of(cluster), api_key=key, **files) as client:
                client.put_route(route("a"))
                assert client.query("a one").route == "a"
            with (
                Client(urls_of(cluster), api_key="sr_wrong", **files) as client,
                pytest.raises(AuthenticationFailed),
            ):
                client.query("a one")
            for partial in ({}, {"ca_file": tls.ca}):
                with (
                    Client(urls_of(cluster), api_key=key, retry=once, **partial) as client,
                    pytest.raises(ConnectionFailed),
                ):
                    client.query("a one")
    finally:
        server.stop()


def test_paused_node_is_left_for_another(start_cluster: StartCluster) -> None:
    """A node that is stopped takes connections and answers nothing."""
    cluster = start_cluster(nodes=2)
    with Client(urls_of(cluster), api_key="", attempt_seconds=1.0) as client:
        client.put_route(route("a"))
        cluster[1].signal(signal.SIGSTOP)
        began = time.monotonic()
        found = [client.query("a one").route for _ in range(6)]
        took_seconds = time.monotonic() - began
        cluster[1].signal(signal.SIGCONT)

    assert ["a"] * 6 == found
    assert took_seconds < 6


def test_without_nodes_a_write_says_that_nothing_was_taken(start_cluster: StartCluster) -> None:
    """An address that refuses connections has taken nothing."""
    cluster = start_cluster(nodes=1)
    cluster[0].kill()
    policy = RetryPolicy(attempts_max=2, first_wait_seconds=0.01)
    with Client(urls_of(cluster), api_key="", retry=policy) as client:
        with pytest.raises(ConnectionFailed) as caught:
            client.put_route(route("x"), options=WriteOptions(idempotency_key="mine"))
        cluster[0].process.start()
        cluster[0].wait_ready()
        again = client.put_route(route("x"), options=WriteOptions(idempotency_key="mine"))

    assert (caught.value.outcome, caught.value.idempotency_key) == ("not_taken", "mine")
    assert again.created
