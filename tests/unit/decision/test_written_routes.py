"""Tests of decisions on routes as a user writes them, with the bundled encoder.

Written examples differ more from each other than questions do from the nearest of them; so a
short question may be far from most examples of its route, and belong to it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from route_sets import loaded
from synaptoroute.core.mutation import Settings
from synaptoroute.decision import fit_decision
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Ranking, rank
from synaptoroute.tensor import Tensor

FILE = Path(__file__).parent / "data" / "support_desk.yaml"
ASKED = {
    "my money please": "refunds",
    "How can I return these shoes": "returns",
    "I'd like to send my headphones back": "returns",
    "my package is three days late, where is it": "order-status",
    "the delivery guy left my parcel with nobody, it's gone": "order-status",
    "please ship it to a different address than the one I gave": "change-order",
    "am I allowed to return it after 30 days": "returns",
    "still waiting for my money after sending the laptop back": "refunds",
    "the same purchase shows up two times on my bank statement": "payment-problem",
    "I need a receipt for my tax return": "invoices",
    "stop renewing my plan every year": "subscription",
    "the activation code you sent is rejected": "licence-activation",
    "I don't remember my login password": "sign-in",
    "pressing the power button does nothing": "computer-wont-start",
    "my wireless connection is lost all the time": "wifi-and-network",
    "is a broken display covered by the guarantee": "warranty-and-repair",
    "let me talk to a real human being": "talk-to-a-person",
}
FOREIGN = (
    "what should I cook for dinner tonight",
    "will it rain in Lisbon tomorrow",
    "who won the football match last night",
    "translate good morning into Japanese",
    "how tall is Mount Everest",
    "tell me a joke about cats",
    "book me a table for two at eight",
    "what is the capital of Mongolia",
    "are you hiring students for the summer",
    "do you sell garden furniture",
)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    opened = Encoder(providers=["CPUExecutionProvider"])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def routes(encoder: Encoder) -> tuple[Tensor, list[str]]:
    """The routes with the numbers of their fit, and their names."""
    read = yaml.safe_load(FILE.read_text(encoding="utf-8"))["routes"]
    texts = [(text, place) for place, each in enumerate(read) for text in each["utterances"]]
    rows = encoder.encode_utterances([text for text, _ in texts])
    owners = [place for _, place in texts]
    found = fit_decision(rows, np.array(owners), "adaptive")
    assert found is not None
    settings = Settings("adaptive", threshold=None, confidence_min=0.5)
    return loaded(rows, owners, settings, found.dump()), [each["name"] for each in read]


def answers(encoder: Encoder, tensor: Tensor, texts: list[str]) -> list[Ranking]:
    return rank(tensor, encoder.encode(texts), [QuerySpec()] * len(texts))


def test_questions_of_other_words_get_their_route(
    encoder: Encoder, routes: tuple[Tensor, list[str]]
) -> None:
    tensor, names = routes
    for (text, expected), found in zip(
        ASKED.items(), answers(encoder, tensor, list(ASKED)), strict=True
    ):
        top = found.top[0]
        assert names[top.route_id] == expected, text
        assert top.confidence is not None
        assert top.confidence >= 0.5, text
        assert found.best == top


def test_foreign_questions_get_no_route(encoder: Encoder, routes: tuple[Tensor, list[str]]) -> None:
    for text, found in zip(FOREIGN, answers(encoder, routes[0], list(FOREIGN)), strict=True):
        assert found.best is None, text
