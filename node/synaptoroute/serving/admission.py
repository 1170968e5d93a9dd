"""How long a query would wait: a cost model, fitted to the batches that ran.

A batch costs a fixed price and a price for each token.  Both are fitted by least squares
over the batches of late; old ones fade.  Rule 1: every figure is bounded, and a batch that
took absurdly long (a stopped process) counts as a few times what was expected, so that one
accident cannot close the door.  Rule 2: what the model leaves out, such as scoring or a
busy machine, is learnt as one factor from the waits that came true.  Rule 3: where nothing
is ahead nothing is predicted to be late by it, so a wrong model mends itself.

Not safe for threads: the batcher's lock guards it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from synaptoroute.errors import Overloaded
from synaptoroute.ports import Admission

CHARACTERS_MAX: Final = 2_048
"""Of a text: encoders cut off what is longer."""
MEMORY: Final = 0.95
"""What a batch leaves of the weight of those before it."""
OUTLIER: Final = 4.0
"""A batch or a wait counts as at most so many times what was expected, or a share."""
BATCHES_BEFORE_OUTLIERS: Final = 4
TOKEN_SECONDS_MIN: Final = 1e-7
TOKEN_SECONDS_MAX: Final = 0.1
BATCH_SECONDS_MAX: Final = 1.0
BATCH_SECONDS_SEEN_MAX: Final = 60.0
DEADLINE_SHARE: Final = 0.75
"""Of its deadline a query may be predicted to wait: what is answered too late was in vain."""
STRETCH_MIN: Final = 0.5
STRETCH_MAX: Final = 16.0
RETRY_AFTER_SECONDS_MIN: Final = 0.05
RETRY_AFTER_SECONDS_MAX: Final = 30.0
_RATE_MEMORY: Final = 0.9
_TOKENS_OF_A_CHARACTER: Final = 0.25
_TOKENS_OF_A_CHARACTER_MAX: Final = 4.0


def characters_of(text: str) -> int:
    """What a text counts before it is tokenized."""
    return min(len(text), CHARACTERS_MAX)


class CostModel:
    """Seconds of a batch as ``batch_seconds + token_seconds * tokens``.

    Attributes:
        batch_seconds: Fixed price of a batch.
        token_seconds: Price of a token.
        tokens_of_a_character: How many tokens a character has made on average.
        stretch: Waits that came true over those that were predicted.
    """

    def __init__(self) -> None:
        self.batch_seconds = 0.0
        self.token_seconds = TOKEN_SECONDS_MIN
        self.tokens_of_a_character = _TOKENS_OF_A_CHARACTER
        self.stretch = 1.0
        self._batches = 0
        self._weight = self._tokens = self._seconds = 0.0
        self._tokens_squared = self._tokens_seconds = 0.0
        self._characters = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a batch has been seen."""
        return self._batches > 0

    def learn(self, tokens: int, characters: int, seconds: float) -> None:
        """Take in a batch that ran; what cannot be is left out."""
        if tokens < 1 or characters < 1 or not math.isfinite(seconds) or seconds <= 0:
            return
        if self._batches >= BATCHES_BEFORE_OUTLIERS:
            expected = self.batch_cost(tokens)
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        seconds = min(seconds, BATCH_SECONDS_SEEN_MAX)
        self._batches += 1
        self._weight = MEMORY * self._weight + 1
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + seconds
        self._tokens_squared = MEMORY * self._tokens_squared + tokens * tokens
        self._tokens_seconds = MEMORY * self._tokens_seconds + tokens * seconds
        self._characters = MEMORY * self._characters + characters
        self.tokens_of_a_character = min(
            self._tokens / self._characters, _TOKENS_OF_A_CHARACTER_MAX
        )
        self._fit()

    def _fit(self) -> None:
        """Least squares, with neither price below nothing."""
        spread = self._weight * self._tokens_squared - self._tokens**2
        slope = 0.0
        if spread > 1e-6 * self._weight * self._tokens_squared:
            slope = (self._weight * self._tokens_seconds - self._tokens * self._seconds) / spread
        mean = self._seconds / self._tokens
        # All batches alike, or longer ones cheaper: nothing tells the prices apart, so the
        # mean stands for both.  Above the mean the fixed price would be below nothing.
        slope = mean if slope <= 0 else min(slope, mean)
        self.token_seconds = min(max(slope, TOKEN_SECONDS_MIN), TOKEN_SECONDS_MAX)
        fixed = (self._seconds - self.token_seconds * self._tokens) / self._weight
        self.batch_seconds = min(max(fixed, 0.0), BATCH_SECONDS_MAX)

    def batch_cost(self, tokens: float) -> float:
        """Seconds of one batch on one lane."""
        return self.batch_seconds + self.token_seconds * tokens

    def wait_seconds(self, characters: int, texts: int, lanes: int, texts_of_a_batch: int) -> float:
        """Seconds until all of this is answered, if it is encoded in turn.

        Args:
            characters: Of all texts that are on their way.
            texts: How many they are.
            lanes: Threads that share them.
            texts_of_a_batch: Most that a lane takes at once.
        """
        tokens = characters * self.tokens_of_a_character
        batches = max(math.ceil(texts / texts_of_a_batch), 1)
        shared_by = min(lanes, max(texts, 1))
        work = self.batch_seconds * max(batches, shared_by) + self.token_seconds * tokens
        return self.stretch * work / shared_by

    def came_true(self, predicted_seconds: float, seconds: float) -> None:
        """Compare a prediction with the wait that came of it."""
        if not (predicted_seconds > 0 and math.isfinite(seconds) and seconds >= 0):
            return
        factor = min(max(seconds / predicted_seconds, 1 / OUTLIER), OUTLIER)
        stretch = self.stretch * factor ** (1 - MEMORY)
        self.stretch = min(max(stretch, STRETCH_MIN), STRETCH_MAX)


class Forecast:
    """What is on its way, and how long it will take.

    Attributes:
        cost: What a batch and a token cost.
        wait_seconds: Until all of it is answered; 0 where there is nothing.  Anybody may
            read it without the lock: it is exchanged as a whole.
    """

    def __init__(self, lanes: int, texts_of_a_batch: int) -> None:
        self.cost = CostModel()
        self.wait_seconds = 0.0
        self._lanes = lanes
        self._texts_of_a_batch = texts_of_a_batch
        self._texts = 0
        self._characters = 0

    @property
    def admission(self) -> Admission:
        """The figures, to be shown."""
        return Admission(self.wait_seconds, self.cost.batch_seconds, self.cost.token_seconds)

    def enter(self, text: str) -> float:
        """Count a text in; give its predicted wait, 0 while nothing is known of the costs."""
        self._texts += 1
        self._characters += characters_of(text)
        self.refresh()
        return self.wait_seconds if self.cost.is_known else 0.0

    def leave(self, text: str) -> None:
        """Count a text out; ``refresh`` when all have left that leave together."""
        self._texts -= 1
        self._characters -= characters_of(text)

    def refresh(self) -> None:
        """Predict anew, after texts left or the costs changed."""
        self.wait_seconds = self._predict(self._characters, self._texts) if self._texts else 0.0

    def wait_with(self, texts: Sequence[str]) -> float:
        """Predict how long it took if these came, too; 0 for those who would be the first."""
        if not self._texts:
            return 0.0
        characters = self._characters + sum(map(characters_of, texts))
        return self._predict(characters, self._texts + len(texts))

    def _predict(self, characters: int, texts: int) -> float:
        return self.cost.wait_seconds(characters, texts, self._lanes, self._texts_of_a_batch)


def is_late(wait_seconds: float, deadline_seconds: float) -> bool:
    """Whether a predicted wait is too long for a deadline."""
    return wait_seconds > DEADLINE_SHARE * deadline_seconds


def too_late(wait_seconds: float, deadline_seconds: float) -> Overloaded:
    """What is told to who would wait too long."""
    return Overloaded(
        f"the answer would take about {wait_seconds * 1_000:.0f} ms, "
        f"the deadline is {deadline_seconds * 1_000:.0f} ms",
        retry_after_seconds=retry_after(wait_seconds - deadline_seconds),
    )


class LandingRate:
    """Queries answered a second, smoothed: what a full queue tells who is refused.

    Attributes:
        per_second: At least one.
    """

    def __init__(self, now: float) -> None:
        self.per_second = 1.0
        self._is_known = False
        self._landed_at = now

    def landed(self, count: int, queued_at: float, now: float) -> None:
        """Count answers; idle time does not count: it runs from when there was work."""
        elapsed = max(now - max(self._landed_at, queued_at), 1e-4)
        self._landed_at = now
        rate = count / elapsed
        if self._is_known and elapsed <= 1.0:
            rate = _RATE_MEMORY * self.per_second + (1 - _RATE_MEMORY) * rate
        self._is_known = True
        self.per_second = max(rate, 1.0)


def retry_after(seconds: float) -> float:
    """What a refused caller is told to wait, within bounds."""
    return min(max(seconds, RETRY_AFTER_SECONDS_MIN), RETRY_AFTER_SECONDS_MAX)
