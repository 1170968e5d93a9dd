"""Ask a node with OpenAI's client and LangChain's runnable; print what came back.

python decisions_openai.py URL KEY
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai.decisions import Choice, OpenAIDecisions

URL, KEY = sys.argv[1:3]
TEXT = "where is my parcel"
MESSAGES = [
    {"role": "assistant", "content": "How can I help?"},
    {"role": "user", "content": [{"type": "input_text", "text": TEXT}]},
]


def question(*values: str | bool, name: str = "route") -> dict[str, Any]:
    choices = [{"value": value, "description": "some words"} for value in values]
    return {"type": "choice", "name": name, "instructions": "Which?", "choices": choices}


def many(count: int) -> dict[str, Any]:
    return question("parcel", *(f"option {number}" for number in range(count - 1)))


def shown(decision: Any) -> dict[str, Any]:
    answer = decision.answers[0]
    return {
        "choice": answer.choice,
        "confidence": answer.confidence,
        "sum": sum(each.probability for each in answer.probabilities),
        "values": len(answer.probabilities),
        "model": decision.model,
        "input_tokens": decision.usage.input_tokens,
        "total_tokens": decision.usage.total_tokens,
        "answers": [each.name for each in decision.answers],
    }


CASES: dict[str, dict[str, Any]] = {
    "string": {"input": TEXT, "questions": [question("refund", "parcel")]},
    "messages": {"input": MESSAGES, "questions": [question("refund", "parcel")]},
    "none": {"input": "zebra quantum violin", "questions": [question("refund", "parcel", "none")]},
    "boolean": {"input": "false", "questions": [question(True, "true", False)]},
    "several": {
        "input": TEXT,
        "questions": [question("refund", "parcel"), question("refund", "cats", name="other")],
    },
    "255": {"input": TEXT, "questions": [many(255)]},
}
REFUSED: dict[str, dict[str, Any]] = {
    "256": {"input": TEXT, "questions": [many(256)]},
    "one": {"input": TEXT, "questions": [question("parcel")]},
    "no_text": {"input": "", "questions": [question("refund", "parcel")]},
    "no_question": {"input": TEXT, "questions": []},
    "model": {"input": TEXT, "questions": [question("refund", "parcel")], "model": "gpt-9"},
    "image": {
        "input": [
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]},
        ],
        "questions": [question("refund", "parcel")],
    },
}


def described(error: openai.APIStatusError) -> list[Any]:
    return [type(error).__name__, error.status_code, error.code, error.type]


def ask() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as client:
        for name, case in CASES.items():
            found[name] = shown(client.decisions.create(**{"model": "default", **case}))
        for name, case in REFUSED.items():
            try:
                client.decisions.create(**{"model": "default", **case})
            except openai.APIStatusError as error:
                found[name] = described(error)
        raw = client.decisions.with_raw_response.create(model="default", **CASES["string"])
        found["version"] = raw.headers["sr-version"]
    for name, key in (("wrong_key", "sk-wrong"), ("no_scope", sys.argv[3])):
        with openai.OpenAI(base_url=f"{URL}/v1", api_key=key, max_retries=0) as client:
            try:
                client.decisions.create(model="default", **CASES["string"])
            except openai.APIStatusError as error:
                found[name] = described(error)
    return found


async def ask_async() -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as client:
        for name, case in CASES.items():
            found[name] = shown(await client.decisions.create(**{"model": "default", **case}))
        asked = [client.decisions.create(model="default", **CASES["string"]) for _ in range(16)]
        found["many"] = [each.answers[0].choice for each in await asyncio.gather(*asked)]
    return found


async def ask_langchain() -> dict[str, Any]:
    runnable = OpenAIDecisions(model="openai/default", api_key=KEY, base_url=f"{URL}/v1")
    questions = {
        "route": Choice(
            instructions="Which?", choices={"refund": "x", "parcel": None, "other": None}
        )
    }
    inputs = {
        "string": TEXT,
        "human": HumanMessage(TEXT),
        "conversation": [AIMessage("How can I help?"), HumanMessage(TEXT)],
        "object": {"ticket": {"text": TEXT, "number": 7}},
    }
    found: dict[str, Any] = {}
    for name, each in inputs.items():
        request = {"input": each, "questions": questions}
        sync, other = runnable.invoke(request), await runnable.ainvoke(request)
        answers = [response.choices["route"] for response in (sync, other)]
        found[name] = [[answer.choice, answer.confidence] for answer in answers]
    return found


def until_overloaded() -> dict[str, Any]:
    """Ask until the node refuses."""
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as client:
        for number in range(2_000):
            try:
                client.decisions.create(
                    model="default",
                    input=f"{TEXT} {number}",
                    questions=[question("refund", "parcel")],
                )
            except openai.RateLimitError as error:
                retry_after = error.response.headers["retry-after"]
                return {"refused": described(error), "retry_after": retry_after}
    return {"refused": None}


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[3] == "overload":
        print(json.dumps(until_overloaded()))
        return
    found = {
        "openai": {"sync": ask(), "async": asyncio.run(ask_async())},
        "langchain": asyncio.run(ask_langchain()),
    }
    print(json.dumps(found))


main()
