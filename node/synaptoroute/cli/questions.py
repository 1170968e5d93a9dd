"""Eight questions for the example routes, which show what an answer says.

Three words of one meaning, an utterance, two questions that belong to no route, and one that
the encoder cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from synaptoroute.cli.terminal import Cell, number, print_table

QUESTIONS: Final = (
    ("How can I return these shoes", "returns"),
    ("my money please", "refunds"),
    ("I'd like to send my headphones back", "returns"),
    ("where is my order", "order-status"),
    ("the site does not let me in", "sign-in"),
    ("will it rain in Lisbon tomorrow", None),
    ("write a poem about the sea", None),
    ("👍👍👍", None),
)
"""Texts, and the routes of ``examples/routes.yaml`` that they belong to."""
_NO_ROUTE: Final = {
    "not_understood": "not understood",
    "no_routes": "no routes yet",
}


def known_questions(names: Collection[str]) -> list[str]:
    """Choose the questions for a route set: all for the example routes, none for others."""
    expected = {route for _, route in QUESTIONS if route}
    return [text for text, _ in QUESTIONS] if expected <= set(names) else []


def ask_questions(
    ask: Callable[[str], dict[str, Any]], names: Collection[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Ask the questions that a route set can answer: texts and matches."""
    return [(text, ask(text)) for text in known_questions(names)]


def show_questions(answers: Iterable[tuple[str, dict[str, Any]]]) -> None:
    print_table(
        ("question", "route", "confidence", "nearest example"),
        (_row(text, match) for text, match in answers),
        right=("confidence",),
    )


def _row(text: str, match: dict[str, Any]) -> tuple[Cell, ...]:
    route = match["route"]
    shown: Cell = (route, "ok") if route else (_NO_ROUTE.get(match["reason"], "no route"), "warn")
    return (text, shown, number(match.get("confidence"), 2), match["utterance"] or "–")
