"""Ask a node with systemone-client; print what came back.

python decisions_systemone.py URL KEY KEY_WITHOUT_SCOPE
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from systemone import AsyncClient, Choice, Client, Noul, SystemOneError

URL, KEY = sys.argv[1:3]
TEXT = "where is my parcel"
ROUTES = Choice("Which route?", {"refund": "money back", "parcel": None})


def many(count: int) -> dict[str, Any]:
    names = ["parcel", *(f"option {number}" for number in range(count - 1))]
    return {"type": "choice", "instructions": "Which?", "criteria": dict.fromkeys(names)}


CASES: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "string": (TEXT, {"route": ROUTES}, None),
    "object": ({"msg": TEXT, "lang": None, "n": 2}, {"route": ROUTES}, "default"),
    "array": ([TEXT], {"route": ROUTES}, "synaptoroute"),
    "conversation": (
        [{"role": "assistant", "content": "hello"}, {"role": "user", "content": TEXT}],
        {"route": ROUTES},
        None,
    ),
    "two": (TEXT, {"route": ROUTES, "other": Choice("?", {"refund": None, "none": None})}, None),
    "255": (TEXT, {"route": many(255)}, None),
}
SIDES = Noul("Is it about a parcel?", {"true": "a parcel that is late", "false": "money back"})
REFUSED: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "256": (TEXT, {"route": many(256)}, None),
    "noul": (TEXT, {"route": ROUTES, "urgent": Noul("Is it urgent?")}, None),
    "model": (TEXT, {"route": ROUTES}, "jev-latest"),
    "no_text": ({"n": 1}, {"route": ROUTES}, None),
}


def shown(response: Any) -> dict[str, Any]:
    answer = response.choices["route"]
    return {
        "choice": answer.choice,
        "confidence": answer.confidence,
        "sum": sum(answer.probabilities.values()),
        "values": len(answer.probabilities),
        "model": response.model,
        "input_tokens": response.usage.input_tokens,
        "answers": list(response.choices),
    }


def ask() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Client(URL, KEY) as client:
        for name, case in CASES.items():
            found[name] = shown(client.system_one(*case))
        sides = client.system_one(TEXT, {"parcel": SIDES, "route": ROUTES})
        found["sides"] = [sides.nouls["parcel"].noul, sides.choices["route"].choice]
        for name, case in REFUSED.items():
            try:
                client.system_one(*case)
            except SystemOneError as error:
                found[name] = [error.status, error.detail]
    for name, key in (("wrong_key", "sk-wrong"), ("no_scope", sys.argv[3])):
        with Client(URL, key) as client:
            try:
                client.system_one(*CASES["string"])
            except SystemOneError as error:
                found[name] = [error.status, error.detail]
    return found


async def ask_async() -> dict[str, Any]:
    client = AsyncClient(URL, KEY)
    try:
        return {name: shown(await client.system_one(*case)) for name, case in CASES.items()}
    finally:
        await client.aclose()


print(json.dumps({"sync": ask(), "async": asyncio.run(ask_async())}))
