"""Route with semantic-router's DecisionRouter, whose model is a node; print what came back.

python decisions_semantic_router.py URL KEY
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from semantic_router.decision_models.systemone import SystemOneDecisionModel
from semantic_router.route import Route
from semantic_router.routers.decision import DecisionRouter

URL, KEY = sys.argv[1:3]
TEXTS = ("where is my parcel", "I want my money back please", "zebra quantum violin")


def router(key: str = KEY, count: int = 0, name: str = "default") -> DecisionRouter:
    routes = [
        # Samples that point the wrong way: the routes of the set have utterances of their own.
        Route(name="refund", utterances=["where is my parcel", "track my order"]),
        Route(name="parcel", utterances=["give me my money"], description="refunds"),
        Route(name="none", utterances=["anything else"]),
    ]
    routes += [Route(name=f"option {at}", utterances=["x"]) for at in range(count - len(routes))]
    model = SystemOneDecisionModel(name=name, base_url=URL, api_key=key, retries=0)
    return DecisionRouter(model, routes, confidence_threshold=0.5)


def shown(choice: Any) -> list[Any]:
    return [choice.name, choice.confidence]


async def ask_async() -> list[Any]:
    found = router()
    answers = [shown(await found.acall(text)) for text in TEXTS]
    await found.aclose()
    return answers


def refused(**given: Any) -> str:
    found = router(**given)
    try:
        found(TEXTS[0])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        found.close()
    return "answered"


sync = router()
result: dict[str, Any] = {"sync": [shown(sync(text)) for text in TEXTS]}
sync.close()
result["async"] = asyncio.run(ask_async())
whole = router(count=255)
result["255"] = shown(whole(TEXTS[0]))
whole.close()
result["256"] = refused(count=256)
result["wrong_key"] = refused(key="sk-wrong")
result["model"] = refused(name="jev-latest")
print(json.dumps(result))
