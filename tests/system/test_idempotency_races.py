"""Goal: one Idempotency-Key has one effect and one answer, whatever races for it.

Method: requests with one key and different bodies at once through three real nodes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

BODIES = 3
AT_ONCE = 4  # races
REQUEST_SECONDS = 60.0
CALLS = ("PUT", "PATCH", "DELETE", "POST")


def request_of(call: str, race: int, body: int) -> tuple[str, dict[str, Any] | None]:
    """Path and body of one request; the bodies of a race differ."""
    if call == "PUT":
        return f"/v1/routes/race{race}", {"utterances": [f"race {race} words {body}"]}
    if call == "PATCH":
        return "/v1/routes/raced", {"payload": f"{race} {body}"}
    if call == "POST":
        return "/v1/routes/raced/utterances", {"utterances": [f"race {race} more {body}"]}
    return f"/v1/routes/doomed{race}-{body}", None


def shown(answer: httpx.Response) -> tuple[Any, ...]:
    """What must be equal in all answers to one request."""
    headers = ("sr-version", "etag", "sr-op-id", "location")
    return (answer.status_code, *(answer.headers.get(name) for name in headers), answer.text)


async def race(clients: list[httpx.AsyncClient], number: int, draw: random.Random) -> list[str]:
    """Send one key with different bodies through every node at once; list what is wrong."""
    call = draw.choice(CALLS)
    ack = draw.choice(("accepted", "applied", "applied", "quorum"))
    if call == "DELETE":
        for body in range(BODIES):
            path, _ = request_of(call, number, body)
            await clients[body].put(path, json={"utterances": [path]}, params={"ack": "all"})
    sent = [(client, body) for client in clients for body in range(BODIES)]
    draw.shuffle(sent)
    sent.append(sent[0])

    async def ask(client: httpx.AsyncClient, body: int) -> tuple[int, httpx.Response]:
        path, document = request_of(call, number, body)
        headers = {"Idempotency-Key": f"race-{number}"}
        asked = {"ack": ack, "ack_timeout": 30}
        return body, await client.request(
            call, path, json=document, headers=headers, params=asked, timeout=REQUEST_SECONDS
        )

    answers = await asyncio.gather(*(ask(*each) for each in sent))
    answers += [await ask(*sent[draw.randrange(len(sent))])]
    winners = {body for body, answer in answers if answer.is_success}
    codes = Counter(answer.json()["code"] for body, answer in answers if body not in winners)
    of_winner = {shown(answer) for body, answer in answers if body in winners}
    if len(winners) == 1 and len(of_winner) == 1 and set(codes) == {"idempotency_conflict"}:
        return []
    return [f"{number} {call} {ack}: {winners} won, {codes}, {of_winner}"]


async def race_all(urls: list[str], races: int, seed: int) -> list[str]:
    """Run races, a few at once; list what was wrong."""
    wrong: list[str] = []
    clients = [httpx.AsyncClient(base_url=url, trust_env=False) for url in urls]
    await clients[0].put("/v1/routes/raced", json={"utterances": ["raced"]}, params={"ack": "all"})

    async def run(first: int) -> None:
        for number in range(first, races, AT_ONCE):
            wrong.extend(await race(clients, number, random.Random(f"{seed} {number}")))

    await asyncio.gather(*map(run, range(AT_ONCE)))
    for client in clients:
        await client.aclose()
    return wrong


@pytest.mark.parametrize("races", [40, pytest.param(2_000, marks=pytest.mark.accept)])
def test_one_body_wins_on_every_node(shared: Cluster, races: int) -> None:
    """Every request with another body gets 422, every other one the same answer."""
    urls = [member.process.url for member in shared.members]

    assert [] == asyncio.run(race_all(urls, races, seed=1))
    shared.settle()


def test_answers_survive_a_kill_and_a_recovery(start_cluster: StartCluster) -> None:
    """A node that was killed, and a log that was lost, repeat the same answers."""
    cluster = start_cluster("valkey", nodes=3)

    def ask(node: int, number: int, body: int = 0) -> httpx.Response:
        call = CALLS[number % 2]  # PUT or PATCH
        path, document = request_of(call, number, body)
        headers = {"Idempotency-Key": f"kept-{number}"}
        return cluster[node].http.request(
            call, path, json=document, headers=headers, params={"ack": "quorum"}
        )

    cluster[0].http.put("/v1/routes/raced", json={"utterances": ["raced"]})
    first = [ask(0, number) for number in range(6)]
    cluster[1].kill()
    cluster[1].start().wait_ready()
    killed = [ask(1, number) for number in range(6)]
    cluster.server.call("FLUSHALL")
    until(lambda: cluster[2].http.put("/v1/routes/after", json={"utterances": ["a"]}).is_success)
    flushed = [ask(2, number) for number in range(6)]
    others = [ask(number % 3, number, body=1) for number in range(6)]

    assert all(each.is_success for each in first)
    assert [shown(each) for each in first] == [shown(each) for each in killed]
    assert [shown(each) for each in first] == [shown(each) for each in flushed]
    assert ["idempotency_conflict"] * 6 == [each.json()["code"] for each in others]


def test_one_of_several_imports_wins_on_every_node(shared: Cluster) -> None:
    """Imports with one identity through all nodes at once: one content, one answer."""

    def send(node: int, body: int) -> httpx.Response:
        routes = [
            {"name": f"imported{n}", "utterances": [f"{body} {n} {each}" for each in range(100)]}
            for n in range(6)
        ]
        return shared[node].http.post(
            "/v1/import?import_id=raced&ack=quorum", json={"routes": routes}
        )

    sent = [(node, body) for node in range(3) for body in (0, 1)]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda each: send(*each), sent))
    winners = {body for (_, body), each in zip(sent, answers, strict=True) if each.is_success}
    texts = {each.text for each in answers if each.is_success}
    codes = {each.json()["code"] for each in answers if not each.is_success}
    stored = shared[0].http.get("/v1/routes/imported0").json()["utterances"]

    assert (1, 1) == (len(winners), len(texts)), [each.text for each in answers]
    assert {"idempotency_conflict"} == codes
    assert stored[0].startswith(f"{winners.pop()} ")
    until(lambda: not shared[0].http.get("/v1/imports").json()["imports"])
    shared.judge()
