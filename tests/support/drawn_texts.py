"""Texts of so many words, the same for the same seed, for tests of encoders."""

from __future__ import annotations

import random

WORDS = ("where", "is", "my", "parcel", "card", "order", "refund", "balance", "please", "late")


def text_of(words_count: int, seed: int) -> str:
    """Draw a text."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words_count))
