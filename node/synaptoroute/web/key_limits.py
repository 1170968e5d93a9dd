"""Limits of an API key, kept by each node for the requests that it answers.

A rate is kept by a token bucket that holds what one second brings.  A refused request takes
nothing.  Used on the event loop only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Final

from synaptoroute.errors import LimitExceeded

BUCKETS_MAX: Final = 4_096
"""Keys and sets whose buckets are remembered; full buckets are forgotten beyond."""
RATE_MAX: Final = 1e9
ROUNDING: Final = 1e-6
"""A request that waited as long as it was told must not be refused for a rounding error."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one API key at one node; infinity is no limit."""

    requests_per_second: float = math.inf
    texts_per_second: float = math.inf  # Texts to encode: of queries, options and routes
    concurrent_queries: float = math.inf


NO_LIMITS: Final = KeyLimits()
LIMITS: Final = tuple(each.name for each in fields(KeyLimits))


def parse_limit(text: str) -> float:
    """Read a limit.

    Raises:
        ValueError: It is no whole number above 0.
    """
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= RATE_MAX):
        raise ValueError(f"a limit is a whole number from 1 to {RATE_MAX:.0f}")
    return float(text)


class TokenBucket:
    """Lets through so much a second, and at most one second's worth at once."""

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._level = max(1.0, rate)
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """Take an amount; return 0, or the seconds until it may be asked again.

        More than a second's worth goes through a full bucket, and is paid for afterwards: a
        request that is larger than the bucket could never be let through otherwise.
        """
        seconds = self.wait_seconds(amount, now)
        if seconds == 0.0:
            self._level -= amount
        return seconds

    def wait_seconds(self, amount: float, now: float) -> float:
        """Seconds until an amount may be taken; 0 if it may be taken now."""
        full = max(1.0, self.rate)
        self._level = min(full, self._level + (now - self._at) * self.rate)
        self._at = now
        missing = min(amount, full) - self._level
        return missing / self.rate if missing > ROUNDING else 0.0

    @property
    def is_full(self) -> bool:
        return self._level >= max(1.0, self.rate)


@dataclass(slots=True)
class Rates:
    """Token buckets by owner and name of the limit."""

    clock: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[object, str], TokenBucket] = field(default_factory=dict)

    def take(self, owner: object, limit: str, rate: float, amount: float = 1.0) -> None:
        """Take an amount of an owner's rate.

        Raises:
            LimitExceeded: The owner is over the limit.
        """
        now, key = self.clock(), (owner, limit)
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            if len(self._buckets) >= BUCKETS_MAX:
                self._forget(now)
            bucket = self._buckets[key] = TokenBucket(rate, now)
        _raise_for(bucket.take(amount, now), limit, rate)

    def check(self, owner: object, limit: str, rate: float) -> None:
        """Check that an owner may take anything of a rate; take nothing.

        Raises:
            LimitExceeded: The owner is over the limit.
        """
        bucket = self._buckets.get((owner, limit))
        if bucket is not None and bucket.rate == rate:
            _raise_for(bucket.wait_seconds(1.0, self.clock()), limit, rate)

    def _forget(self, now: float) -> None:
        for bucket in self._buckets.values():
            bucket.take(0.0, now)
        self._buckets = {key: each for key, each in self._buckets.items() if not each.is_full}


def _raise_for(seconds: float, limit: str, rate: float) -> None:
    if seconds > 0.0:
        raise LimitExceeded(
            f"over the limit {limit} of {rate:.0f}", limit=limit, retry_after_seconds=seconds
        )


class KeyLimiter:
    """Keeps the limits of all keys of one node; ``owner`` is whatever names a key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = Rates(clock)
        self._queries: dict[object, int] = {}  # Queries being answered, by key

    def admit(self, owner: object, limits: KeyLimits, *, is_query: bool) -> bool:
        """Let a request in.

        Returns:
            Whether ``release`` must be called when it has been answered.

        Raises:
            LimitExceeded: The key is over one of its limits.
        """
        held = self._queries.get(owner, 0)
        counts = is_query and limits.concurrent_queries < math.inf
        if counts and held >= limits.concurrent_queries:
            raise LimitExceeded(
                f"over the limit concurrent_queries of {limits.concurrent_queries:.0f}",
                limit="concurrent_queries",
                retry_after_seconds=1.0,
            )
        if limits.requests_per_second < math.inf:
            self._rates.take(owner, "requests_per_second", limits.requests_per_second)
        if counts:
            self._queries[owner] = held + 1
        return counts

    def release(self, owner: object) -> None:
        """End a query that ``admit`` let in."""
        left = self._queries[owner] - 1
        if left:
            self._queries[owner] = left
        else:
            del self._queries[owner]

    def check_texts(self, owner: object, limits: KeyLimits) -> None:
        """Check, before a body is parsed, that a key may have any text encoded.

        Raises:
            LimitExceeded: The key is over its limit of texts.
        """
        if limits.texts_per_second < math.inf:
            self._rates.check(owner, "texts_per_second", limits.texts_per_second)

    def take_texts(self, owner: object, limits: KeyLimits, count: int) -> None:
        """Take texts that are to be encoded.

        Raises:
            LimitExceeded: The key is over its limit of texts.
        """
        if count and limits.texts_per_second < math.inf:
            self._rates.take(owner, "texts_per_second", limits.texts_per_second, count)
