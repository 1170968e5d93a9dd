"""Goal: a flood is shed at the door, with a time; whoever comes after it finds the node well.

Method: a real node with small queues, and ten times as many clients as it lets wait.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from node_cluster import Member, StartCluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
CLIENTS = 32
REQUESTS = 3
WORDS = " ".join(f"word{n}" for n in range(60))


def flood(request: Callable[[httpx.Client, int], httpx.Response]) -> list[httpx.Response]:
    """Send requests from many clients at once; give every answer."""
    answers: list[httpx.Response] = []
    together = threading.Barrier(CLIENTS)

    def run(number: int) -> None:
        with httpx.Client(timeout=60.0, trust_env=False) as client:
            together.wait()
            for turn in range(REQUESTS):
                answers.append(request(client, number * REQUESTS + turn))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def batch(member: Member) -> Callable[[httpx.Client, int], httpx.Response]:
    """A request with many different queries."""

    def ask(client: httpx.Client, number: int) -> httpx.Response:
        texts = [f"{number} {n} {WORDS}" for n in range(8)]
        return client.post(f"{member.process.url}/v1/query/batch", json={"texts": texts})

    return ask


def write(member: Member) -> Callable[[httpx.Client, int], httpx.Response]:
    """A request with many utterances to encode."""

    def put(client: httpx.Client, number: int) -> httpx.Response:
        utterances = [f"{number} {n} {WORDS}" for n in range(16)]
        url = f"{member.process.url}/v1/routes/r{number % 8}"
        return client.put(url, json={"utterances": utterances})

    return put


def judge(answers: list[httpx.Response]) -> Counter[int]:
    """Every answer is a success or a refusal that says when to come again."""
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    counts = Counter(answer.status_code for answer in answers)
    assert len(answers) == CLIENTS * REQUESTS
    assert set(counts) <= {200, 201, 429}, counts
    return counts


def test_floods_are_refused_with_retry_after_and_leave_nothing_behind(
    start_cluster: StartCluster,
) -> None:
    """Queries and writes, each far beyond the queue; both peers go on, and are one."""
    cluster = start_cluster("valkey", 2, queue_requests_max="16", write_texts_max="64")
    cluster.put(0, "kept", "one text", "another text")
    queried = judge(flood(batch(cluster[0])))
    written = judge(flood(write(cluster[0])))
    answers = [m.http.post("/v1/query", json={"text": "one text"}).json() for m in cluster.members]

    assert queried[429] > 0 < queried[200]
    assert written[429] > 0 < written[200] + written[201]
    assert ["kept"] * 2 == [answer["route"] for answer in answers]
    assert cluster.put(1, "after", "the flood").is_acknowledged
    cluster.judge()
