"""Goal: every documented maximum can be written to a cluster, as one write.

Method: three real nodes on a real Redis, whose entries take 256 KiB each.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, StartCluster, until
from synaptoroute.models import (
    METADATA_BYTES_MAX,
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

IDLE_SECONDS = "2"


def body(word: str, count: int = UTTERANCES_PER_ROUTE_CALL_MAX) -> dict[str, Any]:
    """Utterances of the largest size, and the largest metadata and payload."""
    texts = [f"{n:06} {word}".ljust(UTTERANCE_BYTES_MAX, word) for n in range(count)]
    fields = {"a": "f" * (METADATA_BYTES_MAX - len('{"a":""}'))}
    return {"utterances": texts, "metadata": fields, "payload": fields}


def keyed(**headers: str) -> dict[str, str]:
    """Headers of a write that can be repeated."""
    return {"Idempotency-Key": uuid.uuid4().hex, **headers}


def test_documented_maxima_are_one_write_each(shared: Cluster) -> None:
    """PUT, conditional PUT, additions and removals of 1,000 utterances of 8 KiB each."""
    first, second = shared[0].http, shared[1].http
    path, key = "/v1/routes/largest", keyed()
    written = first.put(path, json=body("x"), headers=key, params={"ack": "all"})
    again = second.put(path, json=body("x"), headers=key)
    other = second.put(path, json=body("y"), headers=key)
    tag = {"If-Match": written.headers["ETag"]}
    changed = second.put(path, json=body("y"), headers=keyed(**tag), params={"ack": "all"})
    stale = first.put(path, json=body("z"), headers=keyed(**tag))
    more = {"utterances": body("m")["utterances"]}
    added = second.post(f"{path}/utterances", json=more, params={"ack": "all"})
    removed = first.request("DELETE", f"{path}/utterances", json=more, params={"ack": "all"})
    shown = second.get(path).json()

    assert (201, 1_000) == (written.status_code, written.json()["count"]), written.text[:500]
    assert written.text.replace('"ack":"all"', '"ack":"applied"') == again.text
    assert written.headers["ETag"] == again.headers["ETag"]
    assert (422, "idempotency_conflict") == (other.status_code, other.json()["code"])
    assert (200, 412) == (changed.status_code, stale.status_code)
    assert stale.headers["ETag"] == changed.headers["ETag"]
    assert (1_000, 1_000) == (added.json()["count"], removed.json()["count"]), added.text[:500]
    assert sorted(body("y")["utterances"]) == sorted(shown["utterances"])
    assert removed.json()["version"] == shown["revision"]
    until(lambda: not shared[2].http.get("/v1/imports").json()["imports"])
    assert 200 == first.delete(path, params={"ack": "all"}).status_code
    shared.judge()


def test_patch_with_all_negatives_is_one_write(shared: Cluster) -> None:
    """128 negatives of 8 KiB each are more than an entry; the rest of the route stays."""
    first, second = shared[0].http, shared[1].http
    path, key = "/v1/routes/patched", keyed()
    whole = {"utterances": ["one", "two"], "payload": {"a": 1}, "confidence_min": 0.3}
    put = first.put(path, json=whole, params={"ack": "all"})
    patch = {"negatives": body("n", 128)["utterances"], "description": "d" * UTTERANCE_BYTES_MAX}
    patched = second.patch(path, json=patch, headers=key, params={"ack": "all"})
    again = first.patch(path, json=patch, headers=key)
    stale = first.patch(path, json=patch, headers={"If-Match": put.headers["ETag"]})
    absent = first.patch("/v1/routes/nowhere", json=patch)
    shown = [member.http.get(path).json() for member in shared.members]

    assert 200 == patched.status_code, patched.text[:500]
    assert patched.json()["version"] == again.json()["version"] == shown[0]["revision"]
    assert (412, "precondition_failed") == (stale.status_code, stale.json()["code"])
    assert (404, "route_not_found") == (absent.status_code, absent.json()["code"])
    assert shown[0] == shown[1] == shown[2]
    assert sorted(patch["negatives"]) == sorted(shown[0]["negatives"])
    assert patch["description"] == shown[0]["description"]
    kept = {name: shown[0][name] for name in whole}
    assert {**whole, "utterances": sorted(whole["utterances"])} == {
        **kept,
        "utterances": sorted(kept["utterances"]),
    }
    assert 200 == first.delete(path, params={"ack": "all"}).status_code
    shared.judge()


def test_large_patches_at_once_are_all_applied(shared: Cluster) -> None:
    """Each is put on the condition that the route did not change, and tried again if it did."""
    path = "/v1/routes/contended"
    shared[0].http.put(path, json={"utterances": ["one"]}, params={"ack": "all"})
    patches = [{"negatives": body(word, 64)["utterances"]} for word in "uv"]
    answers: list[httpx.Response] = []

    def send(number: int) -> None:
        answers.append(shared[number].http.patch(path, json=patches[number], timeout=60))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [200, 200] == [each.status_code for each in answers], [each.text for each in answers]
    found = sorted(shared[2].http.get(path, params={"consistency": "head"}).json()["negatives"])
    assert found in [sorted(patch["negatives"]) for patch in patches]
    shared[0].http.delete(path, params={"ack": "all"})


def test_revision_over_an_entry_says_what_to_do(shared: Cluster) -> None:
    """It changes several routes at once, so it is one entry; nothing of it is applied."""
    texts = [f"{number} text".ljust(1_000, "x") for number in range(300)]
    revision = {"routes": [{"name": "revised", "create": True, "utterances": texts}]}
    refused = shared[0].http.post("/v1/revisions", json=revision)

    assert (413, "too_large") == (refused.status_code, refused.json()["code"]), refused.text[:300]
    assert "of 300 texts" in refused.json()["detail"]
    assert "send it in several" in refused.json()["detail"]
    assert 404 == shared[0].http.get("/v1/routes/revised").status_code


def test_body_over_the_limit_gets_its_answer(shared: Cluster) -> None:
    """413 with the limit, also for a client that sends everything before it reads."""
    limit = 16_777_216
    padded = b'{"utterances": ["' + b"x" * limit + b'"]}'
    headers = {"Content-Type": "application/json"}
    answers = [
        shared[0].http.put("/v1/routes/big", content=padded, headers=headers),
        shared[0].http.put("/v1/routes/big", content=iter([padded]), headers=headers),
        shared[0].http.post("/v1/query", content=padded, headers=headers),
    ]

    for answer in answers:
        told = answer.json()
        assert (413, "too_large", limit) == (answer.status_code, told["code"], told["limit"])


def test_large_writes_of_all_nodes_at_once(shared: Cluster) -> None:
    """More of them than imports may be open."""
    answers: list[httpx.Response] = []

    def put(number: int) -> None:
        client = shared[number % 3].http
        path = f"/v1/routes/large{number}"
        answers.append(client.put(path, json=body("x", 100), params={"ack_timeout": 60}))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    for number in range(12):
        shared[0].http.delete(f"/v1/routes/large{number}")

    assert [201] * 12 == [each.status_code for each in answers]
    shared.judge()


def test_node_that_dies_between_the_parts_leaves_nothing(start_cluster: StartCluster) -> None:
    """Nothing becomes visible, and the staged parts are dropped by another node."""
    cluster = start_cluster("valkey", nodes=3, import_idle_seconds=IDLE_SECONDS)
    proxy = cluster[0].proxy
    assert proxy is not None
    proxy.delay_seconds = 0.1
    threading.Thread(target=_put_and_die, args=(cluster,), daemon=True).start()
    until(lambda: cluster[1].http.get("/v1/imports").json()["imports"])
    cluster[0].kill()
    shown = [cluster[node].http.get("/v1/routes/doomed").status_code for node in (1, 2)]
    until(lambda: not cluster[1].http.get("/v1/imports").json()["imports"])
    later = cluster[1].http.put("/v1/routes/doomed", json=body("x", 200), headers=keyed())

    assert [404, 404] == shown
    assert 201 == later.status_code


def _put_and_die(cluster: Cluster) -> None:
    with pytest.raises(httpx.TransportError):
        cluster[0].http.put("/v1/routes/doomed", json=body("x"))
