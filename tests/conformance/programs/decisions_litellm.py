"""Ask a node with LiteLLM: both functions, three prefixes, and its router; print what came back.

python decisions_litellm.py URL KEY
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_TELEMETRY"] = "False"

import litellm

URL, KEY = sys.argv[1:3]
TEXT = "where is my parcel"
TARGET = {"api_base": URL, "api_key": KEY}
QUESTIONS = {
    "route": {
        "type": "choice",
        "instructions": "Which route?",
        "criteria": {"refund": "money back", "parcel": None},
    }
}
OPENAI_QUESTIONS = [
    {
        "type": "choice",
        "name": "route",
        "instructions": "Which route?",
        "choices": [{"value": "refund", "description": "money back"}, {"value": "parcel"}],
    }
]
PREFIXES = ("typesafe/", "hosted_vllm/", "openai/")
STATES: dict[str, Any] = {"string": TEXT, "object": {"msg": TEXT, "n": 3}, "array": [TEXT]}


def many(count: int) -> dict[str, Any]:
    names = ["parcel", *(f"option {number}" for number in range(count - 1))]
    return {"route": {"type": "choice", "instructions": "?", "criteria": dict.fromkeys(names)}}


def shown(response: Any) -> list[Any]:
    document = response.model_dump()
    answers = document["answers"]
    answer = answers["route"] if isinstance(answers, dict) else answers[0]
    return [answer["choice"], answer["confidence"], document["usage"]["input_tokens"]]


async def ask(prefix: str) -> dict[str, Any]:
    """Both functions, sync and async; what cannot be sent in a form is named by its error."""
    found: dict[str, Any] = {}
    base = f"{URL}/v1" if prefix == "openai/" else URL
    target = {**TARGET, "api_base": base, "model": f"{prefix}synaptoroute"}
    for name, state in STATES.items():
        request = {**target, "state": state, "questions": QUESTIONS}
        answers = [litellm.systemone(**request), await litellm.asystemone(**request)]
        found[f"systemone {name}"] = [shown(each) for each in answers]
    request = {**target, "input": TEXT, "questions": OPENAI_QUESTIONS}
    answers = [litellm.decisions(**request), await litellm.adecisions(**request)]
    found["decisions string"] = [shown(each) for each in answers]
    request = {**target, "state": TEXT, "questions": many(255)}
    found["255"] = shown(litellm.systemone(**request))
    sides = {"true": "a parcel that is late", "false": "money back"}
    noul = {"type": "noul", "instructions": "Is it a parcel?", "criteria": sides}
    response = litellm.systemone(**{**request, "questions": {"parcel": noul}})
    found["sides"] = response.model_dump()["answers"]["parcel"]["noul"]
    for name, change in (
        ("256", {"questions": many(256)}),
        ("model", {"model": f"{prefix}gpt-9"}),
        ("wrong_key", {"api_key": "sk-wrong"}),
        ("no_scope", {"api_key": sys.argv[3]}),
    ):
        try:
            litellm.systemone(**{**request, "questions": QUESTIONS, **change})
        except Exception as error:
            found[name] = [type(error).__name__, getattr(error, "status_code", None)]
    return found


async def ask_router() -> dict[str, Any]:
    """A router whose classifier is the node; tiers are routes of its set."""

    def model(name: str) -> dict[str, Any]:
        parameters = {"model": f"openai/{name}", "api_key": "x", "mock_response": name}
        return {"model_name": name, "litellm_params": parameters}

    config = {
        "classifier_type": "jev",
        "jev_classifier_config": {"model": "synaptoroute", **TARGET},
        "tiers": {"SIMPLE": "small", "MEDIUM": "small", "COMPLEX": "large", "REASONING": "large"},
    }
    auto = {
        "model": "auto_router/complexity_router",
        "complexity_router_config": config,
        "complexity_router_default_model": "small",
    }
    router = litellm.Router(
        model_list=[
            model("small"),
            model("large"),
            {"model_name": "auto", "litellm_params": auto},
        ]
    )
    found = {}
    for text in ("What is 2+2?", "Prove that there are infinitely many primes"):
        messages = [{"role": "user", "content": text}]
        response = await router.acompletion(model="auto", messages=messages)
        found[text] = response.choices[0].message.content
    return found


async def main() -> None:
    found: dict[str, Any] = {prefix: await ask(prefix) for prefix in PREFIXES}
    found["router"] = await ask_router()
    print(json.dumps(found))


asyncio.run(main())
