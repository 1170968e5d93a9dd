"""Answers, read off the scores of one pass.

A question of which some options are routes is answered on the scale of the route set: an option
that is no route has the score of a route whose only utterance is the option's text.  A question
without routes is answered on the scale of the encoder alone, whatever the set holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from synaptoroute.decision import shipped_calibration
from synaptoroute.decision.probability import Levels, confidences, exp
from synaptoroute.errors import UnsupportedQuestion
from synaptoroute.questions.question import (
    ChoiceQuestion,
    Option,
    Question,
    SidesQuestion,
    Value,
)

TEMPERATURE_UNKNOWN: Final = 20.0
SCORE_UNKNOWN: Final = 0.49
"""Score at which no route is as likely as the best, where no numbers are known for an encoder."""
SIDES_SHARE: Final = 0.55
"""Share of the temperature of two options for two described sides, which are often near each other.
With it the calibration error is below .10 for drawn and for the nearest pairs of intents alike,
on CLINC150 and Banking77; with the whole temperature it is up to .17."""
_AFTER_ROUTES: Final = 1 << 40
"""Place of the first option that is no route: of equal scores that of a route comes first."""


class RouteFigures(NamedTuple):
    """Figures of one route for a text.

    Attributes:
        score: Of the set's aggregation.
        slot: Of its most similar utterance; of equal scores the lowest comes first.
        cohesion: Mean similarity of two of its utterances; None if it has one.
    """

    score: float
    slot: int
    cohesion: float | None


class TextFigures(NamedTuple):
    """Figures of an option's text for a text.

    Attributes:
        score: On the scale of the route set.
        similarity: Cosine similarity.
    """

    score: float
    similarity: float


@dataclass(frozen=True, slots=True)
class OptionScores:
    """Scores of the options of all questions, from one pass at one position.

    Attributes:
        version: The position, ``epoch.seq``.
        node: Name of the node.
        tokens: Tokens of the text.
        was_cached: Whether its embedding was known.
        is_understood: False if the encoder knows too little of the text.
        routes: By name, of the options that are routes.
        texts: By text, of options whose vectors were given and whose name is no route.
        exact: Routes that have the text among their utterances, best first.
        barred: Routes that have it among their negatives.
        levels: The numbers of the set's confidence; None if none are known.
        fingerprint: Of the encoder, whose own numbers count for questions without routes.
        unmatched_share: Expected share of texts that no route should take.
    """

    version: str
    node: str
    tokens: int
    was_cached: bool
    is_understood: bool
    routes: Mapping[str, RouteFigures]
    texts: Mapping[str, TextFigures]
    exact: tuple[str, ...]
    barred: frozenset[str]
    levels: Levels | None
    fingerprint: str
    unmatched_share: float

    def is_route(self, option: Option) -> bool:
        return option.route is not None and option.route in self.routes

    def lacks(self, option: Option) -> bool:
        """Whether the option's text must be encoded first."""
        return not (self.is_route(option) or option.is_none or option.text in self.texts)


@dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """The answer to a question with options.

    Attributes:
        choice: The option with the highest probability, the first of equals.
        confidence: Probability that the choice is right.  Unlike ``probabilities`` it
            leaves room for no option being right.
        probabilities: One an option, in their order; the sum is one.
    """

    choice: Value
    confidence: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SidesAnswer:
    """The answer to a question with two sides: the probability of the first."""

    probability: float


Answer: TypeAlias = ChoiceAnswer | SidesAnswer


@dataclass(slots=True)
class _Shares:
    """Probabilities of the options by their place, before they add up to one."""

    of: dict[int, float] = field(default_factory=dict)
    none: float = 1.0


def answer(question: Question, scores: OptionScores) -> Answer:
    """Answer one question.

    Raises:
        UnsupportedQuestion: It has two sides, and no numbers are known for the encoder.
    """
    if isinstance(question, ChoiceQuestion):
        return answer_choice(question, scores)
    return answer_sides(question, scores)


def answer_sides(question: SidesQuestion, scores: OptionScores) -> SidesAnswer:
    """Say how much nearer a text is to the first of two described sides."""
    levels = shipped_calibration(scores.fingerprint, "blend", 1.0, 2)
    if levels is None:
        raise UnsupportedQuestion(
            "questions with two sides are answered by encoders with measured numbers only"
        )
    if not scores.is_understood:
        return SidesAnswer(0.5)
    true, false = (scores.texts[side.text].similarity for side in question.options)
    return SidesAnswer(1.0 / (1.0 + exp(SIDES_SHARE * levels.temperature * (false - true))))


def answer_choice(question: ChoiceQuestion, scores: OptionScores) -> ChoiceAnswer:
    """Answer one question."""
    options = question.options
    nones = [
        at for at, option in enumerate(options) if option.is_none and not scores.is_route(option)
    ]
    shares = _shares(options, scores)
    probabilities = [shares.of.get(at, 0.0) for at in range(len(options))]
    for at in nones:
        probabilities[at] = shares.none / len(nones)
    best = max(range(len(options)), key=lambda at: (probabilities[at], -at))
    confidence = probabilities[best]
    total = math.fsum(probabilities)
    if total > 0.0:
        spread = tuple([each / total for each in probabilities])
    else:
        spread = (1.0 / len(options),) * len(options)
    return ChoiceAnswer(options[best].value, confidence, spread)


def _shares(options: tuple[Option, ...], scores: OptionScores) -> _Shares:
    """Share the probability among the options that are not ``none``."""
    routes = {
        option.route: at
        for at, option in enumerate(options)
        if option.route is not None and option.route in scores.routes
    }
    for found in scores.exact:
        if found in routes and found not in scores.barred:
            return _Shares({routes[found]: 1.0}, 0.0)
    if not scores.is_understood:
        return _Shares()
    ranked: list[tuple[float, int, int, float | None]] = []
    for at, option in enumerate(options):
        name = option.route
        if name is not None and name in scores.routes:
            if name not in scores.barred:
                own = scores.routes[name]
                ranked.append((-own.score, own.slot, at, own.cohesion))
        elif not option.is_none:
            figures = scores.texts[option.text]
            score = figures.score if routes else figures.similarity
            ranked.append((-score, _AFTER_ROUTES + at, at, None))
    if not ranked:
        return _Shares()
    ranked.sort(key=lambda each: each[:2])
    values = [-each[0] for each in ranked]
    levels = scores.levels
    if not routes:
        levels = shipped_calibration(scores.fingerprint, "blend", 1.0, len(options))
    if levels is None:
        found_shares, p_none = _unfitted(values)
    else:
        found_shares, p_none = confidences(
            values, levels, scores.unmatched_share, cohesion=ranked[0][3]
        )
    places = [each[2] for each in ranked]
    return _Shares(dict(zip(places, found_shares, strict=True)), p_none)


def _unfitted(values: list[float]) -> tuple[list[float], float]:
    """Share the probability for an encoder of which no numbers are known; not calibrated."""
    top = values[0]
    p_none = 1.0 / (1.0 + exp(TEMPERATURE_UNKNOWN * (top - SCORE_UNKNOWN)))
    weights = [exp(TEMPERATURE_UNKNOWN * (each - top)) for each in values]
    total = math.fsum(weights)
    return [weight * (1.0 - p_none) / total for weight in weights], p_none
