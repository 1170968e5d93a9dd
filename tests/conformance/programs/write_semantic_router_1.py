"""Write files with semantic-router 1.x itself; print the routes that it holds in each.

    write_semantic_router_1.py FOLDER

Embeddings come from a stand-in: the files hold none, and nothing is fetched.
"""

import json
import sys
from pathlib import Path

import tiktoken
from semantic_router import Route
from semantic_router.calibration import Calibrator
from semantic_router.config import save_router
from semantic_router.decision_models import SystemOneDecisionModel
from semantic_router.encoders import OpenAIEncoder
from semantic_router.routers import Chain, DecisionRouter, IndexedRouter, Merge

tiktoken.encoding_for_model = lambda name: None  # fetches a vocabulary
OpenAIEncoder.__call__ = lambda self, docs, **options: [[float(len(d)), 1.0] for d in docs]

ROUTES = [
    Route(name="refunds", utterances=["I want my money back", "Refund me: now"]),
    Route(
        name="退款",
        utterances=["我要退款", "yes", "12:30"],
        description="Geld zurück, für \u2028 alle",
        confidence_threshold=0.42,
        metadata={"team": "billing", "tags": ["a", "b"], "nested": {"x": 1}},
    ),
    Route(name="smalltalk/weather", utterances=["will it rain?", "will it rain?"]),
]
DECIDED = [
    Route(name="refunds", utterances=["give it back"], description="Money back"),
    Route(name="complaints", description="Anger about the service"),
]


def indexed(**options):
    encoder = OpenAIEncoder(name="text-embedding-3-small", openai_api_key="sk-none")
    return IndexedRouter(encoder=encoder, routes=ROUTES, **options)


def main(folder: Path) -> None:
    decision = DecisionRouter(
        model=SystemOneDecisionModel(name="support", base_url="http://127.0.0.1:1"),
        routes=DECIDED,
        confidence_threshold=0.5,
    )
    calibrated = indexed(confidence_threshold=0.3)
    calibrated.calibrator = Calibrator("platt", {"a": [3.0], "b": [-1.0]})
    nested = Merge([Chain([indexed(), decision], confidence_threshold=0.2), indexed()])
    routers = {
        "indexed.yaml": [indexed(), [ROUTES]],
        "indexed.json": [calibrated, [ROUTES]],
        "decision.yaml": [decision, [DECIDED]],
        "chain.json": [Chain([indexed(), decision]), [ROUTES, DECIDED]],
        "merge.yaml": [nested, [ROUTES, DECIDED]],
    }
    expected = {}
    for name, (router, lists) in routers.items():
        save_router(router, folder / name)
        held = {}
        for route in (each for routes in lists for each in routes):
            held.setdefault(route.name, []).extend(route.utterances)
        expected[name] = held
    print(json.dumps(expected))


main(Path(sys.argv[1]))
