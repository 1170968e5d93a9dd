"""Goal: one Idempotency-Key has one effect and one answer, whatever races for it.

Method: requests with one key and different bodies at once through three real nodes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import pytest

from node_cluster import Cluster

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


@pytest.mark.parametrize("races", [40, pytest.param(2_000, marks=pytest.mark.slow)])
def test_one_body_wins_on_every_node(shared: Cluster, races: int) -> None:
    """Every request with another body gets 422, every other one the same answer."""
    urls = [member.process.url for member in shared.members]

    assert [] == asyncio.run(race_all(urls, races, seed=1))
    shared.settle()
