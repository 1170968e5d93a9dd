"""Answers that are read off the scores of a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synaptoroute.decision import shipped_calibration
from synaptoroute.questions import ChoiceQuestion, Option, OptionScores, answer_choice, is_none_name
from synaptoroute.questions.answers import RouteFigures, TextFigures

pytestmark = pytest.mark.unit

LEVELS = shipped_calibration("", "blend", 5.0, 8)
SCORES = OptionScores(
    version="1.4",
    node="n",
    tokens=5,
    was_cached=False,
    is_understood=True,
    routes={
        "billing": RouteFigures(0.7, 0, 0.5),
        "tech": RouteFigures(0.4, 3, 0.5),
        "sales": RouteFigures(0.4, 5, None),
    },
    texts={"weather": TextFigures(0.2, 0.2), "false": TextFigures(0.1, 0.1)},
    exact=(),
    barred=frozenset(),
    levels=LEVELS,
    fingerprint="",
    unmatched_share=0.1,
)


def question(*values: str | bool) -> ChoiceQuestion:
    return ChoiceQuestion(tuple(map(Option.of, values)))


def test_probabilities_add_up_to_one_and_the_choice_has_the_highest() -> None:
    """For any options."""
    for values in (("tech", "billing"), ("tech", "billing", "none"), ("billing", "weather", False)):
        answer = answer_choice(question(*values), SCORES)

        assert 1.0 == pytest.approx(sum(answer.probabilities))
        assert "billing" == answer.choice
        assert max(answer.probabilities) == answer.probabilities[values.index("billing")]


def test_confidence_leaves_room_for_none() -> None:
    """It is the same number with an option for none and without one."""
    without = answer_choice(question("billing", "tech"), SCORES)
    with_none = answer_choice(question("billing", "tech", "none"), SCORES)

    assert without.confidence == with_none.confidence < 1.0
    assert without.probabilities[0] > with_none.probabilities[0]


def test_none_takes_what_is_left() -> None:
    """Low scores leave most of the probability to it, in equal parts if there are several."""
    low = replace(SCORES, routes={"billing": RouteFigures(0.05, 0, None)}, texts={})
    answer = answer_choice(question("billing", "none"), low)
    several = answer_choice(question("billing", "other", "unknown"), low)

    assert "none" == answer.choice
    assert answer.confidence > 0.5
    assert several.probabilities[1] == several.probabilities[2]
    assert answer.confidence == pytest.approx(2 * several.confidence)


def test_route_named_like_none_is_a_route() -> None:
    """Its utterances count."""
    scores = replace(SCORES, routes={**SCORES.routes, "other": RouteFigures(0.9, 9, None)})
    assert "other" == answer_choice(question("billing", "other"), scores).choice


def test_exact_utterance_is_certain() -> None:
    """The first of the routes that have it, unless the text is a negative of that route."""
    scores = replace(SCORES, exact=("tech", "billing"))
    answer = answer_choice(question("billing", "tech", "none"), scores)
    barred = answer_choice(question("billing", "tech"), replace(scores, barred=frozenset({"tech"})))

    assert ("tech", 1.0, (0.0, 1.0, 0.0)) == (
        answer.choice,
        answer.confidence,
        answer.probabilities,
    )
    assert "billing" == barred.choice


def test_text_that_is_not_understood_has_no_confidence() -> None:
    """All options are equal, or none is chosen."""
    scores = replace(SCORES, is_understood=False)
    answer = answer_choice(question("billing", "tech"), scores)

    assert (0.0, (0.5, 0.5)) == (answer.confidence, answer.probabilities)
    assert ("none", 1.0) == (
        (found := answer_choice(question("billing", "none"), scores)).choice,
        found.confidence,
    )


def test_equal_scores_are_in_order_of_their_slots() -> None:
    """As in the ranking of a query."""
    answer = answer_choice(question("sales", "tech"), SCORES)
    assert answer.probabilities[0] == answer.probabilities[1]
    assert "sales" == answer.choice


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE_OF_THE_ABOVE", "N/A", "out-of-scope", "other", "noRoute"]
)
def test_names_of_none(name: str) -> None:
    """Case and separators do not matter."""
    assert is_none_name(name)


def test_names_that_are_options() -> None:
    """A Boolean, and names that only contain such a word."""
    assert not any(map(is_none_name, (True, False, "another", "nonessential", "other-billing")))


def test_text_of_an_option_is_its_words() -> None:
    """Names are read as words, before the description."""
    assert "order status: where it is" == Option.of("order_status", "where it is").text
    assert "order Status" == Option.of("orderStatus").text
    assert "false" == Option.of(False).text
    assert Option.of(True).route is None
