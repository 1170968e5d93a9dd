"""API keys for some route sets, and their limits."""

from __future__ import annotations

import math
import time

import pytest

from synaptoroute.errors import ConfigError, LimitExceeded
from synaptoroute.web.api_keys import ApiKey, key_line, make_key, parse_keys
from synaptoroute.web.key_grants import parse_grant
from synaptoroute.web.key_limits import KeyLimiter, KeyLimits, Rates

pytestmark = pytest.mark.unit


def key_of(*scopes: str, limits: tuple[str, ...] = ()) -> ApiKey:
    """A key as its line in the file says it."""
    (key,) = parse_keys(key_line(make_key(), scopes, "app", limits=limits))
    return key


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("support", ["support"], ["Support", "support-1", "my support", ""]),
        ("support-*", ["support-", "support-1", "support-a b"], ["support", "xsupport-1"]),
        ("*", ["default", "a@1", "größe"], []),
        ("support@*", ["support@12"], ["support"]),
        ("a?c", ["abc", "a c", "aéc"], ["ac", "abbc"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
        ("a.c", ["a.c"], ["abc"]),
        ("!x", ["!x"], ["x", "y"]),
    ],
)
def test_pattern_covers_whole_names(pattern: str, inside: list[str], outside: list[str]) -> None:
    grant = parse_grant(f"read@{pattern}")

    assert [] == [name for name in inside if not grant.covers(name)]
    assert [] == [name for name in outside if grant.covers(name)]


def test_pattern_with_many_stars_takes_no_time() -> None:
    grant = parse_grant("read@" + "*a" * 60)
    began = time.perf_counter()

    assert not grant.covers("a" * 127 + "b")
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    "scopes",
    ["read@", "@support", "metrics@support", "root@support", "read@a/b", "read@a,read@a", "read,,"],
)
def test_malformed_grant_is_refused(scopes: str) -> None:
    with pytest.raises(ConfigError):
        key_line(make_key(), scopes.split(","), "app")


def test_grant_holds_in_its_sets_only() -> None:
    key = key_of("read@support", "write@support-*")

    assert key.is_scoped
    assert not key.may("read")
    assert key.may_in("read", "support")
    assert not key.may_in("write", "support")
    assert key.may_in("write", "support-2")
    assert not key.may_in("read", "support-2")
    assert [key.sees(name) for name in ("support", "support-2", "default")] == [True, True, False]


def test_admin_of_a_set_includes_its_other_scopes() -> None:
    key = key_of("admin@a")

    assert key.may_in("read", "a")
    assert key.may_in("write", "a")
    assert key.may_in("admin", "a")
    assert not key.may("read")


def test_key_without_a_pattern_holds_everywhere() -> None:
    key = key_of("read", "write@a")

    assert not key.is_scoped
    assert key.may_in("read", "anything")
    assert not key.may_in("write", "anything")
    assert key.sees("anything")
    assert "" == key.cache_scope


def test_key_for_metrics_sees_no_set() -> None:
    key = key_of("metrics")

    assert key.is_scoped
    assert not key.sees("default")
    assert not key.may("read")


def test_keys_of_equal_grants_share_caches() -> None:
    scopes = [
        key.cache_scope
        for key in (key_of("read@a", "write@b"), key_of("write@b", "read@a"), key_of("read@a"))
    ]

    assert scopes[0] == scopes[1] != scopes[2]
    assert "" not in scopes


def test_changed_grants_are_other_rights() -> None:
    line = key_line(make_key(), ["read@a"], "app")
    (before,), (after,) = parse_keys(line), parse_keys(line.replace("read@a", "read@b"))

    assert not before.has_rights_of(after)


def test_limits_are_read_from_the_line() -> None:
    key = key_of("read", limits=("requests_per_second=50", "concurrent_queries=2"))

    assert KeyLimits(50.0, math.inf, 2.0) == key.limits


@pytest.mark.parametrize(
    "limit",
    ["requests_per_second=0", "requests_per_second=-1", "requests_per_second=1.5", "speed=1",
     "texts_per_second=", "texts_per_second=1e3", "concurrent_queries=9999999999999"],
)  # fmt: skip
def test_malformed_limit_is_refused(limit: str) -> None:
    with pytest.raises(ConfigError):
        key_line(make_key(), ["read"], "app", limits=[limit])


def test_limit_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        key_line(make_key(), ["read"], "app", limits=["texts_per_second=1"] * 2)


# --- rates -------------------------------------------------------------------------------


class Clock:
    """Seconds that only a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_lets_one_second_through_at_once_and_then_its_rate() -> None:
    clock = Clock()
    rates = Rates(clock)
    for _ in range(10):
        rates.take("a", "requests_per_second", 10.0)

    with pytest.raises(LimitExceeded) as refused:
        rates.take("a", "requests_per_second", 10.0)
    assert "requests_per_second" == refused.value.fields["limit"]
    assert pytest.approx(0.1) == refused.value.retry_after_seconds
    rates.take("b", "requests_per_second", 10.0)

    clock.now += 0.1
    rates.take("a", "requests_per_second", 10.0)
    with pytest.raises(LimitExceeded):
        rates.take("a", "requests_per_second", 10.0)


def test_amount_above_the_rate_passes_and_is_paid_for_afterwards() -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.take("a", "texts_per_second", 10.0, 100)

    for seconds in (1.0, 4.0, 4.0):
        clock.now += seconds
        with pytest.raises(LimitExceeded):
            rates.take("a", "texts_per_second", 10.0, 5)
    clock.now += 1.0
    rates.take("a", "texts_per_second", 10.0, 5)


def test_refused_request_takes_nothing() -> None:
    limiter = KeyLimiter(Clock())
    limits = KeyLimits(requests_per_second=2.0, concurrent_queries=1.0)

    assert limiter.admit("a", limits, is_query=True)
    for _ in range(5):
        with pytest.raises(LimitExceeded, match="concurrent_queries"):
            limiter.admit("a", limits, is_query=True)
    limiter.release("a")
    assert limiter.admit("a", limits, is_query=True)


def test_only_queries_count_as_concurrent() -> None:
    limiter = KeyLimiter(Clock())
    limits = KeyLimits(concurrent_queries=1.0)

    assert not limiter.admit("a", limits, is_query=False)
    assert limiter.admit("a", limits, is_query=True)
    assert not limiter.admit("a", limits, is_query=False)


def test_full_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synaptoroute.web.key_limits.BUCKETS_MAX", 10)
    clock = Clock()
    rates = Rates(clock)
    for number in range(10):
        rates.take(number, "requests_per_second", 1.0)
    clock.now += 10.0
    rates.take("more", "requests_per_second", 1.0)

    assert 1 == len(rates._buckets)
