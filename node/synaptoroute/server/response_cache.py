"""Answers as bytes, by the bytes of what was asked.

An answer is a function of the question and of the position: it counts only while that
position is the visible one.  Used on the event loop only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

ANSWERS_MAX: Final = 8_192
ANSWERS_BYTES_MAX: Final = 33_554_432
BODY_BYTES_KEPT_MAX: Final = 4_096
"""Longer bodies are seldom sent twice."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """Bytes that were an answer at a position, and what says that it is still visible."""

    seen: object
    version: bytes
    content: bytes


class AnswerCache:
    """The newest answers.

    Invariants: every answer is of the position that ``seen`` stands for; at most
    ``ANSWERS_MAX`` answers, of ``ANSWERS_BYTES_MAX`` with their questions.
    """

    def __init__(self, answers_max: int = ANSWERS_MAX, bytes_max: int = ANSWERS_BYTES_MAX) -> None:
        self._answers: OrderedDict[bytes, KeptAnswer] = OrderedDict()
        self._answers_max = answers_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, body: bytes, seen: object) -> KeptAnswer | None:
        """Give the answer to these bytes, if it is of what is visible now."""
        found = self._answers.get(body)
        if found is None or found.seen is not seen:
            return None
        self._answers.move_to_end(body)
        self.hits += 1
        return found

    def put(self, body: bytes, answer: KeptAnswer) -> None:
        """Keep an answer; the ones that were not asked for the longest go."""
        if len(body) > BODY_BYTES_KEPT_MAX:
            return
        former = self._answers.pop(body, None)
        if former is not None:
            self._bytes -= len(body) + len(former.content)
        self._answers[body] = answer
        self._bytes += len(body) + len(answer.content)
        while len(self._answers) > self._answers_max or self._bytes > self._bytes_max:
            oldest, dropped = self._answers.popitem(last=False)
            self._bytes -= len(oldest) + len(dropped.content)
