"""Typed questions about a text: options, and what the scores of a pass say about them.

Pure functions of values.  A question of either HTTP dialect becomes a ``ChoiceQuestion``; the
scorer turns a text and the options of all questions into ``OptionScores`` in one pass;
``answer_choice`` reads one answer off them.
"""

from __future__ import annotations

from synaptoroute.decisions.answers import ChoiceAnswer, OptionScores, RouteFigures, answer_choice
from synaptoroute.decisions.questions import (
    CHOICES_MAX,
    CHOICES_MIN,
    NONE_NAMES,
    QUESTIONS_MAX,
    ChoiceQuestion,
    Option,
    is_none_name,
)
from synaptoroute.decisions.states import plain_text, state_text

__all__ = [
    "CHOICES_MAX",
    "CHOICES_MIN",
    "NONE_NAMES",
    "QUESTIONS_MAX",
    "ChoiceAnswer",
    "ChoiceQuestion",
    "Option",
    "OptionScores",
    "RouteFigures",
    "answer_choice",
    "is_none_name",
    "plain_text",
    "state_text",
]
