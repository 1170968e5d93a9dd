"""Typed questions about a text: options, and what the scores of a pass say about them.

Pure functions of values.  A question of either HTTP dialect becomes a ``Question``; the
scorer turns a text and the options of all questions into ``OptionScores`` in one pass;
``answer`` reads one answer off them.
"""

from __future__ import annotations

from synaptoroute.questions.answers import (
    Answer,
    ChoiceAnswer,
    OptionScores,
    RouteFigures,
    SidesAnswer,
    answer,
    answer_choice,
)
from synaptoroute.questions.question import (
    CHOICES_MAX,
    CHOICES_MIN,
    NONE_NAMES,
    QUESTIONS_MAX,
    ChoiceQuestion,
    Option,
    Question,
    SidesQuestion,
    is_none_name,
    sides_in,
)
from synaptoroute.questions.states import plain_text, state_text

__all__ = [
    "CHOICES_MAX",
    "CHOICES_MIN",
    "NONE_NAMES",
    "QUESTIONS_MAX",
    "Answer",
    "ChoiceAnswer",
    "ChoiceQuestion",
    "Option",
    "OptionScores",
    "Question",
    "RouteFigures",
    "SidesAnswer",
    "SidesQuestion",
    "answer",
    "answer_choice",
    "is_none_name",
    "plain_text",
    "sides_in",
    "state_text",
]
