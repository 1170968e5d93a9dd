"""LiteLLM's proxy routes chat requests by a node to two models, as in examples/litellm_proxy."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from litellm_proxy import LiteLlmProxy, config_with, litellm_proxy

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["hello there", "What is the capital of Peru?", "what does TCP stand for"]
LARGE = [
    "Prove that there are infinitely many primes",
    "Refactor this module so that its parts can be tested",
    "Compare two designs for a job queue and their trade-offs",
]


def decisions_of(proxy: LiteLlmProxy) -> int:
    """How many decisions the node has answered."""
    text = httpx.get(f"{proxy.node.url}/metrics").text
    counted = r'^synaptoroute_decision_question_total\{endpoint="[^"]*systemone",.*\} ([0-9.]+)$'
    found = re.findall(counted, text, re.MULTILINE)
    return int(sum(map(float, found)))


def put_tiers(proxy: LiteLlmProxy) -> None:
    """Routes with the names of LiteLLM's own tiers."""
    utterances = {
        "SIMPLE": ["hello there", "what is the capital of Peru"],
        "MEDIUM": ["explain how a bicycle stays upright", "summarize this article"],
        "COMPLEX": ["design the schema of a billing system", "refactor this module"],
        "REASONING": ["prove that there are infinitely many primes", "weigh these options"],
    }
    routes = [{"name": name, "utterances": each} for name, each in utterances.items()]
    answer = httpx.post(f"{proxy.node.url}/v1/import", json={"routes": routes})
    assert answer.is_success, answer.text


def test_chat_requests_go_to_the_model_of_their_route(tmp_path: Path) -> None:
    """With tiers of one's own and with LiteLLM's; if the node does not answer, the fallback
    tier does.
    """
    tiers = {"SIMPLE": "small", "MEDIUM": "small", "COMPLEX": "large", "REASONING": "large"}
    router = {
        "classifier_type": "oss_classifier",
        "opensource_classifier_config": {"model": "default"},
        "tiers": tiers,
    }
    config = config_with(tmp_path, "tiers", router)
    with litellm_proxy(tmp_path, config) as proxy, httpx.Client(timeout=60) as http:
        small = [proxy.ask(http, text) for text in SMALL]
        large = [proxy.ask(http, text) for text in LARGE]
        named = proxy.ask(http, SMALL[0], model="large")
        put_tiers(proxy)
        built_in = [proxy.ask(http, text, model="tiers") for text in (SMALL[0], LARGE[0])]
        decisions = decisions_of(proxy)
        proxy.node.stop()
        lost = proxy.ask(http, SMALL[1])

    assert ["I am small"] * 3 == small
    assert ["I am large"] * 3 == large
    assert "I am large" == named
    assert ["I am small", "I am large"] == built_in
    assert 8 == decisions
    assert "I am large" == lost
