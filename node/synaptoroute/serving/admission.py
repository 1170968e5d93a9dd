"""Admission control: predicts how long a query would wait.

A batch costs a fixed time and a time per token.  Both are fitted by least squares to recent
batches; the weight of old ones decays.

* Every figure is bounded.  A batch that took absurdly long (the process was stopped) counts
  as a few times the expected time, so one accident cannot refuse everything.
* What the model leaves out, such as scoring or a busy machine, is learnt as one factor from
  predicted and actual waits.
* The surer the predictions have been, the larger is the share of a deadline that a predicted wait
  may take, as in the retransmission timer of TCP (RFC 6298): where a machine stalls time and
  again, what is queued when it does would be late.
* With nothing queued no query is refused, so a wrong model corrects itself.

Not thread-safe: the queue's lock guards it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from synaptoroute.errors import Overloaded
from synaptoroute.ports import Admission

CHARACTERS_MAX: Final = 2_048
"""Characters of a text that count: encoders cut off what is longer."""
DECAY: Final = 0.95
"""Factor by which each new batch reduces the weight of earlier ones."""
OUTLIER: Final = 4.0
"""A batch or a wait counts as at most this multiple, or share, of what was expected."""
BATCHES_BEFORE_OUTLIERS: Final = 4
TOKEN_SECONDS_MIN: Final = 1e-7
TOKEN_SECONDS_MAX: Final = 0.1
BATCH_SECONDS_MAX: Final = 1.0
BATCH_SECONDS_SEEN_MAX: Final = 60.0
DEADLINE_SHARE: Final = 0.75
"""Share of the deadline that a predicted wait may take at most: a late answer is wasted work."""
DEADLINE_SHARE_MIN: Final = 0.4
"""Share that it may take however wrong predictions were: workers need a queue to form batches."""
MARGIN_ERRORS: Final = 3.0
"""Mean errors of a prediction that are kept free between the predicted wait and the deadline."""
ERROR_GAIN: Final = 0.1
"""Weight of an error above the mean: the first stall counts at once."""
ERROR_LOSS: Final = 0.01
"""Weight of an error below the mean: stalls that come back within seconds are remembered."""
ERROR_SECONDS_MAX: Final = 1.0
STRETCH_MIN: Final = 0.5
STRETCH_MAX: Final = 16.0
RETRY_AFTER_SECONDS_MIN: Final = 0.05
RETRY_AFTER_SECONDS_MAX: Final = 30.0
_RATE_DECAY: Final = 0.9
_TOKENS_PER_CHARACTER: Final = 0.25
_TOKENS_PER_CHARACTER_MAX: Final = 4.0


def characters_of(text: str) -> int:
    """Count the characters of a text that are encoded."""
    return min(len(text), CHARACTERS_MAX)


class CostModel:
    """Seconds of a batch as ``batch_seconds + token_seconds * tokens``.

    Attributes:
        batch_seconds: Fixed cost of a batch.
        tokens_per_character: Average number of tokens of a character.
        stretch: Ratio of actual to predicted waits.
        error_seconds: Mean difference of actual and predicted waits.
    """

    def __init__(self) -> None:
        self.batch_seconds = 0.0
        self.token_seconds = TOKEN_SECONDS_MIN
        self.tokens_per_character = _TOKENS_PER_CHARACTER
        self.stretch = 1.0
        self.error_seconds = 0.0
        self.is_known = False  # whether a batch has been seen
        self._batches = 0
        self._weight = self._tokens = self._seconds = 0.0
        self._tokens_squared = self._tokens_seconds = 0.0
        self._characters = 0.0

    def learn(self, tokens: int, characters: int, seconds: float) -> None:
        """Fit the model to a batch that was encoded; impossible values are ignored."""
        if tokens < 1 or characters < 1 or not math.isfinite(seconds) or seconds <= 0:
            return
        if self._batches >= BATCHES_BEFORE_OUTLIERS:
            expected = self.batch_cost(tokens)
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        # The first batches have no expectation yet, so they have a fixed bound.
        seconds = min(seconds, BATCH_SECONDS_SEEN_MAX)
        self._batches += 1
        self.is_known = True
        self._weight = DECAY * self._weight + 1
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds
        self._tokens_squared = DECAY * self._tokens_squared + tokens * tokens
        self._tokens_seconds = DECAY * self._tokens_seconds + tokens * seconds
        self._characters = DECAY * self._characters + characters
        self.tokens_per_character = min(self._tokens / self._characters, _TOKENS_PER_CHARACTER_MAX)
        # Fit both costs by least squares; neither is negative.
        spread = self._weight * self._tokens_squared - self._tokens**2
        slope = 0.0
        if spread > 1e-6 * self._weight * self._tokens_squared:
            slope = (self._weight * self._tokens_seconds - self._tokens * self._seconds) / spread
        mean = self._seconds / self._tokens
        # With batches of one size, or with longer ones cheaper, the two costs cannot be told
        # apart: the mean per token stands for both.  A slope above the mean would make the
        # fixed cost negative.
        slope = mean if slope <= 0 else min(slope, mean)
        self.token_seconds = min(max(slope, TOKEN_SECONDS_MIN), TOKEN_SECONDS_MAX)
        fixed = (self._seconds - self.token_seconds * self._tokens) / self._weight
        self.batch_seconds = min(max(fixed, 0.0), BATCH_SECONDS_MAX)

    def batch_cost(self, tokens: float) -> float:
        """Seconds of one batch on one worker."""
        return self.batch_seconds + self.token_seconds * tokens

    def wait_seconds(
        self, characters: int, texts: int, workers: int, texts_per_batch: int
    ) -> float:
        """Seconds until all queued texts are answered."""
        tokens = characters * self.tokens_per_character
        batches = max(math.ceil(texts / texts_per_batch), 1)
        shared_by = min(workers, max(texts, 1))
        # Idle workers split a short queue, so there is at least one batch per worker.
        work = self.batch_seconds * max(batches, shared_by) + self.token_seconds * tokens
        return self.stretch * work / shared_by

    def compare(self, predicted_seconds: float, seconds: float) -> None:
        """Learn from a predicted wait and the actual one."""
        if not (predicted_seconds > 0 and math.isfinite(seconds) and seconds >= 0):
            return
        error = min(abs(seconds - predicted_seconds), ERROR_SECONDS_MAX)
        weight = ERROR_GAIN if error > self.error_seconds else ERROR_LOSS
        self.error_seconds += weight * (error - self.error_seconds)
        factor = min(max(seconds / predicted_seconds, 1 / OUTLIER), OUTLIER)
        # Multiplicative, so that too long and too short predictions weigh the same.
        stretch = self.stretch * factor ** (1 - DECAY)
        self.stretch = min(max(stretch, STRETCH_MIN), STRETCH_MAX)


class WaitForecast:
    """The texts in the queue or being answered; ``wait_seconds`` may be read without the lock."""

    def __init__(self, workers: int, texts_per_batch: int) -> None:
        self.cost = CostModel()
        self.wait_seconds = 0.0
        self._workers = workers
        self._texts_per_batch = texts_per_batch
        self._texts = 0
        self._characters = 0

    @property
    def admission(self) -> Admission:
        return Admission(self.wait_seconds, self.cost.batch_seconds, self.cost.token_seconds)

    def longest_wait(self, deadline_seconds: float) -> float:
        """Seconds that a predicted wait may take, with room for the error of predictions."""
        sure = deadline_seconds - MARGIN_ERRORS * self.cost.error_seconds
        return min(
            max(sure, DEADLINE_SHARE_MIN * deadline_seconds), DEADLINE_SHARE * deadline_seconds
        )

    def enter(self, text: str) -> float:
        """Count a text in; returns its predicted wait, 0 while the costs are unknown."""
        self._texts += 1
        self._characters += min(len(text), CHARACTERS_MAX)
        self.refresh()
        return self.wait_seconds if self.cost.is_known else 0.0

    def leave(self, text: str) -> None:
        """Count a text out; call ``refresh`` once after the last one."""
        self._texts -= 1
        self._characters -= min(len(text), CHARACTERS_MAX)

    def refresh(self) -> None:
        """Predict again, after texts left or the costs changed."""
        if self._texts:
            self.wait_seconds = self.cost.wait_seconds(
                self._characters, self._texts, self._workers, self._texts_per_batch
            )
        else:
            self.wait_seconds = 0.0

    def wait_with(self, texts: Sequence[str]) -> float:
        """Predict the wait if these texts were queued, too; 0 with nothing queued."""
        if not self._texts:
            return 0.0
        characters = self._characters + sum(map(characters_of, texts))
        return self.cost.wait_seconds(
            characters, self._texts + len(texts), self._workers, self._texts_per_batch
        )

    def characters_in(self, seconds: float) -> float:
        """Count the characters that a batch of so many seconds holds; no limit if not known."""
        cost = self.cost
        if not cost.is_known:
            return math.inf
        return max(seconds - cost.batch_seconds, 0.0) / (
            cost.token_seconds * cost.tokens_per_character
        )

    def wait_of(self, characters: int, texts: int) -> float:
        """Predict how long so much work takes; 0 for none."""
        if not texts:
            return 0.0
        return self.cost.wait_seconds(characters, texts, self._workers, self._texts_per_batch)


def too_late(wait_seconds: float, deadline_seconds: float) -> Overloaded:
    """Make the error for a query whose predicted wait is too long."""
    return Overloaded(
        f"the answer would take about {wait_seconds * 1_000:.0f} ms, "
        f"the deadline is {deadline_seconds * 1_000:.0f} ms",
        retry_after_seconds=retry_after(wait_seconds - deadline_seconds),
    )


class CompletionRate:
    """Queries completed per second, smoothed; a full queue derives its retry-after from it."""

    def __init__(self, now: float) -> None:
        self.per_second = 1.0
        self._is_known = False
        self._completed_at = now

    def completed(self, count: int, queued_at: float, now: float) -> None:
        """Count completed queries; idle time is left out: time runs from the first one queued."""
        elapsed = max(now - max(self._completed_at, queued_at), 1e-4)
        self._completed_at = now
        rate = count / elapsed
        if self._is_known and elapsed <= 1.0:
            rate = _RATE_DECAY * self.per_second + (1 - _RATE_DECAY) * rate
        self._is_known = True
        self.per_second = max(rate, 1.0)


def retry_after(seconds: float) -> float:
    """Bound the seconds after which a refused caller should retry."""
    return min(max(seconds, RETRY_AFTER_SECONDS_MIN), RETRY_AFTER_SECONDS_MAX)
