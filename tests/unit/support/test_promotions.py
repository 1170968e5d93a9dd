"""Goal: an old draft is found, and nobody is blamed while a version is ambiguous."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from chaos.promotions import Promotions
from node_cluster import Member
from sim.history import History

WANTED = "1.234"


@pytest.mark.parametrize(
    ("draft", "version", "ambiguous", "count"),
    [
        (12, "1.240", set(), 0),
        (11, "1.240", set(), 1),
        (11, "1.240", {1}, 0),
        (11, "2.240", {1}, 1),
        (11, "2.240", {2}, 1),
        (12, "1.240", {1}, 0),
    ],
)
def test_old_draft_is_found_unless_its_epoch_had_two_orders(
    draft: int, version: str, ambiguous: set[int], count: int
) -> None:
    """An epoch that opened since then holds what a quorum had: it is judged."""

    def answer(_: httpx.Request) -> httpx.Response:
        document = {"route_set": f"live@{draft}", "payload": {"draft": draft}}
        return httpx.Response(200, json=document, headers={"SR-Version": version})

    assert count == len(_found(answer, ambiguous))


def test_answer_of_another_set_is_found_in_every_epoch() -> None:
    """A set that answers with the route of another one is wrong whatever Redis shows."""

    def answer(_: httpx.Request) -> httpx.Response:
        document = {"route_set": "live@12", "payload": {"draft": 11}}
        return httpx.Response(200, json=document, headers={"SR-Version": WANTED})

    assert len(_found(answer, {1})) == 1


def _found(answer: Any, ambiguous: set[int]) -> list[str]:
    """Let one client name a version in its query; return its findings."""
    member = cast(Member, SimpleNamespace(name="n0", process=SimpleNamespace(url="http://n0")))
    checked = Promotions(lambda: [member], History(), ambiguous_epochs=ambiguous)
    checked._held = 12, WANTED
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        checked.query(_AlwaysNames(), client)
    assert checked.counts["alias_queries"] == 1
    return checked.found


class _AlwaysNames(random.Random):
    """A client that names the version each time."""

    def random(self) -> float:
        """Below every share."""
        return 0.0
