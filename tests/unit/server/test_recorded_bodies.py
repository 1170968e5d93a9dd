"""Requests as real clients sent them, replayed: status, and the shape that the client reads.

``tests/data/decision_bodies.json`` holds the distinct bodies of recordings of openai,
systemone-client, litellm, its router, and semantic-router.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.server.decision_schemas import DecisionResponse, OpenAIError, SystemOneResponse
from synaptoroute.server.schemas import ProblemDocument

pytestmark = pytest.mark.unit

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "decision_bodies.json").read_text(encoding="utf-8")
)
MODELS = {
    ("/v1/decisions", 200): DecisionResponse,
    ("/v1/systemone", 200): SystemOneResponse,
    ("/v1/decisions", 422): OpenAIError,
    ("/v1/systemone", 422): ProblemDocument,
}
UNANSWERED = {"predicate", "noul", "score"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with the routes that the recorded clients name."""
    async with http_node(tmp_path) as started:
        for name, utterance in (("billing", "I was charged twice"), ("tech", "it is broken")):
            await started.http.put(f"/v1/routes/{name}", json={"utterances": [utterance, name]})
        yield started


async def test_recorded_bodies_get_what_their_clients_read(node: HttpNode) -> None:
    """Choices are answered; a request with a score or a bare statement is refused whole."""
    statuses = []
    for recorded in RECORDED:
        path, body = recorded["path"], recorded["body"]
        response = await node.http.post(path, json=body)
        document, questions = response.json(), body["questions"]
        named = questions if isinstance(questions, dict) else dict(enumerate(questions))
        kinds = {question["type"] for question in named.values()}

        assert (422 if kinds & UNANSWERED else 200) == response.status_code, response.text
        MODELS[path, response.status_code].model_validate(document, strict=True)
        statuses.append(response.status_code)
        if response.status_code == 200:
            check_answers(named, document["answers"])
            assert body.get("model", "default") == document["model"]
    assert len(RECORDED) == len(statuses)
    assert {200, 422} == set(statuses)


def check_answers(questions: dict[Any, Any], answers: Any) -> None:
    """Check that every question has its answer, and every option its probability."""
    for key, question in questions.items():
        answer = answers[key]
        spread = answer["probabilities"]
        if isinstance(spread, list):
            spread = {each["value"]: each["probability"] for each in spread}
            options = [choice["value"] for choice in question["choices"]]
        else:
            options = list(question["criteria"])
        assert options == list(spread)
        assert 1.0 == pytest.approx(sum(spread.values()))
        assert answer["choice"] in options


async def test_wrapper_of_litellm_is_not_encoded(node: HttpNode) -> None:
    """The message alone is an utterance of a route, so the answer is certain."""
    recorded = next(each for each in RECORDED if "Classify" in str(each["body"].get("state")))
    criteria = recorded["body"]["questions"]["tier"]["criteria"]
    for name in criteria:
        text = "What is 2+2?" if name == "MEDIUM" else name
        await node.http.put(f"/v1/routes/{name}", json={"utterances": [text]})
    response = await node.http.post(recorded["path"], json=recorded["body"])
    answer = response.json()["answers"]["tier"]

    assert ("MEDIUM", 1.0) == (answer["choice"], answer["confidence"])
