"""LiteLLM's proxy routes chat requests by a node to two models, as in examples/litellm_proxy."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from litellm_proxy import LiteLlmProxy, litellm_proxy

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


def test_chat_requests_go_to_the_model_of_their_route(tmp_path: Path) -> None:
    """The node decides; if it does not answer, the fallback tier does."""
    with litellm_proxy(tmp_path) as proxy, httpx.Client(timeout=60) as http:
        small = [proxy.ask(http, text) for text in SMALL]
        large = [proxy.ask(http, text) for text in LARGE]
        named = proxy.ask(http, SMALL[0], model="large")
        decisions = decisions_of(proxy)
        proxy.node.stop()
        lost = proxy.ask(http, SMALL[1])

    assert ["I am small"] * 3 == small
    assert ["I am large"] * 3 == large
    assert "I am large" == named
    assert 6 == decisions
    assert "I am large" == lost
